"""The policy process: one resident policy, its adapter exchanged in place; started and supervised by the
agent.

Operations on its channel: `status {}` -> {loaded, version, digest};
`swap {version, folder, digest}` -> {version, digest, probe_change} (folder null: the base alone).
Event: ready {base_digest, cameras, chunk}. Data plane: `policy.sock`, see `agent.inference.proxy`.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from loguru import logger

from agent.config import load_agent_config
from shared.channel import WorkerChannel, serve
from shared.errors import ArmfleetError
from shared.logging import setup_logging


def main(config_path: Path) -> int:
    """Run until the channel closes or SIGTERM comes; the exit status."""
    setup_logging("policy")
    os.environ["HF_HUB_OFFLINE"] = "1"
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    try:
        config = load_agent_config(config_path)
        channel = WorkerChannel.from_environment()
        import torch  # 15 s with LeRobot's policies: after what can be refused at once

        from agent.inference.resident import PolicyServer, ResidentPolicy
        from agent.training.data import EpisodeFolder
        from shared.policy.chunker import Chunker
        from shared.policy.rtc import Guidance

        torch.set_num_threads(config.policy.threads)
        guidance = Guidance(horizon=config.inference.execution_horizon)
        chunker = Chunker(
            config.policy.base, config.policy.device, guidance, precision=config.policy.precision
        )
        resident = ResidentPolicy(chunker, EpisodeFolder(config.episodes_dir).demonstrated)
        server = PolicyServer(resident, config.policy_socket)
    except ArmfleetError as error:
        logger.critical("{}", error)
        return int(error.code)
    threading.Thread(target=server.serve, name="policy-socket", daemon=True).start()

    def swap(fields: dict[str, Any]) -> dict[str, Any]:
        folder = fields.get("folder")
        return resident.swap(fields.get("version"), Path(folder) if folder else None, fields.get("digest"))

    channel.emit(
        "ready", base_digest=chunker.base_digest, cameras=list(chunker.cameras), chunk=chunker.chunk_size
    )
    serve({"status": lambda fields: resident.status(), "swap": swap}, channel, urgent={"status"})
    server.close()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The policy process; started by the agent.")
    parser.add_argument("--config", type=Path, required=True)
    status = main(parser.parse_args().config)
    sys.stderr.flush()
    # Connection threads may still wait for requests: nothing is left to do for them.
    os._exit(status)
