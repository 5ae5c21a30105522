"""The catalogue of a workstation's episodes: datasets.toml. `configs/datasets.toml` explains the format.

One entry for each workstation, task, source and status, written from the records of the store; the file is
for people and for other tools, the episodes' own files stay the truth.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import Field

from agent.episodes.record import EpisodeRecord
from shared.config import ConfigModel, load_config
from shared.files import write_atomic

FILE = "datasets.toml"
"""In [node] state_dir."""
Status = Literal["clean", "repaired", "quarantined"]


class Dataset(ConfigModel):
    """Episodes of one workstation, task, source and status."""

    workstation: str
    task: str
    source: str
    """"recorded", "intervention", or the name of the imported dataset."""
    source_digest: str = ""
    """Of the imported dataset."""
    status: Status
    episodes: int = Field(ge=1)
    frames: int = Field(ge=0)
    seconds: float = Field(ge=0)
    bytes: int = Field(ge=0)
    """On disk, pictures included."""
    train: tuple[str, ...] = ()
    eval: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """In neither: quarantined, not judged yet, or labelled a failure."""


class Catalogue(ConfigModel):
    """The whole of datasets.toml."""

    format: Literal[1] = 1
    dataset: tuple[Dataset, ...] = ()


def status_of(record: EpisodeRecord) -> Status:
    """Clean: the gate admits it as it came. Repaired: a picture stream was encoded again, or a person
    admitted it against the gate. Quarantined: all others."""
    if record.verdict != "admitted":
        return "quarantined"
    overruled = record.decision is not None and bool(record.reasons)
    return "repaired" if overruled or (record.origin and record.origin.reencoded) else "clean"


def compile_catalogue(workstation: str, records: Iterable[EpisodeRecord], store: Path) -> Catalogue:
    """The catalogue of `records`, whose folders lie in `store`."""
    groups: dict[tuple[str, str, str, Status], list[EpisodeRecord]] = {}
    for record in records:
        origin = record.origin
        source, digest = (origin.source, origin.dataset_digest) if origin else (record.kind, "")
        groups.setdefault((record.task, source, digest, status_of(record)), []).append(record)
    return Catalogue(
        dataset=tuple(
            Dataset(
                workstation=workstation,
                task=task,
                source=source,
                source_digest=digest,
                status=status,
                episodes=len(members),
                frames=sum(record.frames for record in members),
                seconds=round(sum(record.frames / record.fps for record in members), 1),
                bytes=sum(_size(store / record.id) for record in members),
                train=tuple(r.id for r in members if r.usable and r.split == "train"),
                eval=tuple(r.id for r in members if r.usable and r.split == "eval"),
                left_out=tuple(r.id for r in members if not r.usable or r.split is None),
            )
            for (task, source, digest, status), members in sorted(groups.items())
        )
    )


def write_catalogue(path: Path, workstation: str, catalogue: Catalogue) -> None:
    """Replace the entries of `workstation`, durably. Those of others in the file stay.

    Raises:
        ArmfleetError: what is there is no catalogue.
    """
    before = read_catalogue(path).dataset if path.exists() else ()
    others = [entry for entry in before if entry.workstation != workstation]
    merged = Catalogue(dataset=(*catalogue.dataset, *others))
    write_atomic(path, tomli_w.dumps(merged.model_dump(), multiline_strings=False))


def read_catalogue(path: Path) -> Catalogue:
    """Read datasets.toml.

    Raises:
        ArmfleetError: CONFIG_UNREADABLE or CONFIG_INVALID.
    """
    return load_config(path, Catalogue)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
