"""SQLite index of what the state folders hold. The folders are the truth: the index is rebuilt at every
start.

An episode's verdict and split live in its own `armfleet.json`, a rollout's result and label in its own
`rollout.json`. The index answers questions over all of them at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loguru import logger
from sqlalchemy import JSON, Engine, String, create_engine, delete, func, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from agent.episodes.record import read_record
from agent.evaluation.rollouts import FILE, RolloutRecord, RolloutStore
from shared.errors import ArmfleetError
from shared.files import IN_PROGRESS, durable_folder, write_atomic

DAMAGED = "damaged"


class Base(DeclarativeBase):
    """Tables of the index."""


class Episode(Base):
    """One row per episode folder; `record` is its `armfleet.json`."""

    __tablename__ = "episodes"

    id: Mapped[str] = mapped_column(String, primary_key=True)
    verdict: Mapped[str]
    split: Mapped[str | None]
    created: Mapped[str]
    record: Mapped[dict[str, Any]] = mapped_column(JSON)


class Rollout(Base):
    """One row per rollout folder; `record` is its `rollout.json`."""

    __tablename__ = "rollouts"

    id: Mapped[str] = mapped_column(String, primary_key=True)
    record: Mapped[dict[str, Any]] = mapped_column(JSON)


class Index:
    """Episodes and rollouts, in one SQLite file.

    Args:
        path: The file; one that can't be read is removed and rebuilt.
        episodes: Folder of episode folders.
        rollouts: Folder of rollout folders.
    """

    def __init__(self, path: Path, episodes: Path, rollouts: Path) -> None:
        self._path, self._episodes, self._rollouts = path, episodes, RolloutStore(rollouts)
        try:
            self._engine = self._open()
            self.rebuild()
        except DatabaseError as error:
            logger.warning("the index {} is damaged and is built anew ({})", path, error.orig)
            path.unlink()
            self._engine = self._open()
            self.rebuild()

    def rebuild(self) -> None:
        """Read every folder again."""
        with Session(self._engine) as session, session.begin():
            session.execute(delete(Episode))
            session.execute(delete(Rollout))
            session.add_all([_episode_row(folder) for folder in _folders(self._episodes)])
            session.add_all([_rollout_row(record) for record in self._rollouts.records()])

    def refresh_episode(self, episode_id: str) -> None:
        """Read one episode's folder again; forget it if the folder is gone."""
        if (self._episodes / episode_id).is_dir():
            self._merge(_episode_row(self._episodes / episode_id))
            return
        with Session(self._engine) as session, session.begin():
            session.execute(delete(Episode).where(Episode.id == episode_id))

    def episodes(self) -> list[dict[str, Any]]:
        """All episodes, oldest first."""
        with Session(self._engine) as session:
            rows = session.scalars(select(Episode).order_by(Episode.created, Episode.id))
            return [{**row.record, "id": row.id, "verdict": row.verdict} for row in rows]

    def episodes_named(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """As `episodes`, those of these ids that there are."""
        with Session(self._engine) as session:
            rows = session.scalars(select(Episode).where(Episode.id.in_(ids)).order_by(Episode.id))
            return [{**row.record, "id": row.id, "verdict": row.verdict} for row in rows]

    def unjudged_episodes(self) -> list[str]:
        """Episodes without a verdict: the agent ended between saving and the gate."""
        with Session(self._engine) as session:
            query = select(Episode.id).where(Episode.verdict == "unjudged").order_by(Episode.created)
            return list(session.scalars(query))

    def unknown_episodes(self) -> list[str]:
        """Episodes whose folder is there and that the index has not read yet."""
        with Session(self._engine) as session:
            known = set(session.scalars(select(Episode.id)))
        return [folder.name for folder in _folders(self._episodes) if folder.name not in known]

    def episode_counts(self) -> dict[str, int]:
        """Numbers by verdict, and the admitted ones by split."""
        with Session(self._engine) as session:
            query = select(Episode.verdict, Episode.split, func.count())
            rows = session.execute(query.group_by(Episode.verdict, Episode.split)).all()
        counts = dict.fromkeys(("admitted", "quarantined", "undecidable", "unjudged", "train", "eval"), 0)
        for verdict, split, number in rows:
            counts[verdict] = counts.get(verdict, 0) + number
            if verdict == "admitted" and split in counts:
                counts[split] += number
        return counts

    def refresh_rollout(self, rollout_id: str) -> None:
        """Read one rollout's folder again.

        Raises:
            ArmfleetError: there is none of this id, or its file is damaged.
        """
        self._merge(_rollout_row(self._rollouts.read(rollout_id)))

    def note_lost_rollout(self, record: RolloutRecord) -> None:
        """Write what is known of a rollout whose arm worker died; one that the worker wrote stays."""
        folder = self._rollouts.folder(record.id)
        if not folder.exists():
            with durable_folder(folder) as work:
                write_atomic(work / FILE, record.model_dump_json(indent=1) + "\n")
        self.refresh_rollout(record.id)

    def label_rollout(self, rollout_id: str, success: bool) -> None:
        """Keep the operator's label; a later label replaces an earlier one. Raises as `refresh_rollout`."""
        self._rollouts.label(rollout_id, success)
        self.refresh_rollout(rollout_id)

    def discard_rollout(self, rollout_id: str) -> None:
        """Take one out of the count. Raises as `refresh_rollout`."""
        self._rollouts.discard(rollout_id)
        self.refresh_rollout(rollout_id)

    def unblind_rollouts(self) -> None:
        """Show which versions ran."""
        for rollout_id in self._rollouts.unblind():
            self.refresh_rollout(rollout_id)

    def rollout(self, rollout_id: str) -> dict[str, Any] | None:
        """One finished rollout; None if there is none of that id."""
        with Session(self._engine) as session:
            row = session.get(Rollout, rollout_id)
            return dict(row.record) if row else None

    def rollouts(self) -> list[RolloutRecord]:
        """All finished rollouts."""
        with Session(self._engine) as session:
            return [RolloutRecord.model_validate(row.record) for row in session.scalars(select(Rollout))]

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def _open(self) -> Engine:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(f"sqlite:///{self._path}")
        Base.metadata.create_all(engine)
        return engine

    def _merge(self, row: Base) -> None:
        with Session(self._engine) as session, session.begin():
            session.merge(row)


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith((IN_PROGRESS, ".")))


def _episode_row(folder: Path) -> Episode:
    try:
        record = read_record(folder)
    except ArmfleetError as error:
        logger.bind(episode=folder.name).error("{}", error)
        return Episode(id=folder.name, verdict=DAMAGED, split=None, created="", record={})
    return Episode(
        id=folder.name,
        verdict=record.verdict,
        split=record.split if record.label != "failure" else None,  # no part of either any more
        created=record.created,
        record=record.model_dump(mode="json"),
    )


def _rollout_row(record: RolloutRecord) -> Rollout:
    return Rollout(id=record.id, record=record.model_dump(mode="json"))
