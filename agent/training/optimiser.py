"""The optimisers that a recipe may ask for, and what of their state a checkpoint keeps."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from shared.recipe import Recipe

MOMENTS: dict[str, dict[str, str]] = {
    "adamw": {"mean": "exp_avg", "square": "exp_avg_sq", "count": "step"},
    "sgd": {"momentum": "momentum_buffer"},
}
"""Per optimiser: group of the checkpoint to torch's name. One optimiser's are of no use to the other."""


class DecayingSGD(torch.optim.SGD):
    """Gradient descent with momentum; the parameters shrink as with AdamW, by learning rate times
    `weight_decay` in each step, apart from gradient and momentum (SGDW, Loshchilov and Hutter,
    arXiv 1711.05101)."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum)
        self._weight_decay = weight_decay

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """As torch's; parameters without a gradient stay as they are."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * self._weight_decay)
        return super().step(closure)


def make_optimiser(recipe: Recipe, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """That of `recipe`, without moments."""
    if recipe.optimiser == "sgd":
        return DecayingSGD(
            parameters,
            lr=recipe.learning_rate,
            momentum=recipe.betas[0],
            weight_decay=recipe.weight_decay,
        )
    return torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
