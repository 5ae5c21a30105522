"""The story of `make soak-episodes`: what is done next, what follows a kill, what must then be true."""

import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.episodes.record import Label
from agent.episodes.trash import id_of, thrown_away
from agent.room import next_episode
from benchmarks.soak.checks import (
    LISTED,
    TRASHED,
    Doing,
    Ledger,
    left_over,
    loads,
    seen,
    start_up,
    whole,
)
from benchmarks.soak.kills import End, Forge, Prepare, StepFailed
from benchmarks.soak.steps import IMPORTED, Workplace

STEPS = ("record", "save", "gate", "build", "import", "label", "delete", "purge")
OPEN_EVERY = 20
"""Kills after which stock LeRobot opens what is new."""
NEWEST = 3
"""Undisturbed runs of which a step's usual length is the median: what it depends on changes."""
FORGOTTEN = 2
SPARE = 4
"""Admitted episodes that are never deleted."""


class Soak:
    """One soak.

    Args:
        place: What the steps work on.
        forge: Makes the children.
        seed: Of all that is drawn.
        say: Shows a sentence.
    """

    def __init__(self, place: Workplace, forge: Forge, seed: int, say: Callable[[str], None]) -> None:
        self.place, self.forge, self.say = place, forge, say
        self.ledger = Ledger()
        self.at_random: Counter[str] = Counter()
        self.at_calls: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lengths: dict[str, list[float]] = {}
        self._unopened: set[str] = set()
        self.opened = 0
        """Datasets that stock LeRobot opened, some of them again and again."""
        self._source: Path | None = None
        self._number = seed * 1_000_000
        """Of the next demonstration."""

    @property
    def kills(self) -> int:
        """That counted."""
        return self.at_random.total() + self.at_calls.total()

    # ------------------------------------------------------------------ the story

    def warm_up(self) -> None:
        """Every step once undisturbed, to know how long it takes."""
        for _ in range(SPARE):
            self.complete("save")
        for kind in ("record", "gate", "build", "import", "label", "delete", "purge"):
            self.complete(kind)

    def strike(self, kind: str) -> bool:
        """A kill at a random moment; whether it fell into the step."""
        prepare, doing = self._step(kind)
        after_s = self._random.random() * statistics.median(self._lengths[kind][-NEWEST:])
        end = self.forge.kill(prepare, after_s)
        self.at_random[kind] += end.inside
        if not end.inside:
            self._lengths[kind].append(end.seconds)
        self._after(end, doing)
        return end.inside

    def strike_at(self, kind: str, call: int) -> bool:
        """A kill right after a file call; false when the step makes fewer and so ended."""
        if kind == "build":  # else there is nothing to compute for it
            self._forget_features()
        prepare, doing = self._step(kind)
        end = self.forge.kill_at(prepare, call)
        self.at_calls[kind] += end.inside
        self._after(end, doing)
        return end.inside

    def complete(self, kind: str) -> None:
        """A step undisturbed, and what must be true then."""
        prepare, doing = self._step(kind)
        end = self.forge.run(prepare)
        self._lengths.setdefault(kind, []).append(end.seconds)
        self._look(doing)
        self._ended(kind, end.value)

    def finish(self) -> None:
        """Whatever was interrupted is done in the end, and everything is opened."""
        if self._source is not None:
            self.complete("import")
        for kind in ("gate", "build"):
            self.complete(kind)
        self._check(sorted(self._listed()))
        self._unopened = set(self.ledger.known)
        self._open()

    # ------------------------------------------------------------------ one step

    def _step(self, kind: str) -> tuple[Prepare, Doing]:
        """A step that can be done now; makes what it needs first."""
        place = self.place
        if kind in ("record", "save"):
            self._number += 1
            episode_id = next_episode(place.episodes)
            make = place.record if kind == "record" else place.save
            return make(episode_id, self._number), Doing(kind, (episode_id,))
        if kind == "gate":
            if not self.ledger.of("unjudged"):
                self.complete("save")
            waiting = self.ledger.of("unjudged")
            return place.gate(waiting), Doing(kind, tuple(waiting))
        if kind == "import":
            return place.bring_in(self._dataset()), Doing(kind)
        if kind == "build":
            return place.build(), Doing(kind)
        return self._change(kind)

    def _change(self, kind: str) -> tuple[Prepare, Doing]:
        """What operators do with an admitted episode."""
        while len(self.ledger.of("admitted")) <= SPARE:
            self.complete("gate")
        chosen = self._random.choice(self.ledger.of("admitted"))
        if kind == "label":
            few = len(self.ledger.training()) <= SPARE // 2
            labels: list[Label | None] = ["success", None] if few else ["success", "failure", None]
            label = self._random.choice([x for x in labels if x != self.ledger.known[chosen].label])
            return self.place.label(chosen, label), Doing(kind, (chosen,), label)
        trash = self.ledger.of("admitted", TRASHED)
        if kind == "purge" and trash and self._random.random() < 0.7:
            chosen = self._random.choice(trash)
        return self.place.delete(chosen, for_good=kind == "purge"), Doing(kind, (chosen,))

    def _dataset(self) -> Path:
        """The dataset that is being imported; a new one when the last is all there."""
        if self._source is None:
            self._source = self.place.sources / f"set-{self._number}"
            self.forge.run(self.place.make_source(self._source, self._number + 1))
            self._number += IMPORTED
        return self._source

    def _after(self, end: End, doing: Doing) -> None:
        """What follows an attempt: the look, and often the same step again."""
        self._look(doing)
        if not end.inside:
            self._ended(doing.kind, end.value)
        elif doing.kind in ("gate", "build", "import") and self._random.random() < 0.5:
            self.complete(doing.kind)
        if end.inside and self.kills % OPEN_EVERY == 0:
            self._open()

    def _look(self, doing: Doing) -> None:
        before = len(self.ledger.findings.all())
        sight = seen(self.forge.run(start_up(self.place)).value)
        fresh = self.ledger.compare(sight, doing)
        self._check(fresh)
        self._unopened = (self._unopened | set(fresh)) & set(self.ledger.known)
        for line in self.ledger.findings.all()[before:]:
            self.say(line)

    def _ended(self, kind: str, value: Any) -> None:
        """What must be true after a step that was not disturbed."""
        wrong = ""
        if kind == "gate":
            for verdict in ("unjudged", "quarantined", "undecidable"):
                self.ledger.note_broken(self.ledger.of(verdict), f"sound, and {verdict}")
        if kind == "build":
            if sorted(value) != self.ledger.training():
                wrong = f"the training set is {value}, not {self.ledger.training()}"
            self.ledger.findings.left_over += self._litter()
        if kind == "import":
            ids = [episode_id for some in value.values() for episode_id in some]
            source, self._source = self._source, None
            if len(set(ids)) != len(ids) or set(ids) - self.ledger.known.keys() or "failed" in value:
                wrong = f"the import of {source} gave {value}"
        if wrong:
            raise StepFailed(wrong)

    def _litter(self) -> list[str]:
        left = left_over(self.place.config.training_dir)
        return [f"{name} after a training set was built" for name in left]

    def _listed(self) -> set[str]:
        return {i for i, known in self.ledger.known.items() if known.place == LISTED}

    def _forget_features(self) -> None:
        """Remove what the trainer keeps of a few episodes."""
        kept = sorted(self.place.config.training_dir.glob("*/*.npy"))
        for path in self._random.sample(kept, min(FORGOTTEN, len(kept))):
            path.unlink()

    def _check(self, ids: Sequence[str]) -> None:
        """Read episodes to the last picture."""
        faults = self.forge.run(whole(self.place, ids)).value if ids else {}
        for episode_id, why in faults.items():
            self.ledger.note_broken([episode_id], why)

    def _open(self) -> None:
        """Open with stock LeRobot what it has not opened yet."""
        folders = {i: self.place.episodes / i for i in self._listed()}
        folders |= {id_of(folder): folder for folder in thrown_away(self.place.episodes)}
        wanted = {i: folder for i, folder in folders.items() if i in self._unopened}
        faults = self.forge.run(loads(self.place, wanted)).value
        self.ledger.findings.unloadable += [f"{i}: {why}" for i, why in faults.items()]
        self.opened += len(wanted)
        self._unopened = set()
