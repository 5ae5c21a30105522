"""The policy that stays loaded: predictions and adapter swaps that are proven, under one lock.

After a swap two things are asserted: the digest of the tensors the model now computes with is the one that
was signed, and the output on a fixed observation has changed. Otherwise the previous adapter is put back.

The fast path (`shared.policy.checked_chunk`) is compared with LeRobot's at the start and when an adapter of
another kind is loaded, on the fixed observation, and once on the robot's own first observation, when the
rollout that brought it is over: never while a rollout waits for the result.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from loguru import logger
from safetensors import SafetensorError
from safetensors.numpy import load, save

from agent.inference.bounds import Spread, bounds
from shared import envelope
from shared.adapters import read_adapter
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

PROBE_SEED = 0
PROBE_TASK = "push the red cube to the left"
BACKLOG = 4
SOCKET_MODE = 0o600

type Observation = tuple[np.ndarray, dict[str, np.ndarray], list[str]]
"""State (1, 6), pictures by camera (1, H, W, 3), and the task."""


class Predictor(Protocol):
    """What is needed of `shared.policy.chunker.Chunker`."""

    cameras: Any
    policy: Any

    @property
    def spread(self) -> Spread | None: ...
    def reseed(self, seed: int) -> None: ...
    def load_version(self, folder: Path | None) -> str | None: ...
    def compare_again(self) -> None: ...
    def chunk(
        self,
        state: np.ndarray,
        images: Mapping[str, np.ndarray],
        tasks: Any,
        inference_delay: int = 0,
        prev_chunk: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]: ...


class ResidentPolicy:
    """One policy and the adapter over it.

    Args:
        predictor: A loaded `Chunker`, the base alone.
        demonstrations: Actions of each episode that trains here, (frames, 6) units; asked at the start and at
            each swap.
    """

    def __init__(
        self, predictor: Predictor, demonstrations: Callable[[], Sequence[np.ndarray]] = tuple
    ) -> None:
        self._predictor, self._demonstrations = predictor, demonstrations
        self._bounds = bounds(predictor.spread, demonstrations())
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._identity = True
        self._first: Observation | None = None
        self._is_compared = False
        self.version: int | None = None
        self.digest: str | None = None
        self._probe()  # the first inference allocates and is slow: not in a rollout

    def status(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"loaded": True, "version": self.version, "digest": self.digest}

    def predict(self, header: Mapping[str, Any], blob: bytes) -> tuple[dict[str, Any], bytes]:
        """Answer one request of the data plane.

        Raises:
            ArmfleetError: the request is malformed, or lacks a camera.
        """
        started = time.perf_counter()
        try:
            tensors = load(blob)
            state = tensors["state"][None]
            images = {n.removeprefix("image."): a[None] for n, a in tensors.items() if n.startswith("image.")}
            delay, task = int(header["inference_delay"]), str(header["task"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise ArmfleetError(f"a request for actions is malformed: {error}") from error
        rest = tensors.get("prev_chunk")
        rest = None if rest is None or not len(rest) else rest[None]
        with self._lock:
            original, processed = self._predictor.chunk(state, images, [task], delay, rest)
            if not self._is_compared and self._first is None:
                self._first = (state, images, [task])
            fields = {"version": self.version, "digest": self.digest}
            held_to = self._bounds.stacked()
        answer = save(
            {"original": original[0], "processed": np.ascontiguousarray(processed[0]), "bounds": held_to}
        )
        return {**fields, "seconds": round(time.perf_counter() - started, 6)}, answer

    def rollout_ended(self) -> None:
        """Compare the two paths on the robot's first observation, unless that was done."""
        with self._lock:
            first, self._first = self._first, None
            if first is not None:
                self._is_compared = True
                self._predictor.compare_again()
                self._predictor.chunk(*first)

    def swap(self, version: int | None, folder: Path | None, digest: str | None) -> dict[str, Any]:
        """Make another adapter the live one, in place, and prove it.

        Args:
            version: Its number; None with the base alone.
            folder: Its PEFT folder, or None for the base alone.
            digest: Of its tensors, as vouched for; None with the base alone.

        Returns:
            version, digest (recomputed from the live tensors) and probe_change (largest difference of the
            actions on the fixed observation, units).

        Raises:
            ArmfleetError: VERSION_REFUSED or BASE_MISMATCH; the previous adapter is live again.
        """
        identity = folder is None or is_identity(folder)
        demonstrations = self._demonstrations()  # reads files: not under the lock
        with self._lock:
            before = self._probe()
            try:
                live = self._predictor.load_version(folder)
                if live != digest:
                    raise _refused(version, f"the live tensors have the digest {live}, expected {digest}")
                after = self._probe()
                if not np.isfinite(after).all():
                    raise _refused(version, "its actions on the probe are not finite numbers")
                change = float(np.abs(after - before).max())
                inert = live == self.digest or (identity and self._identity)
                if change == 0 and not inert:
                    raise _refused(version, "other tensors are loaded but the actions did not change")
            except BaseException:
                self._predictor.load_version(self._folder)
                self._probe()  # another kind of adapter is compared now, not in the next rollout
                raise
            self.version, self.digest = version, live
            self._folder, self._identity = folder, identity
            self._bounds = bounds(self._predictor.spread, demonstrations)
        logger.bind(version=version, digest=live).info(
            "version {} is live, actions on the probe changed by {:.3f}", version, change
        )
        return {"version": version, "digest": live, "probe_change": change}

    def _probe(self) -> np.ndarray:
        """Actions (1, chunk, 6) on an observation that is always the same, from noise that is always the
        same."""
        images = {}
        for camera in self._predictor.cameras:
            feature = self._predictor.policy.config.image_features[f"observation.images.{camera}"]
            height, width = feature.shape[-2:]
            ramp = np.linspace(0, 255, height * width * 3).astype(np.uint8)
            images[camera] = ramp.reshape(1, height, width, 3)
        self._predictor.reseed(PROBE_SEED)
        _, actions = self._predictor.chunk(np.zeros((1, 6), np.float32), images, [PROBE_TASK])
        return actions


