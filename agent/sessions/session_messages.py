"""What a terminal asks of a session of recording, and the agent's one answer with all that it draws.

The terminal keeps nothing of its own, so any terminal, or a second one, can show any session.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agent.episodes.record import EpisodeRecord, Label, Verdict
from agent.robot.joints import JOINTS
from agent.sessions.session import Phase
from shared.tasks import TaskText

ATTENDED_S = 3.0
"""A terminal with keys says several times a second that it is there; silent for so long, it is lost."""


class StartRecording(BaseModel):
    """A new session."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: TaskText
    episodes: int = Field(ge=1, le=1000)
    reset_s: float = Field(default=10.0, ge=0, le=3600)
    """Time to put things back. LeRobot's recorder waits 60 s; here a key ends it early, or pauses."""
    max_s: float | None = Field(default=None, ge=1, le=3600)
    """Length of each episode; at most [recording] max_s, which is also the default."""


class Told(BaseModel):
    """Base: a terminal ignores what a newer agent adds."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class SessionTold(Told):
    """The plan and where it stands; times in seconds."""

    id: str
    """Of this session; another one means that the agent began anew."""
    task: str
    wanted: int
    phase: Phase
    kept: list[str]
    discarded: int
    lost: int
    episode: str | None
    label: Label | None
    """Of the episode being recorded or saved."""
    elapsed_s: float
    """Since the phase began."""
    limit_s: float
    """Length at which an episode ends by itself."""
    reset_s: float
    left_s: float | None
    """Of the reset phase."""
    pausing: bool
    notice: str

    @property
    def complete(self) -> bool:
        """All wanted episodes are kept."""
        return len(self.kept) >= self.wanted


class JointTold(Told):
    """One joint of the follower; None: not known now."""

    name: str
    position: float | None = None
    """Degrees; the gripper 0..100."""
    low: float | None = None
    high: float | None = None
    """Where goals of the policy may lie."""
    temperature: int | None = None
    load: int | None = None
    """Permille of full torque, signed."""


class CameraTold(Told):
    """One camera."""

    name: str
    connected: bool = False
    age_s: float | None = None
    rate_hz: float | None = None


class ArmTold(Told):
    """The arm worker's account of itself."""

    state: str
    """Of the worker: ready, starting, …"""
    reason: str
    period_ms: float | None
    """Of the control loop; None while it stands still."""
    torque: bool
    frames: int
    """Of the episode being recorded."""
    voltage: float | None
    joints: list[JointTold]
    cameras: list[CameraTold]
    troubles: list[str]
    """Faults: what keeps the arm from being used, and what to do."""
    warnings: list[str]


class SpaceTold(Told):
    """Room on the disk."""

    minutes: float
    """Of recording."""
    bytes_per_s: float
    measured: bool
    """From episodes recorded here; else assumed from the size of the pictures."""


class EpisodeTold(Told):
    """One kept episode."""

    id: str
    frames: int
    seconds: float
    label: Label | None
    verdict: Verdict
    reasons: list[str]
    notes: list[str]


class GateTold(Told):
    """The gate."""

    waiting: int
    fault: str


class Answer(Told):
    """Everything at once."""

    node: str
    session: SessionTold | None
    arm: ArmTold
    space: SpaceTold
    episodes: list[EpisodeTold]
    gate: GateTold


def arm_told(worker: tuple[str, str], account: dict[str, Any], troubles: list[str]) -> ArmTold:
    """Read the arm worker's `status`, which is empty while it does not answer.

    Args:
        worker: Its state, and why.
        account: See `agent.robot.station.Station.status`.
        troubles: The agent's own sentences.
    """
    fault, health = account.get("fault"), account.get("health") or {}
    if fault and not troubles:
        troubles = [str(fault.get("what", ""))]
    joints, pose = health.get("joints") or {}, account.get("pose") or [None] * len(JOINTS)
    limits = account.get("limits") or [(None, None)] * len(JOINTS)
    voltages = [joint["voltage"] for joint in joints.values() if joint.get("voltage")]
    return ArmTold(
        state=worker[0],
        reason=worker[1],
        period_ms=account.get("period_ms"),
        torque=bool(account.get("torque")),
        frames=int((account.get("recording") or {}).get("frames", 0)),
        voltage=min(voltages, default=None),
        joints=[
            JointTold.model_validate(
                {**joints.get(name, {}), "name": name, "position": at, "low": low, "high": high}
            )
            for name, at, (low, high) in zip(JOINTS, pose, limits, strict=True)
        ],
        cameras=[
            CameraTold.model_validate({**camera, "name": name})
            for name, camera in (account.get("cameras") or {}).items()
        ],
        troubles=troubles,
        warnings=[str(text) for text in health.get("warnings", [])],
    )


def episode_told(row: dict[str, Any]) -> EpisodeTold | None:
    """One episode of the index; None if its own file is damaged."""
    if "frames" not in row:
        return None
    record = EpisodeRecord.model_validate(row)
    return EpisodeTold(
        id=record.id,
        frames=record.frames,
        seconds=round(record.frames / record.fps, 1),
        label=record.label,
        verdict=record.verdict,
        reasons=[reason.message for reason in record.reasons],
        notes=[note.message for note in record.notes],
    )
