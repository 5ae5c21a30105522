"""The outbox: an update leaves only when the coordinator has it, whatever is killed in between."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.exchange import outbox as module
from agent.exchange.outbox import DELTA, HEADER, Outbox
from shared.errors import ArmfleetError


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """An empty outbox folder."""
    folder = tmp_path / "outbox"
    folder.mkdir()
    return folder


def test_update_survives_kill_between_save_and_acknowledgement(box: Path, put: Callable[..., str]) -> None:
    """The reply was sent and the agent killed: nothing proves that it arrived, so it is sent again."""
    child = os.fork()
    if child == 0:
        update_id = put(box)
        assert Outbox(box).first() is not None
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    outbox = Outbox(box)
    outbox.clean_up()
    (update_id,) = outbox.pending()
    header, delta = outbox.load(update_id)
    assert (header.id, delta) == (update_id, b"delta")
    assert outbox.acknowledge([update_id, "f" * 32]) == [update_id]
    assert outbox.first() is None


def test_kill_during_removal_leaves_the_update_gone_not_half(
    box: Path, put: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    update_id = put(box)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        Outbox(box).acknowledge([update_id])
    monkeypatch.undo()
    after = Outbox(box)
    assert after.pending() == []
    after.clean_up()
    assert list(box.iterdir()) == []


def test_half_written_update_is_never_seen(box: Path, put: Callable[..., str]) -> None:
    update_id = put(box)
    (box / update_id).rename(box / f".inprogress-{update_id}")
    outbox = Outbox(box)
    assert outbox.first() is None
    outbox.clean_up()
    assert list(box.iterdir()) == []


@pytest.mark.parametrize("damage", ["delta", "header", "missing"])
def test_damaged_update_is_set_aside_and_the_next_one_sent(
    box: Path, put: Callable[..., str], damage: str
) -> None:
    bad = put(box)
    os.utime(box / bad / HEADER, ns=(1, 1))
    good = put(box)
    if damage == "missing":
        (box / bad / DELTA).unlink()
    else:
        (box / bad / (DELTA if damage == "delta" else HEADER)).write_bytes(b"{}")
    outbox = Outbox(box)
    with pytest.raises(ArmfleetError, match=r"damaged|can't be read"):
        outbox.load(bad)
    os.utime(box / bad / HEADER, ns=(1, 1))
    found = outbox.first()
    assert found is not None
    assert found[0].id == good
    assert (box / f".damaged-{bad}").is_dir(), "kept for a person to look at"
    assert outbox.pending() == [good]


def test_oldest_is_sent_first(box: Path, put: Callable[..., str]) -> None:
    ids = [put(box) for _ in range(3)]
    for age, update_id in enumerate(ids):
        os.utime(box / update_id / HEADER, ns=(10 - age, 10 - age))
    assert Outbox(box).pending() == ids[::-1]
