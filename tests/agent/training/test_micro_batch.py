"""Memory that runs out: smaller pieces, the same work, and an error only when a single frame does not fit."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from agent.training.micro_batch import MicroBatch, out_of_memory
from shared.errors import ArmfleetError


def rows_that_fit(limit: int) -> Callable[[list[slice]], list[int]]:
    """Work that gives its rows back, on a device that holds `limit` of them at once."""

    def work(pieces: list[slice]) -> list[int]:
        done: list[int] = []
        for piece in pieces:
            mine = range(piece.start, piece.stop)
            if len(mine) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            done += mine
        return done

    return work


@given(size=st.integers(1, 64), rows=st.integers(1, 64), limit=st.integers(1, 64))
def test_every_row_is_done_once_in_pieces_that_fit(size: int, rows: int, limit: int) -> None:
    micro_batch = MicroBatch(size)
    assert micro_batch.run(rows, rows_that_fit(limit)) == list(range(rows))
    assert 1 <= micro_batch.size <= size
    if min(size, rows) <= limit:
        assert micro_batch.size == size
    else:
        assert limit / 2 - 1 < micro_batch.size <= limit


def test_the_smaller_size_stays_and_is_logged_once() -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    micro_batch = MicroBatch(16)
    for limit in (3, 16):
        micro_batch.run(16, rows_that_fit(limit))
        assert micro_batch.size == 2
    logger.remove(sink)
    assert len(lines) == 1
    assert "2 frames at once from now on, not 16" in lines[0]


def test_one_frame_that_does_not_fit_is_an_error_for_people() -> None:
    with pytest.raises(ArmfleetError, match=r"single frame \(CUDA out of memory\)") as caught:
        MicroBatch(8).run(8, rows_that_fit(0))
    assert caught.value.kept
    assert caught.value.do


def test_other_errors_go_through() -> None:
    def broken(_pieces: list[slice]) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatch(8).run(8, broken)


def test_the_cpu_saying_that_memory_ran_out_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert out_of_memory(caught.value)
