"""Gathers the canaries from what the stations recorded, and looks for them in what left the stations."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as parquet
import zmq
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from loguru import logger

from cli.demo import leak, tap
from cli.demo.layout import StationLayout
from cli.demo.world import World

CORNER = 16
"""Pixels of the corner that is looked for: the canary's 8, and as many of the scene beside it."""
VIDEO_FRAMES = 2
"""Frames per video whose decoded pixels are canaries; the files themselves are canaries all along."""
LISTEN_S = 5.0
JPEGS = 10
PRIVATE_NAMES = (
    "sidecar.jsonl",
    "armfleet.json",
    "episode_index",
    "observation.state",
    "trace.jsonl",
    "ttyFOLLOWER",
)
"""Words that only stand in what is recorded. Features' names would betray a copied table."""


def search(world: World) -> leak.Findings:
    """Look for everything recorded in everything that left."""
    canaries = [canary for station in world.layout.stations for canary in station_canaries(world, station)]
    streams = sorted(world.layout.tap.glob("up-*.bin"))
    findings = leak.Scanner(canaries).search((path.name, path.read_bytes()) for path in streams)
    for hit in findings.hits:
        logger.error(
            "{} of {} left in {} ({} at {})",
            hit.canary.kind,
            hit.canary.name,
            hit.stream,
            hit.inside,
            hit.offset,
        )
    world.notes["canaries"] = len(canaries)
    return findings


def station_canaries(world: World, station: StationLayout) -> Iterator[leak.Canary]:
    """Everything recorded at one station: episodes, rollouts, camera pictures, names."""
    name = station.plan.name
    yield from leak.pixel_canaries(f"{name} canary", noise(world.plan.canary_seed(name)))
    yield from published(station)
    yield from leak.name_canaries([str(station.state), *PRIVATE_NAMES])
    for folder in sorted((station.state / "episodes").iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            yield from episode_canaries(f"{name}/{folder.name}", folder)
    rollouts = station.state / "rollouts"
    for folder in sorted(rollouts.iterdir()) if rollouts.exists() else []:
        yield from rollout_canaries(f"{name}/{folder.name}", folder)


def noise(seed: int, pixels: int = 8) -> np.ndarray:
    """The simulator's patch of noise (sim.publisher.noise_patch), (pixels, pixels, 3) uint8."""
    from sim.publisher import noise_patch

    return noise_patch(seed, pixels)


def episode_canaries(name: str, folder: Path) -> Iterator[leak.Canary]:
    """Rows, pictures, pieces of files and the name of one episode."""
    yield from leak.name_canaries([f"episodes/{folder.name}"])
    for path in sorted(folder.rglob("*.parquet")):
        data = path.read_bytes()
        yield from leak.file_canaries(f"{name} {path.name}", data)
        if path.parts[-3] == "data" or "data" in path.parts[-3:]:
            table = parquet.read_table(path, columns=["observation.state", "action"])
            for column in table.column_names:
                rows = np.array(table[column].to_pylist())
                yield from leak.joint_canaries(f"{name} {column}", rows)
    for path in sorted(folder.rglob("*.mp4")):
        yield from leak.file_canaries(f"{name} {path.name}", path.read_bytes())
        for frame in _frames(path):
            yield from leak.pixel_canaries(f"{name} {path.name}", frame[:CORNER, :CORNER])


def rollout_canaries(name: str, folder: Path) -> Iterator[leak.Canary]:
    """The name of one rollout, and pieces of its files: what may leave is its task and its label."""
    yield from leak.name_canaries([folder.name])
    for path in sorted(folder.iterdir()):
        yield from leak.file_canaries(f"{name} {path.name}", path.read_bytes())


def _frames(path: Path) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == VIDEO_FRAMES:
                return
            yield frame.to_ndarray(format="rgb24")


def published(station: StationLayout) -> Iterator[leak.Canary]:
    """Pictures as the camera publishes them: coded bytes, and the decoded corner that a recorder sees."""
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        subscriber.setsockopt(zmq.RCVTIMEO, int(LISTEN_S * 1000))
        subscriber.connect(f"tcp://127.0.0.1:{station.camera_port}")
        for _ in range(JPEGS):
            message = json.loads(subscriber.recv())
            for camera, image in message["images"].items():
                jpeg = base64.b64decode(image)
                yield from leak.jpeg_canaries(f"{station.plan.name} {camera}", jpeg)
                frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
                assert frame is not None, "the JPEG scan was found, so it is a picture"
                yield from leak.pixel_canaries(f"{station.plan.name} {camera}", frame[:CORNER, :CORNER])


def station_bytes(world: World) -> dict[str, tuple[int, int]]:
    """(up, down) per station, by its node key; what can't be told apart (enrolment) as "unknown"."""
    names = {node_of(station): station.plan.name for station in world.layout.stations}
    totals: dict[str, tuple[int, int]] = {}
    for node, (up, down) in tap.totals(world.layout.tap).items():
        name = names.get(node, "unknown")
        before = totals.get(name, (0, 0))
        totals[name] = (before[0] + up, before[1] + down)
    return totals


def node_of(station: StationLayout) -> str:
    """The tap's name for this station's key; Flower sends the public key as PEM in base64."""
    key = load_ssh_private_key((station.state / "enrolment" / "node.key").read_bytes(), None)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return tap.node_id(base64.b64encode(pem))
