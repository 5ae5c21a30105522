"""The demo from beginning to end. Each chapter is a module; this one puts them in order and cleans up."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from loguru import logger
from rich.markup import escape

from cli.demo import enrol, record, train
from cli.demo.layout import make_layout
from cli.demo.plan import Plan
from cli.demo.report import report
from cli.demo.screen import Screen
from cli.demo.supervisor import Supervisor
from cli.demo.world import World
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic

type Tell = Callable[[World, Path], bool]
"""Tells a story in a world, writes its figures to a file, and says whether every target was met."""


def run(
    plan: Plan,
    folder: Path,
    report_path: Path,
    keep: bool = False,
    told: Tell | None = None,
    name: str = "demo",
) -> int:
    """Run the demo, or another story in its world; the last line on stdout is one JSON object.

    Returns the exit status.

    Ctrl-C, SIGTERM and SIGHUP end it in order: every process stops, every arm is released.

    Raises:
        ArmfleetError: `folder` can't be used; the last line says so too.
    """
    try:
        return _run(plan, folder, report_path, keep, told or tell, name)
    except Exception as error:  # before the story began, or in cleaning up after it
        print(last_line(name, False, {"error": sentence(error)}), flush=True)
        raise


def _run(plan: Plan, folder: Path, report_path: Path, keep: bool, told: Tell, name: str) -> int:
    screen = Screen()
    layout = make_layout(plan, folder)
    logger.remove()
    logger.add(layout.logs / "demo.log", level="INFO")
    with _signals_interrupt():
        world = World(plan, layout, screen, Supervisor(layout.logs, enrol.QUIET))
        write_atomic(layout.folder / "mark", world.supervisor.mark)
        try:
            with screen.running():
                ok = told(world, report_path)
            print(last_line(name, ok, figures(report_path)), flush=True)
            if keep:
                _wait(world)
            return ExitCode.OK if ok else ExitCode.DEMO_FAILED
        except KeyboardInterrupt as interrupt:
            screen.say("Interrupted: every process is being ended, every arm released.")
            _fail(world, name, report_path, interrupt)
            return 130
        except Exception as error:  # whatever it was: the last line says that it failed
            logger.exception("the story ended early")
            screen.say(f"[red]{escape(sentence(error))}[/red]")
            _fail(world, name, report_path, error)
            return int(getattr(error, "code", ExitCode.DEMO_FAILED)) or ExitCode.DEMO_FAILED
        finally:
            _end(world)


def tell(world: World, report_path: Path) -> bool:
    """All chapters; True if every target was met."""
    screen, plan = world.screen, world.plan
    with screen.phase("enrol", "1. One coordinator, its workstations, and keys for all of them"):
        enrol.enrol(world)
        enrol.check_door(world)
    with screen.phase(
        "record", "2. Untaught arms try; then a person demonstrates, and the gate judges each episode"
    ):
        record.before_and_record(world)
    with screen.phase("train", "3. Training in idle windows, many short rounds, promotion by success"):
        train.train(world)
    with screen.phase("push", "4. The promoted version goes to every arm"):
        world.notes["promoted"] = train.push(world)
    with screen.phase("run", f"5. The arms themselves try, {plan.after} times per task"):
        record.rollouts(world, "after")
    with screen.phase("report", "6. What happened"):
        return report(world, report_path)


def last_line(name: str, ok: bool, figures: dict[str, Any]) -> str:
    """What every benchmark prints last."""
    return json.dumps({"benchmark": name, "ok": ok, "figures": figures})


def figures(report_path: Path) -> dict[str, Any]:
    """The report without its long lists."""
    return {key: value for key, value in json.loads(report_path.read_text()).items() if key != "versions"}


def sentence(error: BaseException) -> str:
    """An error in one line; what is no sentence for people gets its type in front."""
    return str(error) if isinstance(error, ArmfleetError) else f"{type(error).__name__}: {error}".rstrip(": ")


def _fail(world: World, name: str, path: Path, error: BaseException) -> None:
    """The report of a failure, and in any case its last line."""
    try:
        _write_failure(world, path, error)
    except OSError as trouble:
        logger.error("{} could not be written: {}", path, trouble)
    short = {"error": sentence(error), "wall_s": round(world.screen.seconds, 1)}
    print(last_line(name, False, short), flush=True)


def _write_failure(world: World, path: Path, error: BaseException) -> None:
    partial = {
        "ok": False,
        "error": sentence(error),
        "tasks": world.tally.to_json(),
        "wall_s": round(world.screen.seconds, 1),
        "phases_s": dict(world.screen.phases),
    }
    write_atomic(path, json.dumps(partial, indent=1) + "\n")


def _wait(world: World) -> None:
    world.screen.say(f"Everything is left running. Ask with: armfleet status --demo {world.layout.folder}")
    world.screen.say("End it with Ctrl-C.")
    with suppress(KeyboardInterrupt):  # asked for, and the last line was said
        threading.Event().wait()


def _end(world: World) -> None:
    """Stop everything; a second Ctrl-C must not leave an arm under torque."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    world.stop.set()
    for killed in world.supervisor.stop():
        logger.warning("{} had to be killed", killed)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP (a closed terminal) do what Ctrl-C does; the old handlers come back afterwards."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
