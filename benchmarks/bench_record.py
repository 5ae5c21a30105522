"""Recording with two 640x480 cameras at 30 fps: what is lost, how even it is and what it costs.

    make bench-record          # 60 s each; --seconds N for less

Ours is the arm process as the agent runs it (`agent.robot.worker` behind its channel), teleoperating. Beside
it the command `lerobot-record` records as long on the same virtual workstation, with the same pictures, at
the same priority, while a person demonstrates at the leader: once as it comes (PNG files, then AV1), once
with `--dataset.streaming_encoding=true` and the encoder settings that ours has, which spares it both. The
second costs it less, so that `cpu_ratio` compares with the cheaper of the two; both are printed.

CPU is user and system time of the recording process and its children, from the first frame until the episode
is on disk, for a minute of rows (LeRobot's loop makes fewer rows in a minute). Imports are in neither.

The simulator renders both pictures: about 0.4 of a core, the same for all three. Whatever else runs on the
machine disturbs the simulator and all recorders: run it on a quiet one.

    dropped     rows without a frame in their video, and pictures that a camera sent between two rows and that
                went into neither
    repeated    pictures that are in two rows
    next_start_s    from the request to stop and keep the episode until the first frame of the next is in

Exits with 1 when ours misses its targets.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.config import RecordingSection
from agent.episodes.encoding import ENCODER_THREADS, QUEUE
from agent.episodes.recorder import PRESET
from agent.robot.worker import NICE as ARM_NICE
from benchmarks.outcome import measured
from benchmarks.stock_record import Recorded, count_frames, cpu_seconds, stock_record
from benchmarks.workers.arm_process import FPS, TEXT, ArmWorker, agent_config, person_at_work
from sim.launch import LaunchedWorkstation, launch

ROOT = Path(__file__).resolve().parents[1]
SIZE = (640, 480)
P99_TARGET_MS = 36.0
CPU_TARGET = 1.0
NEXT_START_TARGET_S = 1.0
SETTLE_S = 2.0
"""From a warm arm process to the session; no person is faster. The cameras' rhythm is known after one."""

os.environ["HF_HUB_OFFLINE"] = "1"  # before LeRobot is imported

Row = Mapping[str, Any]


def record(workstation: LaunchedWorkstation, folder: Path, seconds: float) -> tuple[Recorded, list[Row]]:
    """An episode of the arm process, and its sidecar; then the beginning of another."""
    worker = ArmWorker(agent_config(workstation, folder, *SIZE))
    try:
        time.sleep(SETTLE_S)
        worker.ask("teleop_start")
        with person_at_work(workstation.control):
            worker.ask("record_start", episode_id="bench", task=TEXT, max_s=seconds + 10)
            before = cpu_seconds(worker.pid)
            time.sleep(seconds)
            asked = time.monotonic()
            saved = worker.ask("record_stop", keep=True)
            cpu_s = cpu_seconds(worker.pid) - before
            worker.ask("record_start", episode_id="next", task=TEXT, max_s=10.0)
            next_s = time.monotonic() - asked
            worker.ask("record_stop", keep=False)
        worker.ask("teleop_stop")
    finally:
        worker.close()
    episode = Path(saved["folder"])
    rows = [json.loads(row) for row in (episode / "sidecar.jsonl").read_text().splitlines()]
    return Recorded(saved["frames"], count_frames(episode), cpu_s, next_s), rows


def repeated(rows: Sequence[Row]) -> int:
    """Pictures that are in two rows, over all cameras."""
    return sum(bool(camera["repeat"]) for row in rows for camera in row["cameras"].values())


def skipped(rows: Sequence[Row], fps: float) -> int:
    """Pictures taken between those of two rows, over all cameras, by their stamps."""
    missing = 0
    for name in rows[0]["cameras"] if rows else ():
        stamps = np.array([row["cameras"][name]["stamp"] for row in rows])
        missing += int(np.maximum(np.rint(np.diff(stamps) * fps) - 1, 0).sum())
    return missing


def not_encoded(rows: int, frames: Mapping[str, int]) -> int:
    """Rows without a frame in the video, over all cameras."""
    return sum(max(rows - count, 0) for count in frames.values())


