"""Makes the corpus: every class of defects in three severities, every oddity once, and the histories."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.gate.corpus_truth import FILE, Case, Corpus

from . import sound  # noqa: F401  registers
from .defects import folder, following, identity, moving, pictures, times, values  # noqa: F401  register
from .motion import Motion
from .registry import DEFECTS, ODDITIES, SEVERITIES, Defect, Oddity, Scene
from .scene import RIGS
from .stage import HISTORY, Studio, sidecar

HISTORIES = "history"


def build(
    out: Path,
    seed: int,
    traces: list[Motion],
    only: Callable[[str], bool] = lambda name: True,
    report: Callable[[str], None] = lambda name: None,
) -> Corpus:
    """Write the corpus to a new folder `out`; replaces what is there, in one step.

    Args:
        out: The folder.
        seed: The same seed, traces and choice give the same bytes.
        traces: Real motion; empty: the model's.
        only: Names of the cases to make.
        report: Called with each case's name before it is made.
    """
    chosen = [(name, thing, level) for name, thing, level in _all() if only(name)]
    work = out.with_name(f".inprogress-{out.name}")
    shutil.rmtree(work, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="armfleet-corpus-stock-") as stock:
        studio = Studio(Path(stock), seed, traces)
        cases = []
        for name, thing, level in chosen:
            report(name)
            cases.append(_case(work, studio, name, thing, level))
        for rig, history in enumerate(_histories()):
            if any(case.history == history for case in cases):
                report(history)
                _write_history(work / history, studio, rig)
    corpus = Corpus(seed=seed, motion="real traces" if traces else "model", cases=cases)
    (work / FILE).write_text(corpus.model_dump_json(indent=1) + "\n")
    if out.exists():
        shutil.rmtree(out)
    work.rename(out)
    return corpus


def names() -> list[str]:
    """Of all cases, in their order."""
    return [name for name, _, _ in _all()]


def _all() -> Iterator[tuple[str, Defect | Oddity, int | None]]:
    for defect in DEFECTS.values():
        for level, severity in enumerate(SEVERITIES):
            yield f"{defect.name}-{severity}", defect, level
    for oddity in ODDITIES.values():
        yield f"sound-{oddity.name}", oddity, None


def _histories() -> list[str]:
    return [f"{HISTORIES}/{rig.name}" for rig in RIGS]


def _case(work: Path, studio: Studio, name: str, thing: Defect | Oddity, level: int | None) -> Case:
    scene = Scene(studio.shot(name), level or 0, studio.rng(f"{name} itself"), studio)
    rig = RIGS.index(scene.shot.rig)
    thing.put(scene)
    paths = []
    for index, shot in enumerate([*scene.more, scene.shot]):
        path = f"episodes/{name}" if len(scene.more) == 0 else f"episodes/{name}/{index}"
        shot.develop(work / path)
        paths.append(path)
    history = None
    if scene.remember:
        history = f"{HISTORIES}/{name}"
        _write_history(work / history, studio, rig, len(scene.remember))
        for index, shot in enumerate(scene.remember):
            shot.develop(work / history / f"again-{index}")
    elif scene.history:
        history = _histories()[rig]
    fields = {"name": name, "defect": thing.name, "about": thing.about, "paths": paths, "history": history}
    if isinstance(thing, Oddity):
        return Case(kind="sound", origin=scene.shot.motion.origin, **fields)
    return Case(
        kind="defect",
        severity=SEVERITIES[level or 0],
        fits=list(thing.fits),
        trim=thing.trim,
        origin=scene.shot.motion.origin,
        **fields,
    )


def _write_history(place: Path, studio: Studio, rig: int, without: int = 0) -> None:
    """Sound companions; `without` of them are left for others."""
    for index in range(HISTORY - without):
        name = f"{RIGS[rig].name} {index}"
        shot = studio.take(f"history {name}", rig)
        shot.sidecar = sidecar(len(shot), studio.rng(f"sidecar {name}"))
        shot.develop(place / f"{index:03d}")
