"""The policy as the arm process sees it: a proxy that asks the policy process over its Unix socket.

LeRobot's RTC engine calls `preprocessor`, `policy.predict_action_chunk` and `postprocessor` in turn; the
policy process does all three at once (normalisation and tokenising belong to the weights), so the processors
here pass things through. A crash of the policy process raises here and leaves the control loop alone.

Data plane, one `shared.envelope` each way on a stream socket:

    request  {"op": "predict", "task", "inference_delay"}, blob "tensors": safetensors of
             state (6) f32, image.NAME (H, W, 3) u8, prev_chunk (T, A) f32 (optional): the previous
             `original` from the action being executed on
    reply    {"version", "digest", "seconds"}, blob "tensors": original (T, A) f32, processed (T, 6) f32
    refusal  {"error": {what, kept, do, code}}
"""

import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from shared import envelope
from shared.errors import ArmfleetError

PREDICT_S = 2.0
"""Longest wait for a chunk. The first after a start is the slowest; a chunk of 8 at 10 Hz lasts 0.8 s."""
IMAGE_PREFIX = "observation.images."


class PolicyProxy:
    """Looks like a policy to `RTCInferenceEngine`; connects on the first call and again after a failure.

    Attributes:
        latencies: Seconds of each answered call, the socket included.
        asked_at: When the last answered call began, on `time.perf_counter`; None before.
        version, digest: What answered last; None for the base alone.
    """

    def __init__(self, path: Path, task: str) -> None:
        self.config = SimpleNamespace()
        self.latencies: list[float] = []
        self.asked_at: float | None = None
        self.version: int | None = None
        self.digest: str | None = None
        self.processed: torch.Tensor | None = None
        self._path, self._task = path, task
        self._last: np.ndarray | None = None
        """(T, A), what answered last, whole."""
        self._socket: socket.socket | None = None

    def supports_rtc(self) -> bool:
        """Asked by the engine."""
        return True

    def reset(self) -> None:
        """The policy process keeps no state between calls."""

    def predict_action_chunk(
        self,
        batch: dict[str, Any],
        inference_delay: int = 0,
        prev_chunk_left_over: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The next chunk in the policy's own units, (1, T, A) float32; `processed` then holds it in joint
        units.

        Args:
            batch: observation.state (1, 6) and observation.images.NAME (1, 3, H, W) in [0, 1], as LeRobot
                prepares them.
            inference_delay: Policy steps that pass until the chunk arrives.
            prev_chunk_left_over: (T, A), the part of the previous chunk that has not been executed, as the
                engine pads it.

        Raises:
            ArmfleetError: the policy process refused.
            OSError: it is not there, or did not answer within PREDICT_S.
        """
        tensors = {"state": batch["observation.state"][0].numpy()}
        for key, value in batch.items():
            if key.startswith(IMAGE_PREFIX):
                pixels = (value[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
                tensors["image." + key.removeprefix(IMAGE_PREFIX)] = pixels.numpy()
        if prev_chunk_left_over is not None and self._last is not None:
            tensors["prev_chunk"] = running(self._last, prev_chunk_left_over.numpy())
        started = time.perf_counter()
        answer = self._ask(int(inference_delay), tensors)
        self.latencies.append(time.perf_counter() - started)
        self.asked_at = started
        self.processed = torch.from_numpy(answer["processed"].copy()).unsqueeze(0)
        self._last = answer["original"].copy()
        return torch.from_numpy(self._last.copy()).unsqueeze(0)

    def close(self) -> None:
        """Hang up."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def _ask(self, inference_delay: int, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        header = {"op": "predict", "task": self._task, "inference_delay": inference_delay}
        try:
            sock = self._connection()
            envelope.send(sock, header, {"tensors": save(tensors)})
            answer = envelope.recv(sock)
        except (OSError, ArmfleetError):
            # After a time-out the late answer would be taken for the next one's: never reuse the connection.
            self.close()
            raise
        if answer is None:
            self.close()
            raise ConnectionError("the policy process hung up")
        fields, blobs = answer
        if "error" in fields:
            raise ArmfleetError.from_dict(fields["error"])
        self.version, self.digest = fields.get("version"), fields.get("digest")
        return load(blobs["tensors"])

    def _connection(self) -> socket.socket:
        if self._socket is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(PREDICT_S)
            try:
                sock.connect(str(self._path))
            except OSError:
                sock.close()
                raise
            self._socket = sock
        return self._socket


def running(chunk: np.ndarray, left_over: np.ndarray) -> np.ndarray:
    """The actions of `chunk` (T, A) from the one being executed on, at least one row.

    Args:
        left_over: What LeRobot's engine says is left of it, from the next action on: cut off at its execution
            horizon, or filled up with zeros, which are no actions. Nothing but zeros: the arm holds the last
            action.
    """
    found = np.flatnonzero((chunk == left_over[0]).all(axis=1))
    following = int(found[0]) if len(found) else len(chunk)
    return chunk[max(following - 1, 0) :]


class PassThrough:
    """A processor pipeline that does nothing."""

    steps: tuple[()] = ()

    def __call__(self, value: Any) -> Any:
        """Returns `value`."""
        return value

    def reset(self) -> None:
        """Nothing to reset."""


class Processed(PassThrough):
    """The postprocessor: hands over what the policy process computed for the last chunk.

    Args:
        proxy: Where the last chunk came from.
    """

    def __init__(self, proxy: PolicyProxy) -> None:
        self._proxy = proxy

    def __call__(self, value: Any) -> Any:
        """The last chunk in joint units, (1, T, 6); `value` is the same chunk in the policy's units."""
        if self._proxy.processed is None:
            raise RuntimeError("no chunk was predicted yet")
        return self._proxy.processed
