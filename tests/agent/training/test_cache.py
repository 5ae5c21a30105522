"""Both tiers of the training cache: one loss from either, a budget, keys, damage, exact resumption."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from loguru import logger

from agent.training import trainer as trainer_module
from agent.training.building import announced
from agent.training.cache import KEEP_FREE, TrainingCache
from agent.training.checkpoint import load_checkpoint
from agent.training.data import Episode, Split
from agent.training.loss import draw, embed_images, encode_prefix, flow_matching_loss
from agent.training.prefixes import PrefixStore, choose
from shared.adapters import Tensors
from shared.policy.base import load_base, load_processors
from shared.policy.initial import initial_adapter
from shared.recipe import Recipe
from tests.agent.training.conftest import pictures
from tests.agent.training.records import repeatable

PLENTY = 10**12
SHORT_TASK = "push"


@pytest.fixture(scope="module")
def policy(tiny_base: Path) -> SmolVLAPolicy:
    return load_base(tiny_base)


@pytest.fixture(scope="module")
def preprocess(tiny_base: Path) -> Any:
    return load_processors(tiny_base)[0]


@pytest.fixture(scope="module")
def demos(split: Split) -> Split:
    """The tasks' sentences are of different lengths, so that a batch has padding."""
    first, *rest = split.train
    return Split((replace(first, task=SHORT_TASK), *rest), split.eval)


@pytest.fixture
def cache(policy: SmolVLAPolicy, preprocess: Any, demos: Split) -> Callable[..., TrainingCache]:
    """Makes a cache with the first tier of `demos`, as a freshly started process would."""

    def make(folder: Path, budget: int = PLENTY, base_digest: str = "b" * 64) -> TrainingCache:
        made = TrainingCache(folder, base_digest, policy, preprocess, budget)
        for episode in (*demos.train, *demos.eval):
            made.admit(episode)
        return made

    return make


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def digests(episodes: Collection[Episode]) -> list[str]:
    return sorted(episode.digest for episode in episodes)


def losses(policy: SmolVLAPolicy, prefix: Any) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    rows = len(prefix.valid)
    state, action = torch.randn(rows, 6, generator=g), torch.randn(rows, 8, 6, generator=g)
    torch.manual_seed(0)
    return flow_matching_loss(policy, prefix, state, action, *draw(policy, rows, 2)).detach()


@pytest.mark.parametrize("served", [(), (0,), (1, 3), (0, 1, 2, 3)])
def test_any_mixture_of_tiers_gives_the_loss_of_an_uncached_prefix(
    cache: Callable, policy: SmolVLAPolicy, preprocess: Any, demos: Split, tmp_path: Path, served: tuple
) -> None:
    made = cache(tmp_path)
    made.serve(demos, [demos.train[at].digest for at in served])
    frames = [(demos.train[at], number) for at, number in [(3, 0), (0, 5), (1, 19), (0, 2), (2, 7), (1, 0)]]
    images = np.stack([pictures(episode)[number] for episode, number in frames])
    tasks = {"observation.state": torch.zeros(6, 6), "task": [episode.task for episode, _ in frames]}
    said = preprocess(tasks)
    mask = said["observation.language.attention_mask"].bool()
    assert not mask.all()
    features = embed_images(policy, {"front": torch.from_numpy(images)})
    uncached = encode_prefix(policy, features, said["observation.language.tokens"], mask)
    want = losses(policy, uncached)
    torch.testing.assert_close(losses(policy, made.prefix(frames)), want, rtol=1e-3, atol=1e-4)


def test_every_frame_reads_its_own_prefix(cache: Callable, demos: Split, tmp_path: Path) -> None:
    made = cache(tmp_path)
    made.serve(demos, made.plan(demos))
    frames = [(episode, number) for episode in demos.train for number in (0, 11)]
    together = made.prefix(frames)
    for row, frame in enumerate(frames):
        alone = made.prefix([frame])
        assert torch.equal(together.kv[:, :, row][:, :, :, together.valid[row]], alone.kv[:, :, 0])


