"""Torch-free stand-ins for the agent's workers, so that tests of the daemon run in seconds.

    python stand_ins.py WORKER STATE_DIR …

They speak the workers' protocol and keep what they were told in STATE_DIR/told.jsonl, nothing else: no arm,
no policy, no training. `gate` writes the verdict into the episode's own file, as the real gate's process
does.
"""

import json
import os
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from agent.episodes.record import EpisodeRecord, Intervention, now, read_record, write_record
from agent.evaluation.rollouts import FILE as ROLLOUT_FILE
from agent.evaluation.rollouts import RolloutRecord
from shared.channel import WorkerChannel, serve
from shared.files import durable_folder, sha256
from shared.messages import UpdateHeader


class Told:
    """Keeps every request, for the test to read."""

    def __init__(self, worker: str, home: Path) -> None:
        self._worker, self._path = worker, home / "told.jsonl"

    def __call__(self, op: str, fields: dict[str, Any]) -> None:
        line = json.dumps({"worker": self._worker, "op": op, "time": time.time(), **fields})
        with self._path.open("a") as file:
            file.write(line + "\n")


def arm(home: Path, channel: WorkerChannel, told: Told) -> None:
    """Records 50 frames whatever happens; a rollout is over when it is stopped."""
    state: dict[str, Any] = {}

    def record_start(fields: dict[str, Any]) -> dict[str, Any]:
        told("record_start", fields)
        state["episode"] = fields
        (home / "episodes" / f".inprogress-{fields['episode_id']}").mkdir()
        return {}

    def record_stop(fields: dict[str, Any]) -> dict[str, Any]:
        episode = state.pop("episode")
        work = home / "episodes" / f".inprogress-{episode['episode_id']}"
        if not fields["keep"]:
            work.rmdir()
            return {"kept": False}
        record = EpisodeRecord(
            id=episode["episode_id"], task=episode["task"], frames=50, fps=30, created=now()
        )
        write_record(work, record)
        folder = work.rename(home / "episodes" / episode["episode_id"])
        return {"kept": True, "episode_id": record.id, "frames": 50, "folder": str(folder)}

    def rollout_start(fields: dict[str, Any]) -> dict[str, Any]:
        told("rollout_start", fields)
        state["rollout"] = fields
        return {}

    def rollout_stop(fields: dict[str, Any]) -> dict[str, Any]:
        rollout = state.pop("rollout")
        record = RolloutRecord(
            id=rollout["rollout_id"],
            task=rollout["task"],
            version=rollout["version"],
            place=rollout["place"],
            blinded=bool(rollout["place"] and rollout["place"]["paired"]),
            digest=None,
            created=now(),
            reason=fields["reason"],
            interventions=rollout.get("interventions", 0) if rollout["place"] else None,
        )
        with durable_folder(home / "rollouts" / record.id) as work:
            (work / ROLLOUT_FILE).write_text(record.model_dump_json())
        channel.emit("rollout_done", rollout_id=record.id, reason=record.reason)
        return {}

    def rollout_take_over(fields: dict[str, Any]) -> dict[str, Any]:
        told("rollout_take_over", fields)
        state["rollout"]["interventions"] = state["rollout"].get("interventions", 0) + 1
        state["segment"] = fields["episode_id"]
        return {}

    def rollout_hand_back(fields: dict[str, Any]) -> dict[str, Any]:
        """The segment of 126 frames is kept."""
        rollout, episode_id = state["rollout"], state.pop("segment")
        taken = Intervention(rollout=rollout["rollout_id"], version=rollout["version"])
        record = EpisodeRecord(
            id=episode_id, task=rollout["task"], frames=126, fps=30, created=now(), intervention=taken
        )
        with durable_folder(home / "episodes" / record.id) as work:
            write_record(work, record)
        channel.emit("segment_saved", episode_id=record.id, frames=126)
        return {}

    def teleop_stop(fields: dict[str, Any]) -> dict[str, Any]:
        channel.emit("activity_ended", activity="teleoperation", reason="stopped", error=None)
        return {}

    channel.emit("ready", fault=None)
    health = {"load": 0, "voltage": 5.1, "temperature": 31, "current": 0.0, "errors": []}
    one = {"connected": True, "torque": False, "reads": 100, "retries": 0}
    told_health = {"joints": {"gripper": health}, "warnings": [], "missed": 0}
    handlers = {
        "status": lambda fields: {"fault": None, "follower": one, "leader": one, "health": told_health},
        "teleop_start": lambda fields: told("teleop_start", fields),
        "teleop_stop": teleop_stop,
        "record_start": record_start,
        "record_stop": record_stop,
        "rollout_start": rollout_start,
        "rollout_stop": rollout_stop,
        "rollout_take_over": rollout_take_over,
        "rollout_hand_back": rollout_hand_back,
        "lower": lambda fields: {"torque": False},
        "hold": lambda fields: {"torque": True},
        "release": lambda fields: {"torque": False},
    }
    serve(handlers, channel)


def policy(home: Path, channel: WorkerChannel, told: Told) -> None:
    """Says that it executes whatever it was told to."""

    def swap(fields: dict[str, Any]) -> dict[str, Any]:
        told("swap", fields)
        return {"digest": fields["digest"], "probe_change": 0.5}

    channel.emit("ready")
    serve({"swap": swap, "status": lambda fields: {"loaded": True}}, channel)


def trainer(home: Path, channel: WorkerChannel, told: Told) -> None:
    """An update takes 0.3 s, or for ever while STATE_DIR/slow exists."""

    def train(fields: dict[str, Any]) -> dict[str, Any]:
        told("train", fields)

        def work() -> None:
            channel.emit("progress", step=1, steps=4, loss=1.0)
            time.sleep(0.3)
            while (home / "slow").exists():
                time.sleep(0.02)
            channel.emit("update", id=_update(home, fields))

        threading.Thread(target=work, daemon=True).start()
        return {"started": True}

    channel.emit("ready")
    serve({"train": train}, channel)


def _update(home: Path, fields: dict[str, Any]) -> str:
    enrolment = json.loads((home / "enrolment" / "enrolment.json").read_text())
    header = UpdateHeader(
        id=uuid.uuid4().hex,
        node=enrolment["node"],
        base_version=fields["version"],
        base_digest=enrolment["base_digest"],
        sha256=sha256(b"delta"),
        examples=50,
        steps=4,
    )
    with durable_folder(home / "outbox" / header.id) as folder:
        (folder / "header.json").write_text(header.model_dump_json())
        (folder / "delta.bin").write_bytes(b"delta")
    return header.id


def executor(home: Path, channel: WorkerChannel, told: Told) -> None:
    """Never gets a task: the test asks the agent's socket itself."""
    channel.emit("ready")
    channel.emit("supernode", state="away", reason="a stand-in")
    serve({}, channel)


def gate(home: Path, episode_id: str) -> None:
    """Admits everything, for training."""
    folder = home / "episodes" / episode_id
    record = read_record(folder)
    write_record(folder, record.model_copy(update={"verdict": "admitted", "split": "train"}))


if __name__ == "__main__":
    worker, state_dir = sys.argv[1], Path(sys.argv[2])
    if worker == "gate":
        for episode in sys.argv[3:]:
            gate(state_dir, episode)
    else:
        stand_in = {"arm": arm, "policy": policy, "trainer": trainer, "executor": executor}[worker]
        stand_in(state_dir, WorkerChannel.from_environment(), Told(worker, state_dir))
        os._exit(0)
