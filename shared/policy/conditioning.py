"""Prefix conditioning: a chunk whose first actions are given, for policies that were trained that way.

While a chunk is computed the arm executes actions of the previous one. A policy that was trained for the
delay takes them as they are, and continues them: in every denoising step their tokens hold the clean actions
and have the flow time 0, all other tokens the time of the step. Source: training-time action conditioning,
arXiv 2512.05964. In SmolVLA x_t = t * noise + (1 - t) * actions, so t = 0 is clean; each action token has its
own time embedding, and a token attends to itself and earlier ones, hence to all that are given.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.common.vla_utils import make_att_2d_masks
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, VLAFlowMatching
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor
from transformers import DynamicCache

type Velocity = Callable[[Tensor, Tensor], Tensor]
"""(B, chunk, padded action dim) at x_t of the same shape and a flow time for each action, (B, chunk)."""


def velocity(flow: VLAFlowMatching, valid: Tensor, cache: DynamicCache, x_t: Tensor, time: Tensor) -> Tensor:
    """`VLAFlowMatching.denoise_step` with a flow time for every action.

    Args:
        valid: (B, tokens) bool, of the tokens in `cache`: images, language and state.
        cache: Their keys and values; the same afterwards.
        x_t: (B, chunk, padded action dim).
        time: (B, chunk) in [0, 1].

    Returns:
        (B, chunk, padded action dim) float32.
    """
    rows, chunk = time.shape
    # LeRobot embeds each token by itself, with one time per row: here every token is a row.
    tokens, _, _ = flow.embed_suffix(x_t.flatten(0, 1)[:, None], time.flatten())
    earlier = torch.ones(chunk, chunk, dtype=torch.bool, device=x_t.device).tril()
    mask = torch.cat([valid[:, None].expand(-1, chunk, -1), earlier.expand(rows, -1, -1)], dim=2)
    outputs, _ = flow.vlm_with_expert.forward(
        attention_mask=mask,
        position_ids=valid.sum(1, keepdim=True) + torch.arange(chunk, device=x_t.device),
        past_key_values=cache,
        inputs_embeds=[None, tokens.view(rows, chunk, -1)],
        use_cache=True,
    )
    cache.crop(valid.shape[1])  # self-attention layers appended the actions' keys and values
    return flow.action_out_proj(outputs[1].float())


@torch.no_grad()
def complete(policy: SmolVLAPolicy, batch: dict[str, Tensor], noise: Tensor, given: Tensor) -> Tensor:
    """The chunk that begins with the actions `given`: LeRobot's own denoising of the others.

    Args:
        batch: Pre-processed observations, as `predict_action_chunk` takes them.
        noise: (B, chunk, padded action dim) standard normal.
        given: (B, d, action dim) normalised, d below the chunk.

    Returns:
        (B, chunk, action dim) normalised; the first d are `given`.
    """
    flow: VLAFlowMatching = policy.model
    valid, cache = _observed(policy, batch)
    return continued(
        lambda x_t, time: velocity(flow, valid, cache, x_t, time), noise, given, flow.config.num_steps
    )


def continued(velocity: Velocity, noise: Tensor, given: Tensor, steps: int) -> Tensor:
    """As `complete`, from the velocity on one observation, in so many denoising steps."""
    count, width = given.shape[1:]
    clean = F.pad(given, (0, noise.shape[2] - width))

    def step(x_t: Tensor, time: Tensor) -> Tensor:
        times = time[:, None].repeat(1, noise.shape[1])
        times[:, :count] = 0
        return velocity(torch.cat([clean, x_t[:, count:]], 1), times)

    actions = euler_integrate(step, noise, steps)
    return torch.cat([given, actions[:, count:, :width]], 1)


def _observed(policy: SmolVLAPolicy, batch: dict[str, Tensor]) -> tuple[Tensor, DynamicCache]:
    """(which tokens are valid, their keys and values) of images, language and state."""
    flow: VLAFlowMatching = policy.model
    images, present = policy.prepare_images(batch)
    embeddings, valid, blocks = flow.embed_prefix(
        images,
        present,
        batch[OBS_LANGUAGE_TOKENS],
        batch[OBS_LANGUAGE_ATTENTION_MASK],
        state=policy.prepare_state(batch),
    )
    _, cache = flow.vlm_with_expert.forward(
        attention_mask=make_att_2d_masks(valid, blocks),
        position_ids=torch.cumsum(valid, dim=1) - 1,
        past_key_values=None,
        inputs_embeds=[embeddings, None],
        use_cache=True,
    )
    return valid, cache
