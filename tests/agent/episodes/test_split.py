"""Train or eval by content: stable under additions, seeded, never both."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.episodes.record import EpisodeRecord
from agent.episodes.split import ENOUGH, assign, content_digest, drawn


def record(digest, split, task="push"):
    return EpisodeRecord(id=digest, task=task, frames=1, fps=30, created="", digest=digest, split=split)


def admit(digests, share=0.1, seed=0, task="push"):
    known = []
    for digest in digests:
        known.append(record(digest, assign(digest, task, known, share, seed), task))
    return known


names = st.lists(st.text("abcdef0123456789", min_size=8, max_size=8), unique=True, min_size=1, max_size=60)


@given(names, st.integers(0, 5))
def test_ten_episodes_hold_at_least_one_out(digests, seed):
    splits = [r.split for r in admit(digests, seed=seed)]
    assert len(splits) < ENOUGH or "eval" in splits[:ENOUGH]


@given(names, st.integers(0, 60))
def test_later_episodes_change_nothing(digests, cut):
    assert admit(digests)[:cut] == admit(digests[:cut])


@given(names)
def test_the_same_content_goes_where_it_went_before(digests):
    known = admit(digests, share=0.5)
    for r in known:
        assert assign(r.digest, "another task", known, 0.5, seed=99) == r.split


def test_each_task_gets_its_own_eval_episode():
    first = admit([f"a{i}" for i in range(10)], task="push")
    both = list(first)
    for i in range(10):
        both.append(record(f"b{i}", assign(f"b{i}", "pull", both, 0.1, 0), "pull"))
    assert "eval" in {r.split for r in both if r.task == "pull"}


def test_the_share_is_met_and_depends_on_the_seed():
    digests = [f"{i:08x}" for i in range(4000)]
    held = [d for d in digests if drawn(d, 0.1, 0)]
    assert 300 < len(held) < 500
    assert held != [d for d in digests if drawn(d, 0.1, 1)]
    assert not any(drawn(d, 0.0, 0) for d in digests)


def test_no_share_means_no_eval():
    assert {r.split for r in admit([f"{i}" for i in range(30)], share=0.0)} == {"train"}


def test_the_digest_is_of_the_motion():
    motion = np.arange(60, dtype=np.float32).reshape(10, 6)
    assert content_digest(motion, motion) == content_digest(motion.astype(np.float64), motion)
    assert content_digest(motion, motion) != content_digest(motion, motion + 1)
    assert content_digest(motion[:5], motion[5:]) != content_digest(motion, motion)
