"""Energy of a GPU, without one: the counter, NVML and torch's card are stand-ins here (tests/gpu has the real
ones)."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent.training.energy import GpuEnergy, counter_of
from agent.training.history import UpdateRecord
from shared.adapters import Tensors
from shared.policy.initial import initial_adapter
from shared.recipe import Recipe

UUID = "1f2e3d4c-0000-1111-2222-333344445555"


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of the trainer runs after it."""


class CountingNvml:
    """As much of pynvml as is called: a card of this UUID that takes 2.5 J between two looks."""

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self) -> None:
        self.millijoules, self.gone = 1_000_000, False

    def nvmlInit(self) -> None:
        """Nothing to load."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != f"GPU-{UUID}":
            raise self.NVMLError("Not Found")
        return "the card"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if self.gone or handle != "the card":
            raise self.NVMLError("GPU is lost")
        self.millijoules += 2500
        return self.millijoules


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> CountingNvml:
    stand_in = CountingNvml()
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid=UUID))
    return stand_in


def test_the_cards_counter_is_found_by_its_uuid_and_read_in_joules(nvml: CountingNvml) -> None:
    energy = GpuEnergy("cuda:1")
    assert energy.taken() is None, "nothing was begun"
    energy.begin()
    assert (energy.taken(), energy.taken()) == (2.5, 2.5)
    nvml.gone = True
    assert energy.taken() is None
    nvml.gone = False
    assert (energy.taken(), energy.taken()) == (None, 2.5), "what was missed is not made up"


@pytest.mark.parametrize("missing", ["no driver", "no such card", "no package", "does not count"])
def test_where_nothing_is_told_nothing_is_measured_and_nothing_fails(
    nvml: CountingNvml, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing == "no driver":
        monkeypatch.setattr(nvml, "nvmlInit", lambda: nvml.nvmlDeviceGetHandleByUUID("none"))
    elif missing == "no such card":
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid="MIG"))
    elif missing == "no package":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    else:
        nvml.gone = True
    assert counter_of("cuda")() is None


def test_a_processor_is_not_asked(nvml: CountingNvml) -> None:
    assert counter_of("cpu")() is None
    assert nvml.millijoules == 1_000_000


@given(st.lists(st.none() | st.floats(0, 1e9), max_size=8))
def test_what_is_taken_is_never_negative_and_adds_up(told: list[float | None]) -> None:
    readings = iter(told)
    energy = GpuEnergy("cpu", lambda: next(readings, None))
    energy.begin()
    taken = [energy.taken() for _ in told[1:]]
    assert all(joules is None or joules >= 0 for joules in taken)
    if None not in taken:
        assert sum(filter(None, taken)) == pytest.approx((told[-1] or 0) - (told[0] or 0) if told else 0)


@pytest.fixture
def tensors(tiny_base: Path, recipe: Recipe) -> Tensors:
    return initial_adapter(tiny_base, recipe)[0]


@pytest.fixture
def record_of_two_lives(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> Callable[..., UpdateRecord]:
    """Trains an update that is killed in its third step and resumed by another process; a stand-in counts
    10 J between two looks, or tells nothing in the lives named."""

    def train(silent: tuple[int, ...] = ()) -> UpdateRecord:
        def life(number: int) -> Any:
            made, joules = trainer(tmp_path, checkpoint_s=0), iter(range(1000 * number, 10_000, 10))
            made._energy = GpuEnergy("cpu", lambda: None if number in silent else next(joules))
            return made

        def kill(step: int, *_rest: object) -> None:
            if step == 3:
                raise Killed

        with pytest.raises(Killed):
            life(1).train(tensors, 0, recipe, 2e-3, on_step=kill)
        return life(2).resume().record

    return train


def test_the_energy_of_an_updates_lives_adds_up(record_of_two_lives: Callable) -> None:
    record = record_of_two_lives()
    assert (record.steps, record.energy_joules) == (5, 50.0)
    assert record.scalars["energy_joules"] == 50.0


@pytest.mark.parametrize("silent", [(1,), (2,), (1, 2)])
def test_half_of_the_energy_is_not_told_as_all_of_it(
    record_of_two_lives: Callable, silent: tuple[int, ...]
) -> None:
    record = record_of_two_lives(silent)
    assert record.energy_joules is None
    assert "energy_joules" not in record.scalars
