"""Configuration of the agent, one model per section of agent.toml; `configs/agent.toml` explains it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from shared.config import ConfigModel, load_config
from shared.messages import Name

AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
CLOCK = r"^([01]\d|2[0-3]):[0-5]\d$"


class NodeSection(ConfigModel):
    """Who this workstation is and where its state lives."""

    name: Name
    state_dir: AbsolutePath
    socket: AbsolutePath = Path("/run/armfleet/agent.sock")
    """Control API; Unix socket paths must stay under 108 bytes (unix(7))."""


class PolicySection(ConfigModel):
    """The frozen base policy: a local folder, or a name in the Hugging Face cache."""

    base: str
    device: str = "cpu"
    threads: int = Field(default=1, ge=1, le=256)
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the frozen weights while the arm acts; training has its own."""


class ArmSection(ConfigModel):
    """One SO-100/SO-101 follower and its leader."""

    follower_port: str
    leader_port: str
    id: str = Field(default="so100", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Name of the calibration file in `calibration_dir`, as in LeRobot."""
    calibration_dir: AbsolutePath
    max_step: float = Field(default=15.0, gt=0)
    """Largest change of a goal in one tick; degrees, and hundredths of the gripper's range."""
    max_speed: float = Field(default=270.0, gt=0)
    """Largest speed of a goal, units per second: the STS3215 turns 45 rpm without load (datasheet), so that
    faster goals only pile up lag."""
    supply_v: float = Field(default=5.0, ge=4, le=14)
    """Nominal voltage of the follower's supply: 5 or 7.4 for the 7.4 V servos of the kit, 12 for the 12 V
    ones."""
    rest_s: float = Field(default=300.0, ge=10)
    """Torque goes off when nobody has used the arm for this long: a servo that holds for hours grows hot."""


class ZmqCamera(ConfigModel):
    """A camera published over ZMQ (LeRobot's ZMQCamera; the virtual workstation)."""

    type: Literal["zmq"]
    address: str = "127.0.0.1"
    port: int = Field(ge=1, le=65535)
    width: int = Field(ge=16)
    height: int = Field(ge=16)
    fps: int = Field(ge=1)


class OpenCvCamera(ConfigModel):
    """A camera of this machine; prefer a /dev/v4l/by-id path to an index, which changes on replugging."""

    type: Literal["opencv"]
    index_or_path: int | Path
    width: int = Field(ge=16)
    height: int = Field(ge=16)
    fps: int = Field(ge=1)


Camera = Annotated[ZmqCamera | OpenCvCamera, Field(discriminator="type")]


class RecordingSection(ConfigModel):
    """How episodes are encoded, and when recording stops to spare the disk."""

    vcodec: str = "h264"
    crf: int = Field(default=23, ge=0, le=51)
    min_free_mb: int = Field(default=500, ge=0)
    max_s: float = Field(default=120.0, gt=0)
    """Longest episode; recording then ends by itself."""


class SplitSection(ConfigModel):
    """Which share of the admitted episodes is kept out of training."""

    eval_share: float = Field(default=0.1, ge=0, lt=1)
    seed: int = 0
    never_train_tasks: tuple[str, ...] = ()
    """Instructions that are only ever evaluated (the coordinator's unseen tasks)."""
    held_out: AbsolutePath | None = None
    """A list of demonstrations that must not train; see `agent.episodes.leaks.read_held_out`."""


class GateSection(ConfigModel):
    """The quality gate."""

    thresholds: dict[str, float] = Field(default_factory=dict)
    """By check id, in place of the defaults; docs/gate.md lists both."""


class Hours(ConfigModel):
    """A span of the local day; a span that ends before it begins passes midnight."""

    start: str = Field(pattern=CLOCK)
    end: str = Field(pattern=CLOCK)


class WindowSection(ConfigModel):
    """When training may run."""

    idle_s: float = Field(default=300.0, ge=0)
    """Seconds since the arm was last used."""
    hours: tuple[Hours, ...] = ()
    """Spans of the local day in which training may run; empty: at any time."""
    max_load: float | None = Field(default=None, gt=0)
    """Highest one-minute load average before training starts (it does not stop training: training is
    load).
    """
    on_battery: bool = False
    """Whether training may run while the machine is not plugged in."""
    max_gpu_c: float = Field(default=80.0, gt=0)
    """Temperature of the GPU, degrees Celsius, above which training stops; it starts 10 degrees below.
    GeForce cards slow down from 83 on.
    """
    max_gpu_others_mb: float | None = Field(default=None, ge=0)
    """GPU memory, MB, that other programs may use while training runs; unset: any."""


class TrainingSection(ConfigModel):
    """Local training. A node without data of its own, or that only uses the fleet's versions, says
    enabled=false.
    """

    enabled: bool = True
    window: WindowSection = WindowSection()
    duty_cycle: float = Field(default=1.0, gt=0, le=1)
    """Share of the time the trainer computes; below 1 it sleeps between steps."""
    checkpoint_s: float = Field(default=30.0, gt=0)
    cache_gb: float = Field(default=20.0, ge=0)
    """Size on disk of what training keeps of pictures, in 10^9 bytes. With a full-size base and two cameras
    20 GB hold about twenty demonstrations of 10 s whole and leave most of a small disk free. What does not
    fit trains more slowly; 0 keeps only what training can't do without.
    """
    tensorboard: AbsolutePath | None = None
    """Folder for TensorBoard's files (needs the package `tensorboard`); unset: none are written."""
    wandb_project: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    """Project at Weights & Biases that gets what is measured of each update; unset: nothing is sent."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of matrix products in training: auto is bf16 on a GPU that computes in it, fp16 on an older one, and
    fp32 on the CPU.
    """
    micro_batch: int | None = Field(default=None, ge=1)
    """Frames of a batch that go through the policy at once; unset: all, and fewer when memory runs out. The
    update stays the same up to rounding.
    """
    memory_limit_gb: float | None = Field(default=None, ge=1)
    """Memory of the trainer under systemd, in 10^9 bytes, above which it is killed; unset: no limit. Its
    libraries alone take 0.9 GB.
    """


class ExchangeSection(ConfigModel):
    """Talking to the coordinator, through the SuperNode on this machine."""

    supernode_port: int = Field(default=9094, ge=1, le=65535)
    """Port of the SuperNode's Runtime API on 127.0.0.1."""
    slots: tuple[Literal["promoted", "candidate"], ...] = ("promoted", "candidate")
    """TUF slots this node takes; training needs `candidate`."""


class InferenceSection(ConfigModel):
    """Asynchronous inference (LeRobot's RTC engine). The defaults fit chunks of 8 actions.

    Rates are no setting: `shared.policy.rtc` fixes them for training and for the arm alike.
    """

    execution_horizon: int = Field(default=4, ge=1)
    """Must be below the policy's chunk size."""
    queue_threshold: int = Field(default=4, ge=0)
    """Actions left in the queue when the next chunk is asked for; about half the chunk."""
    max_s: float = Field(default=20.0, gt=0)
    """Longest rollout."""


class AgentConfig(ConfigModel):
    """The whole of agent.toml."""

    node: NodeSection
    policy: PolicySection
    arm: ArmSection | None = None
    """Absent on a machine without an arm (it then only trains)."""
    cameras: dict[str, Camera] = Field(default_factory=dict)
    recording: RecordingSection = RecordingSection()
    split: SplitSection = SplitSection()
    gate: GateSection = GateSection()
    training: TrainingSection = TrainingSection()
    exchange: ExchangeSection = ExchangeSection()
    inference: InferenceSection = InferenceSection()

    @model_validator(mode="after")
    def _arm_needs_a_camera(self) -> "AgentConfig":
        if self.arm and not self.cameras:
            raise ValueError("an [arm] needs at least one [cameras.NAME]: the policy sees through it")
        return self

    @property
    def episodes_dir(self) -> Path:
        """One LeRobot dataset folder per episode."""
        return self.node.state_dir / "episodes"

    @property
    def adapters_dir(self) -> Path:
        """PEFT folders of the versions held, named by tensor digest."""
        return self.node.state_dir / "adapters"

    @property
    def outbox_dir(self) -> Path:
        """Finished, unacknowledged updates."""
        return self.node.state_dir / "outbox"

    @property
    def training_dir(self) -> Path:
        """Checkpoints and state of the trainer."""
        return self.node.state_dir / "training"

    @property
    def rollouts_dir(self) -> Path:
        """Results of rollouts on the arm."""
        return self.node.state_dir / "rollouts"

    @property
    def enrolment_dir(self) -> Path:
        """Node key, CA, trust root; written by `agent.exchange.join`."""
        return self.node.state_dir / "enrolment"

    @property
    def tuf_dir(self) -> Path:
        """Trusted TUF metadata."""
        return self.node.state_dir / "tuf"

    @property
    def policy_socket(self) -> Path:
        """Data plane between the arm and the policy worker; beside the control socket."""
        return self.node.socket.with_name("policy.sock")


def load_agent_config(path: Path) -> AgentConfig:
    """Read agent.toml; relative paths in it are relative to the current directory.

    Raises:
        ArmfleetError: CONFIG_UNREADABLE or CONFIG_INVALID.
    """
    return load_config(path, AgentConfig)
