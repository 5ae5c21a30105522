"""What a workstation reports of its rollouts: labels and counts per version and task. Pure.

A report says everything up to now, from the rollouts' own records: a lost one is made up for by the next, a
repeated one changes nothing, and a label that is corrected later is corrected in the next report, too.
"""

from collections.abc import Iterable, Sequence

from agent.evaluation.rollouts import RolloutRecord
from agent.robot.safety import UNSAFE_CODES
from shared.messages import MAX_LABELS, MAX_RESULTS, FieldResult, JudgedVersion
from shared.tasks import told_task

UNSAFE = frozenset(code.name.lower() for code in UNSAFE_CODES)
"""Reasons of rollouts that the arm's own health ended, as the control loop writes them."""


def field_results(records: Iterable[RolloutRecord], judged: Sequence[JudgedVersion]) -> list[FieldResult]:
    """Results of the versions asked about, in that order; of each the task that was tried first comes first.

    A rollout that says nothing, neither labelled nor ended by an unsafe arm, nor taken over, is left out; one
    of a blinded comparison until that is over: what is reported is shown here, too. One that was taken over
    is never labelled a success (`RolloutStore.label`); one that was done again counts for nothing. Tasks of
    which the same words are told count as one.

    Args:
        records: All rollouts of this workstation.
        judged: The versions. A record's own digest, where it has one, must be that of the version.
    """
    ordered = sorted(records, key=lambda record: (record.created, record.id))
    results = []
    for version in judged:
        told: dict[str, list[RolloutRecord]] = {}
        for record in ordered:
            if _is_of(record, version) and _says_something(record) and (task := told_task(record.task)):
                told.setdefault(task, []).append(record)
        results += [_result(version.version, task, rollouts) for task, rollouts in told.items()]
    return results[:MAX_RESULTS]


def _is_of(record: RolloutRecord, version: JudgedVersion) -> bool:
    same = record.version == version.version and record.digest in (None, version.tensors_digest)
    return same and not record.blinded


def _says_something(record: RolloutRecord) -> bool:
    return record.success is not None or record.reason in UNSAFE or bool(_interventions(record))


def _interventions(record: RolloutRecord) -> int | None:
    return None if record.discarded else record.interventions


def _result(version: int, task: str, rollouts: Sequence[RolloutRecord]) -> FieldResult:
    labels = ["01"[record.success] for record in rollouts if record.success is not None]
    counted = [count for count in map(_interventions, rollouts) if count is not None]
    return FieldResult(
        version=version,
        task=task,
        labels="".join(labels[:MAX_LABELS]),
        interventions=sum(counted) if counted else None,
        unsafe=sum(record.reason in UNSAFE for record in rollouts),
    )