def figures(
    ours: Recorded, rows: Sequence[Row], stock: Recorded, streaming: Recorded, fps: float = FPS
) -> dict[str, Any]:
    """What is reported."""
    cheaper = min(stock.cpu_per_minute(), streaming.cpu_per_minute())
    periods = np.array([row["period"] for row in rows[1:]])
    return {
        "dropped": not_encoded(ours.rows, ours.frames) + skipped(rows, fps),
        "repeated": repeated(rows),
        "period_p99_ms": round(float(np.percentile(periods, 99)) * 1e3, 2),
        "cpu_ratio": round(ours.cpu_per_minute() / cheaper, 3),
        "cpu_ratio_stock": round(ours.cpu_per_minute() / stock.cpu_per_minute(), 3),
        "cpu_ratio_streaming": round(ours.cpu_per_minute() / streaming.cpu_per_minute(), 3),
        "next_start_s": round(ours.next_s, 3),
        "lerobot_next_start_s": round(stock.next_s, 2),
        "lerobot_streaming_next_start_s": round(streaming.next_s, 2),
    }


def met(found: Mapping[str, Any]) -> bool:
    """Whether the figures reach their targets."""
    return (
        found["dropped"] == 0
        and found["repeated"] == 0
        and found["period_p99_ms"] < P99_TARGET_MS
        and found["cpu_ratio"] <= CPU_TARGET
        and found["next_start_s"] < NEXT_START_TARGET_S
    )


def table(recordings: Mapping[str, Recorded]) -> str:
    """All recordings, for a person."""
    lines = [f"{'':<26}{'rows':>8}{'CPU s/min':>12}{'next start, s':>15}"]
    for name, one in recordings.items():
        lines.append(f"{name:<26}{one.rows:8d}{one.cpu_per_minute():12.1f}{one.next_s:15.2f}")
    return "\n".join(lines)


def measure(seconds: float) -> tuple[bool, dict[str, Any]]:
    """Makes the three recordings; whether the targets are met, and the figures."""
    folder = Path(tempfile.mkdtemp(prefix="armfleet-bench-"))
    config = folder / "workstation.toml"
    cameras = "".join(f"[cameras.{name}]\nport = 0\n" for name in ("front", "side"))
    config.write_text(f'dir = "{folder}/ws"\nwidth = {SIZE[0]}\nheight = {SIZE[1]}\nfps = {FPS}\n{cameras}')
    workstation = launch(config)
    try:
        print(f"recording {seconds:g} s with the agent's arm process …", flush=True)
        ours, rows = record(workstation, folder, seconds)
        late_s = workstation.control.get("/status")["timing"]["behind_max_s"]
        print(f"meanwhile the simulator was late by {late_s * 1e3:.1f} ms at most", flush=True)
        others = {}
        for name, options in (("as it comes", []), ("streaming, our encoder", encoder_options())):
            print(f"recording {seconds:g} s with lerobot-record, {name} …", flush=True)
            root = folder / f"lerobot-{len(others)}"
            with person_at_work(workstation.control):
                others[name] = stock_record(workstation, root, seconds, SIZE, ARM_NICE, options)
    finally:
        workstation.stop()
        shutil.rmtree(folder, ignore_errors=True)
    stock, streaming = others.values()
    print(table({"armfleet": ours} | {f"lerobot, {name}": one for name, one in others.items()}))
    found = figures(ours, rows, stock, streaming)
    return met(found), found


def encoder_options() -> list[str]:
    """The flags that give `lerobot-record` the encoder settings of `agent.episodes.recorder`."""
    recording = RecordingSection()
    return [
        "--dataset.streaming_encoding=true",
        f"--dataset.encoder_threads={ENCODER_THREADS}",
        f"--dataset.encoder_queue_maxsize={QUEUE}",
        f"--dataset.rgb_encoder.vcodec={recording.vcodec}",
        f"--dataset.rgb_encoder.crf={recording.crf}",
        f"--dataset.rgb_encoder.preset={PRESET}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status; the last line is JSON."""
    parser = argparse.ArgumentParser(description="Losses, evenness and cost of recording.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-record.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    return measured("bench-record", options.out, lambda: measure(options.seconds))


if __name__ == "__main__":
    sys.exit(main())
