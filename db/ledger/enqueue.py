"""`insert_jobs`: jobs enter the ledger by one INSERT in the producer's own transaction.

Jobs with a `unique_key` fold: while an equal one waits unclaimed, it takes the new arguments instead of a second job.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db.errors import BacklogFullError, InvalidArgumentError
from docworker.db.faults import sqlstate_of
from docworker.db.ledger.ring import ring_after_commit
from docworker.db.ledger.values import (
    MAX_ATTEMPTS,
    MAX_KEY_LENGTH,
    as_json,
    check_id,
    check_integer,
    check_kind,
    check_text,
    check_time,
)
from docworker.db.models.base import new_id
from docworker.db.models.ledger.backlog import BACKLOGS
from docworker.db.models.ledger.job import JOBS
from docworker.db.sessions.trace import current_trace

MAX_STATEMENT_BYTES = 256 * 1024 * 1024

WHEN_FULL = ": enqueue again when some of them have run, or see `docworker jobs backlogs`"
_LIMIT_EXCEEDED = "53400"

# What a job enqueues as its children was let in with it.
_INSERT = f"""
INSERT INTO {JOBS} (organization_id, id, kind, arguments, state, priority, run_at, later, unique_key,
                         attempt, max_attempts, faults, alone, dispatches, parent_id, traceparent)
SELECT :organization_id, new.id, :kind, new.arguments::jsonb, 'queued', :priority,
       coalesce(CAST(:run_at AS timestamptz), clock_timestamp()),
       coalesce(CAST(:run_at AS timestamptz) > clock_timestamp(), false), new.unique_key,
       0, :max_attempts, 0, false, 0, CAST(:parent_id AS uuid), CAST(:traceparent AS text)
FROM unnest(CAST(:ids AS uuid[]), CAST(:arguments AS text[]), CAST(:unique_keys AS text[]))
     WITH ORDINALITY AS new (id, arguments, unique_key, position)
WHERE (SELECT CASE WHEN CAST(:parent_id AS uuid) IS NULL
                    AND EXISTS (SELECT FROM {BACKLOGS} WHERE organization_id = :organization_id)
              THEN ledger.has_room(:organization_id, cardinality(CAST(:ids AS uuid[]))) ELSE true END)
ORDER BY new.position
"""
# An id that is there already is the same job, enqueued twice.
_INSERT_BY_ID = text(_INSERT + "ON CONFLICT (organization_id, id) DO NOTHING RETURNING id")
# DO NOTHING would lose the second change when the first job has just been read; a claimed job never folds. A claim
# passes over a job that is being folded into, so its message may come to nothing: then, and only if it waits at the
# broker no more, the job is overdue soon after this commits.
_INSERT_BY_KEY = text(
    _INSERT
    + """
ON CONFLICT (organization_id, kind, unique_key)
    WHERE unique_key IS NOT NULL AND claimed_at IS NULL AND state IN ('queued', 'dispatched')
DO UPDATE SET arguments = excluded.arguments,
              run_at = least(jobs.run_at, excluded.run_at),
              later = jobs.later AND excluded.later,
              priority = least(jobs.priority, excluded.priority),
              traceparent = coalesce(excluded.traceparent, jobs.traceparent),
              dispatched_lsn = NULL,
              redispatch_at = CASE WHEN jobs.state = 'dispatched'
                              THEN least(jobs.redispatch_at, clock_timestamp() + interval '1 second') END
