"""A small fleet for tests of the agent: a base of a few tensors, signed versions of it, check-ins, an
enrolment.

The coordinator's publisher signs for real, so these tests are the contract between both sides of the
exchange.
"""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from agent.exchange.enrolment import CA, SECRET, TUF_ROOT, Enrolment
from agent.exchange.enrolment import FILE as ENROLMENT
from agent.exchange.outbox import DELTA, HEADER
from coordinator.registry.targets import Offer, Publisher
from shared.adapters import Manifest, digest, pack_adapter, write_adapter
from shared.envelope import pack, unpack
from shared.files import durable_folder, sha256
from shared.messages import CheckIn, CheckInReply, Held, UpdateHeader
from shared.normalisation import Statistics
from shared.policy.digest import base_digest
from shared.recipe import Recipe

MODULE = "model.vlm_with_expert.lm_expert.layers.0.self_attn.q_proj"
PEFT = {"r": 2, "lora_alpha": 4, "peft_type": "LORA", "target_modules": ["q_proj"]}


def write_base(folder: Path, seed: int = 0) -> Path:
    """A folder that counts as a base: one projection to adapt and one module that is trained in full."""
    folder.mkdir(parents=True)
    for name in ("config.json", "policy_preprocessor.json", "policy_postprocessor.json"):
        (folder / name).write_text(json.dumps({"seed": seed}))
    weights = {
        f"{MODULE}.weight": np.full((4, 6), seed, np.float32),
        "model.action_out_proj.weight": np.zeros((3, 4), np.float32),
        "model.action_out_proj.bias": np.zeros(3, np.float32),
    }
    save_file(weights, folder / "model.safetensors")
    return folder


def make_tensors(seed: int, rank: int = 2, columns: int = 6) -> dict[str, np.ndarray]:
    """An adapter that fits `write_base` (unless `columns` says otherwise)."""
    rng = np.random.default_rng(seed)
    shapes = {
        f"base_model.model.{MODULE}.lora_A.weight": (rank, columns),
        f"base_model.model.{MODULE}.lora_B.weight": (4, rank),
        "base_model.model.model.action_out_proj.weight": (3, 4),
        "base_model.model.model.action_out_proj.bias": (3,),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@dataclass
class SmallFleet:
    """The coordinator's side, reduced to what a workstation sees of it."""

    home: Path
    name: str = "lab"
    offset: timedelta = timedelta(0)
    """Of both clocks: moves time without waiting."""
    slots: dict[str, Offer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base = write_base(self.home / "base")
        self.base_digest = base_digest(self.base)
        self.publisher = Publisher.create(self.home / "tuf", self.home / "operator" / "root.pem", self.clock)

    def clock(self) -> datetime:
        """The time, as this fleet and its workstations see it."""
        return datetime.now(UTC) + self.offset

    def offer(
        self,
        version: int,
        base_digest: str | None = None,
        normalisation: Statistics | None = None,
        seed: int | None = None,
        **shape: int,
    ) -> Offer:
        """A version, packed as the registry packs it; tensors of another `seed` than its number, if asked."""
        tensors = make_tensors(version if seed is None else seed, **shape)
        base = base_digest or self.base_digest
        manifest = Manifest(
            version=version,
            parent=None,
            base_digest=base,
            tensors_digest=digest(tensors, normalisation),
            recipe=Recipe(),
            normalisation=normalisation,
            created="2026-11-24T12:00:00Z",
        )
        folder = self.home / "packed" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        write_adapter(folder, tensors, PEFT, manifest)
        return Offer(version, manifest.tensors_digest, base, pack_adapter(folder))

    def publish(self, **slots: Offer | None) -> None:
        """Put versions into slots; None empties one."""
        for slot, offer in slots.items():
            if offer is None:
                self.slots.pop(slot, None)
            else:
                self.slots[slot] = offer
        self.publisher.publish(dict(self.slots))  # type: ignore[arg-type]

    def bundle(self, held: Held | None = None) -> dict[str, bytes]:
        """What a node that holds `held` is sent."""
        held = held or Held()
        return self.publisher.bundle_for(dict(held.tuf), held.adapters)

    def check_in(self, held: Held | None = None, **fields: object) -> bytes:
        """A check-in envelope."""
        values: dict[str, object] = {
            "id": uuid.uuid4().hex,
            "fleet": self.name,
            "sent_at": self.clock(),
            "recipe": Recipe(steps=4),
            "learning_rate": 1e-3,
            "base_digest": self.base_digest,
            **fields,
        }
        return pack(CheckIn.model_validate(values), self.bundle(held))

    def enrol(self, state_dir: Path, node: str) -> None:
        """Write the enrolment that `join` would write."""
        with durable_folder(state_dir / "enrolment") as work:
            enrolment = Enrolment(
                fleet=self.name,
                node=node,
                url="https://127.0.0.1:1",
                base_digest=self.base_digest,
                joined=datetime.now(UTC),
            )
            (work / ENROLMENT).write_text(enrolment.model_dump_json())
            (work / TUF_ROOT).write_bytes(self.publisher.root)
            (work / CA).write_text("-")
            (work / SECRET).write_text("secret")


def read_reply(data: bytes) -> tuple[CheckInReply, dict[str, bytes]]:
    """An answer as the coordinator reads it."""
    header, blobs = unpack(data)
    return CheckInReply.model_validate(header), blobs


def put_update(outbox: Path, node: str, base: str, version: int = 1, delta: bytes = b"delta") -> str:
    """Commit an update to an outbox as the trainer does; its id."""
    header = UpdateHeader(
        id=uuid.uuid4().hex,
        node=node,
        base_version=version,
        base_digest=base,
        sha256=sha256(delta),
        examples=100,
        steps=4,
        losses={"push the red cube to the left": 0.5},
    )
    outbox.mkdir(parents=True, exist_ok=True)
    with durable_folder(outbox / header.id) as work:
        (work / HEADER).write_text(header.model_dump_json())
        (work / DELTA).write_bytes(delta)
    return header.id


@pytest.fixture
def fleet(tmp_path: Path) -> SmallFleet:
    """A fleet without versions."""
    return SmallFleet(tmp_path / "fleet")


@pytest.fixture
def put(fleet: SmallFleet) -> Callable[..., str]:
    """`put(outbox, version=…)`: commit an update of the node `station-a`."""
    return lambda outbox, **kw: put_update(outbox, "station-a", fleet.base_digest, **kw)


@pytest.fixture
def reply_of() -> Callable[[bytes], tuple[CheckInReply, dict[str, bytes]]]:
    """`reply_of(data)`: an answer as the coordinator reads it."""
    return read_reply
