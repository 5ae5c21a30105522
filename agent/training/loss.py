"""SmolVLA's flow-matching loss from a frozen prefix, with several noise draws per frame.

With the vision tower and the text model frozen, the keys and values of every image
and language token are constants of (frame, task): LeRobot's attention mask lets them see neither the state
token nor the actions. A training step therefore starts from stored keys and values and runs only

    1. the state token through the text model, with gradient (`state_proj` may be trained);
    2. the action expert over [stored K/V, state K/V], once for all draws of a batch.

Both are LeRobot's own inference path, which is differentiable: a filled `DynamicCache` and
`VLAFlowMatching.denoise_step`. A draw may be given the first actions of its chunk
(`shared.policy.conditioning`). The loss equals `SmolVLAPolicy.forward`'s up to rounding (3e-7 in float32).
Flow matching: Lipman et al., arXiv 2210.02747; SmolVLA: arXiv 2506.01844.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.common.vla_utils import make_att_2d_masks
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, VLAFlowMatching
from lerobot.utils.constants import OBS_IMAGES
from torch import Tensor
from transformers import DynamicCache

from shared.policy.conditioning import velocity


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the image and language tokens of a batch.

    kv: (2, layers, B, KV heads, tokens, head size); keys after RoPE; the text model's, never the expert's
        projections of them (those are LoRA).
    valid: (B, tokens) bool.
    """

    kv: Tensor
    valid: Tensor


@torch.no_grad()
def embed_images(policy: SmolVLAPolicy, images: Mapping[str, Tensor]) -> Tensor:
    """The vision tower's output.

    Args:
        images: Camera name to (B, H, W, 3) uint8 RGB.

    Returns:
        (B, cameras, tokens, width) in the policy's dtype, cameras in the order of `images`.
    """
    batch = {f"{OBS_IMAGES}.{name}": x.permute(0, 3, 1, 2).float() / 255 for name, x in images.items()}
    # prepare_images goes by the policy's order and appends LeRobot's black "empty cameras", all masked.
    ordered = [key for key in policy.config.image_features if key in batch]
    prepared, _ = policy.prepare_images(batch)
    embedded = {key: _expert(policy).embed_image(x) for key, x in zip(ordered, prepared, strict=False)}
    return torch.stack([embedded[key] for key in batch], dim=1)


@torch.no_grad()
def encode_prefix(policy: SmolVLAPolicy, features: Tensor, tokens: Tensor, mask: Tensor) -> Prefix:
    """Run the frozen text model over image and language tokens.

    Args:
        features: (B, cameras, tokens, width) from `embed_images`.
        tokens: (B, L) token ids; mask: (B, L) bool.
    """
    flow: VLAFlowMatching = policy.model
    present = torch.ones(len(features), dtype=torch.bool, device=features.device)
    # embed_prefix always appends a state token (and padding up to prefix_length): both are cut off below.
    state = features.new_zeros(len(features), flow.config.max_state_dim)
    with _images_are_embedded(policy):
        embeddings, valid, block = flow.embed_prefix(
            list(features.unbind(1)), [present] * features.shape[1], tokens, mask.bool(), state=state
        )
    length = int((torch.cumsum(block[0].int(), 0) == 0).sum())
    embeddings, valid, block = embeddings[:, :length], valid[:, :length].bool(), block[:, :length]
    _, cache = _expert(policy).forward(
        attention_mask=make_att_2d_masks(valid, block),
        position_ids=torch.cumsum(valid, dim=1) - 1,
        past_key_values=None,
        inputs_embeds=[embeddings, None],
        use_cache=True,
    )
    kv = torch.stack(
        [torch.stack([x.keys for x in cache.layers]), torch.stack([x.values for x in cache.layers])]
    )
    return Prefix(kv * valid[None, None, :, None, :, None], valid)