RETURNING id, unique_key"""
)


def insert_jobs(
    session: Session,
    organization_id: UUID,
    kind: str,
    arguments: Sequence[Mapping[str, Any]],
    *,
    max_attempts: int,
    priority: int = 5,
    run_at: datetime | None = None,
    unique_keys: Sequence[str] | None = None,
    ids: Sequence[UUID] | None = None,
    parent_id: UUID | None = None,
) -> list[UUID]:
    """Enter jobs with one statement; returns their ids in the order of the call. A job that was folded gives the id of
    the job it was folded into.

    Raises InvalidArgumentError for whatever the ledger could not read back, before the server sees anything, and
    BacklogFullError where the organization has as many jobs waiting as it may: the transaction, or savepoint, is to be
    rolled back then.
    """
    rows = checked_rows(
        organization_id,
        kind,
        arguments,
        max_attempts=max_attempts,
        priority=priority,
        run_at=run_at,
        unique_keys=unique_keys,
        ids=ids,
        parent_id=parent_id,
    )
    ring_after_commit(session)
    if rows.keys is None:
        _enter(session, _INSERT_BY_ID, rows)
        return rows.ids
    id_of = {key: job_id for job_id, key in _enter(session, _INSERT_BY_KEY, rows)}
    return [id_of[key] for key in rows.keys]


def _enter(session: Session, statement: TextClause, rows: "Rows") -> Sequence[Any]:
    try:
        return session.execute(statement, rows.parameters).all()
    except DBAPIError as error:
        if sqlstate_of(error) != _LIMIT_EXCEEDED:
            raise
        raise BacklogFullError(str(error.orig).partition("\n")[0] + WHEN_FULL) from error


class Rows(NamedTuple):
    """Jobs that the ledger could read back: `parameters` of the statement that enters them, their ids in the order of
    the call, and the keys that they fold by."""

    parameters: dict[str, Any]
    ids: list[UUID]
    keys: list[str] | None


def checked_rows(
    organization_id: UUID,
    kind: str,
    arguments: Sequence[Mapping[str, Any]],
    *,
    max_attempts: int,
    priority: int = 5,
    run_at: datetime | None = None,
    unique_keys: Sequence[str] | None = None,
    ids: Sequence[UUID] | None = None,
    parent_id: UUID | None = None,
) -> Rows:
    """Raises InvalidArgumentError, as `insert_jobs`."""
    rows_of = [as_json(one, f"arguments{_at(number, len(arguments))}") for number, one in enumerate(arguments)]
    _check_size(rows_of)
    keys = (
        None if unique_keys is None else [check_text("a unique_key", key, most=MAX_KEY_LENGTH) for key in unique_keys]
    )
    known_ids = [new_id() for _ in rows_of] if ids is None else [check_id("id", one) for one in ids]
    for name, given in (("unique_keys", keys), ("ids", known_ids)):
        if given is not None and len(given) != len(rows_of):
            raise InvalidArgumentError(f"{len(given)} {name} for {len(rows_of)} jobs: give one for each")
    chosen: list[tuple[UUID, str, str | None]]
    if keys is None:
        chosen = sorted((one, row, None) for one, row in _distinct(known_ids, rows_of).items())
    else:
        last_of_each_key = {key: (one, row, key) for one, row, key in zip(known_ids, rows_of, keys, strict=True)}
        # So that two producers that fold the same keys never wait for each other in a circle.
        chosen = sorted(last_of_each_key.values(), key=lambda row: str(row[2]))
    parameters = {
        "organization_id": check_id("organization_id", organization_id),
        "kind": check_kind(kind),
        "priority": check_integer("priority", priority, 0, 9, " (first)"),
        "run_at": None if run_at is None else check_time("run_at", run_at),
        "max_attempts": check_integer("max_attempts", max_attempts, 1, MAX_ATTEMPTS),
        "parent_id": None if parent_id is None else check_id("parent_id", parent_id),
        "traceparent": current_trace(),
        "ids": [row[0] for row in chosen],
        "arguments": [row[1] for row in chosen],
        "unique_keys": [row[2] for row in chosen],
    }
    return Rows(parameters, known_ids, keys)


def _at(number: int, of: int) -> str:
    return f" of job {number}" if of > 1 else ""


def _check_size(rows: Sequence[str]) -> None:
    """One statement carries them all; the limit of a single job holds for each."""
    total = sum(map(len, rows))
    if total > MAX_STATEMENT_BYTES:
        raise InvalidArgumentError(
            f"the arguments of {len(rows)} jobs have {total} characters together, the most is {MAX_STATEMENT_BYTES}: "
            "enqueue them in several calls"
        )


def _distinct(ids: Sequence[UUID], rows: Sequence[str]) -> dict[UUID, str]:
    """An id given twice with the same arguments is one job; with others, one of them would be lost unsaid."""
    chosen: dict[UUID, str] = {}
    for one, row in zip(ids, rows, strict=True):
        if chosen.setdefault(one, row) != row:
            raise InvalidArgumentError(f"id {one} is given twice with different arguments: an id names one job")
    return chosen
