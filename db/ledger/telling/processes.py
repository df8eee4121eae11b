"""`beat`, `leave`, `processes`, `living_roles`: which processes of the installation live, by what they said last in
home's ledger.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from docworker.db.models.ledger.process import PROCESSES, ProcessBeat

BEAT_SECONDS = 10.0
"""How often a process says that it lives."""
SILENT_SECONDS = 35.0
"""One that has been silent for so long is taken for dead."""
_FORGOTTEN_SECONDS = 300
NEEDED = {
    "worker": "no worker lives, so jobs are not run: start `docworker worker`",
    "dispatcher": "no dispatcher lives, so jobs are not sent: start `docworker dispatcher`",
}
"""Roles without which no job gets on, and what is said where no process of one lives."""

# It waits for nobody: a row that another one forgets just now is passed over, a locked table is given up.
_IN_PASSING = text("SELECT set_config('lock_timeout', '200ms', true), set_config('synchronous_commit', 'off', true)")
_BEAT = text(f"""
WITH silent AS MATERIALIZED (
    SELECT id FROM {PROCESSES} WHERE seen_at < clock_timestamp() - :forgotten * interval '1 second'
    ORDER BY id FOR UPDATE SKIP LOCKED
), forgotten AS (
    DELETE FROM {PROCESSES} WHERE id IN (SELECT id FROM silent) AND id <> :id
)
INSERT INTO {PROCESSES} (id, role, host, process_id, release, details)
VALUES (:id, :role, :host, :process_id, :release, CAST(:details AS jsonb))
ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp(), details = CAST(:details AS jsonb)
""")


@dataclass(frozen=True)
class Beating:
    """A run of a process, as it says who it is."""

    id: UUID
    role: str
    host: str
    process_id: int
    release: str


@dataclass(frozen=True)
class ProcessState:
    """A process as it said last; `silent_seconds` ago, by the master's clock."""

    id: UUID
    role: str
    host: str
    process_id: int
    release: str
    started_at: datetime
    silent_seconds: float
    details: dict[str, Any]

    @property
    def lives(self) -> bool:
        return self.silent_seconds < SILENT_SECONDS

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of jobs that it knows."""
        return frozenset(self.details.get("kinds") or ())


def beat(session: Session, process: Beating, details: dict[str, Any]) -> None:
    """Say that the process lives, and what it does; forget those that have long been silent. Waits for no lock."""
    session.execute(_IN_PASSING)
    session.execute(
        _BEAT,
        {
            "id": process.id,
            "role": process.role,
            "host": process.host,
            "process_id": process.process_id,
            "release": process.release,
            "details": json.dumps(details),
            "forgotten": _FORGOTTEN_SECONDS,
        },
    )


_LEAVE = text(f"DELETE FROM {PROCESSES} WHERE id = :id")


def leave(session: Session, process: Beating) -> None:
    """Say that it has ended."""
    session.execute(_IN_PASSING)
    session.execute(_LEAVE, {"id": process.id})


def living_roles(session: Session) -> frozenset[str]:
    """Of which roles a process lives, such as `worker`. For any session at home."""
    silent = func.extract("epoch", func.clock_timestamp() - ProcessBeat.seen_at)
    return frozenset(session.scalars(select(ProcessBeat.role).where(silent < SILENT_SECONDS).distinct()))


def processes(session: Session) -> Sequence[ProcessState]:
    """All that have said something within five minutes, by role and age. For the dispatcher's session at home."""
    silent = func.extract("epoch", func.clock_timestamp() - ProcessBeat.seen_at)
    rows = session.execute(
        select(ProcessBeat, silent).order_by(ProcessBeat.role, ProcessBeat.started_at, ProcessBeat.id)
    )
    return [
        ProcessState(
            id=row.id,
            role=row.role,
            host=row.host,
            process_id=row.process_id,
            release=row.release,
            started_at=row.started_at,
            silent_seconds=float(seconds),
            details=row.details if isinstance(row.details, dict) else {},
        )
        for row, seconds in rows
    ]
