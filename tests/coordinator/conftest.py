"""A tiny fleet: two small tensors stand for an adapter, and nothing needs torch."""

import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coordinator.config import CoordinatorConfig
from coordinator.enrolment.setup import init
from shared.adapters import Tensors, write_adapter
from shared.codec import encode
from shared.files import sha256
from shared.messages import UpdateHeader
from shared.recipe import Codec

BASE = "ba5e" * 16
LIKE = {"base_model.model.m.lora_A.weight": (4, 8), "base_model.model.m.lora_B.weight": (8, 4)}


@pytest.fixture
def tensors() -> Tensors:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in LIKE.items()}


@pytest.fixture
def config(tmp_path: Path) -> CoordinatorConfig:
    return CoordinatorConfig.model_validate(
        {
            "coordinator": {
                "name": "lab",
                "state_dir": tmp_path / "state",
                "socket": tmp_path / "c.sock",
                "enrol_socket": tmp_path / "e.sock",
            },
            "policy": {"base": "unused"},
            "public": {"url": "https://robots.example:443"},
            "aggregation": {"buffer_size": 2, "max_wait_s": 60, "rounds": 10},
            "evaluation": {
                "every": 2,
                "rollouts": 4,
                "tasks": [{"verb": "push_left", "color": "red"}, {"verb": "pull", "color": "blue"}],
                "unseen": [{"verb": "push_left", "color": "blue"}],
            },
            "promotion": {"rule": "mean"},
        }
    )


@pytest.fixture
def adapter(tmp_path: Path, tensors: Tensors) -> Path:
    folder = tmp_path / "first"
    folder.mkdir()
    write_adapter(folder, tensors, {"peft_type": "LORA", "r": 4}, None)
    return folder


@pytest.fixture
def fleet(config: CoordinatorConfig, adapter: Path) -> CoordinatorConfig:
    """The configuration of a fleet that `init` has made."""
    init(config, adapter, BASE)
    return config


@pytest.fixture
def make_update() -> Callable[..., tuple[UpdateHeader, bytes]]:
    def make(
        node: str = "arm-a",
        base_version: int = 0,
        value: float = 0.5,
        seed: int | None = None,
        shapes: dict[str, tuple[int, ...]] | None = None,
        codec: Codec = "fp16-zstd",
        **changes: object,
    ) -> tuple[UpdateHeader, bytes]:
        rng = np.random.default_rng(seed)
        delta = {
            name: (np.full(shape, value) if seed is None else rng.normal(size=shape)).astype(np.float32)
            for name, shape in (shapes or LIKE).items()
        }
        data = encode(delta, codec)
        fields = {
            "id": uuid.uuid4().hex,
            "node": node,
            "base_version": base_version,
            "base_digest": BASE,
            "sha256": sha256(data),
            "codec": codec,
            "examples": 100,
            "steps": 8,
        }
        return UpdateHeader.model_validate({**fields, **changes}), data

    return make
