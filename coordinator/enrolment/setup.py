"""`armfleet coordinator-init`: everything a fleet needs before its first process starts; and invitations."""

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loguru import logger

from coordinator.config import CoordinatorConfig
from coordinator.enrolment import authority
from coordinator.enrolment.fleet import FILE, Fleet, write
from coordinator.enrolment.invitations import Invitations
from coordinator.exchange.processes import write_secret
from coordinator.layout import CA_CERT, CA_FOLDER
from coordinator.registry.registry import create_first_version
from coordinator.registry.signing import OPERATOR_KEY
from coordinator.registry.targets import Publisher
from shared.adapters import Tensors, check_size, read_adapter
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.join_bundle import JoinBundle
from shared.messages import Name
from shared.policy.digest import base_digest as digest_of_base
from shared.policy.initial import initial_adapter


def init(config: CoordinatorConfig, adapter: Path | None = None, base_digest: str | None = None) -> Fleet:
    """Create authority, keys, trust root and version 0 in the state folder.

    Every step is finished or redone when `init` is called again after a crash; fleet.json is written last.

    Args:
        config: Of the coordinator.
        adapter: PEFT folder to become version 0; None: the identity adapter of `[recipe]` over the base.
        base_digest: Of the base; None: computed from `[policy] base`.

    Raises:
        ArmfleetError: CONFIG_INVALID, there is a fleet in the state folder already, or the adapter is too
            large to be sent; BASE_MISSING.
    """
    state = config.state
    if (state / FILE).exists():
        raise ArmfleetError(
            f"there is a fleet in {state} already",
            kept="it as it is",
            do="choose another [coordinator] state_dir",
            code=ExitCode.CONFIG_INVALID,
        )
    base = base_digest or digest_of_base(config.policy.base)
    tensors, peft_config = _first_adapter(config, adapter)
    check_size(tensors, config.recipe.rank)
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o750)
    for leftover in (CA_FOLDER, "operator", "tuf", "versions"):
        shutil.rmtree(state / leftover, ignore_errors=True)
    authority.create(state / CA_FOLDER, config.coordinator.name, _server_names(config))
    write_secret(config)
    create_first_version(state, tensors, peft_config, base, config.recipe)
    Publisher.create(state / "tuf", state / "operator" / OPERATOR_KEY)
    fleet = Fleet(name=config.coordinator.name, base_digest=base, created=datetime.now(UTC))
    write(state, fleet)
    logger.info(
        "fleet {} is ready; move {} off this machine: it can replace every other key",
        fleet.name,
        state / "operator" / OPERATOR_KEY,
    )
    return fleet


def invite(
    config: CoordinatorConfig, fleet: Fleet, invitations: Invitations, tuf_root: bytes, name: Name
) -> JoinBundle:
    """Make the join bundle for the workstation `name`; an unused earlier one for it becomes void."""
    secret, expires = invitations.create(name, datetime.now(UTC), config.public.invite_hours)
    return JoinBundle(
        fleet=fleet.name,
        url=config.public.url,
        ca_pem=(config.state / CA_FOLDER / CA_CERT).read_text(),
        tuf_root=tuf_root.decode(),
        node=name,
        secret=secret,
        expires=expires,
        base_digest=fleet.base_digest,
    )


def _server_names(config: CoordinatorConfig) -> list[str]:
    public = urlsplit(config.public.url).hostname
    return [*([public] if public else []), *config.public.names]


def _first_adapter(config: CoordinatorConfig, given: Path | None) -> tuple[Tensors, Mapping[str, Any]]:
    if given is None:
        return initial_adapter(config.policy.base, config.recipe)
    tensors, peft_config, _ = read_adapter(given)
    return tensors, peft_config
