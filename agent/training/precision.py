"""In which precision a training step computes: float32, or mixed with 16-bit floats on a GPU.

Mixed precision (Micikevicius et al., arXiv 1710.03740) through `torch.autocast`: matrix products run in 16
bits; the adapter, its gradient, moments and the loss stay float32. bfloat16 has float32's range.
float16 has not, so the loss is multiplied by a scale before the gradient is taken, and a step whose gradient
overflows is left out, with a smaller scale from then on.
"""

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
ScalerState = dict[str, float | int]
"""`torch.amp.GradScaler.state_dict()`; empty where nothing is scaled."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(setting: Literal["auto"] | Precision, device: str) -> Precision:
    """What `[training] precision` means on `device`: auto is bf16 on a GPU that computes in it (emulation
    does not count), fp16 on an older one, fp32 elsewhere."""
    if setting != "auto":
        return setting
    if torch.device(device).type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


class MixedPrecision:
    """Autocast and loss scale of one update.

    Args:
        device: torch device type, such as "cuda".
        precision: Of the matrix products.
        scaler: Where an earlier `state` left the scale; empty: PyTorch's first scale, 65536.
    """

    def __init__(self, device: str, precision: Precision, scaler: ScalerState) -> None:
        self._device, self._precision = device, precision
        self.scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
        """Hands everything through unchanged unless the precision is fp16."""
        if scaler:
            self.scaler.load_state_dict(scaler)

    def autocast(self) -> torch.autocast:
        """Context of the forward pass."""
        enabled = self._precision != "fp32"
        return torch.autocast(self._device, _DTYPES[self._precision], enabled=enabled)

    def state(self) -> ScalerState:
        """For the checkpoint; the scale is a power of two, which JSON keeps exactly."""
        return self.scaler.state_dict()
