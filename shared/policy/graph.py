"""A function of tensors, recorded once as a CUDA graph: its many small launches become one.

https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 2
"""Calls before recording: libraries choose their kernels and workspaces in the first ones."""


class Graph:
    """Recorded when it is made, replayed by each call.

    Args:
        function: Of tensors on one GPU, which waits for nothing and allocates the same for the same shapes.
            Tensors that it reads besides its arguments are read where they were, with what they hold then.
        example: Arguments of the shapes that all calls will have.

    Attributes:
        output: What `function` returned. Its tensors hold the results of the latest call, until the next.

    Raises:
        RuntimeError: `function` can't be recorded.
    """

    def __init__(self, function: Callable[..., Any], example: Sequence[Tensor]) -> None:
        self._inputs = [each.clone() for each in example]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # Another thread of the process may use the GPU meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self.output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        """Compute `output` from other inputs."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self.output
