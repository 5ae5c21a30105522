"""Stands for the evaluation worker: the arm succeeds on one more scene of four with each version. Tests
start it as a module.

FAKE_DIE in the environment names a folder: the worker dies once, in the middle of its first request.
"""

import os
import signal
import sys
from pathlib import Path

from shared.channel import WorkerChannel, serve


def evaluate(fields):
    flag = Path(os.environ.get("FAKE_DIE", "/nonexistent")) / "died"
    if flag.parent.exists() and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    outcomes = [int(seed % 4 < fields["version"]) for seed in fields["seeds"]]
    return {"results": {f"{t['verb']}_{t['color']}": outcomes for t in fields["tasks"]}, "seconds": 0.1}


if __name__ == "__main__":
    assert sys.argv[1] == "--config"
    channel = WorkerChannel.from_environment()
    channel.emit("ready")
    serve({"evaluate": evaluate}, channel)
