"""The quality gate: nothing bad gets in, nothing good is kept out.

    armfleet gate PATH… [--history DIR] [--json]

Each PATH is a LeRobot v3 dataset folder, or a folder of such; one line per episode. Exit status 0 when all
could be judged. Free of torch and LeRobot: under a second of one core for an episode of 12 s and two cameras.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from agent.episodes.checks.evidence import Evidence
from agent.episodes.checks.registry import RULES, Finding, Rule, found_by_reading
from agent.episodes.dataset import Broken, EpisodeData, scan
from agent.episodes.history import History, Signature, datasets_below, read_history
from agent.episodes.record import Reason, Verdict
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

PAIRED = (
    "coupling.",
    "motion.",
    "values.unit",
    "values.beyond",
    "values.pose",
    "identity.dup",
    "identity.near",
)
"""Checks that need state and action of one shape."""
FAILED = "gate.failed"
found_by_reading(
    FAILED,
    "A check itself failed.",
    "That is a defect of armfleet; nothing passes for it.",
    do="Report it with the log.",
    outcome="undecidable",
)


@dataclass(frozen=True)
class Judgement:
    """What the gate says about one episode.

    Attributes:
        path: The dataset folder.
        episode: Its number there, or None when the folder could not be read.
        verdict: "admitted", "quarantined" or "undecidable" (the evidence is missing).
        reasons: Why not admitted.
        notes: What was seen besides, and is no reason.
        signature: What later episodes are compared with; None where there is none.
    """

    path: Path
    episode: int | None
    verdict: Verdict
    reasons: list[Reason]
    notes: list[Reason]
    signature: Signature | None = None

    def to_dict(self) -> dict[str, object]:
        """The line printed with --json."""
        return {
            "path": str(self.path),
            "episode": self.episode,
            "verdict": self.verdict,
            "reasons": [reason.model_dump() for reason in self.reasons],
            "notes": [note.model_dump() for note in self.notes],
        }


def judge_data(
    episode: EpisodeData,
    history: History | None = None,
    earlier: Sequence[Signature] = (),
    thresholds: Mapping[str, float] | None = None,
) -> Judgement:
    """Run every check on one episode. Pure.

    Args:
        history: Sound episodes of the same workstation.
        earlier: Signatures of the episodes judged before it in the same call.
        thresholds: By check id, in place of the defaults.
    """
    evidence = Evidence(episode, history, tuple(earlier))
    found: dict[str, list[Reason]] = {"quarantined": [], "noted": [], "undecidable": []}
    for rule in RULES.values():
        if _applies(rule, episode):
            outcome, reasons = _run(rule, evidence, thresholds or {})
            found[outcome] += reasons
    verdict: Verdict = "admitted"
    if found["quarantined"]:
        verdict = "quarantined"
    elif found["undecidable"]:
        verdict = "undecidable"
    reasons = found["quarantined"] + found["undecidable"]
    return Judgement(episode.path, episode.index, verdict, reasons, found["noted"], evidence.signature)


def judge(
    paths: Iterable[Path],
    history: History | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> Iterator[Judgement]:
    """Judge all episodes of all dataset folders, each also against those before it.

    An episode that can't be read is quarantined, a folder that is not there undecidable; the others are
    judged all the same.
    """
    earlier: list[Signature] = []
    for path in paths:
        for folder in _datasets(path):
            if not folder.is_dir():
                yield _broken(folder, Broken(None, "container.missing", f"{folder} is no folder"))
                continue
            for found in scan(folder):
                if isinstance(found, Broken):
                    yield _broken(folder, found)
                    continue
                judgement = judge_data(found, history, earlier, thresholds)
                if judgement.signature is not None:
                    earlier.append(judgement.signature)
                yield judgement


def run(
    paths: Sequence[Path],
    history: Path | None = None,
    as_json: bool = False,
    thresholds: Mapping[str, float] | None = None,
) -> int:
    """What `armfleet gate` does; the exit status.

    Raises:
        ArmfleetError: CONFIG_INVALID: a threshold of a check that does not exist, or no history where one was
        named.
    """
    unknown = sorted(set(thresholds or {}) - set(RULES))
    if unknown:
        raise ArmfleetError(
            f"there is no check called {', '.join(unknown)}",
            kept="nothing was judged",
            do="see docs/gate.md for the list",
            code=ExitCode.CONFIG_INVALID,
        )
    known = None if history is None else read_history(history)
    if known is not None and not known.episodes:
        raise ArmfleetError(
            f"there is no readable LeRobot v3 dataset in {history}",
            kept="nothing was judged",
            do="name a dataset folder, or a folder of dataset folders",
            code=ExitCode.CONFIG_INVALID,
        )
    undecided = False
    for judgement in judge(paths, known, thresholds):
        undecided |= judgement.verdict == "undecidable"
        print(json.dumps(judgement.to_dict()) if as_json else _text(judgement), flush=True)
    return int(ExitCode.EPISODE_DAMAGED if undecided else ExitCode.OK)


def _datasets(path: Path) -> list[Path]:
    """The folder itself, or the dataset folders in it."""
    if not path.is_dir() or any((path / part).exists() for part in ("meta", "data", "videos")):
        return [path]
    return datasets_below(path) or [path]


def _applies(rule: Rule, episode: EpisodeData) -> bool:
    if not len(episode.state):
        return rule.id.startswith(("container.", "identity.task", "video.missing", "video.corrupt"))
    return episode.state.shape == episode.action.shape or not rule.id.startswith(PAIRED)


def _run(rule: Rule, evidence: Evidence, thresholds: Mapping[str, float]) -> tuple[str, list[Reason]]:
    try:
        return rule.outcome, rule.reasons(evidence, thresholds)
    except Exception as error:  # a check that fails must not let an episode pass, nor hold up the others
        logger.exception("check {} failed on {}", rule.id, evidence.episode.path)
        message = f"the check {rule.id} failed: {type(error).__name__}: {error}"
        return "undecidable", [Reason(check=FAILED, value=None, threshold=None, message=message)]


def _broken(folder: Path, broken: Broken) -> Judgement:
    rule = RULES[broken.check]
    undecidable = broken.undecidable or rule.outcome == "undecidable"
    reason = rule.reason(Finding(broken.message))
    return Judgement(folder, broken.episode, "undecidable" if undecidable else "quarantined", [reason], [])


def _text(judgement: Judgement) -> str:
    findings = [f"    {r.check}: {r.message}" for r in judgement.reasons]
    findings += [f"    note {n.check}: {n.message}" for n in judgement.notes]
    episode = "" if judgement.episode is None else f" episode {judgement.episode}"
    return "\n".join([f"{judgement.path}{episode}: {judgement.verdict}", *findings])
