"""The learning rate a check-in asks for: constant, or a cosine over the rounds of the federation.

Many short rounds never leave a schedule that restarts with each update, so the coordinator owns it: the
recipe names its form and its peak, `[aggregation] rounds` its length. The cosine is that of Loshchilov,
Hutter, arXiv 1608.03983, eq. 5, without restarts; down to a twentieth.
"""

import math

from shared.recipe import Recipe

FLOOR = 0.05


def learning_rate(recipe: Recipe, round_number: int, rounds: int) -> float:
    """Rate for training from version `round_number` of a schedule of `rounds`; constant after its end."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    progress = min(1.0, max(0.0, round_number / rounds))
    return recipe.learning_rate * (0.5 * (1 + math.cos(math.pi * progress)) * (1 - FLOOR) + FLOOR)
