"""What is known about each episode of the corpus that the gate is measured on: `corpus.json`.

Written by the generator (`tests/corpus`), read by `benchmarks.bench_gate`.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

FILE = "corpus.json"

Severity = Literal["subtle", "plain", "blatant"]


class Case(BaseModel):
    """One call of the gate and what should come of it.

    Attributes:
        name: Unique, and the folder's name.
        kind: Of a class of defects or "sound".
        defect: The class, or the oddity of a sound one.
        severity: None for a sound one.
        about: What was done, in the order of the severities.
        paths: Dataset folders of one `armfleet gate` call, relative to corpus.json, in this order. With more
            than one, the defect is found when any of their lines names it, and a sound case is refused when
            any of them is.
        history: Folder of sound companion episodes to be given with --history, or None.
        fits: Prefixes of the check ids that name the defect rightly.
        trim: Training can cut the defect off: a note with a fitting id is enough.
        origin: Where the motion comes from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["defect", "sound"]
    defect: str
    severity: Severity | None = None
    about: str
    paths: list[str]
    history: str | None = None
    fits: list[str] = []
    trim: bool = False
    origin: str


class Corpus(BaseModel):
    """All cases of one run of the generator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    seed: int
    motion: Literal["real traces", "model"]
    cases: list[Case]


def read_corpus(folder: Path) -> Corpus:
    """The ground truth of a corpus.

    Raises:
        OSError, pydantic.ValidationError: there is none.
    """
    return Corpus.model_validate_json((folder / FILE).read_bytes())
