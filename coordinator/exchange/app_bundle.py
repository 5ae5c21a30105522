"""The thin Flower app: three small files that point to code installed on both sides.

Flower ships an app bundle with every run. Ours holds no code: the SuperLink's side imports
`coordinator.exchange.server_app`, a workstation's warm executor runs its own installed ClientApp and never
looks into the bundle. So nobody who can submit a run can put code on a robot.
"""

import tomli_w

from coordinator.config import CoordinatorConfig
from coordinator.exchange.superlink import build_app

LICENSE = "Apache-2.0, see https://www.apache.org/licenses/LICENSE-2.0\n"
README = "# armfleet exchange\n\nPoints to the installed armfleet package; holds no code of its own.\n"


def run_config(config: CoordinatorConfig) -> dict[str, str | float]:
    """What the ServerApp is told."""
    return {"socket": str(config.coordinator.socket), "poll-s": config.exchange.poll_s}


def files(config: CoordinatorConfig) -> dict[str, bytes]:
    """The app's files by name."""
    project = {
        "project": {
            "name": "armfleet-exchange",
            "version": "1.0.0",
            "description": "Check-ins between an armfleet coordinator and its workstations",
            "license": {"file": "LICENSE"},
            "dependencies": ["flwr==1.41.0"],
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "armfleet",
                    "components": {
                        "serverapp": "coordinator.exchange.server_app:app",
                        "clientapp": "agent.exchange.client_app:app",
                    },
                    "config": run_config(config),
                }
            }
        },
    }
    texts = {"pyproject.toml": tomli_w.dumps(project), "LICENSE": LICENSE, "README.md": README}
    return {name: text.encode() for name, text in texts.items()}


def build(config: CoordinatorConfig) -> bytes:
    """The app bundle of this fleet."""
    return build_app(dict(files(config)))
