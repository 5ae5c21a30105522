"""Re-factorised mean: the mean of the updates' *products*, in the same rank again by a truncated SVD.

    T = B A + sum_i w_i ((B_i + b_i)(A_i + a_i) - B_i A_i)        A, B: the parent's factors
    B' A' = the best approximation of T of rank r in the Frobenius norm (Eckart, Young, 1936)

A_i, B_i are the factors of the version that update i was trained from, a_i, b_i its delta: what counts is how
far the update moved the product from where it began, so that a stale update is not charged with what others
did since. Saved modules are averaged as by `mean`.

The same rule goes by two names. FlexLoRA (arXiv 2402.11505) averages products and factorises the mean. FLoRA
(arXiv 2409.05976) stacks the factors, [w_1 B_1 .. w_n B_n][A_1 .. A_n], which is that sum of products,
exactly; brought back to rank r it is the same truncated SVD. Here too the sum is held as stacked factors, of
which QR and the SVD of a small core give the result without forming the product (out x in).

Of all factors of the new product those near the mean's are taken: A' is the mean of A projected onto the rows
of the new product, and B' follows (`_near`). So the result is `mean` plus a correction of second order; a
single update comes back as it is. Factors balanced by the root of the singular values would turn and rescale
the basis in every round, and with it the meaning of the server's and the trainers' momentum; and where the
product is still zero they would leave both factors zero, which no gradient gets away from.

Assumes that the mean of the products is nearly of rank r: what was lost is stated in `Refactored`. The result
is exact for the server optimiser `none` at learning rate 1; other steps extrapolate the factors, not the
product. LAPACK may round differently on another processor: recomputing gives the same bytes on the same kind
of machine.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.aggregation.mean import Tensors64

type Arrays = Mapping[str, np.ndarray]

A, B = ".lora_A.weight", ".lora_B.weight"
"""How PEFT's names end: A is (r, in), B is (out, r)."""
FLOOR = 0.1
"""Least singular value of the basis of A', relative to the mean one of A: keeps B' bounded when the rows of
the new product are nearly at right angles to A. A choice of this project, not measured."""


@dataclass(frozen=True)
class Refactored:
    """The delta to the parent's tensors, float64, and what the truncation lost."""

    delta: Tensors64
    truncation_error: float
    """|T - B' A'| / |T - B A|, Frobenius norms over all modules; 0 when nothing changed."""


class _Stack:
    """A sum of products as factors side by side: left (out, k), right (in, k), sum = left @ right.T."""

    def __init__(self, out_size: int, in_size: int) -> None:
        self.left: np.ndarray = np.zeros((out_size, 0))
        self.right: np.ndarray = np.zeros((in_size, 0))

    def add(self, left: np.ndarray, right: np.ndarray) -> None:
        """Add left @ right.T.

        Once the factors are larger than the product they are multiplied out, so that the module bounds the
        size, not the number of updates.
        """
        self.left, self.right = np.hstack([self.left, left]), np.hstack([self.right, right])
        rows, columns = len(self.left), len(self.right)
        if self.left.shape[1] > 2 * min(rows, columns):
            product = self.left @ self.right.T
            wide = rows <= columns
            self.left, self.right = (np.eye(rows), product.T) if wide else (product, np.eye(columns))


def refactored(parent: Arrays, updates: Iterable[tuple[float, Arrays, Arrays]]) -> Refactored:
    """The re-factorised mean as a delta to the parent's tensors.

    Args:
        parent: The parent's tensors.
        updates: (weight, tensors of the update's base version, its delta), in the order in which they are
            added up; all with the parent's names and shapes. Taken one by one.

    Raises:
        ValueError: a LoRA factor without its other half.
    """
    modules = _modules(parent)
    stacks = {m: _Stack(len(parent[m + B]), parent[m + A].shape[1]) for m in modules}
    delta = {name: np.zeros(array.shape) for name, array in sorted(parent.items())}
    for weight, base, change in updates:
        for name, total in delta.items():
            total += np.float64(weight) * change[name].astype(np.float64)
        for module, stack in stacks.items():
            base_a, base_b = (base[module + end].astype(np.float64) for end in (A, B))
            a, b = (change[module + end].astype(np.float64) for end in (A, B))
            # (B + b)(A + a) - B A = b (A + a) + B a
            stack.add(np.hstack([b, base_b]), np.float64(weight) * np.vstack([base_a + a, a]).T)
    lost = moved = 0.0
    for module, stack in stacks.items():
        old_a, old_b = (parent[module + end].astype(np.float64) for end in (A, B))
        new_a, new_b, module_lost, module_moved = _truncated(old_a, old_b, stack, old_a + delta[module + A])
        delta |= {module + A: new_a - old_a, module + B: new_b - old_b}
        lost, moved = lost + module_lost, moved + module_moved
    return Refactored(delta, float(np.sqrt(lost / moved)) if moved else 0.0)


def _modules(parent: Arrays) -> list[str]:
    """Names of the modules with LoRA factors, sorted."""
    halves = [{name.removesuffix(end) for name in parent if name.endswith(end)} for end in (A, B)]
    if halves[0] != halves[1]:
        raise ValueError(f"LoRA factors without their other half: {', '.join(sorted(halves[0] ^ halves[1]))}")
    return sorted(halves[0])


def _truncated(
    old_a: np.ndarray, old_b: np.ndarray, stack: _Stack, mean_a: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """(A', B', square of what the truncation lost, square of the whole change) of one module."""
    rank = len(old_a)
    left_q, left_r = np.linalg.qr(np.hstack([old_b, stack.left]))
    right_q, right_r = np.linalg.qr(np.hstack([old_a.T, stack.right]))
    u, values, vt = np.linalg.svd(left_r @ right_r.T, full_matrices=False)
    rows = right_q @ vt[:rank].T
    basis, inverse = _near(mean_a @ rows, float(np.linalg.norm(mean_a)) / np.sqrt(rank))
    new_b = left_q @ (u[:, :rank] * values[:rank]) @ inverse
    moved = np.linalg.norm(left_r[:, rank:] @ right_r[:, rank:].T) ** 2
    return basis @ rows.T, new_b, float(np.sum(values[rank:] ** 2)), float(moved)


def _near(wanted: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The wanted basis (r, r) with its singular values at least FLOOR * scale, and its inverse."""
    p, values, qt = np.linalg.svd(wanted, full_matrices=False)
    raised = np.maximum(values, FLOOR * scale or 1.0)  # 1: A is zero, and any basis does
    return (p * raised) @ qt, (qt.T / raised) @ p.T
