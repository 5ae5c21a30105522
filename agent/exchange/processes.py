"""Command line and environment of the stock `flower-supernode`; used by the systemd unit and by the demo.

`--isolation process` makes it wait for somebody to take its tasks: the warm executor, which knows the
secret. The SuperNode opens the only connection that leaves the workstation. After a crash it ends with code
1 until its old session at the SuperLink has expired (about 53 s): restart it every few seconds, without a
limit.
"""

import sys
from pathlib import Path

from agent.config import AgentConfig
from agent.exchange.enrolment import CA, NODE_KEY, SECRET, read_enrolment


def supernode_argv(config: AgentConfig) -> list[str]:
    """The command line.

    Raises:
        ArmfleetError: NOT_ENROLLED.
    """
    folder = config.enrolment_dir
    enrolment = read_enrolment(folder)
    return [
        str(Path(sys.executable).with_name("flower-supernode")),
        "--superlink",
        enrolment.superlink,
        "--root-certificates",
        str(folder / CA),
        "--auth-supernode-private-key",
        str(folder / NODE_KEY),
        "--isolation",
        "process",
        "--host",
        "127.0.0.1",
        "--port",
        str(config.exchange.supernode_port),
        "--superexec-auth-secret-file",
        str(folder / SECRET),
    ]


def supernode_environment(config: AgentConfig) -> dict[str, str]:
    """What to add to the environment."""
    return {
        "FLWR_HOME": str(config.node.state_dir / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
