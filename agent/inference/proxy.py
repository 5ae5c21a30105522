"""The policy as the arm process sees it: a proxy that asks the policy process over its Unix socket.

LeRobot's RTC engine calls `preprocessor`, `policy.predict_action_chunk` and `postprocessor` in turn; the
policy process does all three at once (normalisation and tokenising belong to the weights), so the processors
here pass things through. A crash of the policy process raises here and leaves the control loop alone.

What may not act is stopped here, before it is in the engine's queue: actions that are no numbers, those of
another version than the rollout began with, and those that an old observation would give.

Data plane, one `shared.envelope` each way on a stream socket:

    request  {"op": "predict", "task", "inference_delay"}, blob "tensors": safetensors of
             state (6) f32, image.NAME (H, W, 3) u8, prev_chunk (T, A) f32 (optional): the previous
             `original` from the action being executed on
    reply    {"version", "digest", "seconds"}, blob "tensors": original (T, A) f32, processed (T, 6) f32,
             bounds (3, 6) f32: low, high, speed (`agent.inference.bounds`)
    refusal  {"error": {what, kept, do, code}}
"""

import contextlib
import math
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from agent.inference.bounds import Bounds
from agent.inference.fault import PolicyFault, bad_actions, policy_changed
from shared import envelope
from shared.errors import ArmfleetError
from shared.policy.rtc import POLICY_HZ

PREDICT_S = 2.0
"""Longest wait for a chunk. The first after a start is the slowest; a chunk of 8 at 10 Hz lasts 0.8 s."""
OBSERVATION_S = 0.3
"""Observations older than this never reach the policy: three of its steps, or nine missed frames at 30 Hz.
On a machine that keeps up they are 0.1 s old at most."""
RECENT = 10
"""Chunks whose longest latency is the delay that the next one is made for. LeRobot's engine takes the longest
of the whole rollout: after one hiccup every chunk would repeat the one before it as far as that reaches."""
IMAGE_PREFIX = "observation.images."
TAKEN_AT = "observation.taken_at"
"""Key under which an observation carries when it was taken, seconds since the proxy was made, shape (1,): the
engine infers on the last one that it was given, however old that is by then."""


class PolicyProxy:
    """Looks like a policy to `RTCInferenceEngine`; connects on the first call and again after a failure.

    Attributes:
        latencies: Seconds of each answered call, the socket included.
        asked_at: When the last answered call began, on the clock; None before.
        version, digest: What answers; None for the base alone.
        bounds: What its first chunk is held to; None before it answered.
        fault: Why nothing that comes is used any more.
        trouble: What was wrong with the last call; empty if nothing was.

    Args:
        path: The policy process's socket.
        task: Language instruction.
        clock: Monotonic, seconds.
    """

    def __init__(self, path: Path, task: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = SimpleNamespace()
        self.latencies: list[float] = []
        self.asked_at: float | None = None
        self.version: int | None = None
        self.digest: str | None = None
        self.bounds: Bounds | None = None
        self.processed: torch.Tensor | None = None
        self.fault: PolicyFault | None = None
        self.trouble = ""
        self._path, self._task = path, task
        self._last: np.ndarray | None = None
        """(T, A), what answered last, whole."""
        self._clock, self._made = clock, clock()
        self._socket: socket.socket | None = None

    def since_made(self, at: float) -> float:
        """Time on the clock as observations carry it: small enough for float32."""
        return at - self._made

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
            batch: observation.state (1, 6), observation.images.NAME (1, 3, H, W) in [0, 1] and TAKEN_AT
                (1, 1), as LeRobot prepares them.
            inference_delay: Policy steps that pass until the chunk arrives, as the engine reckons; the policy
                is told at most those that the slowest of the last RECENT chunks took.
            prev_chunk_left_over: (T, A), the part of the previous chunk that has not been executed, as the
                engine pads it.

        Raises:
            PolicyFault: `fault` stands.
            ArmfleetError: the policy process refused, or the observation is older than OBSERVATION_S.
            OSError: it is not there, or did not answer within PREDICT_S.
        """
        try:
            chunk = self._predict(batch, inference_delay, prev_chunk_left_over)
        except (OSError, ArmfleetError) as error:
            did_not_answer = f"the policy process did not answer ({error})"
            self.trouble = error.what if isinstance(error, ArmfleetError) else did_not_answer
            raise
        self.trouble = ""
        return chunk

    def close(self) -> None:
        """Hang up; a call that waits for its answer then fails at once."""
        sock, self._socket = self._socket, None
        if sock is not None:
            with contextlib.suppress(OSError):  # the other end is gone already
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _predict(
        self, batch: dict[str, Any], inference_delay: int, prev_chunk_left_over: torch.Tensor | None
    ) -> torch.Tensor:
        if self.fault is not None:
            raise self.fault
        age_s = self.since_made(self._clock()) - float(batch[TAKEN_AT])
        if age_s > OBSERVATION_S:
            raise ArmfleetError(f"what the policy was to see was {age_s:.1f} s old")
        tensors = {"state": batch["observation.state"][0].numpy()}
        for key, value in batch.items():
            if key.startswith(IMAGE_PREFIX):
                pixels = (value[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
                tensors["image." + key.removeprefix(IMAGE_PREFIX)] = pixels.numpy()
        if prev_chunk_left_over is not None and self._last is not None:
            tensors["prev_chunk"] = running(self._last, prev_chunk_left_over.numpy())
        recent_s = max(self.latencies[-RECENT:], default=0.0)
        started = self._clock()
        answer = self._ask(min(inference_delay, math.ceil(recent_s * POLICY_HZ)), tensors)
        if not all(np.isfinite(answer[name]).all() for name in ("original", "processed")):
            self.fault = bad_actions(self.version)
            raise self.fault
        self.latencies.append(self._clock() - started)
        self.asked_at = started
        self.bounds = Bounds(*answer["bounds"])
        self.processed = torch.from_numpy(answer["processed"].copy()).unsqueeze(0)
        self._last = answer["original"].copy()
        return torch.from_numpy(self._last.copy()).unsqueeze(0)

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
        version, digest = fields.get("version"), fields.get("digest")
        if self.latencies and (version, digest) != (self.version, self.digest):
            self.fault = policy_changed(self.version, version)
            raise self.fault
        self.version, self.digest = version, digest
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