@given(sizes=st.lists(st.integers(1, 100), max_size=12), budget=st.integers(-10, 400))
def test_a_budget_is_kept_and_what_fits_is_taken(sizes: list[int], budget: int) -> None:
    named = {str(number): bytes_ for number, bytes_ in enumerate(sizes)}
    chosen = choose(named, budget)
    left = budget - sum(named[name] for name in chosen)
    assert left >= 0 or not chosen
    assert all(named[name] > left for name in named.keys() - set(chosen))
    for name in chosen:  # nothing that comes later takes the place of what comes earlier
        earlier = {n: b for n, b in named.items() if int(n) < int(name)}
        assert [n for n in chosen if int(n) < int(name)] == choose(earlier, budget)


def test_the_disk_holds_no_more_than_the_budget(cache: Callable, demos: Split, tmp_path: Path) -> None:
    full = cache(tmp_path)
    full.serve(demos, full.plan(demos))
    features, prefixes = size(tmp_path / "features"), size(tmp_path / "prefixes")
    assert full.plan(demos) == [*digests(demos.train), *digests(demos.eval)]
    exact = cache(tmp_path, budget=features + prefixes)
    assert exact.plan(demos) == full.plan(demos)
    short = cache(tmp_path, budget=features + prefixes - 1)
    short.serve(demos, short.plan(demos))
    assert short.plan(demos) == digests(demos.train)
    assert size(tmp_path / "features") == features
    assert len(names(tmp_path / "prefixes")) == 4


@pytest.mark.parametrize("budget", [0, 1000])
def test_a_budget_that_features_use_up_leaves_no_prefixes(
    cache: Callable, demos: Split, tmp_path: Path, budget: int
) -> None:
    made = cache(tmp_path, budget=budget)
    assert made.plan(demos) == []
    made.serve(demos, [])
    assert len(names(tmp_path / "features")) == 5
    assert names(tmp_path / "prefixes") == []


