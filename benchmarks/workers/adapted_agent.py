"""An agent that has joined no fleet, with a version's adapter over its base:

    python -m benchmarks.workers.adapted_agent agent.toml versions/000012

Everything but the origin of the adapter is as in service: the policy worker is told to swap over its channel,
and proves by digest what it computes with. `ADAPTED` beside the configuration appears when it did.
"""

import asyncio
import signal
import sys
from pathlib import Path

from agent.config import load_agent_config
from agent.daemon import Agent, worker_commands
from agent.versions import SWAP_S
from shared.adapters import digest, read_adapter
from shared.errors import ArmfleetError
from shared.files import write_atomic
from shared.logging import setup_logging

ADAPTED = "adapted"
LOOK_S = 0.1


async def adapt(agent: Agent, folder: Path) -> str:
    """Waits for the policy worker and swaps it to the adapter in `folder`; the digest of its live tensors.

    Raises:
        ArmfleetError: VERSION_REFUSED or BASE_MISMATCH, the policy worker's own words.
    """
    tensors, _, manifest = read_adapter(folder)
    policy = agent.workers["policy"]
    while policy.state != "ready":
        await asyncio.sleep(LOOK_S)
    answer = await policy.request(
        "swap",
        SWAP_S,
        version=manifest.version if manifest else None,
        folder=str(folder),
        digest=digest(tensors, manifest.normalisation if manifest else None),
    )
    return str(answer["digest"])


async def run(config_path: Path, folder: Path) -> None:
    """Runs the agent until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    agent = Agent(load_agent_config(config_path), worker_commands(config_path))

    async def swap() -> None:
        try:
            write_atomic(config_path.with_name(ADAPTED), await adapt(agent, folder))
        except ArmfleetError:
            stop.set()  # without the adapter there is nothing to measure
            raise

    task = asyncio.create_task(swap(), name="swap")
    await agent.run(stop)
    if task.done():
        task.result()  # raises why the swap was refused
    task.cancel()


def main(config_path: Path, folder: Path) -> int:
    """Runs, and returns the exit status."""
    setup_logging("agent")
    try:
        asyncio.run(run(config_path.absolute(), folder.absolute()))
    except ArmfleetError as error:
        print(error, file=sys.stderr)
        return int(error.code)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