def is_identity(folder: Path) -> bool:
    """Whether the adapter in `folder` leaves the base's output as it is: every LoRA B matrix is zero, and the
    statistics are the base's own.

    (The modules saved in full are the base's own in such an adapter: version 0 is made so.)
    """
    tensors, _, manifest = read_adapter(folder)
    if manifest is not None and manifest.normalisation is not None:
        return False
    return not any(array.any() for name, array in tensors.items() if ".lora_B." in name)


class PolicyServer:
    """The data plane: one thread per connection, one request at a time on each.

    Args:
        resident: Answers.
        path: Unix socket; one left by a killed process is replaced.
    """

    def __init__(self, resident: ResidentPolicy, path: Path) -> None:
        self._resident, self._path = resident, path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        path.chmod(SOCKET_MODE)
        self._socket.listen(BACKLOG)

    def serve(self) -> None:
        """Accept connections until `close`."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                logger.debug("{} is closed ({})", self._path, error)
                return
            threading.Thread(target=self._answer, args=(connection,), name="predict", daemon=True).start()

    def close(self) -> None:
        """Stop accepting and remove the socket."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while (request := envelope.recv(connection)) is not None:
                    header, blobs = request
                    try:
                        fields, answer = self._resident.predict(header, blobs.get("tensors", b""))
                    except ArmfleetError as error:
                        envelope.send(connection, {"error": error.to_dict()})
                    except Exception as error:
                        logger.exception("a prediction failed")
                        failure = ArmfleetError(f"a prediction failed: {type(error).__name__}: {error}")
                        envelope.send(connection, {"error": failure.to_dict()})
                    else:
                        envelope.send(connection, fields, {"tensors": answer})
                self._resident.rollout_ended()
            except (OSError, ArmfleetError) as error:
                logger.info("a connection for actions ended: {}", error)


def _refused(version: int | None, cause: str) -> ArmfleetError:
    return ArmfleetError(
        f"version {version} is refused: {cause}",
        kept="the adapter that was running",
        do="it is fetched again at the next check-in; tell the coordinator's operator if it happens twice",
        code=ExitCode.VERSION_REFUSED,
    )