def test_prefixes_leave_the_disk_to_recording(
    cache: Callable, demos: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cache(tmp_path)
    made.serve(demos, made.plan(demos))
    monkeypatch.setattr("agent.training.cache.free_bytes", lambda _folder: KEEP_FREE)
    assert len(made.plan(demos)) == 5, "what is there already needs no room"
    made.serve(demos, [])
    assert made.plan(demos) == []


def test_another_task_or_base_has_other_files(cache: Callable, demos: Split, tmp_path: Path) -> None:
    def built(split: Split, base_digest: str) -> tuple[set[str], set[str]]:
        made = cache(tmp_path, base_digest=base_digest)
        made.serve(split, made.plan(split))
        return set(names(tmp_path / "features")), set(names(tmp_path / "prefixes"))

    features, prefixes = built(demos, "b" * 64)
    first, *rest = demos.train
    renamed_features, renamed_prefixes = built(
        Split((replace(first, task="pull"), *rest), demos.eval), "b" * 64
    )
    assert renamed_features == features, "the vision tower does not read the task"
    assert len(renamed_prefixes - prefixes) == len(prefixes - renamed_prefixes) == 1
    other_features, other_prefixes = built(demos, "d" * 64)
    assert not other_features & features
    assert not other_prefixes & (prefixes | renamed_prefixes)


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of the trainer runs after it."""


def test_what_does_not_fit_in_memory_is_computed_in_smaller_pieces(
    cache: Callable, demos: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out can't be produced here: both frozen halves refuse more than 10 frames."""

    def of_ten(work: Callable, rows: Callable[[Any], int]) -> Callable:
        def limited(policy: SmolVLAPolicy, inputs: Any, *more: Any) -> Any:
            if rows(inputs) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return work(policy, inputs, *more)

        return limited

    frames = [(episode, number) for episode in demos.train for number in (0, 11)]
    prefixes = []
    for folder in (tmp_path / "plenty", tmp_path / "short"):
        made = cache(folder)
        made.serve(demos, made.plan(demos))
        prefixes.append(made.prefix(frames).kv)
        images = of_ten(embed_images, lambda images: len(next(iter(images.values()))))
        monkeypatch.setattr("agent.training.features.embed_images", images)
        monkeypatch.setattr("agent.training.prefixes.encode_prefix", of_ten(encode_prefix, len))
    torch.testing.assert_close(*prefixes, rtol=1e-3, atol=1e-4)


@pytest.fixture
def fixed_id(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uuid:
        hex = "0" * 32

    monkeypatch.setattr(trainer_module.uuid, "uuid4", Uuid)


@pytest.fixture
def tensors(tiny_base: Path, recipe: Recipe) -> Tensors:
    return initial_adapter(tiny_base, recipe)[0]


@pytest.fixture
def some_gb(cache: Callable, demos: Split, tmp_path: Path) -> float:
    """A budget for all features and half of the training episodes' prefixes."""
    made = cache(tmp_path / "to-measure")
    made.serve(demos, digests(demos.train)[:2])
    return (size(tmp_path / "to-measure" / "features") + size(tmp_path / "to-measure" / "prefixes")) / 1e9


@pytest.mark.usefixtures("fixed_id")
def test_an_update_killed_while_prefixes_are_built_ends_as_if_it_had_not_been(
    trainer: Callable,
    tensors: Tensors,
    recipe: Recipe,
    demos: Split,
    some_gb: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {"episodes": demos, "cache_gb": some_gb}
    whole = trainer(tmp_path / "a", **options).train(tensors, 0, recipe, 2e-3)
    compute, started = PrefixStore._compute, []

    def killed_in_the_second(store: PrefixStore, episode: Episode) -> Iterator[torch.Tensor]:
        started.append(episode.digest)
        yield next(compute(store, episode))
        if len(started) == 2:
            raise Killed

    monkeypatch.setattr(PrefixStore, "_compute", killed_in_the_second)
    with pytest.raises(Killed):
        trainer(tmp_path / "b", **options).train(tensors, 0, recipe, 2e-3)
    resumed = trainer(tmp_path / "b", **options | {"cache_gb": 0}).resume()
    assert started == [*digests(demos.train)[:2], digests(demos.train)[1]], "one episode's work was lost"
    assert resumed.delta == whole.delta
    assert repeatable(resumed) == repeatable(whole)


def test_what_is_built_is_told_episode_by_episode_and_noted_once(
    trainer: Callable, tensors: Tensors, recipe: Recipe, split: Split, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    lines: list[str] = []

    def train(episodes: Split) -> None:
        told.clear()
        lines.clear()
        made = trainer(tmp_path, episodes=episodes)
        sink = logger.add(lines.append, level="INFO", format="{message}", filter=announced.__module__)
        try:
            made.train(tensors, 0, recipe, 2e-3, on_build=lambda *each: told.append(each))
        finally:
            logger.remove(sink)

    train(Split(split.train[:3], ()))
    assert told == [(tier, number, 3) for tier in ("features", "prefixes") for number in (1, 2, 3)]
    assert ["no features yet of 3 of 3 episodes" in line for line in lines] == [True, False, False, False]
    train(split)
    assert told == [(tier, number, 2) for tier in ("features", "prefixes") for number in (1, 2)]
    assert ["no prefixes yet of 2 of 5 episodes" in line for line in lines] == [False, False, True, False]
    train(split)
    assert (told, lines) == ([], [])


@pytest.mark.usefixtures("fixed_id")
def test_a_warm_a_cold_and_a_damaged_cache_train_alike(
    trainer: Callable, tensors: Tensors, recipe: Recipe, demos: Split, some_gb: float, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"episodes": demos, "cache_gb": some_gb}
    cold = trainer(tmp_path, **options).train(tensors, 0, recipe, 2e-3)
    loaded = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert loaded is not None
    assert loaded[0].prefixes == digests(demos.train)[:2]
    for damage in (False, True):
        if damage:
            for path in tmp_path.glob("*/*.npy"):
                raw = bytearray(path.read_bytes())
                raw[len(raw) // 2] ^= 1
                path.write_bytes(raw)
        (tmp_path / "checkpoint.safetensors").unlink()  # it numbers the steps
        again = trainer(tmp_path, **options).train(tensors, 0, recipe, 2e-3)
        assert again.delta == cold.delta


def test_both_tiers_train_to_nearly_the_same_adapter(
    trainer: Callable, tensors: Tensors, recipe: Recipe, demos: Split, tmp_path: Path
) -> None:
    seen: dict[float, list[float]] = {0: [], 20: []}
    for gb, steps in seen.items():
        made = trainer(tmp_path / str(gb), episodes=demos, cache_gb=gb)
        made.train(tensors, 0, recipe, 2e-3, on_step=lambda _s, _n, loss, steps=steps: steps.append(loss))
    assert seen[20] == pytest.approx(seen[0], rel=1e-3)
