"""SmolVLA's flow-matching loss with several noise draws per image, and a grounding loss beside it.

The prefix (image, sentence, state) costs most of a step, so the noisy chunks of one image ride behind one
prefix under a block-diagonal attention mask: the expectation is that of `SmolVLAPolicy.forward`, the variance
lower, the price a quarter of a batch four times as large. Without the grounding loss (where are the cubes,
where is the named one) the same steps reach 13 % on touch instead of all.
"""

from dataclasses import dataclass

import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, make_att_2d_masks
from torch import Tensor, nn
from torch.nn import functional

from sim.pretrain.vlm import HIDDEN, IMAGE_TOKENS
from sim.tasks import COLORS

_PLACE_MEAN, _PLACE_SCALE = (0.2, 0.0), (0.03, 0.06)  # m; brings cube positions to about unit variance


@dataclass(frozen=True)
class Batch:
    """Normalised training data.

    Attributes:
        images: (B, 3, 96, 96) float32 in 0..1.
        states: (B, 6); actions: (B, 8, 6); both normalised.
        tokens, token_mask: (B, 12) int64 and bool.
        acts: (B,) float32, 0 where the sentence is not the one the actions belong to (grounding only).
        targets: (B, 2) m; cubes: (B, 4, 3) m, m, presence.
    """

    images: Tensor
    states: Tensor
    actions: Tensor
    tokens: Tensor
    token_mask: Tensor
    acts: Tensor
    targets: Tensor
    cubes: Tensor


class Grounding(nn.Module):
    """Two linear heads that are thrown away after training: all cubes from the image features, the named cube
    from the last token of the VLM's prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.cubes = nn.Linear(IMAGE_TOKENS * HIDDEN, len(COLORS) * 3)
        self.target = nn.Linear(HIDDEN, 2)

    def forward(self, image_features: Tensor, last_token: Tensor, batch: Batch) -> Tensor:
        """Sum of both losses; features are (B, 16, 96) and (B, 96)."""
        guess = self.cubes(image_features.flatten(1)).view(-1, len(COLORS), 3)
        present = batch.cubes[..., 2:]
        places = ((guess[..., :2] - _normal(batch.cubes[..., :2])) ** 2 * present).sum() / present.sum() / 2
        presence = functional.binary_cross_entropy_with_logits(guess[..., 2:], present)
        named = ((self.target(last_token) - _normal(batch.targets)) ** 2).mean()
        return places + presence + named


def _normal(places: Tensor) -> Tensor:
    return (places - places.new_tensor(_PLACE_MEAN)) / places.new_tensor(_PLACE_SCALE)


def losses(
    policy: SmolVLAPolicy,
    batch: Batch,
    grounding: Grounding,
    noise: Tensor,
    time: Tensor,
) -> tuple[Tensor, Tensor]:
    """Flow-matching loss (weighted by `batch.acts`) and grounding loss.

    Args:
        noise: (B * draws, 8, A) float32, the draws of one image side by side; A is `max_action_dim`.
        time: (B * draws,) float32 in 0..1.
    """
    model, draws = policy.model, len(time) // len(batch.states)
    inputs = {
        "observation.state": batch.states,
        "action": batch.actions,
        "observation.images.front": batch.images,
    }
    images, image_masks = policy.prepare_images(inputs)
    prefix, pads, causal = model.embed_prefix(
        images, image_masks, batch.tokens, batch.token_mask, state=policy.prepare_state(inputs)
    )
    actions = policy.prepare_action(inputs).repeat_interleave(draws, 0)
    noisy = time[:, None, None] * noise + (1 - time[:, None, None]) * actions
    suffix, suffix_pads, suffix_causal = model.embed_suffix(noisy, time)
    mask, positions = _shared_prefix_mask(
        torch.cat([pads, suffix_pads[::draws]], 1),
        torch.cat([causal, suffix_causal[::draws].bool()], 1),
        prefix.shape[1],
        draws,
    )
    (prefix_out, suffix_out), _ = model.vlm_with_expert.forward(
        attention_mask=mask,
        position_ids=positions,
        past_key_values=None,
        inputs_embeds=[prefix, suffix.reshape(len(prefix), -1, suffix.shape[-1])],
        use_cache=False,
    )
    velocity = model.action_out_proj(suffix_out.float()).reshape(actions.shape)
    size = batch.actions.shape[-1]
    error = ((noise - actions - velocity)[..., :size] ** 2).mean((1, 2)).view(-1, draws).mean(1)
    flow = (error * batch.acts).sum() / batch.acts.sum().clamp_min(1)
    features = prefix[:, :IMAGE_TOKENS] / HIDDEN**0.5  # undoes embed_prefix's scaling
    return flow, grounding(features, prefix_out[:, -1], batch)


def _shared_prefix_mask(pads: Tensor, causal: Tensor, prefix: int, draws: int) -> tuple[Tensor, Tensor]:
    """Attention mask and positions of one prefix followed by `draws` chunks that do not see each other."""
    single = make_att_2d_masks(pads, causal)
    positions = torch.cumsum(pads, 1) - 1
    chunk = single.shape[1] - prefix
    length = prefix + draws * chunk
    mask = torch.zeros(len(single), length, length, dtype=torch.bool)
    mask[:, :prefix, :prefix] = single[:, :prefix, :prefix]
    for draw in range(draws):
        rows = slice(prefix + draw * chunk, prefix + (draw + 1) * chunk)
        mask[:, rows, :prefix] = single[:, prefix:, :prefix]
        mask[:, rows, rows] = single[:, prefix:, prefix:]
    return mask, torch.cat([positions[:, :prefix]] + [positions[:, prefix:]] * draws, 1)
