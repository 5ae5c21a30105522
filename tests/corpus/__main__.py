"""Makes a corpus of broken and sound episodes to measure the gate with.

    PYTHONPATH=tests python -m corpus OUT --seed 0 [--motion TRACES.parquet] [--only NAME…]

Another package called `tests` lies in the environment, hence the path.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from .build import build
from .motion import load_traces

MOTION_VARIABLE = "ARMFLEET_TRACES"


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="corpus", description="Broken and sound episodes for the gate.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--motion",
        type=Path,
        default=os.environ.get(MOTION_VARIABLE),
        help=f"parquet file with real traces (default: ${MOTION_VARIABLE}); without it, modelled motion",
    )
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of the names of the wanted cases")
    options = parser.parse_args()
    started = time.monotonic()
    corpus = build(
        options.out,
        options.seed,
        load_traces(options.motion) if options.motion else [],
        lambda name: not options.only or name.startswith(tuple(options.only)),
        lambda name: print(f"{time.monotonic() - started:6.0f} s  {name}", file=sys.stderr, flush=True),
    )
    print(f"{options.out}: {len(corpus.cases)} cases, motion from {corpus.motion}, seed {corpus.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
