"""Many draws behind one prefix give LeRobot's loss."""

from pathlib import Path

import pytest
import torch

from sim.pretrain.loss import Batch, Grounding, losses
from sim.pretrain.policy import TOKENS, make_policy
from sim.pretrain.train import sentence_tokens
from sim.pretrain.vlm import sentences, write_vlm

DRAWS = 3


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("base") / "vlm"
    write_vlm(folder)
    return str(folder)


def batch_of(vlm: str, size: int) -> Batch:
    tokens, mask = sentence_tokens(vlm)
    verbs, colors = torch.arange(size) % 6, torch.arange(size) % 4
    return Batch(
        torch.rand(size, 3, 96, 96),
        torch.randn(size, 6),
        torch.randn(size, 8, 6),
        tokens[verbs, colors],
        mask[verbs, colors],
        torch.ones(size),
        torch.rand(size, 2),
        torch.ones(size, 4, 3),
    )


def test_every_sentence_fits_and_is_told_apart(vlm: str) -> None:
    tokens, mask = sentence_tokens(vlm)
    rows = tokens.view(-1, TOKENS)
    assert len({tuple(row.tolist()) for row in rows}) == len(sentences()) == 24
    assert mask.view(-1, TOKENS).sum(1).max() < TOKENS  # nothing was cut off


def test_the_loss_of_many_draws_is_lerobots(vlm: str) -> None:
    torch.manual_seed(0)
    policy = make_policy(vlm).eval()
    batch = batch_of(vlm, 4)
    noise, time = torch.randn(4 * DRAWS, 8, 8), torch.rand(4 * DRAWS)
    ours, ground = losses(policy, batch, Grounding(), noise, time)
    repeated = {
        "observation.state": batch.states.repeat_interleave(DRAWS, 0),
        "action": batch.actions.repeat_interleave(DRAWS, 0),
        "observation.images.front": batch.images.repeat_interleave(DRAWS, 0),
        "observation.language.tokens": batch.tokens.repeat_interleave(DRAWS, 0),
        "observation.language.attention_mask": batch.token_mask.repeat_interleave(DRAWS, 0),
    }
    theirs, _ = policy.forward(repeated, noise=noise, time=time)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert ground.item() > 0


def test_rows_with_another_sentence_teach_no_action(vlm: str) -> None:
    torch.manual_seed(0)
    policy, grounding = make_policy(vlm).eval(), Grounding()
    batch = batch_of(vlm, 4)
    silent = Batch(**{**vars(batch), "acts": torch.tensor([1.0, 0.0, 0.0, 0.0])})
    only = Batch(**{name: value[:1] for name, value in vars(batch).items()})
    noise, time = torch.randn(4, 8, 8), torch.rand(4)
    first, _ = losses(policy, silent, grounding, noise, time)
    alone, _ = losses(policy, only, grounding, noise[:1], time[:1])
    assert first.item() == pytest.approx(alone.item(), rel=1e-4)
