"""TensorBoard and wandb get what the history gets, where asked for; neither can stop training."""

import queue
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from agent.config import TrainingSection
from agent.training import loggers
from agent.training.history import UpdateRecord
from agent.training.loggers import Wandb, make_loggers, write_all
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from tests.agent.training.records import GREEN, RED, made_record


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda package: object())


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def test_nothing_is_made_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert make_loggers(TrainingSection(), "a", tmp_path) == []


@pytest.mark.parametrize("key", ["tensorboard", "wandb_project"])
def test_a_package_that_is_not_installed_is_a_sentence_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda package: None)
    config = TrainingSection.model_validate({key: "arms"})
    with pytest.raises(ArmfleetError, match=rf"\[training\] {key} is set") as caught:
        make_loggers(config, "a", tmp_path)
    assert caught.value.code == ExitCode.CONFIG_INVALID


@pytest.mark.usefixtures("installed")
def test_tensorboard_gets_means_and_tasks_and_is_flushed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    got: dict[str, tuple[float, int]] = {}
    flushed = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "board")

        def add_scalar(self, name: str, value: float, step: int, walltime: float) -> None:
            got[name] = (value, step)

        def flush(self) -> None:
            flushed.append(len(got))

    stand_in(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
    made = make_loggers(TrainingSection(tensorboard=tmp_path / "board"), "a", tmp_path)
    assert write_all(made, made_record(2)) == made
    assert got["train_loss"] == (0.375, 48)
    assert got[f"train_loss/{GREEN}"] == (0.25, 48)
    assert got[f"action_mse/{RED}"] == (1.5, 48)
    assert flushed == [len(got)]


class FakeWandb:
    """As much of wandb as is called; `reached`: whether its server can be."""

    def __init__(self, reached: threading.Event) -> None:
        self.reached, self.asked = reached, {}
        self.logged: queue.Queue[dict[str, float]] = queue.Queue()
        self.log = self.logged.put

    def init(self, **arguments: Any) -> "FakeWandb":
        self.asked = arguments
        assert self.reached.wait(10)
        return self

    def define_metric(self, *_names: str, **_options: str) -> None:
        pass


@pytest.mark.usefixtures("installed")
def test_a_server_that_does_not_answer_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeWandb(threading.Event())
    stand_in(monkeypatch, "wandb", init=fake.init, Settings=lambda **s: SimpleNamespace(**s))
    made = make_loggers(TrainingSection(wandb_project="arms"), "bench-1", tmp_path)
    working = write_all(write_all(made, made_record(0)), made_record(1))
    assert working == made
    fake.reached.set()
    first, second = fake.logged.get(timeout=10), fake.logged.get(timeout=10)
    assert (first["version"], second["version"]) == (0, 1)
    assert second[f"eval_loss/{RED}"] == 0.75
    assert (fake.asked["project"], fake.asked["id"]) == ("arms", "bench-1")
    secretive = vars(fake.asked["settings"])
    assert secretive["host"] == "bench-1", "not the machine's own name"
    assert all(secretive[key] for key in ("disable_git", "x_disable_meta", "x_disable_machine_info"))


@pytest.mark.usefixtures("installed")
def test_updates_do_not_pile_up_for_a_server_that_never_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loggers, "WAITING", 2)
    fake = FakeWandb(threading.Event())
    stand_in(monkeypatch, "wandb", init=fake.init, Settings=SimpleNamespace)
    working: list = [Wandb("arms", "bench-1", tmp_path)]
    for number in range(3):
        assert working, number
        working = write_all(working, made_record(number))
    assert working == []
    fake.reached.set()


def test_one_that_fails_is_left_alone_and_the_others_go_on() -> None:
    class Full:
        def write(self, record: UpdateRecord) -> None:
            raise OSError("no space left on device")

    class Sound:
        def __init__(self) -> None:
            self.got: list[int] = []

        def write(self, record: UpdateRecord) -> None:
            self.got.append(record.version)

    sound = Sound()
    working = write_all([Full(), sound], made_record(1))
    assert working == [sound]
    write_all(working, made_record(2))
    assert sound.got == [1, 2]
