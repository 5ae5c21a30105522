"""The exact residual (FedEx-LoRA; Singhal et al., arXiv 2410.09432): in the experiment alone.

The mean of LoRA factors is no factorisation of the mean product. What it lacks goes into the frozen weight W
that every station trains from next, and that is evaluated:

    W <- W + s (sum_i w_i B_i A_i - B A)        A = sum_i w_i A_i, B = sum_i w_i B_i, s = alpha / rank

so that W + s B A is the weighted mean of the stations' W + s B_i A_i. All stations of the round began from
the same A and B and the weights sum to one; then the difference is the covariance of what they changed,

    sum_i w_i (b_i - b)(a_i - a)                a_i, b_i: deltas of station i; a, b: their means

which needs no large numbers that nearly cancel, and is zero for a single station.

In the product it would give every version another base, and with it another digest: nothing that ships does
it. It is defined for FedAvg only (`require_fedavg`): what a server's momentum or another learning rate do to
the factors is no mean of them, and the residual would take it back.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isclose

import numpy as np
import torch

from benchmarks.learning.clock import NEVER_S
from benchmarks.learning.plan import Arm
from coordinator.aggregation.mean import Tensors64, weighted_sum
from coordinator.aggregation.refactored import A, B
from coordinator.config import AggregationSection
from shared.policy.initial import PEFT_PREFIX


def require_fedavg(arm: Arm) -> None:
    """Refuse an arm whose rounds are not the mean of one fresh update of every station.

    Raises:
        ValueError: it has another rule, or rounds that don't wait for all.
    """
    fedavg = AggregationSection(
        buffer_size=len(arm.stations),
        max_wait_s=NEVER_S,
        server_optimiser="none",
        server_learning_rate=1.0,
    )
    if arm.mode != "sync" or arm.aggregation != fedavg:
        raise ValueError(f"{arm.name}: the exact residual is defined for synchronous FedAvg only")


def residual(
    deltas: Sequence[Mapping[str, np.ndarray]], weights: Sequence[float], scaling: float
) -> Tensors64:
    """What the weighted mean of the factors lacks against that of the products.

    Args:
        deltas: Of the round's updates, by tensor name, all trained from the same version; A is (rank, in), B
            is (out, rank). Saved modules are left out: their mean lacks nothing.
        weights: One per delta; they sum to one.
        scaling: LoRA's, alpha / rank.

    Returns:
        (out, in) float64 for every module with LoRA, under its name in the policy: to be added to its frozen
        weight.

    Raises:
        ValueError: the weights don't sum to one.
    """
    if not isclose(sum(weights), 1.0, rel_tol=1e-9):
        raise ValueError(f"the weights of a round sum to {sum(weights):g}: the residual is that of a mean")
    mean = weighted_sum(deltas, weights, deltas[0])
    found = {}
    for module in (name.removesuffix(A) for name in mean if name.endswith(A)):
        products = [
            weight * ((delta[module + B] - mean[module + B]) @ (delta[module + A] - mean[module + A]))
            for delta, weight in zip(deltas, weights, strict=True)
        ]
        found[module.removeprefix(PEFT_PREFIX)] = scaling * sum(products, np.float64(0))
    return found


def summed(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> Tensors64:
    """Both residuals together; a module that one of them lacks counts as zero there."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted(one.keys() | other.keys())}


@contextmanager
def added_to(policy: torch.nn.Module, residuals: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Within this context the frozen weights of `policy` have `residuals` on top; afterwards the base's own
    are back, bit for bit, so that the policy serves other arms too.

    Args:
        policy: On the CPU, with or without an adapter, which may also come in the meantime.
        residuals: From `residual`, all rounds summed.
    """
    weights = {name: _frozen_weight(policy, name) for name in residuals}
    own = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(own[name].double() + torch.from_numpy(residuals[name]))
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(own[name])


def _frozen_weight(policy: torch.nn.Module, name: str) -> torch.Tensor:
    """(out, in); PEFT's layer keeps the base's own, the same tensor, inside."""
    module = policy.get_submodule(name)
    return getattr(module, "base_layer", module).weight
