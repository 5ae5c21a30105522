"""What a fleet is: fleet.json, written once by `coordinator.enrolment.setup.init`."""

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic
from shared.messages import Digest, Name

FILE = "fleet.json"


class Fleet(BaseModel):
    """fleet.json. Its presence means that `init` finished."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Literal[1] = 1
    name: Name
    base_digest: Digest
    created: datetime


def read(state_dir: Path) -> Fleet:
    """The fleet of a state folder.

    Raises:
        ArmfleetError: CONFIG_INVALID, `init` has not been run; REGISTRY_DAMAGED, fleet.json can't be read.
    """
    path = state_dir / FILE
    if not path.exists():
        raise ArmfleetError(
            f"there is no fleet in {state_dir}",
            do="run `armfleet coordinator-init` first",
            code=ExitCode.CONFIG_INVALID,
        )
    try:
        return Fleet.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ArmfleetError(
            f"{path} can't be read ({error})",
            kept="all versions and updates",
            do="restore it from a backup",
            code=ExitCode.REGISTRY_DAMAGED,
        ) from error


def write(state_dir: Path, fleet: Fleet) -> None:
    """Write fleet.json."""
    write_atomic(state_dir / FILE, fleet.model_dump_json(indent=1) + "\n")
