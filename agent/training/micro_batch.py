"""How many frames go through the policy at once: fewer when memory runs out.

A step adds up the gradients of its pieces, the cache joins its rows, so the size changes either by rounding
only. It is this workstation's own matter and no part of the recipe.
"""

from collections.abc import Callable

import torch
from loguru import logger

from shared.errors import ArmfleetError


class MicroBatch:
    """The size of a piece; halved when a piece does not fit, and never enlarged.

    Args:
        size: Frames in a piece, at least 1.
        setting: Where it comes from in agent.toml, for the log.
    """

    def __init__(self, size: int, setting: str = "") -> None:
        self.size, self._setting = size, setting

    def run[T](self, rows: int, work: Callable[[list[slice]], T]) -> T:
        """`work(pieces of rows)`, begun again with halved pieces as often as memory runs out.

        Args:
            work: Must not leave anything behind that a second call would count twice.

        Raises:
            ArmfleetError: a single frame does not fit.
        """
        began = self.size
        while True:
            try:
                result = work(self._pieces(rows))
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self.size == 1:
                    raise ArmfleetError(
                        f"memory ran out with a single frame ({_first_line(error)})",
                        kept="the version this update started from, and the checkpoint",
                        do="close other programs on this machine, or lower the recipe's draws",
                    ) from error
            # After `except`: until then the exception's traceback holds the step's tensors (PyTorch FAQ).
            self.size = max(1, min(self.size, rows) // 2)
            torch.cuda.empty_cache()
        if self.size < began:
            advice = f". {self._setting} = {self.size} would begin with that" if self._setting else ""
            logger.warning(
                "memory ran out: {} frames at once from now on, not {}{}", self.size, began, advice
            )
        return result

    def _pieces(self, rows: int) -> list[slice]:
        return [slice(at, min(at + self.size, rows)) for at in range(0, rows, self.size)]


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: the GPU's, Python's, or torch's on the CPU, which raises a plain
    RuntimeError."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
