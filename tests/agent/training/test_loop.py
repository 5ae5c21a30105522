"""One step's gradient: in pieces, masked, with the proximal term, in 16 bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel

from agent.training import loop as loop_module
from agent.training.cache import TrainingCache
from agent.training.checkpoint import Progress
from agent.training.data import Split
from agent.training.loop import DivergedError, Loop, seed_of
from agent.training.loss import draw, flow_matching_loss, sample_actions
from agent.training.samples import Samples, rows_of_step
from shared.policy.adapter import adapter_parameters, add_adapter, set_tensors
from shared.policy.base import load_base, load_processors
from shared.policy.initial import initial_adapter
from shared.recipe import PRESETS, Recipe

BATCH, DRAWS, NUMBER = 6, 2, 3
RECIPE = Recipe.model_validate(
    PRESETS["wide"] | {"rank": 4, "alpha": 8, "batch": BATCH, "draws": DRAWS, "clip": 1e9}
)


class Bench:
    """A policy with an adapter away from its start, and samples; a step changes no parameter."""

    def __init__(self, base: Path, folder: Path, split: Split) -> None:
        self.policy = load_base(base)
        preprocess, _ = load_processors(base)
        cache = TrainingCache(folder, "0" * 64, self.policy, preprocess, budget=0)
        for episode in split.train:
            cache.admit(episode)
        self.samples = Samples(split.train, cache, preprocess, self.policy.config.chunk_size)
        self.model: PeftModel = add_adapter(self.policy, RECIPE)
        self.policy.eval()
        tensors, _ = initial_adapter(base, RECIPE)
        rng = np.random.default_rng(0)
        for name in tensors:  # with B = 0 most gradients would vanish
            if "lora_B" in name:
                tensors[name] = rng.normal(0, 0.05, tensors[name].shape).astype(np.float32)
        self._tensors = tensors
        self.reset()
        self.start = {name: torch.from_numpy(array) for name, array in tensors.items()}

    def reset(self) -> None:
        """Put the adapter back to where it was."""
        set_tensors(self.model, self._tensors)

    def loop(self, **fields: object) -> Loop:
        return Loop(self.policy, self.model, RECIPE.model_copy(update=fields), "station-a")

    def step(
        self, loop: Loop, start: dict[str, torch.Tensor] | None = None, **fields: object
    ) -> torch.Tensor:
        """Take a step after `begin` with the `fields` of a checkpoint; its gradient."""
        loop.begin(progress(**fields), start or self.start)
        self.losses, _ = loop.step(self.samples, NUMBER)
        return self.gradient()

    def gradient(self) -> torch.Tensor:
        gradients = [p.grad for p in adapter_parameters(self.model).values()]
        assert all(gradient is not None for gradient in gradients)
        return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


@pytest.fixture(scope="module")
def bench(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, split: Split) -> Bench:
    return Bench(tiny_base, tmp_path_factory.mktemp("cache"), split)


def progress(**fields: object) -> Progress:
    """Of an update whose steps change nothing, unless the fields say otherwise."""
    made = {"update_id": "0" * 32, "base_digest": "0" * 64, "base_version": 0, "recipe": RECIPE}
    made |= {"learning_rate": 0.0, "episodes": [], "first_step": 0}
    return Progress.model_validate(made | fields)


def scaler(scale: float) -> dict[str, float]:
    return torch.amp.GradScaler("cpu").state_dict() | {"scale": scale}


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@given(mu=st.floats(1e-3, 10), seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_fedprox_adds_mu_times_the_distance_from_the_start(bench: Bench, mu: float, seed: int) -> None:
    plain = bench.step(bench.loop()).clone()
    generator = torch.Generator().manual_seed(seed)
    moved = {name: torch.randn(w.shape, generator=generator) for name, w in bench.start.items()}
    start = {name: w - moved[name] for name, w in bench.start.items()}
    away = torch.cat([(w - start[name]).flatten() for name, w in bench.start.items()])
    torch.testing.assert_close(bench.step(bench.loop(mu=mu), start), plain + mu * away, rtol=1e-5, atol=1e-5)


@given(micro_batch=st.integers(1, BATCH), mask=st.booleans(), delay=st.sampled_from([0, 7]))
@settings(max_examples=10, deadline=None)
def test_pieces_add_up_to_the_whole_batch(bench: Bench, micro_batch: int, mask: bool, delay: int) -> None:
    loop = bench.loop(mask_padding=mask, delay=delay)
    whole, losses = bench.step(loop).clone(), bench.losses
    assert apart(bench.step(loop, micro_batch=micro_batch), whole) < 1e-5
    for task, (total, count) in bench.losses.items():
        assert (total, count) == (pytest.approx(losses[task][0], rel=1e-5), losses[task][1])


def test_a_masked_batch_weighs_every_action_of_an_episode_alike(bench: Bench) -> None:
    rows = rows_of_step(len(bench.samples), BATCH, NUMBER, seed_of(0, "station-a", "rows"))
    batch = bench.samples.batch(rows)
    assert 0 < batch.in_episode.float().mean() < 1
    torch.manual_seed(seed_of(0, "station-a", NUMBER))
    noise, time = draw(bench.policy, BATCH, DRAWS)
    masked = bench.step(bench.loop(mask_padding=True)).clone()
    bench.model.zero_grad()
    losses = flow_matching_loss(
        bench.policy, batch.prefix, batch.state, batch.action, noise, time, batch.in_episode
    )
    ((losses * batch.in_episode.sum(1)).sum() / batch.in_episode.sum()).backward()
    assert apart(masked, bench.gradient()) < 1e-5
    assert apart(bench.step(bench.loop()), masked) > 1e-2


def test_training_for_a_delay_changes_the_gradient_but_not_the_held_out_loss(bench: Bench) -> None:
    """Losses of different recipes stay comparable."""
    plain, held_out = bench.step(bench.loop()).clone(), bench.loop().evaluate(bench.samples)
    assert apart(bench.step(bench.loop(delay=3)), plain) > 1e-2
    assert bench.loop(delay=3).evaluate(bench.samples) == held_out


@pytest.mark.parametrize(
    ("precision", "loss_off", "gradient_off"), [("bf16", 2**-8, 2e-2), ("fp16", 2**-10, 3e-3)]
)
def test_16_bits_agree_with_float32_as_far_as_they_reach(
    bench: Bench, precision: str, loss_off: float, gradient_off: float
) -> None:
    exact, losses = bench.step(bench.loop()).clone(), bench.losses
    fields = {"scaler": scaler(1.0)} if precision == "fp16" else {}
    gradient = bench.step(bench.loop(), precision=precision, **fields)
    assert gradient.dtype == torch.float32
    assert 0 < apart(gradient, exact) < gradient_off
    for task, (total, _) in bench.losses.items():
        assert total == pytest.approx(losses[task][0], rel=loss_off)


def test_a_gradient_that_overflows_leaves_the_adapter_and_halves_the_scale(bench: Bench) -> None:
    loop = bench.loop()
    overflowing = progress(learning_rate=1.0, precision="fp16", scaler=scaler(2.0**120))
    loop.begin(overflowing, bench.start)
    loop.step(bench.samples, NUMBER)
    assert loop.scaler_state()["scale"] == 2.0**119
    for name, tensor in loop.state()["now"].items():
        assert torch.equal(tensor, bench.start[name])


@pytest.mark.parametrize("keep", [True, False])
def test_the_optimisers_state_begins_afresh_only_where_the_recipe_says_so(bench: Bench, keep: bool) -> None:
    loop = bench.loop(keep_optimiser=keep)
    bench.step(loop)
    bench.step(loop)
    assert {float(count) for count in loop.state()["count"].values()} == {2.0 if keep else 1.0}
    bench.step(loop, step=1)  # goes on with an update
    assert {float(count) for count in loop.state()["count"].values()} == {3.0 if keep else 2.0}


def test_gradient_descent_has_plain_momentum_and_shrinks_the_weights_apart_from_it(bench: Bench) -> None:
    """On a copy of the parameters, by hand (SGDW, arXiv 1711.05101, algorithm 1)."""
    rate, momentum, decay = 0.1, 0.5, 0.3
    loop = bench.loop(optimiser="sgd", betas=(momentum, 0.9), weight_decay=decay, clip=1e-3)
    weights = {name: tensor.clone() for name, tensor in bench.start.items()}
    speed = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    try:
        for _ in range(2):
            bench.step(loop, learning_rate=rate)
            for name, parameter in adapter_parameters(bench.model).items():
                assert parameter.grad is not None
                speed[name] = momentum * speed[name] + parameter.grad
                weights[name] = (1 - rate * decay) * weights[name] - rate * speed[name]
                torch.testing.assert_close(parameter.detach(), weights[name])
        assert loop.state().keys() == {"now", "momentum"}
        torch.testing.assert_close(loop.state()["momentum"], speed)
    finally:
        bench.reset()


def test_one_optimisers_moments_are_of_no_use_to_the_other(bench: Bench) -> None:
    adam = bench.loop()
    bench.step(adam)
    descent = bench.loop(optimiser="sgd")
    assert descent.restore(adam.state(), parameters=True) == ""
    assert descent.state().keys() == {"now"}
    bench.step(descent)
    assert adam.restore(descent.state(), parameters=True) == ""
    assert adam.state().keys() == {"now"}


def test_sampled_actions_that_do_not_fit_in_memory_are_sampled_fewer_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out can't be produced here: sampling refuses more than 3 frames."""
    loop, sizes = bench.loop(), []

    def limited(policy: object, prefix: object, state: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        sizes.append(len(state))
        if len(state) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample_actions(policy, prefix, state, noise)

    whole = loop.action_errors(bench.samples)
    monkeypatch.setattr(loop_module, "sample_actions", limited)
    assert loop.action_errors(bench.samples) == pytest.approx(whole, rel=1e-4)
    assert sizes[:4] == [6, 3, 3, 2]
    assert loop.micro_batch == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_changes_neither_parameters_nor_moments(
    bench: Bench, precision: str
) -> None:
    loop = bench.loop()
    bench.step(loop)
    parameter = next(iter(adapter_parameters(bench.model).values()))
    before = {group: {n: t.clone() for n, t in named.items()} for group, named in loop.state().items()}
    hook = parameter.register_hook(lambda gradient: gradient * torch.inf)
    try:
        with pytest.raises(DivergedError, match="the gradient of step 3 has the norm"):
            bench.step(loop, learning_rate=1.0, precision=precision, step=1)
    finally:
        hook.remove()
    torch.testing.assert_close(loop.state(), before, rtol=0, atol=0)