def flow_matching_loss(
    policy: SmolVLAPolicy,
    prefix: Prefix,
    state: Tensor,
    action: Tensor,
    noise: Tensor,
    time: Tensor,
    in_episode: Tensor | None = None,
    given: Tensor | None = None,
) -> Tensor:
    """Loss per row, averaged over draws, chunk and action dimensions.

    LeRobot's dataset marks the actions of a chunk that lie past the episode's end (`action_is_pad`), and its
    loss leaves them out; pass `in_episode` for the same. LeRobot's mean over a batch then weighs each row by
    its number of actions that count.

    Args:
        state: (B, state dim) normalised.
        action: (B, chunk, action dim) normalised.
        noise: (B, draws, chunk, padded action dim) standard normal.
        time: (B, draws) in (0, 1]; 1 is pure noise.
        in_episode: (B, chunk) bool, the actions that count, the first ones and at least one in each row;
            None: all.
        given: (B, draws) int below the chunk: so many actions at the front are given without noise, and don't
            count (arXiv 2512.05964); one that counts is always left. None: none are.

    Returns:
        (B,) float32, with gradient with respect to adapter and saved modules.
    """
    flow: VLAFlowMatching = policy.model
    draws, width = noise.shape[1], action.shape[-1]
    padded = policy.prepare_action({"action": action}).repeat_interleave(draws, 0)
    cache, valid = _with_state(policy, prefix, policy.prepare_state({"observation.state": state}))
    if draws > 1:
        cache.batch_repeat_interleave(draws)  # differentiable: the draws' gradients add up
        valid = valid.repeat_interleave(draws, 0)
    flat_noise, flat_time = noise.flatten(0, 1), time.flatten()
    counts = None if in_episode is None else in_episode.repeat_interleave(draws, 0)
    if given is None:
        t = flat_time[:, None, None]
        predicted = flow.denoise_step(valid, cache, t * flat_noise + (1 - t) * padded, flat_time)
    else:
        counts, times = _without(given.flatten(), counts, flat_time, padded.shape[1])
        t = times[..., None]
        predicted = velocity(flow, valid, cache, t * flat_noise + (1 - t) * padded, times)
    squared = F.mse_loss(flat_noise - padded, predicted.float(), reduction="none")[..., :width]
    if counts is None:
        per_draw = squared.mean(dim=(1, 2))
    else:
        share = counts / counts.sum(1, keepdim=True)
        per_draw = (squared.mean(2) * share).sum(1)
    return per_draw.unflatten(0, (-1, draws)).mean(1)


@torch.no_grad()
def sample_actions(policy: SmolVLAPolicy, prefix: Prefix, state: Tensor, noise: Tensor) -> Tensor:
    """The chunk that the policy would execute: LeRobot's own denoising, from the stored prefix.

    Args:
        state: (B, state dim) normalised.
        noise: (B, chunk, padded action dim) standard normal.

    Returns:
        (B, chunk, action dim) normalised, float32.
    """
    flow: VLAFlowMatching = policy.model
    cache, valid = _with_state(policy, prefix, policy.prepare_state({"observation.state": state}))
    actions = euler_integrate(
        lambda x, time: flow.denoise_step(valid, cache, x, time), noise, flow.config.num_steps
    )
    return actions[..., : policy.config.action_feature.shape[0]]


def draw(policy: SmolVLAPolicy, rows: int, draws: int) -> tuple[Tensor, Tensor]:
    """Noise (rows, draws, chunk, padded action dim) and time (rows, draws) from LeRobot's own distributions.

    Uses torch's global generator on the CPU: seed it to repeat a draw.
    """
    flow: VLAFlowMatching = policy.model
    noise = torch.randn(rows, draws, flow.config.chunk_size, flow.config.max_action_dim)
    time = flow.sample_time(rows * draws, torch.device("cpu")).reshape(rows, draws)
    return noise, time


def draw_given(rows: int, draws: int, most: int, seed: int) -> Tensor:
    """(rows, draws) int64, uniform in 0..`most`, on the CPU: how many actions each draw is given."""
    return torch.randint(most + 1, (rows, draws), generator=torch.Generator().manual_seed(seed))


def _without(given: Tensor, counts: Tensor | None, time: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """(which actions count, flow time of each action), both (N, chunk), of draws that are given actions.

    Args:
        given, time: (N,).
        counts: (N, chunk) bool, the actions that would count if none were given; None: all.
    """
    places = torch.arange(chunk, device=time.device)
    if counts is None:
        counts = torch.ones(len(time), chunk, dtype=torch.bool, device=time.device)
    is_given = places < torch.minimum(given, counts.sum(1) - 1)[:, None]
    return counts & ~is_given, torch.where(is_given, 0.0, time[:, None])


def _with_state(policy: SmolVLAPolicy, prefix: Prefix, state: Tensor) -> tuple[DynamicCache, Tensor]:
    """A fresh cache around the prefix, with the state token's keys and values (with gradient) appended."""
    expert = _expert(policy)
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(zip(prefix.kv[0], prefix.kv[1], strict=True)):
        cache.update(keys, values, layer)
    valid = F.pad(prefix.valid, (0, 1), value=True)
    # With a filled cache, `forward` sends odd layers to the cross-attention branch, which needs expert
    # tokens. In "self_attn" mode every layer extends the cache, as LeRobot's own prefill does.
    mode, expert.attention_mode = expert.attention_mode, "self_attn"
    try:
        expert.forward(
            attention_mask=valid[:, None, :],
            position_ids=prefix.valid.sum(1, keepdim=True),
            past_key_values=cache,
            inputs_embeds=[policy.model.state_proj(state)[:, None, :], None],
            use_cache=True,
        )
    finally:
        expert.attention_mode = mode
    return cache, valid


def _expert(policy: SmolVLAPolicy):  # type: ignore[no-untyped-def]
    return policy.model.vlm_with_expert


@contextmanager
def _images_are_embedded(policy: SmolVLAPolicy) -> Iterator[None]:
    """Let `embed_prefix` take the vision tower's output in place of pixels."""
    expert = _expert(policy)
    expert.embed_image = lambda embedded: embedded
    try:
        yield
    finally:
        del expert.embed_image  # the class's own method shows again
