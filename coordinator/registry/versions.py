"""Versions as folders: a PEFT adapter, its manifest, the server's state, and what was decided about it.

    versions/000012/  adapter_config.json  adapter_model.safetensors  manifest.json   never change
                      server_state.safetensors                                        never changes
                      state.json  evaluation.json                                     replaced atomically

A version's folder appears whole or not at all. Its life:

    candidate -> promoted | rejected | superseded (overtaken before it was evaluated)
    promoted  -> superseded | rolled_back
    superseded -> promoted (the version after it was rolled back, or an operator's decision)
    rolled_back, rejected -> promoted (an operator's decision)
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from coordinator.aggregation.rule import Rule
from shared.adapters import Manifest, Tensors, pack_adapter, read_adapter, write_adapter
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import durable_folder, remove_in_progress, write_atomic

type State = Literal["candidate", "promoted", "rejected", "superseded", "rolled_back"]

NEXT: dict[str, set[str]] = {
    "candidate": {"promoted", "rejected", "superseded"},
    "promoted": {"superseded", "rolled_back"},
    "superseded": {"promoted"},
    "rolled_back": {"promoted"},
    "rejected": {"promoted"},
}


class Decision(BaseModel):
    """state.json: what became of a version, and why."""

    model_config = ConfigDict(extra="forbid")

    state: State
    reason: str
    changed: datetime
    promoted: datetime | None = None
    """When it was last promoted; kept when it no longer is."""
    rolled_back: datetime | None = None
    """When it was last rolled back; kept when an operator promotes it again."""
    rolled_back_from: int | None = None
    """Of a version that was promoted again by a roll-back: the one that was promoted before."""


class Evaluation(BaseModel):
    """evaluation.json: per task, 1 for each rollout that succeeded; rollout i of every version runs seed i.

    A task has no more rollouts than the decision needed: `seeds[: len(known[task])]` are its scenes.
    """

    model_config = ConfigDict(extra="forbid")

    known: dict[str, list[int]]
    unseen: dict[str, list[int]] = {}
    seeds: list[int]
    seconds: float
    finished: datetime


def version_folder(versions: Path, number: int) -> Path:
    """Folder of a version in the folder of all versions."""
    return versions / f"{number:06d}"


class VersionStore:
    """All versions in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.removed = remove_in_progress(folder)
        """Half-written folders of a killed process that were removed on opening."""

    def path(self, number: int) -> Path:
        """Folder of a version."""
        return version_folder(self._folder, number)

    def numbers(self) -> list[int]:
        """All versions, ascending."""
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())

    def create(
        self,
        manifest: Manifest,
        tensors: Tensors,
        peft_config: Mapping[str, Any],
        server_state: Mapping[str, np.ndarray],
        rule: Rule,
        decision: Decision,
    ) -> None:
        """Write a new version.

        Raises:
            FileExistsError: there is a version of that number.
        """
        with durable_folder(self.path(manifest.version)) as work:
            write_adapter(work, tensors, peft_config, manifest)
            metadata = {"rule": json.dumps(vars(rule), sort_keys=True)}
            write_atomic(work / "server_state.safetensors", save(dict(server_state), metadata=metadata))
            write_atomic(work / "state.json", decision.model_dump_json(indent=1) + "\n")

    def manifest(self, number: int) -> Manifest:
        """Manifest of a version; raises REGISTRY_DAMAGED when it can't be read."""
        return self._json(number, "manifest.json", Manifest)

    def adapter(self, number: int) -> tuple[Tensors, dict[str, Any]]:
        """Tensors (checked against the manifest's digest) and PEFT configuration."""
        tensors, config, _ = read_adapter(self.path(number))
        return tensors, config

    def packed(self, number: int) -> bytes:
        """The form that is signed and sent."""
        return pack_adapter(self.path(number))

    def server_state(self, number: int) -> tuple[dict[str, np.ndarray], Rule]:
        """Of the server optimiser after this version (float64, may be empty), and the version's rule."""
        file = self.path(number) / "server_state.safetensors"
        try:
            with safe_open(file, "np") as source:
                rule = Rule(**json.loads((source.metadata() or {})["rule"]))
            return load_file(file), rule
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise self._damaged(file, error) from error

    def decision(self, number: int) -> Decision:
        """Current state."""
        return self._json(number, "state.json", Decision)

    def decide(self, number: int, state: State, reason: str, rolled_back_from: int | None = None) -> None:
        """Move a version to another state; `rolled_back_from` as in `Decision`.

        Raises:
            ArmfleetError: a version in its present state can't become that.
        """
        current = self.decision(number)
        if state not in NEXT[current.state]:
            raise ArmfleetError(
                f"version {number} is {current.state} and can't become {state}",
                kept="its state",
                do="see `armfleet versions`",
            )
        now = datetime.now(UTC)
        decision = Decision(
            state=state,
            reason=reason,
            changed=now,
            promoted=now if state == "promoted" else current.promoted,
            rolled_back=now if state == "rolled_back" else current.rolled_back,
            rolled_back_from=rolled_back_from,
        )
        write_atomic(self.path(number) / "state.json", decision.model_dump_json(indent=1) + "\n")

    def evaluation(self, number: int) -> Evaluation | None:
        """Its result, None as long as there is none."""
        if not (self.path(number) / "evaluation.json").exists():
            return None
        return self._json(number, "evaluation.json", Evaluation)

    def record_evaluation(self, number: int, evaluation: Evaluation) -> None:
        """Keep a result beside the version; an earlier one is replaced."""
        write_atomic(self.path(number) / "evaluation.json", evaluation.model_dump_json(indent=1) + "\n")

    def _json[Model: BaseModel](self, number: int, name: str, model: type[Model]) -> Model:
        file = self.path(number) / name
        try:
            return model.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise self._damaged(file, error) from error

    def _damaged(self, file: Path, error: Exception) -> ArmfleetError:
        return ArmfleetError(
            f"{file} can't be read ({error})",
            kept="all other versions and all updates",
            do="restore the folder from a backup. Without one, move it and all versions after it away: they "
            "don't come back as they were. Updates that began from a version that is left go into new "
            "rounds, the others are set aside",
            code=ExitCode.REGISTRY_DAMAGED,
        )
