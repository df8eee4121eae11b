"""`claim`, `renew`, `hand_back`: a worker takes jobs of a message, keeps them, and returns those it has not begun.

A claim counts the attempt before the work, so that a job which kills its worker uses its attempts up. Who claims gets
a fresh random token; everything written later is guarded by it.

Every statement locks its rows in id order in a CTE and changes what it has locked. Only the lock looks at the state: it
sees the row as it is then. A queue's statistics are always out of date, so the statements leave the planner one way,
the whole primary key: `id = ANY` beside each join, and `state || ''`, which no partial index matches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db import metrics
from docworker.db.cluster.positions import WalPosition
from docworker.db.models.ledger.job import JOBS
from docworker.db.sessions import TenantSession, organization_of

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Claimed:
    """A job as one attempt sees it. `queued_seconds` is the time from due to claimed."""

    organization_id: UUID
    id: UUID
    kind: str
    arguments: dict[str, Any]
    attempt: int
    max_attempts: int
    faults: int
    claim_token: UUID
    run_until: datetime
    queued_seconds: float
    parent_id: UUID | None
    cursor: dict[str, Any] | None
    traceparent: str | None = None


class ClaimKey(NamedTuple):
    """What is needed of a claim to prolong it, or to give it back."""

    organization_id: UUID
    id: UUID
    claim_token: UUID


@dataclass(frozen=True)
class Claim:
    """Jobs taken together. Who has replayed `position` sees all that was committed before these jobs were dispatched,
    and all that has been folded into them since."""

    jobs: list[Claimed]
    position: WalPosition | None


# A job set apart is claimed only by the message that carries it alone: an older message may hold it in a batch.
# A job that somebody has locked is passed over: a producer that folds into it, or an operator, may take long, and a
# worker's time is worth more. Once the lock is gone the job is dispatched again (see the fold in `db.ledger.enqueue`).
# A job knows how far the log was when it was dispatched; one that was folded into since then does not. For that one the
# log is looked at once all locks are held: nothing more can be folded in, and what was has been flushed before its lock
# was let go. No reader needs to wait for what others write meanwhile, nor for the claim itself.
_CLAIM = text(f"""
WITH wanted AS MATERIALIZED (
    SELECT id FROM {JOBS}
    WHERE organization_id = :organization_id AND id = ANY(:ids) AND kind = :kind AND state || '' = 'dispatched'
      AND (NOT alone OR message_id = :message_id) AND attempt >= 0 AND attempt < max_attempts
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
), clock AS MATERIALIZED (
    SELECT clock_timestamp() AS now, pg_current_wal_flush_lsn() - '0/0' AS flushed
    FROM (SELECT count(*) FROM wanted) AS locked
)
UPDATE {JOBS} AS job
SET state = 'running', attempt = job.attempt + 1, claim_token = gen_random_uuid(), claimed_at = clock.now,
    claimed_by = :worker, redispatch_at = NULL, dispatches = 0,
    lease_expires_at = clock.now + least(:lease, :max_run) * interval '1 second',
    run_until = clock.now + :max_run * interval '1 second'
FROM wanted, clock
WHERE job.organization_id = :organization_id AND job.id = ANY(:ids) AND job.id = wanted.id
RETURNING job.organization_id, job.id, job.kind, job.arguments, job.attempt, job.max_attempts, job.faults,
          job.claim_token, job.run_until,
          CAST(extract(epoch FROM clock.now - least(clock.now, greatest(job.run_at, '1900-01-01')))
               AS double precision) AS queued_seconds,
          job.parent_id, job.cursor, job.traceparent,
          CAST(coalesce(job.dispatched_lsn, clock.flushed) AS bigint)
