"""`make soak-episodes`: SIGKILL at random points of every step that writes episodes, and at every file call.

The steps are the real code on a small workstation's folder: record, save, gate, build (the training set, as
the trainer makes it), import, and besides label, delete (to the trash) and purge (for good). Arms and cameras
are made up: 40 to 90 frames from two cameras of 96x96.

- **At random**: the moment is drawn evenly over the step's usual length (the median of its last
  undisturbed runs); the motion and the number of frames are drawn too. `--kills` in all, shared evenly. A
  kill counts when the step had begun and not ended, as the step itself says, and the process died of the
  signal.
- **Exhaustive**: besides, every step is killed right after its first call that opens, writes, flushes,
  renames, creates or removes a file, then after its second, and so on until it ends undisturbed, at most
  `--calls` times. Counted are Python's calls in the step's own thread; writes inside of pyarrow, FFmpeg and
  safetensors only meet random kills.

After every kill the agent's own start-up runs, and then: every episode that was there is there, with the
same contents, digest, verdict and split; nothing listed is incomplete; nothing half-done is left lying.
Every other time the interrupted step is repeated at once and must end well. Every 20 kills what is new is
opened with stock LeRobot, at the end everything. The machine itself is never cut off: what fsync is for stays
unseen.
"""

import argparse
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.outcome import measured
from benchmarks.soak.kills import Forge, StepFailed

if TYPE_CHECKING:
    from benchmarks.soak.story import Soak

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "sim" / "base"
KILLS, CALLS = 200, 60
TRIES = 8
"""Attempts for each wanted kill: a step of a millisecond is often over before."""
SHOW_EVERY = 20
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""A process that forks should have no other thread: what one holds at a fork nobody frees in the child."""


def soak(it: "Soak", kills: int, calls: int, show: Callable[[str, int, int], None]) -> None:
    """Kill every step `kills` times at random in turn, then at its file calls, at most `calls`; finish.

    Raises:
        StepFailed: an undisturbed step failed, or a step is always over before it can be killed.
    """
    from benchmarks.soak.story import STEPS

    it.warm_up()
    tries = dict.fromkeys(STEPS, 0)
    while wanted := [kind for kind in STEPS if it.at_random[kind] < kills]:
        for kind in wanted:
            it.strike(kind)
            tries[kind] += 1
            if tries[kind] > TRIES * kills:
                raise StepFailed(f"{kind} was over before the kill in nearly all of {tries[kind]} attempts")
            show("at random", it.at_random.total(), kills * len(STEPS))
    for kind in STEPS:
        for call in range(1, calls + 1):
            show(f"{kind}, at file calls", call, calls)
            if not it.strike_at(kind, call):
                break
    it.finish()


def figures(it: "Soak", per_step: int, seconds: float) -> tuple[bool, dict[str, Any]]:
    """Whether nothing is wrong and every step was killed `per_step` times at random, and the numbers."""
    found = it.ledger.findings
    numbers = {
        "kills": it.kills,
        "admitted": len(it.ledger.admitted),
        "lost": len(found.lost),
        "half_written": len(found.half_written),
        "unloadable": len(found.unloadable),
        "left_over": len(found.left_over),
        "at_random": dict(it.at_random),
        "at_calls": dict(it.at_calls),
        "opened": it.opened,
        "wrong": found.all()[:20],
        "seconds": round(seconds, 1),
    }
    return not found.all() and min(it.at_random.values()) >= per_step, numbers


def measure(options: argparse.Namespace) -> tuple[bool, dict[str, Any]]:
    """Soak in a temporary folder, which stays where something is wrong."""
    folder = Path(tempfile.mkdtemp(prefix="armfleet-soak-"))
    for name, value in (ENVIRONMENT | {"HF_DATASETS_CACHE": str(folder / "cache")}).items():
        os.environ[name] = value
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    began, ok = monotonic(), False
    # No thread that refreshes the bar: this process forks.
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as progress:
        bar = progress.add_task("loading LeRobot", total=None)

        def show(text: str, done: int, total: int) -> None:
            progress.update(bar, description=text, completed=done, total=total, refresh=True)
            if not console.is_terminal and done % SHOW_EVERY == 0:
                console.print(f"{text}: {done}")

        progress.refresh()
        from benchmarks.soak.steps import Workplace
        from benchmarks.soak.story import STEPS, Soak

        it = Soak(Workplace(folder, BASE), Forge(folder / "steps.log"), options.seed, progress.console.print)
        per_step = math.ceil(options.kills / len(STEPS))
        try:
            soak(it, per_step, options.calls, show)
            ok, numbers = figures(it, per_step, monotonic() - began)
        finally:
            if ok:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                print(f"what is wrong lies in {folder}", flush=True)
    return ok, numbers


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status; the last line is JSON."""
    parser = argparse.ArgumentParser(description="SIGKILL at all points of the life of an episode.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=KILLS, help="at random moments, over all steps")
    parser.add_argument("--calls", type=int, default=CALLS, help="most file calls of a step to kill it at")
    parser.add_argument("--out", type=Path, default=ROOT / "soak-episodes.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    return measured("soak-episodes", options.out, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
