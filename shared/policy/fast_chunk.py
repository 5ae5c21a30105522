"""SmolVLA's action chunk without what LeRobot's inference computes again and again; the same actions.

LeRobot's denoising step extends a cache of the prefix's keys and values and crops it again, projects the
prefix anew for the expert's cross-attention, and makes masks and rotary angles anew, ten times per chunk
(LeRobot issue 4633). Here, once per chunk:

    images, sentence, state ─▶ vision tower, text model ─▶ keys and values of each layer ─▶ a static cache
        cross-attention layers:  the expert's projections of them
        self-attention layers:   themselves, with room for those of the actions, overwritten at each step

Left out besides, because nothing reads it: cameras that are masked in all rows, on a CPU padding tokens, and
the text model's last layer after its keys and values. On a GPU both halves, all before the cache and one
step after it, are recorded as CUDA graphs for a robot's single row: a chunk of small operations takes as long
as their launches otherwise. LeRobot's Euler integration, its guidance (RTC) and prefix conditioning go on
around it. LeRobot is unmodified, and computes itself whatever `obstacle` names. SmolVLA: arXiv 2506.01844.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, VLAFlowMatching
from lerobot.policies.smolvla.smolvlm_with_expert import SmolVLMWithExpertModel
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionTransformer

from shared.policy.conditioning import Velocity, continued
from shared.policy.fast_layers import (
    Layer,
    additive,
    attend,
    embed_image,
    join_heads,
    linear,
    patch_positions,
    rms_norm,
    rope_table,
    rotate,
    split_heads,
)
from shared.policy.graph import Graph

MODES = ("cross_attn", "self_attn")
PRECISIONS = ({torch.float32}, {torch.bfloat16})


def obstacle(policy: SmolVLAPolicy) -> str | None:
    """Why this policy's chunks can't be computed here, in words; None if they can."""
    flow, config = policy.model, policy.config
    if type(flow) is not VLAFlowMatching or type(flow.vlm_with_expert) is not SmolVLMWithExpertModel:
        return "its model is not LeRobot's own SmolVLA"
    both = flow.vlm_with_expert
    layers = [*both.vlm.model.text_model.layers, *both.lm_expert.layers]
    frozen = {weight.dtype for name, weight in both.named_parameters() if ".lora_" not in name}
    around = {weight.dtype for name, weight in flow.named_parameters() if "vlm_with_expert" not in name}
    reasons = {
        "it has layers that are not Llama's": any(type(layer) is not LlamaDecoderLayer for layer in layers),
        "its vision tower is not SmolVLM's": type(both.vlm.model.vision_model)
        is not SmolVLMVisionTransformer,
        "its expert has another number of layers": both.num_expert_layers != both.num_vlm_layers,
        f"its attention_mode is {config.attention_mode}": config.attention_mode not in MODES,
        "use_cache is off": not config.use_cache,
        "add_image_special_tokens is on": config.add_image_special_tokens,
        "adapt_to_pi_aloha is on": config.adapt_to_pi_aloha,
        "compile_model is on": config.compile_model,
        "its weights are of mixed precision": frozen not in PRECISIONS or around != {torch.float32},
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


@dataclass(frozen=True)
class _Prefix:
    """keys (after the rotary embedding), values: (B, K, tokens, D) of each layer; valid: (B, tokens) bool."""

    keys: list[Tensor]
    values: list[Tensor]
    valid: Tensor


class FastChunk:
    """Action chunks of a policy without an `obstacle`.

    It keeps nothing from one chunk to the next but the vision tower's position embeddings, which are frozen,
    and on a GPU the recorded graphs, which read the live weights and are made anew when those have moved.
    """

    def __init__(self, policy: SmolVLAPolicy) -> None:
        self._policy = policy
        self._positions: dict[torch.Size, Tensor] = {}
        self._recorded: _Recorded | None = None

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Tensor],
        noise: Tensor,
        inference_delay: int = 0,
        prev_chunk_left_over: Tensor | None = None,
    ) -> Tensor:
        """As `SmolVLAPolicy.predict_action_chunk`, the same up to rounding: (B, chunk, A) normalised."""
        flow: VLAFlowMatching = self._policy.model
        velocity = self._velocity(batch)
        actions = euler_integrate(
            lambda x, time: velocity(x, time[:, None].expand(x.shape[:2])),
            noise,
            flow.config.num_steps,
            rtc_processor=flow.rtc_processor,
            rtc_enabled=flow._rtc_enabled(),
            inference_delay=inference_delay,
            prev_chunk_left_over=prev_chunk_left_over,
        )
        return actions[:, :, : self._policy.config.action_feature.shape[0]]

    @torch.no_grad()
    def complete(self, batch: dict[str, Tensor], noise: Tensor, given: Tensor) -> Tensor:
        """As `shared.policy.conditioning.complete`, the same up to rounding."""
        return continued(self._velocity(batch), noise, given, self._policy.config.num_steps)

    def _velocity(self, batch: dict[str, Tensor]) -> Velocity:
        """Look once, then denoise: what the expert makes of this observation."""
        policy = self._policy.eval()
        flow: VLAFlowMatching = policy.model
        images, masks = policy.prepare_images(batch)
        seen = [(image, mask) for image, mask in zip(images, masks, strict=True) if mask.any()]
        tokens, said = batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK].bool()
        positions = [self._positions_for(image) for image, _ in seen]
        inputs = [*(image for image, _ in seen), *(mask for _, mask in seen)]
        if not tokens.is_cuda:
            used = said.any(dim=0)
            inputs += [tokens[:, used], said[:, used], policy.prepare_state(batch)]
            return _look(flow, positions, inputs)
        inputs += [tokens, said, policy.prepare_state(batch)]
        if len(tokens) > 1:
            return _look(flow, positions, inputs)
        key = _key(flow, inputs)
        if self._recorded is None or self._recorded.key != key:
            self._recorded = None  # gives its memory back
            self._recorded = _Recorded(flow, positions, inputs, key)
        return self._recorded.velocity(inputs)

    def _positions_for(self, image: Tensor) -> Tensor:
        if image.shape[1:] not in self._positions:
            vision = _vlm(self._policy.model).vision_model
            self._positions[image.shape[1:]] = patch_positions(vision, image)
        return self._positions[image.shape[1:]]


def _look(flow: VLAFlowMatching, positions: list[Tensor], inputs: list[Tensor]) -> "Denoiser":
    """inputs: the images, in which rows each counts, tokens, which of them count, state."""
    count = len(positions)
    tokens, said, state = inputs[2 * count :]
    features = [
        (embed_image(_vlm(flow), image, where), seen)
        for image, where, seen in zip(inputs[:count], positions, inputs[count : 2 * count], strict=True)
    ]
    return Denoiser(flow, encode_prefix(flow, features, tokens, said, state))


def _key(flow: VLAFlowMatching, inputs: list[Tensor]) -> tuple[object, ...]:
    """What recorded graphs depend on: shapes, and where the weights are."""
    return (*(each.shape for each in inputs), *(parameter.data_ptr() for parameter in flow.parameters()))


class _Recorded:
    """Both halves of a chunk of one row as CUDA graphs."""

    def __init__(
        self, flow: VLAFlowMatching, positions: list[Tensor], inputs: list[Tensor], key: tuple[object, ...]
    ) -> None:
        self.key = key
        self._look = Graph(lambda *given: _look(flow, positions, list(given)), inputs)
        x = torch.zeros(1, flow.config.chunk_size, flow.config.max_action_dim, device=inputs[0].device)
        self._denoise = Graph(self._look.output, [x, torch.ones_like(x[..., 0])])

    def velocity(self, inputs: list[Tensor]) -> Velocity:
        self._look(*inputs)
        return lambda x, time: self._denoise(x, time).clone()


def encode_prefix(
    flow: VLAFlowMatching,
    features: list[tuple[Tensor, Tensor]],
    tokens: Tensor,
    said: Tensor,
    state: Tensor,
) -> _Prefix:
    """Keys and values of the image, language and state tokens in every layer of the text model.

    Args:
        features: Per camera what `embed_image` gave, (B, tokens, width), and in which rows it counts, (B,).
        tokens: (B, L) token ids; said: (B, L) bool, which of them are no padding.
        state: (B, padded state dim) normalised.
    """
    text = _vlm(flow).text_model
    words = text.get_input_embeddings()(tokens)
    width = words.shape[-1]
    parts = [(image * width**0.5, seen[:, None].expand(image.shape[:2])) for image, seen in features]
    parts.append((words * width**0.5, said))
    parts.append((linear(flow.state_proj, state)[:, None].to(words.dtype), torch.ones_like(said[:, :1])))
    x, valid = (torch.cat(both, dim=1) for both in zip(*parts, strict=True))
    own = text.layers[0].self_attn
    size, groups = own.head_dim, own.num_key_value_groups
    # All tokens see each other, but the state, the last of them, is seen by itself alone.
    seen = valid[:, None, :] & valid[:, :, None]
    seen[:, :-1, -1] = False
    hidden, table = additive(seen, groups, x.dtype), rope_table(valid.cumsum(1) - 1, size)
    keys, values = [], []
    for index, layer in enumerate(Layer(each, x.dtype) for each in text.layers):
        normed = layer.normed(x)
        keys.append(rotate(split_heads(layer.key(normed), size), table))
        values.append(split_heads(layer.value(normed), size))
        if index + 1 < len(text.layers):  # of the last layer nothing else is used
            query = rotate(split_heads(layer.query(normed), size), table)
            x = layer.after_attention(x, attend(query, keys[-1], values[-1], hidden))
    return _Prefix(keys, values, valid)


class Denoiser:
    """The action expert on one prefix: LeRobot's `denoise_step` with a flow time for every action.

    Args:
        flow: The policy's model.
        prefix: From `encode_prefix`.
    """

    def __init__(self, flow: VLAFlowMatching, prefix: _Prefix) -> None:
        self._flow, expert = flow, flow.vlm_with_expert.lm_expert
        own = expert.layers[0].self_attn
        self._size, self._precision = own.head_dim, prefix.keys[0].dtype
        self._layers = [Layer(each, self._precision) for each in expert.layers]
        self._norm = expert.norm
        rows, length = prefix.valid.shape
        count, device = flow.config.chunk_size, prefix.valid.device
        order = torch.arange(count, device=device)[None]
        self._table = rope_table(order, self._size)
        self._own_table = rope_table(prefix.valid.sum(1, keepdim=True) + order, self._size)
        # An action sees the prefix, itself and the actions before it; in cross-attention only the prefix.
        seen = prefix.valid[:, None, :].expand(rows, count, length)
        before = torch.ones(count, count, dtype=torch.bool, device=device).tril().expand(rows, count, count)
        groups = own.num_key_value_groups
        self._mask = additive(seen, groups, self._precision)
        self._own_mask = additive(torch.cat((seen, before), dim=2), groups, self._precision)
        self._length = length
        self._cache = [
            self._cached(index, keys, values)
            for index, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True))
        ]

    @torch.no_grad()
    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """The velocity (B, chunk, padded action dim) at `x`, of the same shape, and `time` (B, chunk)."""
        flow = self._flow
        actions = linear(flow.action_in_proj, x)
        both = torch.cat((actions, self._embedded(time)), dim=2)
        x = linear(flow.action_time_mlp_out, F.silu(linear(flow.action_time_mlp_in, both)))
        x = x.to(self._precision)
        for index, layer in enumerate(self._layers):
            normed = layer.normed(x)
            query = split_heads(layer.query(normed), self._size)
            keys, values = self._cache[index]
            if self._is_own(index):
                added = rotate(split_heads(layer.key(normed), self._size), self._own_table)
                keys[:, :, self._length :] = added
                values[:, :, self._length :] = split_heads(layer.value(normed), self._size)
                attended = attend(rotate(query, self._own_table), keys, values, self._own_mask)
            else:
                attended = attend(rotate(query, self._table), keys, values, self._mask)
            x = layer.after_attention(x, attended)
        return linear(flow.action_out_proj, rms_norm(self._norm, x).float())

    def _is_own(self, index: int) -> bool:
        """Whether this layer is one of self-attention over prefix and actions, as LeRobot decides it."""
        every = self._flow.config.self_attn_every_n_layers
        return "cross" not in self._flow.config.attention_mode or (every > 0 and index % every == 0)

    def _cached(self, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What a layer attends to: of a self-attention layer with room for the actions at the end."""
        if self._is_own(index):
            room = (0, 0, 0, self._flow.config.chunk_size)
            return F.pad(keys, room), F.pad(values, room)
        layer = self._layers[index]
        projected = (
            split_heads(project(join_heads(part)), self._size)
            for project, part in ((layer.key, keys), (layer.value, values))
        )
        return tuple(part.contiguous() for part in projected)  # type: ignore[return-value]

    def _embedded(self, time: Tensor) -> Tensor:
        """(B, chunk, width) of the flow times (B, chunk)."""
        config, width = self._flow.config, self._flow.vlm_with_expert.expert_hidden_size
        embedded = create_sinusoidal_pos_embedding(
            time.flatten(), width, config.min_period, config.max_period, device=time.device
        )
        return embedded.float().view(*time.shape, width)


def _vlm(flow: VLAFlowMatching) -> Any:
    return flow.vlm_with_expert.get_vlm_model()
