"""Action chunks by the fast path (`shared.policy.fast_chunk`), where it does what LeRobot's own path does."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from loguru import logger
from torch import Tensor

from shared.policy import conditioning
from shared.policy.fast_chunk import FastChunk, obstacle

LARGEST_DIFFERENCE = 1e-5
"""Between the actions of the two paths, in the policy's normalised space and float32. Where a joint deviates
by 30 degrees, that is a 290th of a step of its servo's encoder."""
LARGEST_DIFFERENCE_BF16 = 0.05
"""The same in bfloat16, and between bfloat16 and float32: 1.5 degrees of such a joint. Rounding changes the
actions of a full-size policy by about 0.01 (docs/inference.md)."""


class CheckedChunk:
    """Action chunks of one policy, by one of two paths.

    The first chunk of a base, and of each kind of adapter over it, is computed by both, from the same noise:
    this costs one stock chunk. If they differ by more than `LARGEST_DIFFERENCE`, or the fast path fails,
    LeRobot computes the chunks. Other numbers in the same adapter are no new kind. A policy of a structure
    that the fast path does not know is left to LeRobot altogether.

    Args:
        policy: Loaded; its precision stays as it is. One line goes to the log if the fast path does not know
            it.
    """

    def __init__(self, policy: SmolVLAPolicy) -> None:
        self._policy = policy
        self._fast = FastChunk(policy)
        self._obstacle = obstacle(policy)
        exact = next(policy.model.vlm_with_expert.parameters()).dtype == torch.float32
        self._bound = LARGEST_DIFFERENCE if exact else LARGEST_DIFFERENCE_BF16
        self._compared = False
        self.is_fast = self._obstacle is None
        """Whether the live policy's chunks are computed by the fast path, for all that is known."""
        if self._obstacle is not None:
            logger.info("LeRobot computes the action chunks of this base: {}", self._obstacle)

    def renew(self) -> None:
        """The policy has other layers now: nothing is known of them."""
        self._compared = False
        self.is_fast = self._obstacle is None

    def compare_again(self) -> None:
        """The next chunk is computed by both paths, unless LeRobot computes them already."""
        self._compared = False

    def predict_action_chunk(self, batch: dict[str, Any], **request: Any) -> Tensor:
        """As `SmolVLAPolicy.predict_action_chunk`; `request` must have the noise."""
        return self._by_either(
            partial(self._policy.predict_action_chunk, batch, **request),
            partial(self._fast.predict_action_chunk, batch, **request),
        )

    def complete(self, batch: dict[str, Any], noise: Tensor, given: Tensor) -> Tensor:
        """As `shared.policy.conditioning.complete`."""
        return self._by_either(
            partial(conditioning.complete, self._policy, batch, noise, given),
            partial(self._fast.complete, batch, noise, given),
        )

    def _by_either(self, stock_path: Callable[[], Tensor], fast_path: Callable[[], Tensor]) -> Tensor:
        if not self.is_fast:
            return stock_path()
        if self._compared:
            return fast_path()
        stock = stock_path()
        self._compared = True
        try:
            actions = fast_path()
            difference = float(torch.nan_to_num(actions - stock, nan=torch.inf).abs().max())
        except Exception as error:  # of whatever kind: the other path has an answer
            self.is_fast = False
            logger.opt(exception=error).warning(
                "the fast path failed: LeRobot computes the action chunks, which takes longer"
            )
            return stock
        if difference <= self._bound:
            return actions
        self.is_fast = False
        logger.warning(
            "the fast path's actions differ from LeRobot's by {:.2g}, more than {:.0g}: LeRobot computes the"
            " action chunks, which takes longer",
            difference,
            self._bound,
        )
        return stock
