"""Peak memory is that since the last reset, where the kernel allows one."""

import resource
from pathlib import Path

import numpy as np
import pytest
from loguru import logger

from agent.training.memory import CLEAR_REFS, PeakMemory

SIZE = 200_000_000


def test_the_peak_is_seen_after_the_memory_is_given_back_and_forgotten_by_a_reset() -> None:
    try:
        CLEAR_REFS.write_text("5")
    except OSError as error:
        pytest.skip(f"this kernel allows no reset: {error}")
    memory = PeakMemory("cpu")
    memory.reset()
    before = memory.resident()
    array = np.ones(SIZE // 8)
    del array
    # Half of it: a kernel short of memory may take other pages away meanwhile.
    assert memory.resident() > before + 0.5 * SIZE
    memory.reset()
    assert memory.resident() < before + 0.25 * SIZE
    assert memory.on_gpu() == 0


def test_where_a_reset_is_refused_the_journal_says_so_once(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    memory = PeakMemory("cpu", status, clear_refs=tmp_path / "nowhere" / "clear_refs")
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="INFO")
    memory.reset()
    memory.reset()
    logger.remove(sink)
    assert memory.resident() == 2048 * 1024
    assert len(said) == 1
    assert "since the trainer's start" in said[0]


def test_a_kernel_that_tells_no_peak_is_asked_another_way(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\n")
    told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert PeakMemory("cpu", status).resident() >= told
