"""SQLite index over the folders: for questions, never the truth. Opening the registry rebuilds it."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Engine, Select, create_engine, event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    """Tables of the index."""


class NodeRow(Base):
    """An enrolled node."""

    __tablename__ = "nodes"

    name: Mapped[str] = mapped_column(primary_key=True)
    node_id: Mapped[str] = mapped_column(index=True)
    """Decimal: SQLite's integers are signed, Flower's ids are not."""
    enrolled: Mapped[datetime]


class UpdateRow(Base):
    """An update, accepted or refused."""

    __tablename__ = "updates"

    id: Mapped[str] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(index=True)
    base_version: Mapped[int] = mapped_column(index=True)
    received: Mapped[float]
    """Seconds since the epoch."""
    bytes: Mapped[int]
    refused: Mapped[str]
    """Why it is not used; empty when it is."""
    version: Mapped[int | None] = mapped_column(index=True)
    """The version it went into; None while it waits."""
    staleness: Mapped[int | None]
    measured: Mapped[dict[str, float]] = mapped_column(JSON)
    """What its header says of the version that it began from."""
    tasks: Mapped[list[str]] = mapped_column(JSON)
    """Sentences that its header names."""


class VersionRow(Base):
    """A version and what became of it."""

    __tablename__ = "versions"

    number: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[int | None]
    tensors_digest: Mapped[str]
    created: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str]


class Index:
    """Queries; every method is one short transaction and may be called from any thread."""

    def __init__(self, path: Path) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        self._engine: Engine = create_engine(f"sqlite:///{path}")
        event.listen(self._engine, "connect", _without_waiting)
        Base.metadata.create_all(self._engine)

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def fill(self, rows: Sequence[Base]) -> None:
        """Insert all rows of a new index, in one transaction: a registry may hold thousands of updates."""
        with Session(self._engine) as session, session.begin():
            session.add_all(rows)

    def put(self, rows: Sequence[Base]) -> None:
        """Insert or replace rows."""
        with Session(self._engine) as session, session.begin():
            for row in rows:
                session.merge(row)

    def assign(self, version: int, staleness: dict[str, int]) -> None:
        """Note that these updates (id: staleness) went into `version`."""
        with Session(self._engine) as session, session.begin():
            for update_id, stale in staleness.items():
                row = session.get(UpdateRow, update_id)
                if row is not None:
                    row.version, row.staleness = version, stale

    def waiting(self) -> list[UpdateRow]:
        """Accepted updates that no version contains, oldest first."""
        query = select(UpdateRow).where(UpdateRow.version.is_(None), UpdateRow.refused == "")
        return self._all(query.order_by(UpdateRow.received, UpdateRow.id))

    def set_aside(self) -> list[UpdateRow]:
        """Updates that were accepted once (so their bytes are here) and are not used, oldest first."""
        query = select(UpdateRow).where(UpdateRow.refused != "", UpdateRow.bytes > 0)
        unused = query.where(UpdateRow.version.is_(None))  # a version restored later may hold it after all
        return self._all(unused.order_by(UpdateRow.received, UpdateRow.id))

    def refuse(self, update_id: str, reason: str) -> None:
        """Note that an accepted update is not used after all."""
        with Session(self._engine) as session, session.begin():
            session.get_one(UpdateRow, update_id).refused = reason

    def began_from(self, version: int) -> list[UpdateRow]:
        """Accepted updates that began from `version`, oldest first."""
        query = select(UpdateRow).where(UpdateRow.base_version == version, UpdateRow.refused == "")
        return self._all(query.order_by(UpdateRow.received, UpdateRow.id))

    def latest_of(self, node: str, count: int) -> list[str]:
        """Ids of a node's latest updates, refused ones included, newest first."""
        query = select(UpdateRow).where(UpdateRow.node == node).order_by(UpdateRow.received.desc())
        return [row.id for row in self._all(query.limit(count))]

    def versions(self) -> list[VersionRow]:
        """All versions, ascending."""
        return self._all(select(VersionRow).order_by(VersionRow.number))

    def staleness_histogram(self) -> dict[int, int]:
        """Staleness of all updates that went into a version: number of updates per value."""
        query = select(UpdateRow.staleness, func.count()).where(UpdateRow.version.is_not(None))
        with Session(self._engine) as session:
            rows = session.execute(query.group_by(UpdateRow.staleness).order_by(UpdateRow.staleness)).all()
            return {int(stale or 0): count for stale, count in rows}

    def totals(self) -> dict[str, dict[str, int]]:
        """Updates accepted and refused, and their encoded bytes, by node."""
        query = select(
            UpdateRow.node,
            func.count(),
            func.sum(UpdateRow.bytes),
            func.sum(func.iif(UpdateRow.refused == "", 0, 1)),
        )
        with Session(self._engine) as session:
            return {
                node: {"updates": count - refused, "refused": refused, "bytes": total}
                for node, count, total, refused in session.execute(query.group_by(UpdateRow.node))
            }

    def _all[Row: Base](self, query: Select[Row]) -> list[Row]:
        with Session(self._engine, expire_on_commit=False) as session:
            rows = list(session.scalars(query))
            session.expunge_all()
            return rows


def _without_waiting(connection: Any, _record: Any) -> None:
    """Don't wait for the disk: after a power cut the next start makes the index anew."""
    connection.execute("PRAGMA synchronous=OFF")
