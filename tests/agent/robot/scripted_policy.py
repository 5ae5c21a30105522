"""A policy process without weights, as the arm process and the agent see the real one: the same socket, the
same channel, the same swap. It turns joint 1 to and fro at 40 degrees per second, from wherever the arm is.

    python scripted_policy.py --config agent.toml

While `policy-says` beside agent.toml holds "nan", its actions are no numbers; while it holds "far", the first
chunk of a rollout wants joint 2 FAR units away at once.
"""

import argparse
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from agent.config import load_agent_config
from agent.inference.resident import PolicyServer, ResidentPolicy
from shared.adapters import digest, read_adapter
from shared.channel import WorkerChannel, serve
from shared.policy.rtc import POLICY_HZ

CHUNK = 8
SPEED = 40.0
TURN = 25.0
SAYS = "policy-says"
POSE = np.array([0, -30, 30, 40, 0, 20], np.float32)
FAR = 90.0
WAY = np.array([60, 30, 30, 30, 30, 30], np.float32)
DEMONSTRATION = POSE + np.linspace(-1, 1, 19, dtype=np.float32)[:, None] * WAY
"""What was recorded: joint 2 from -60 to 0 at 100 units per second, joint 1 at twice that."""


class Script:
    """What ResidentPolicy wants of a predictor."""

    cameras, spread = ("front",), (POSE, np.full(6, 5.0))
    policy = SimpleNamespace(
        config=SimpleNamespace(
            image_features={"observation.images.front": SimpleNamespace(shape=(3, 96, 96))}
        )
    )

    def __init__(self, says: Path):
        self._says, self._direction, self._offset = says, 1.0, 0.0

    def reseed(self, seed):
        self._direction = 1.0

    def load_version(self, folder):
        if folder is None:
            self._offset = 0.0
            return None
        tensors, _, manifest = read_adapter(folder)
        self._offset = float(manifest.version)
        return digest(tensors)

    def chunk(self, state, images, tasks, inference_delay=0, prev_chunk=None):
        if abs(state[0, 0]) > TURN:
            self._direction = -np.sign(state[0, 0])
        way = SPEED / POLICY_HZ * np.arange(1, CHUNK + 1)
        actions = np.repeat(state[:, None, :], CHUNK, axis=1).astype(np.float32)
        actions[:, :, 0] += self._direction * way + self._offset
        says = self._says.read_text() if self._says.exists() else ""
        if says == "nan":
            actions[:, -1, 3] = np.nan
        if says == "far" and prev_chunk is None:
            actions[:, :, 1] += FAR
        return actions, actions.copy()


def main(config_path: Path) -> None:
    config = load_agent_config(config_path)
    resident = ResidentPolicy(Script(config_path.with_name(SAYS)), lambda: [DEMONSTRATION])
    server = PolicyServer(resident, config.policy_socket)
    threading.Thread(target=server.serve, daemon=True).start()
    channel = WorkerChannel.from_environment()

    def swap(fields):
        return resident.swap(fields["version"], Path(fields["folder"]), fields["digest"])

    channel.emit("ready")
    serve({"status": lambda fields: resident.status(), "swap": swap}, channel, urgent={"status"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    main(parser.parse_args().config)
