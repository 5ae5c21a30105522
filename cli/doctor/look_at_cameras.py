"""Gathers facts about cameras: opens them for a moment, without LeRobot, and keeps a picture of each."""

import base64
import json
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zmq

from agent.config import Camera, OpenCvCamera, ZmqCamera
from cli.doctor.arm_checks import access_advice
from cli.doctor.camera_checks import CameraFacts, check_camera
from cli.doctor.finding import Finding, ok, refused, warn
from cli.doctor.look_at_arm import access
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic

MEASURE_S = 1.5
FIRST_FRAME_S = 5.0
"""A USB camera needs up to three seconds for its first picture."""
STALE_S = 1.0
"""Age at which the agent counts a camera as lost (`agent.robot.cameras.LOST_S`)."""

type Frames = Generator[tuple[float, np.ndarray]]
"""(monotonic seconds of arrival, (H, W, 3) uint8 BGR) of each new frame; ends when the camera does."""


class NoFrames(Exception):
    """The camera gives nothing; the second argument says what helps."""


def look_at_cameras(cameras: Mapping[str, Camera], snapshots: Path) -> list[CameraFacts]:
    """All cameras at once, MEASURE_S each."""
    with ThreadPoolExecutor(max(1, len(cameras))) as pool:
        looks = [pool.submit(look_at_camera, name, camera, snapshots) for name, camera in cameras.items()]
        return [look.result() for look in looks]


def look_at_camera(name: str, config: Camera, snapshots: Path) -> CameraFacts:
    """One camera."""
    wanted = (config.width, config.height, config.fps)
    try:
        frames = _zmq_frames(name, config) if isinstance(config, ZmqCamera) else _opencv_frames(config)
        with closing(frames):
            facts = _measure(name, wanted, frames, snapshots)
            return replace(facts, published=isinstance(config, ZmqCamera))
    except NoFrames as error:
        trouble, do = error.args
        return CameraFacts(name, wanted, trouble, do)


def _measure(name: str, wanted: tuple[int, int, int], frames: Frames, snapshots: Path) -> CameraFacts:
    stamps: list[float] = []
    different, last = 0, np.zeros((0, 0, 3), np.uint8)
    for at, frame in frames:
        different += not np.array_equal(frame, last)
        last = frame
        stamps.append(at)
        if at - stamps[0] >= MEASURE_S:
            break
    seconds = stamps[-1] - stamps[0]
    grey = cv2.cvtColor(last, cv2.COLOR_BGR2GRAY)
    return CameraFacts(
        name,
        wanted,
        size=(last.shape[1], last.shape[0]),
        rate=(len(stamps) - 1) / seconds if seconds else 0.0,
        frames=len(stamps),
        different=different,
        mean=float(grey.mean()),
        deviation=float(grey.std()),
        snapshot=_save(snapshots / f"{name}.jpg", last),
    )


def _save(path: Path, image: np.ndarray) -> str:
    """The file's name, or nothing if it can't be written: a picture is a help, not a check."""
    done, data = cv2.imencode(".jpg", image)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data.tobytes())
    except OSError:
        return ""
    return str(path) if done else ""


def _zmq_frames(name: str, config: ZmqCamera) -> Frames:
    """Frames as LeRobot's ZMQ camera gets them; any number of listeners may listen."""
    where, context = f"tcp://{config.address}:{config.port}", zmq.Context()
    socket = context.socket(zmq.SUB)
    try:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.setsockopt(zmq.RCVTIMEO, round(1000 * FIRST_FRAME_S))
        socket.connect(where)
        while True:
            try:
                message: dict[str, Any] = json.loads(socket.recv())
            except zmq.Again:
                silence = f"{where} sent nothing for {FIRST_FRAME_S:g} s"
                raise NoFrames(silence, "check that its publisher runs, and address and port") from None
            at, images = time.monotonic(), message["images"]
            raw = base64.b64decode(images[name] if name in images else next(iter(images.values())))
            image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise NoFrames(f"{where} sent something that is no picture", "check what publishes there")
            yield at, image
    finally:
        socket.close(linger=0)
        context.term()


def _opencv_frames(config: OpenCvCamera) -> Frames:
    """Frames of a camera of this machine, which only one process can have."""
    name = config.index_or_path
    path = f"/dev/video{name}" if isinstance(name, int) else str(name)
    facts = access(path)
    if not facts.exists:
        raise NoFrames(f"{path} is not there", "check its cable; `ls -l /dev/v4l/by-id` lists the cameras")
    if not facts.allowed:
        raise NoFrames(f"{path}: no permission (group {facts.group})", access_advice(facts))
    capture = cv2.VideoCapture(name if isinstance(name, int) else str(name))
    try:
        busy = f"{path} can't be opened", "end what else uses it (`fuser -v` names it); replug it"
        if not capture.isOpened():
            raise NoFrames(*busy)
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, config.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, config.height)
        capture.set(cv2.CAP_PROP_FPS, config.fps)
        if not capture.read()[0]:  # the first takes seconds, and belongs to no rate
            raise NoFrames(f"{path} gives no picture", busy[1])
        while True:
            got, image = capture.read()
            if not got:
                raise NoFrames(f"{path} stopped giving pictures", "replug it; give it a USB port of its own")
            yield time.monotonic(), image
    finally:
        capture.release()


def findings_of_cameras(
    cameras: Mapping[str, Camera], status: Mapping[str, Any] | None, snapshots: Path
) -> list[Finding]:
    """Cameras that the agent holds are told by its `status`; the others are opened."""
    held = {n for n, c in cameras.items() if status is not None and isinstance(c, OpenCvCamera)}
    free = {name: camera for name, camera in cameras.items() if name not in held}
    found = [check_camera(facts) for facts in look_at_cameras(free, snapshots)]
    return found + [_told(name, (status or {}).get("cameras", {}).get(name) or {}) for name in sorted(held)]


def _told(name: str, told: Mapping[str, Any]) -> Finding:
    what, age = f"camera {name}", told.get("age_s")
    if not told.get("connected") or age is None or age > STALE_S:
        error = ArmfleetError(
            f"the agent gets no pictures from it (newest: {age} s old)",
            do="check its cable and its section in agent.toml; the agent connects again by itself",
            code=ExitCode.CAMERA_LOST,
        )
        return refused(what, error)
    rate, means = told.get("rate_hz"), f"the agent has it: newest picture {age:.2f} s old"
    if rate is None:
        do = "to measure it: systemctl stop armfleet-agent, then again"
        return warn(what, f"{means}; rate and picture were not looked at", do)
    return ok(what, f"{means}, {rate:.1f} Hz")
