"""The fast path on a GPU: recorded graphs give LeRobot's actions, whatever changes between chunks."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.policy.base import load_base
from shared.policy.checked_chunk import LARGEST_DIFFERENCE, LARGEST_DIFFERENCE_BF16, CheckedChunk
from shared.policy.chunker import Chunker
from shared.policy.conditioning import complete
from shared.policy.fast_chunk import FastChunk
from shared.policy.graph import Graph
from shared.policy.initial import initial_adapter
from shared.policy.rtc import Guidance
from shared.recipe import PRESETS, Recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")

TASK = "push the red cube to the left"


def make_batch(seed: int, words: int = 7, rows: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch = {
        "observation.state": torch.randn(rows, 6, generator=generator),
        "observation.language.tokens": torch.randint(0, 100, (rows, words), generator=generator),
        "observation.language.attention_mask": torch.arange(words)[None].expand(rows, -1) < words - seed % 3,
        "observation.images.front": torch.rand(rows, 3, 72, 96, generator=generator),
    }
    return {key: part.cuda() for key, part in batch.items()}


def make_noise(seed: int, rows: int = 1) -> Tensor:
    return torch.randn(rows, 8, 8, generator=torch.Generator().manual_seed(seed)).cuda()


@pytest.mark.parametrize("rows", [1, 3])
def test_the_actions_are_lerobots_in_every_chunk(tiny_base: Path, rows: int) -> None:
    policy = load_base(tiny_base, "cuda")
    fast = FastChunk(policy)
    seen: list[Tensor] = []
    for seed, words in enumerate((7, 7, 7, 9, 7)):  # another sentence in between
        batch, noise = make_batch(seed, words, rows), make_noise(seed, rows)
        stock = policy.predict_action_chunk(dict(batch), noise=noise)
        ours = fast.predict_action_chunk(dict(batch), noise)
        assert (ours - stock).abs().max() <= LARGEST_DIFFERENCE
        given = torch.full((rows, 2, 6), 0.5 * seed).cuda()
        joined = fast.complete(batch, noise, given)
        assert (joined - complete(policy, batch, noise, given)).abs().max() <= LARGEST_DIFFERENCE
        seen.append(ours)
    assert min(float((a - b).abs().max()) for a, b in pairwise(seen)) > 1e-2


def test_one_recording_serves_many_chunks(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []
    begin = Graph.__init__

    def counted(self: Graph, *request: Any) -> None:
        recorded.append(1)
        begin(self, *request)

    monkeypatch.setattr(Graph, "__init__", counted)
    fast = FastChunk(load_base(tiny_base, "cuda"))
    for seed in range(4):
        fast.predict_action_chunk(make_batch(seed), make_noise(seed))
    assert len(recorded) == 2
    fast.predict_action_chunk(make_batch(0, words=9), make_noise(0))
    assert len(recorded) == 4


def observations(seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    state = generator.normal(0, 20, (1, 6)).astype(np.float32)
    return {"state": state, "images": {"front": generator.integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)}}


def moved(tiny_base: Path, spread: float, preset: str = "wide") -> tuple[dict[str, np.ndarray], dict]:
    tensors, config = initial_adapter(tiny_base, Recipe.model_validate(PRESETS[preset]))
    rng = np.random.default_rng(0)
    changed = {n: (t + rng.normal(0, spread, t.shape)).astype(np.float32) for n, t in tensors.items()}
    return changed, config


@pytest.fixture
def stock_forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[Chunker], None]:
    def forbid(chunker: Chunker) -> None:
        monkeypatch.setattr(chunker.policy, "predict_action_chunk", lambda *_, **__: pytest.fail("stock"))

    return forbid


def test_swaps_are_seen_and_chunks_are_joined(
    tiny_base: Path, stock_forbidden: Callable[[Chunker], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU and on the GPU: the same actions through versions, recipes and ways to join."""
    found: dict[str, list[np.ndarray]] = {}
    for device in ("cpu", "cuda"):
        chunker = Chunker(tiny_base, device, Guidance(horizon=4))
        found[device] = []
        for spread, preset, delay in ((0.1, "wide", 0), (0.2, "wide", 0), (0.1, "attention", 3)):
            tensors, config = moved(tiny_base, spread, preset)
            digest = chunker.load_tensors(tensors, config, delay=delay)
            assert digest == chunker.load_tensors(tensors, config, delay=delay)
            chunker.reseed(0)
            first, _ = chunker.chunk(tasks=[TASK], **observations(0))
            assert chunker._path.is_fast
            stock_forbidden(chunker)
            second, _ = chunker.chunk(
                tasks=[TASK], inference_delay=2, prev_chunk=first[:, 1:], **observations(1)
            )
            monkeypatch.undo()
            found[device] += [first, second]
    for cpu, gpu in zip(found["cpu"], found["cuda"], strict=True):
        np.testing.assert_allclose(gpu, cpu, atol=1e-4)
    assert np.abs(found["cuda"][2] - found["cuda"][0]).max() > 1e-2


def test_bf16_on_a_gpu_is_near_float32(tiny_base: Path) -> None:
    exact = Chunker(tiny_base, "cuda")
    half = Chunker(tiny_base, "cuda", precision="bf16")
    tensors, config = moved(tiny_base, 0.05)
    assert exact.load_tensors(tensors, config) == half.load_tensors(tensors, config)
    chunks = []
    for chunker in (exact, half):
        for seed in range(3):
            chunker.reseed(seed)
            chunks.append(chunker.chunk(tasks=[TASK], **observations(seed))[0])
        assert chunker._path.is_fast
    difference = max(float(np.abs(a - b).max()) for a, b in zip(chunks[:3], chunks[3:], strict=True))
    assert 0 < difference <= LARGEST_DIFFERENCE_BF16


def test_what_cannot_be_recorded_is_left_to_lerobot(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_base(tiny_base, "cuda")
    path, batch, noise = CheckedChunk(policy), make_batch(0), make_noise(0)
    wanted = policy.predict_action_chunk(dict(batch), noise=noise)
    unsuited = "shared.policy.fast_chunk.rope_table"
    with monkeypatch.context() as patched:
        patched.setattr(unsuited, lambda positions, size: positions.sum().item())
        torch.testing.assert_close(path.predict_action_chunk(dict(batch), noise=noise), wanted)
    assert not path.is_fast
    path.renew()
    torch.testing.assert_close(path.predict_action_chunk(dict(batch), noise=noise), wanted, rtol=0, atol=1e-5)
    assert path.is_fast
