"""Error feedback: what a lossy codec leaves out of an update goes with the node's next one.

    sent       = decode(encode(delta + residual))
    residual'  = delta + residual - sent

(EF-SGD of Karimireddy et al., arXiv 1901.09847, with an update in the place of its step.) So the sum of what
a node has sent differs from what it has learnt by one residual, which does not grow: a codec that leaves out
at most the share q of what it is given (L2 norm) keeps it below q / (1 - q) of the longest delta.

In the paper the next step starts where `sent` led. Here the next update starts from the newest version, which
holds `sent` with the weight and momentum of its round; or not at all, where the update was refused or got
lost. The residual is the same in either case: what the *codec* left out, never what the coordinator did. An
update that was refused is lost to the fleet as it is without a codec, all but its residual.
"""

from collections.abc import Mapping

import numpy as np
import torch

from agent.training.checkpoint import Progress, State
from shared.adapters import Tensors
from shared.codec import decode
from shared.recipe import Codec

Residual = dict[str, torch.Tensor]
"""By adapter tensor name, float32; empty: nothing is owed."""


def owed(
    last: tuple[Progress, State] | None, progress: Progress, tensors: Mapping[str, np.ndarray]
) -> Residual:
    """The residual of `last`, the node's previous update, for the one that `progress` begins; none where the
    codec, the base, or the names or shapes of the adapter's tensors have changed in between."""
    if last is None:
        return {}
    before, residual = last[0], last[1].get("residual", {})
    same = (before.recipe.codec, before.base_digest) == (progress.recipe.codec, progress.base_digest)
    shapes = {name: tuple(tensor.shape) for name, tensor in residual.items()}
    return residual if same and shapes == {name: array.shape for name, array in tensors.items()} else {}


def with_residual(delta: Tensors, residual: Residual) -> Tensors:
    """What is to be encoded."""
    return {name: delta[name] + residual[name].numpy() for name in delta} if residual else delta


def left_out(wanted: Tensors, data: bytes, codec: Codec) -> Residual:
    """What `data` lacks of `wanted`, which it was encoded from.

    Half precision's rounding is not kept: at most 2^-11 of each value, far below the noise of training.
    """
    if codec == "fp16-zstd":
        return {}
    sent = decode(data, wanted, codec)
    return {name: torch.from_numpy(array - sent[name]) for name, array in wanted.items()}
