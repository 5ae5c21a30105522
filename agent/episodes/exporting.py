"""Exporting episodes to one LeRobotDataset v3.0 that `lerobot-train` and `lerobot-dataset-viz` take as it is.

LeRobot itself joins them (`agent.episodes.aggregating`, in a process of its own since it imports torch) in a
temporary folder; what it made is compared with the episodes before it gets its name.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.episodes.record import EpisodeRecord
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import IN_PROGRESS, commit_folder, write_atomic

AGGREGATOR = "agent.episodes.aggregating"
START_S, EPISODE_S = 300.0, 30.0
"""Longest time for loading LeRobot, and for each episode (0.4 s on a quiet machine)."""
LIST = "meta/armfleet.json"
"""In the exported dataset: which episode each one was, with its digest, split and label."""


def export(store: Path, records: Sequence[EpisodeRecord], target: Path) -> dict[str, Any]:
    """Write `records` as one dataset to `target`, training episodes first; {"episodes", "frames", "splits"}.

    Raises:
        ArmfleetError: nothing to export, the target is there, the episodes are not alike, LeRobot failed.
    """
    if not records:
        raise ArmfleetError("there is nothing to export: no such episode", do="see `armfleet episodes list`")
    if target.exists():
        raise ArmfleetError(f"{target} is there already", kept="it, unchanged", do="name another folder")
    ordered = sorted(records, key=lambda record: (record.split == "eval", record.id))
    roots = [store / record.id for record in ordered]
    _check_alike(roots)
    work = target.with_name(IN_PROGRESS + target.name)
    shutil.rmtree(work, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = _aggregate(roots, work)
        splits = _note_episodes(ordered, work)
        commit_folder(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {**done, "splits": splits}


def _check_alike(roots: Sequence[Path]) -> None:
    """LeRobot joins only datasets of one rate, robot and set of features: say which differ beforehand."""
    shapes: dict[str, list[str]] = {}
    for root in roots:
        try:
            info = json.loads((root / "meta/info.json").read_text())
            features = {
                key: (feature["dtype"], feature["shape"], (feature.get("info") or {}).get("video.codec"))
                for key, feature in info["features"].items()
            }
            shape = json.dumps([info["fps"], info["robot_type"], features], sort_keys=True)
        except (OSError, ValueError, KeyError) as error:
            raise ArmfleetError(
                f"episode {root.name} can't be exported: {error}",
                do="quarantine or delete it",
                code=ExitCode.EPISODE_DAMAGED,
            ) from error
        shapes.setdefault(shape, []).append(root.name)
    if len(shapes) > 1:
        groups = []
        for shape, names in shapes.items():
            fps, robot, features = json.loads(shape)
            cameras = [f"{key} ({codec})" for key, (kind, _, codec) in features.items() if kind == "video"]
            groups.append(
                f"{len(names)} of {robot} at {fps} fps with {', '.join(cameras)} ({names[0]} and on)"
            )
        raise ArmfleetError(
            f"the episodes don't fit into one dataset: {'; '.join(groups)}",
            kept="all episodes",
            do="name episodes that are alike, or choose them by --task",
        )


def _aggregate(roots: Sequence[Path], work: Path) -> dict[str, Any]:
    limit_s = START_S + EPISODE_S * len(roots)
    try:
        done = subprocess.run(
            [sys.executable, "-m", AGGREGATOR, str(work.absolute())],
            input=json.dumps([str(root.absolute()) for root in roots]),
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(f"it took longer than {limit_s:g} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise _failed(lines[-1] if lines else f"its process ended with code {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _note_episodes(records: Sequence[EpisodeRecord], work: Path) -> dict[str, str]:
    """Write the splits and the list of episodes into the dataset; the splits."""
    train = sum(record.split != "eval" for record in records)
    splits = {"train": f"0:{train}", "eval": f"{train}:{len(records)}"}
    splits = {name: span for name, span in splits.items() if len(set(span.split(":"))) == 2}
    path = work / "meta/info.json"
    info = json.loads(path.read_text())
    write_atomic(path, json.dumps(info | {"splits": splits}, indent=4))
    kept = {"id", "task", "digest", "split", "label", "calibration_digest", "origin", "intervention"}
    listed = [record.model_dump(mode="json", include=kept) for record in records]
    write_atomic(work / LIST, json.dumps({"episodes": listed}, indent=1) + "\n")
    return splits


def _failed(why: str) -> ArmfleetError:
    return ArmfleetError(
        f"LeRobot could not join the episodes: {why}",
        kept="all episodes; nothing was written",
        do="export fewer episodes to find the one at fault",
    )
