"""SmolVLA's layers for inference: the same arithmetic as in LeRobot and transformers, from the live modules.

Nothing here lives longer than a chunk: each reads the live modules anew, so that an adapter swapped in place
is seen at once. Where a module's class is known, its tensors are computed with; otherwise it is called.
Gradients are not asked for.

Shapes: B rows, n tokens, H heads, K key-value heads, D head size; float32, or bfloat16 for all alike.
"""

from typing import Any

import torch
import torch.nn.functional as F
from lerobot.policies.smolvla.smolvlm_with_expert import apply_rope
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this torch was built with oneDNN, and shows its matrix product with unpacked weights."""


class Product:
    """`module(x)` for a linear layer, with or without LoRA, or a copy of one that an adapter trained.

    torch multiplies float32 matrices by MKL on a CPU; oneDNN, in the same torch, takes a tenth less time for
    those of the vision tower (AMD EPYC with AVX-512; docs/inference.md). Over a base in 16 bits an adapter is
    float32: its matrices are rounded here, each by itself, since merged into the base's they would be lost
    in its rounding.

    Args:
        module: The layer; of a class that is not known here, it computes itself.
        precision: Of what it will be called with.
    """

    def __init__(self, module: nn.Module, precision: torch.dtype) -> None:
        if isinstance(module, ModulesToSaveWrapper) and not module.disable_adapters:
            module = module.modules_to_save[module.active_adapters[0]]
        self._low: tuple[Tensor, Tensor, float] | None = None
        if isinstance(module, LoraLinear) and _plain(module):
            name = module.active_adapters[0]
            down, up = _weight(module.lora_A[name]), _weight(module.lora_B[name])
            self._low = down.to(precision), up.to(precision).t(), module.scaling[name]
            module = module.base_layer
        self._module: Any = module
        weight = getattr(module, "weight", None)
        on_cpu = weight is not None and weight.device.type == "cpu" and precision == torch.float32
        self._by_onednn = type(module) is nn.Linear and ONEDNN and on_cpu

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        if self._by_onednn:
            product = torch.ops.mkldnn._linear_pointwise
            out = product(x, self._module.weight, self._module.bias, "none", [], "")
        else:
            out = self._module(x)
        if self._low is None:
            return out
        down, up, scaling = self._low
        low = F.linear(x, down).flatten(0, -2)
        return torch.addmm(out.flatten(0, -2), low, up, alpha=scaling).view(out.shape)


def linear(module: nn.Module, x: Tensor) -> Tensor:
    """`Product` once."""
    return Product(module, x.dtype)(x)


class Layer:
    """A layer of the text model or the expert, as its tensors are now.

    Attributes:
        query, key, value: Products before attention.
    """

    def __init__(self, layer: LlamaDecoderLayer, precision: torch.dtype) -> None:
        own, self._mlp = layer.self_attn, layer.mlp
        self.query, self.key, self.value, self._out = (
            Product(module, precision) for module in (own.q_proj, own.k_proj, own.v_proj, own.o_proj)
        )
        self._norms = layer.input_layernorm, layer.post_attention_layernorm
        self._gated: list[Product] = []
        if type(layer.mlp) is LlamaMLP:
            parts = layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj
            self._gated = [Product(module, precision) for module in parts]

    def normed(self, x: Tensor) -> Tensor:
        """What its query, key and value are made from."""
        return rms_norm(self._norms[0], x)

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer, from its input `x` and what its attention gave."""
        x = x + self._out(attended)
        normed = rms_norm(self._norms[1], x)
        if not self._gated:
            return x + self._mlp(normed)
        gate, up, down = self._gated
        return x + down(self._mlp.act_fn(gate(normed)) * up(normed))


def rms_norm(module: Any, x: Tensor) -> Tensor:
    """`LlamaRMSNorm`, in one kernel where torch has one (arXiv 1910.07467)."""
    return F.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)


def split_heads(x: Tensor, size: int) -> Tensor:
    """(B, n, H * D) to (B, H, n, D), D being `size`."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, n, D) to (B, n, H * D)."""
    return x.transpose(1, 2).flatten(2)


