"""The demo's supervisor: restarts, hooks, and nothing left behind, whatever ends the demo."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cli.demo import keeper
from cli.demo.supervisor import Supervisor, Unit, require_running
from shared.errors import ArmfleetError

ROOT = Path(__file__).parents[3]
SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
PARENT = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '600'])"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(600)",
]


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("not within the deadline")


@pytest.fixture
def supervisor(tmp_path):
    supervisor = Supervisor(tmp_path / "log")
    yield supervisor
    supervisor.stop()


def test_a_killed_process_is_started_again_and_its_hook_runs_first(supervisor, tmp_path):
    hook = ["sh", "-c", f"echo released >> {tmp_path}/hook"]
    supervisor.start(Unit("agent", SLEEPER, restart_s=0.1, after_exit=hook))
    until(lambda: supervisor.pid("agent"))
    first = supervisor.pid("agent")
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor.starts("agent") == 2 and supervisor.pid("agent"))
    assert supervisor.pid("agent") != first
    assert (tmp_path / "hook").read_text() == "released\n"


def test_stop_ends_all_in_order_grandchildren_included(tmp_path):
    supervisor = Supervisor(tmp_path / "log")
    for order, (name, argv) in enumerate((("one", SLEEPER), ("two", PARENT), ("three", SLEEPER))):
        hook = ["sh", "-c", f"echo {name} >> {tmp_path}/order"]
        supervisor.start(Unit(name, argv, after_exit=hook, order=order))
    until(lambda: len(supervisor.survivors()) == 4)
    supervisor.stop()
    assert supervisor.survivors() == []
    assert (tmp_path / "order").read_text().split() == ["three", "two", "one"]


def test_what_ignores_sigterm_is_killed_and_named(tmp_path):
    supervisor = Supervisor(tmp_path / "log")
    supervisor.start(Unit("stubborn", STUBBORN, stop_s=0.2))
    until(lambda: supervisor.log("stubborn").exists() and supervisor.log("stubborn").read_text() == "up\n")
    assert supervisor.stop() == ["stubborn"]
    assert supervisor.survivors() == []


def test_a_unit_that_keeps_ending_is_given_up_with_its_last_words(supervisor):
    argv = [sys.executable, "-c", "print('no such port')"]
    supervisor.start(Unit("broken", argv, restart_s=0.01))
    until(lambda: supervisor.starts("broken") > 3)
    with pytest.raises(ArmfleetError, match="no such port"):
        require_running(supervisor, "broken", restarts=2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_demo(tmp_path, number):
    script = f"""
        import signal, sys, time
        from pathlib import Path
        from cli.demo.supervisor import Supervisor, Unit
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits "ignored"
        supervisor = Supervisor(Path({str(tmp_path / "log")!r}))
        supervisor.start(Unit("parent", {PARENT!r}))
        supervisor.start(Unit("sleeper", {SLEEPER!r}))
        print(supervisor.mark, flush=True)
        try:
            time.sleep(600)
        finally:
            supervisor.stop()
    """
    demo = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    mark = demo.stdout.readline().strip()
    until(lambda: len(keeper.marked(mark)) == 3)
    demo.send_signal(number)
    demo.wait(20)
    until(lambda: keeper.marked(mark) == [])
