"""The policy process with a pause before every inference: what a larger policy on a GPU costs in time, not in
processor.

    python -m benchmarks.workers.slowed_policy --config agent.toml --delay-ms 100

The pause is no setting of the product: it is put around the predictor that the product's worker loads.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from agent.inference import worker
from shared.policy.chunker import Chunker


def slow_down(delay_s: float) -> None:
    """From now on every chunk of this process takes so much longer."""
    chunk = Chunker.chunk

    def slowed(self: Chunker, *arguments: Any, **named: Any) -> Any:
        time.sleep(delay_s)
        return chunk(self, *arguments, **named)

    Chunker.chunk = slowed  # type: ignore[method-assign]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--delay-ms", type=float, required=True)
    options = parser.parse_args()
    slow_down(options.delay_ms / 1000)
    status = worker.main(options.config)
    sys.stderr.flush()
    os._exit(status)  # as the worker itself: threads of its connections may still wait
