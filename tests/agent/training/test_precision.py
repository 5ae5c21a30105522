"""Which precision a device gets, and the loss scale on its way through a checkpoint."""

import json

import pytest
import torch

from agent.training.precision import MixedPrecision, resolve


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_goes_by_what_the_gpu_computes_in(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert resolve("auto", "cuda:0") == expected


def test_the_cpu_computes_in_float32_unless_told_otherwise() -> None:
    assert resolve("auto", "cpu") == "fp32"
    assert resolve("bf16", "cpu") == "bf16"


def test_the_scale_survives_a_checkpoint() -> None:
    mixed = MixedPrecision("cpu", "fp16", {})
    weight = torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    for gradient in (torch.inf, 1.0):  # the first halves the scale, the second counts towards doubling it
        weight.grad = mixed.scaler.scale(torch.tensor([gradient]))
        mixed.scaler.step(optimiser)
        mixed.scaler.update()
    state = json.loads(json.dumps(mixed.state()))
    assert (state["scale"], state["_growth_tracker"]) == (32768.0, 1)
    assert MixedPrecision("cpu", "fp16", state).state() == mixed.state()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_is_scaled_where_no_gradient_overflows(precision: str) -> None:
    left = MixedPrecision("cpu", "fp16", {}).state()
    mixed = MixedPrecision("cpu", precision, left)
    assert mixed.scaler.scale(torch.tensor(3.0)) == 3.0
    assert mixed.state() == {}
