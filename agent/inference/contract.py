"""What a version wants of its workstation, against what is here: compared once, before anything moves.

Otherwise a camera under another name stops a rollout at its first chunk, with the arm stiff, and an arm that
was calibrated otherwise does the right thing in the wrong place.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.config import AgentConfig
from agent.robot.calibration import calibration_path, load_calibration
from agent.robot.joints import JOINTS, label
from agent.robot.limits import Limits, limits_from_ranges
from shared.adapters import MANIFEST, Manifest
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.normalisation import Statistics
from shared.policy.rtc import CONTROL_HZ
from shared.policy.source import CONFIG, resolve_base

IMAGES = "observation.images."
EMPTY = "empty_camera_"
"""LeRobot's black pictures in place of cameras that a base has and nobody needs."""

SLACK = 15.0
"""Units by which a joint's mean may lie outside: two arms are never calibrated quite alike, and a joint may
have rested at its stop. One that was calibrated with another zero is off by more."""


@dataclass(frozen=True)
class Wanted:
    """What a base takes and gives, by its config.json.

    Attributes:
        cameras: Name -> (height, width).
        joints: Length of a state, and of an action.
        chunk: Actions of a chunk.
    """

    cameras: dict[str, tuple[int, int]]
    joints: tuple[int, int]
    chunk: int


def wanted_by(base: str | Path) -> Wanted:
    """Read what a base wants.

    Raises:
        ArmfleetError: BASE_MISSING, also for a config.json that does not say it.
    """
    folder = resolve_base(base)
    try:
        config = json.loads((folder / CONFIG).read_text())
        takes, gives = config["input_features"], config["output_features"]
        cameras = {
            name.removeprefix(IMAGES): (int(feature["shape"][1]), int(feature["shape"][2]))
            for name, feature in takes.items()
            if feature["type"] == "VISUAL" and EMPTY not in name
        }
        joints = (int(takes["observation.state"]["shape"][0]), int(gives["action"]["shape"][0]))
        return Wanted(cameras, joints, int(config["chunk_size"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ArmfleetError(
            f"{folder / CONFIG} does not say what the policy takes and gives ({error!r})",
            do="copy the base again",
            code=ExitCode.BASE_MISSING,
        ) from error


def misfits(wanted: Wanted, config: AgentConfig) -> list[str]:
    """What the base wants and agent.toml does not give, both sides in each sentence."""
    found = []
    here = ", ".join(config.cameras) or "none"
    if missing := [name for name in wanted.cameras if name not in config.cameras]:
        found.append(f"it wants the cameras {', '.join(missing)}, agent.toml has {here}")
    for name, camera in config.cameras.items():
        if name in wanted.cameras and camera.fps < CONTROL_HZ:
            found.append(
                f"it was taught with {CONTROL_HZ} pictures a second, camera {name} gives {camera.fps}"
            )
    if wanted.joints != (len(JOINTS), len(JOINTS)):
        found.append(f"its states and actions have {wanted.joints} joints, this arm has {len(JOINTS)}")
    if config.inference.execution_horizon >= wanted.chunk:
        horizon = config.inference.execution_horizon
        found.append(f"its chunks have {wanted.chunk} actions, [inference] execution_horizon is {horizon}")
    return found


def remarks(wanted: Wanted, config: AgentConfig) -> list[str]:
    """What differs and is harmless as long as training sees the same."""
    return [
        f"camera {name} gives {camera.width}x{camera.height} and is scaled to the base's {width}x{height}"
        for name, (height, width) in wanted.cameras.items()
        if (camera := config.cameras.get(name)) and (camera.height, camera.width) != (height, width)
    ]


def out_of_reach(statistics: Statistics, limits: Limits) -> list[str]:
    """Joints whose mean in the version's recordings this arm can't take: it is calibrated otherwise.

    Raises:
        ArmfleetError: POLICY_MISFIT: they are of other joints than this arm's.
    """
    if len(statistics.state.mean) != len(limits.low):
        joints = f"{len(statistics.state.mean)} joints, this arm has {len(limits.low)}"
        raise _misfit([f"its normalisation statistics are of {joints}"])
    return [
        f"{label(joint)} was taught around {mean:.0f}, this arm reaches {low:.0f} to {high:.0f}"
        for joint, (mean, low, high) in enumerate(
            zip(statistics.state.mean, limits.low, limits.high, strict=True)
        )
        if not low - SLACK <= mean <= high + SLACK
    ]


def check(config: AgentConfig, versions: Sequence[tuple[str, Path | None]]) -> list[str]:
    """Compare everything; returns remarks.

    Args:
        config: agent.toml; it has an [arm].
        versions: Name and PEFT folder of each version that will run; no folder: the base alone.

    Raises:
        ArmfleetError: POLICY_MISFIT, naming both sides; BASE_MISSING; CALIBRATION_MISMATCH, also when there
            is no calibration; VERSION_REFUSED, a version can't be read.
    """
    wanted, arm = wanted_by(config.policy.base), config.arm
    assert arm is not None
    calibration = load_calibration(calibration_path(arm.calibration_dir, arm.id, "follower"), "follower")
    ranges = [(calibration[joint].range_min, calibration[joint].range_max) for joint in JOINTS]
    limits = limits_from_ranges(ranges, arm.max_step, arm.max_speed)
    found = [f"the base: {text}" for text in misfits(wanted, config)]
    for name, folder in versions:
        statistics = _statistics(name, folder) if folder else None
        found += [f"{name}: {text}" for text in (out_of_reach(statistics, limits) if statistics else [])]
    if found:
        raise _misfit(found)
    return remarks(wanted, config)


def _misfit(found: Sequence[str]) -> ArmfleetError:
    return ArmfleetError(
        f"the policy does not fit this workstation: {'; '.join(found)}",
        kept="nothing moved",
        do="name cameras in agent.toml as the fleet does, calibrate the arm, or choose another version",
        code=ExitCode.POLICY_MISFIT,
    )


def _statistics(name: str, folder: Path) -> Statistics | None:
    """What a version normalises with; None: the base's own."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes()).normalisation
    except (OSError, ValueError) as error:
        raise ArmfleetError(
            f"the manifest of {name} can't be read ({error})",
            do="remove the folder: it is fetched again at the next check-in",
            code=ExitCode.VERSION_REFUSED,
        ) from error
