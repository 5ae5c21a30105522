"""Joins datasets with LeRobot's own `aggregate_datasets` and compares the result with them. Imports torch.

    python -m agent.episodes.aggregating OUT < ["ROOT", …]     prints {"episodes": n, "frames": n}

Videos stay one file per episode: joining them re-times frames, and a merge that points to the wrong place is
a known defect that nothing reports.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from lerobot.datasets.aggregate import aggregate_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def verify(roots: list[Path], out: Path) -> dict[str, int]:
    """Open the result as stock LeRobot does, compare all rows and decode the ends of every episode.

    Raises:
        ValueError: it differs from its sources.
    """
    dataset = LeRobotDataset("armfleet/export", root=out)
    if dataset.num_episodes != len(roots):
        raise ValueError(f"{dataset.num_episodes} episodes were written instead of {len(roots)}")
    joined = {name: _values(dataset.hf_dataset.data.table, name) for name in ("observation.state", "action")}
    position = 0
    for root in roots:
        rows = pq.read_table(sorted((root / "data").rglob("*.parquet")), columns=list(joined))
        for name, values in joined.items():
            if not np.array_equal(values[position : position + rows.num_rows], _values(rows, name), True):
                raise ValueError(f"the rows of {root.name} are not what was written")
        for row in (position, position + rows.num_rows - 1):
            dataset[row]  # decodes; a frame at another time than its row's raises
        position += rows.num_rows
    if position != dataset.num_frames:
        raise ValueError(f"{dataset.num_frames} frames were written instead of {position}")
    return {"episodes": dataset.num_episodes, "frames": dataset.num_frames}


def _values(table: object, name: str) -> np.ndarray:
    return np.array(table[name].to_pylist(), dtype=np.float32)  # type: ignore[index]


def main() -> int:
    """Entry point."""
    out = Path(sys.argv[1])
    roots = [Path(root) for root in json.load(sys.stdin)]
    names = [f"armfleet/{root.name}" for root in roots]
    aggregate_datasets(names, "armfleet/export", roots, out, concatenate_videos=False)
    print(json.dumps(verify(roots, out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
