"""A version out of the registry as a plain policy folder: `python -m coordinator.registry.exporting`.

A process of its own, since it imports torch: `armfleet versions export` becomes it. Only the version's own
folder is read, which never changes: the coordinator may run meanwhile, or not.
"""

import argparse
import os
import sys
from pathlib import Path

from coordinator.config import CoordinatorConfig, load
from coordinator.registry.versions import version_folder
from shared.errors import ArmfleetError
from shared.policy.merged import write_merged


def export_policy(config: CoordinatorConfig, number: int, target: Path) -> float:
    """Write version `number`, merged into `[policy] base`, to `target`; returns and raises as `write_merged`.

    Raises:
        ArmfleetError: there is no such version.
    """
    folder = version_folder(config.state / "versions", number)
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ArmfleetError(
            f"there is no version {number} in {config.state}, or this user may not read it",
            kept="nothing was written",
            do="see `armfleet versions`; run this as the coordinator's user",
        )
    return write_merged(config.policy.base, folder, target)


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m coordinator.registry.exporting")
    parser.add_argument("number", type=int)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    options = parser.parse_args()
    try:
        difference = export_policy(load(options.config), options.number, options.policy)
    except ArmfleetError as error:
        print(f"armfleet: {error}", file=sys.stderr)
        return int(error.code)
    print(
        f"Version {options.number}, merged into the base, is in {options.policy}. On a probe its actions "
        f"differ from the adapter's by at most {difference:.1g} units (degrees; gripper 0 to 100)."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
