"""What of the policy trains: `trainable_params.json` in the training folder."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from shared.files import write_atomic

FILE = "trainable_params.json"


def number_of(parameters: Mapping[str, nn.Parameter]) -> int:
    """Numbers in `parameters`."""
    return sum(parameter.numel() for parameter in parameters.values())


def write_trainable(folder: Path, trained: Mapping[str, nn.Parameter], model: nn.Module) -> None:
    """Replace the file: shape and count of each trained tensor, and their share of all of `model`.

    Args:
        trained: Under the names that an adapter's file has.
        model: The policy with its adapter; a module that is saved whole counts twice, frozen and trained.
    """
    trainable, total = number_of(trained), sum(parameter.numel() for parameter in model.parameters())
    described = {
        "trainable": trainable,
        "total": total,
        "share": trainable / total,
        "tensors": {name: {"shape": list(p.shape), "count": p.numel()} for name, p in trained.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / FILE, json.dumps(described, indent=1) + "\n")
