"""Command lines and environment of the two stock Flower processes beside the coordinator.

Pure functions: the systemd units, the demo and the tests start exactly the same processes.

SuperLink: TLS and SuperNode authentication, loopback only, state in SQLite, ServerApps in processes of
their own that outlive its crash. superexec: starts them; task acquisition needs the shared secret.
"""

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from coordinator.config import CoordinatorConfig
from coordinator.layout import CA_CERT, CA_FOLDER, SERVER_CERT, SERVER_KEY, SUPEREXEC_SECRET
from coordinator.registry.signing import write_private


def superlink_argv(config: CoordinatorConfig) -> list[str]:
    """`flower-superlink` as this fleet needs it."""
    host, port = config.superlink.address.rsplit(":", 1)
    ca = config.state / CA_FOLDER
    return [
        _program("flower-superlink"),
        *("--host", host, "--port", port),
        *("--ssl-ca-certfile", str(ca / CA_CERT)),
        *("--ssl-certfile", str(ca / SERVER_CERT)),
        *("--ssl-keyfile", str(ca / SERVER_KEY)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        *("--database", str(config.flwr_home / "superlink.sqlite")),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(config.flwr_home / SUPEREXEC_SECRET)),
    ]


def superexec_argv(config: CoordinatorConfig) -> list[str]:
    """`flower-superexec` as this fleet needs it."""
    return [
        _program("flower-superexec"),
        *("--runtime-api-address", config.superlink.address),
        *("--root-certificates", str(config.state / CA_FOLDER / CA_CERT)),
        *("--superexec-auth-secret-file", str(config.flwr_home / SUPEREXEC_SECRET)),
    ]


def environment(config: CoordinatorConfig, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment of both: a FLWR_HOME of their own, and nothing sent to anybody."""
    path = os.pathsep.join([str(Path(sys.executable).parent), (base or os.environ).get("PATH", os.defpath)])
    return {
        **(os.environ if base is None else base),
        "PATH": path,
        "FLWR_HOME": str(config.flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }


def write_secret(config: CoordinatorConfig) -> None:
    """Write the secret that superexec shows the SuperLink; keeps one that is there."""
    path = config.flwr_home / SUPEREXEC_SECRET
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32).encode())


def _program(name: str) -> str:
    """Full path of a command installed beside this interpreter."""
    return str(Path(sys.executable).parent / name)
