"""The last to leave: ends whatever carries the demo's mark when the demo itself is gone.

Started by the supervisor with a pipe on its standard input; end of file means that the demo ended, in
whatever way. The mark is an environment variable, which children and grandchildren inherit.
"""

import os
import signal
import sys
from pathlib import Path
from time import monotonic, sleep

MARK = "ARMFLEET_DEMO_MARK"
TERM_S = 3.0
"""After SIGTERM the agents hold and release their arms, which takes at most 2 s."""


def marked(mark: str) -> list[int]:
    """Process ids whose environment carries `mark`; zombies have no environment and do not count."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue  # it ended meanwhile, or belongs to another user and so not to this demo
        if needle in environment.split(b"\0"):
            found.append(int(folder.name))
    return found


def reap(mark: str) -> list[int]:
    """End all processes with `mark`: SIGTERM, then SIGKILL after TERM_S; returns those that were there."""
    found = marked(mark)
    for number, patience in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, TERM_S)):
        for pid in marked(mark):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue  # it ended between the look and the signal
        deadline = monotonic() + patience
        while marked(mark) and monotonic() < deadline:
            sleep(0.05)
    return found


def main(mark: str) -> None:
    """Wait for the demo's end, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    reap(mark)


if __name__ == "__main__":
    main(sys.argv[1])