""")


def claim(
    session: TenantSession,
    kind: str,
    ids: Sequence[UUID],
    *,
    message_id: UUID | None,
    worker: str,
    lease_seconds: float,
    max_run_seconds: float,
) -> Claim:
    """Take those of the jobs that are dispatched: `dispatched -> running`. A second delivery gets none."""
    parameters = {
        "organization_id": organization_of(session),
        "ids": list(ids),
        "kind": kind,
        "message_id": message_id,
        "worker": worker,
        "lease": lease_seconds,
        "max_run": max_run_seconds,
    }
    rows = session.execute(_CLAIM, parameters).all()
    order = {job_id: number for number, job_id in enumerate(ids)}
    jobs = sorted((Claimed(*row[:-1]) for row in rows), key=lambda claimed: order[claimed.id])
    unreadable = [one for one in jobs if not isinstance(one.arguments, dict)]
    if unreadable or len(rows) < len(ids):
        set_aside(session, kind, ids, unreadable)
    readable = [one for one in jobs if isinstance(one.arguments, dict)]
    position = session.position_at(max(row[-1] for row in rows)) if readable else None
    return Claim(readable, position)


_SET_ASIDE = text(f"""
WITH unrunnable AS MATERIALIZED (
    SELECT id FROM {JOBS}
    WHERE organization_id = :organization_id AND id = ANY(:ids) AND kind = :kind
      AND (state || '' = 'dispatched' AND (attempt < 0 OR attempt >= max_attempts)
           OR state || '' = 'running' AND claim_token = ANY(:tokens))
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {JOBS} AS job
SET state = 'failed', finished_at = clock_timestamp(), redispatch_at = NULL, lease_expires_at = NULL, run_until = NULL,
    error_class = 'UnreadableJob', error_traceback = NULL,
    error_message = CASE WHEN job.state = 'running'
        THEN format('its arguments are no JSON object that can be read (%s), so they were written past docworker',
                    jsonb_typeof(job.arguments))
        ELSE format('it came to be dispatched after attempt %s of %s: a state that was changed past docworker; '
                    '`docworker jobs retry` gives it all attempts anew', job.attempt, job.max_attempts) END
FROM unrunnable
WHERE job.organization_id = :organization_id AND job.id = ANY(:ids) AND job.id = unrunnable.id
RETURNING job.id, job.error_message
""")


def set_aside(session: Session, kind: str, ids: Sequence[UUID], unreadable: Sequence[Claimed]) -> None:
    """Fail, with the reason, those of a message's jobs that no worker can run. The others go on."""
    parameters = {
        "organization_id": organization_of(session),
        "ids": list(ids),
        "kind": kind,
        "tokens": [one.claim_token for one in unreadable],
    }
    for job_id, reason in session.execute(_SET_ASIDE, parameters):
        metrics.UNREADABLE_JOBS.inc()
        log.error("job.unreadable", job=str(job_id), kind=kind, reason=reason)


_UNDISPATCHED = text(f"""
SELECT count(*) FILTER (WHERE state = 'queued'), count(*) FROM {JOBS}
WHERE organization_id = :organization_id AND id = ANY(:ids)
""")


def undispatched(session: TenantSession, ids: Sequence[UUID]) -> tuple[int, int]:
    """How many of the jobs of a message wait to be dispatched, and how many are not in this ledger."""
    queued, known = session.execute(
        _UNDISPATCHED, {"organization_id": organization_of(session), "ids": list(ids)}
    ).one()
    return queued, len(set(ids)) - known


UNBEGUN = "state = 'queued', redispatch_at = NULL, message_id = NULL, dispatches = greatest(job.dispatches - 1, 0)"
"""`dispatched -> queued` for a job that nobody has begun, as if it had never been sent."""

_HAND_BACK = text(f"""
WITH unbegun AS MATERIALIZED (
    SELECT id FROM {JOBS}
    WHERE organization_id = :organization_id AND id = ANY(:ids) AND state || '' = 'dispatched'
      AND message_id = :message_id
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {JOBS} AS job SET {UNBEGUN} FROM unbegun
WHERE job.organization_id = :organization_id AND job.id = ANY(:ids) AND job.id = unbegun.id
""")


def hand_back(session: TenantSession, ids: Sequence[UUID], *, message_id: UUID | None) -> None:
    """`dispatched -> queued` for jobs of a message that nobody has claimed. Nothing is promised, so the COMMIT need not
    wait for the disk."""
    session.execute(text("SET LOCAL synchronous_commit = off"))
    parameters = {"organization_id": organization_of(session), "ids": list(ids), "message_id": message_id}
    session.execute(_HAND_BACK, parameters)


OWNED = """organization_id = :organization_id AND id = ANY(:ids) AND claim_token = ANY(:tokens)
      AND state || '' = 'running'"""
"""The jobs that these claims still own. A token is random and belongs to one job, so the two lists need no pairing: a
join of them is a loop in a loop to a planner that knows neither's length."""

_RENEW = text(f"""
WITH held AS MATERIALIZED (
    SELECT id FROM {JOBS}
    WHERE {OWNED}
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {JOBS} AS job
SET run_until = CASE WHEN :past_limit THEN greatest(job.run_until, next.lease_end) ELSE job.run_until END,
    lease_expires_at = CASE WHEN :past_limit THEN next.lease_end ELSE least(next.lease_end, job.run_until) END
FROM held, (SELECT clock_timestamp() + :lease * interval '1 second' AS lease_end) AS next
WHERE job.organization_id = :organization_id AND job.id = ANY(:ids) AND job.id = held.id
""")
_STILL_HELD = text(f"SELECT id FROM {JOBS} WHERE {OWNED}")


def renew(
    session: Session, claimed: Sequence[Claimed | ClaimKey], *, lease_seconds: float, past_limit: bool = False
) -> set[UUID]:
    """Prolong the leases, never past `run_until` unless that is to move with them; returns the ids still held.

    A row that is locked just now is being finished, rescued or cancelled: it is skipped, not waited for. A lease that
    is lost with the server costs a second run and no more, so this may commit without waiting for the disk.
    """
    parameters = {**mine(session, claimed), "lease": lease_seconds, "past_limit": past_limit}
    session.execute(text("SET LOCAL synchronous_commit = off"))
    session.execute(_RENEW, parameters)
    return set(session.scalars(_STILL_HELD, parameters))


_PROLONG = text(f"""
WITH held AS MATERIALIZED (
    SELECT id FROM {JOBS}
    WHERE {OWNED}
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {JOBS} AS job SET run_until = job.run_until + :seconds * interval '1 second'
FROM held
WHERE job.organization_id = :organization_id AND job.id = ANY(:ids) AND job.id = held.id
""")


def prolong(session: Session, claimed: Sequence[ClaimKey], *, seconds: float) -> None:
    """Let these run for so much longer: the master's clock was set ahead by that."""
    session.execute(_PROLONG, {**mine(session, claimed), "seconds": seconds})


def mine(session: Session, claimed: Sequence[Claimed | ClaimKey]) -> dict[str, Any]:
    """The parameters of OWNED."""
    return {
        "organization_id": organization_of(session),
        "ids": [one.id for one in claimed],
        "tokens": [one.claim_token for one in claimed],
    }