def rope_table(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine (B, 1, n, D) of the angles of LeRobot's rotary embedding, for `rotate`.

    The angles' cosine and sine are what it makes of the vector (1, …, 1, 0, …, 0).

    Args:
        positions: (B, n).
        size: D.
    """
    unit = torch.zeros(*positions.shape, 1, size, device=positions.device)
    unit[..., : size // 2] = 1
    cosine, sine = apply_rope(unit, positions).transpose(1, 2).chunk(2, dim=-1)
    return torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) of x (B, H, n, D), as `apply_rope` does it."""
    cosine, sine = table
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, dims=-1), sine).to(x.dtype)


def additive(seen: Tensor, groups: int, precision: torch.dtype) -> Tensor | None:
    """A mask for `attend`.

    Args:
        seen: (B, n, keys) bool: which keys a query sees.
        groups: Heads per key-value head.
        precision: Of the queries.

    Returns:
        (B, 1, groups * n, keys): 0 where seen, else the least number, which is what LeRobot puts there: a
        query that sees nothing (padding) gets the mean of all, not NaN. None when everything is seen; a GPU
        is not asked, since that would wait for it.
    """
    if not seen.is_cuda and bool(seen.all()):
        return None
    mask = torch.zeros(seen.shape, dtype=precision, device=seen.device)
    mask = mask.masked_fill(~seen, torch.finfo(precision).min)
    return mask.repeat(1, groups, 1)[:, None]


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention (arXiv 2305.13245).

    The heads that share a key-value head are taken for more queries of one head: nothing is repeated.

    Args:
        query: (B, H, n, D).
        keys, values: (B, K, keys, D).
        mask: From `additive`.

    Returns:
        (B, n, H * D).
    """
    rows, heads, count, size = query.shape
    folded = query.reshape(rows, keys.shape[1], -1, size)
    out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
    return join_heads(out.reshape(rows, heads, count, size))


def patch_positions(vision: Any, image: Tensor) -> Tensor:
    """(1, patches, width): what the vision tower adds to the patches of an image of this size.

    Args:
        vision: transformers' `SmolVLMVisionTransformer`.
        image: (B, 3, height, width).
    """
    found: list[Tensor] = []
    embeddings = vision.embeddings
    hook = embeddings.position_embedding.register_forward_hook(lambda *call: found.append(call[2]))
    patches = [side // vision.patch_size for side in image.shape[-2:]]
    everything = torch.ones(1, *patches, dtype=torch.bool, device=image.device)
    try:
        embeddings(pixel_values=image[:1].to(vision.dtype), patch_attention_mask=everything)
    finally:
        hook.remove()
    return found[0]


def embed_image(vlm: Any, image: Tensor, positions: Tensor) -> Tensor:
    """The vision tower and its connector.

    Args:
        vlm: transformers' `SmolVLMModel`.
        image: (B, 3, height, width) in [-1, 1].
        positions: From `patch_positions`.

    Returns:
        (B, tokens, width of the text model).
    """
    vision = vlm.vision_model
    patches = vision.embeddings.patch_embedding(image.to(vision.dtype))
    x = patches.flatten(2).transpose(1, 2) + positions
    for layer in vision.encoder.layers:
        own, normed = layer.self_attn, layer.layer_norm1(x)
        query, keys, values = (
            split_heads(linear(projection, normed), own.head_dim)
            for projection in (own.q_proj, own.k_proj, own.v_proj)
        )
        attended = F.scaled_dot_product_attention(query, keys, values, scale=own.scale)
        x = x + linear(own.out_proj, join_heads(attended))
        wide = layer.mlp.activation_fn(linear(layer.mlp.fc1, layer.layer_norm2(x)))
        x = x + linear(layer.mlp.fc2, wide)
    return vlm.connector(vision.post_layernorm(x))


def _weight(module: nn.Module) -> Tensor:
    return module.weight  # type: ignore[return-value]


def _plain(module: LoraLinear) -> bool:
    """One active adapter of the original kind (arXiv 2106.09685), not merged; PEFT computes all others."""
    active = module.active_adapters
    usual = not module.disable_adapters and not module.merged and not module.lora_variant
    return usual and len(active) == 1 and active[0] in module.lora_A
