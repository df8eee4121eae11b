"""`rescue_expired`: jobs whose worker fell silent go back to the queue, or fail when their attempts are used up.

Who may say so, and of which leases, is the judge's to know (`jobs.execution.continuity`): a lease that ended while
nobody could renew it is no sign of anything.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db.faults import DISK_FULL, sqlstate_of
from docworker.db.ledger.dispatching.requeue import is_refused
from docworker.db.ledger.dispatching.shortcuts import Floor, entries_of
from docworker.db.models.ledger.job import JOBS


@dataclass(frozen=True)
class Rescued:
    organization_id: UUID
    id: UUID
    kind: str
    state: str
    attempt: int


_ENDED = """state = 'running' AND lease_expires_at <= (SELECT least(clock_timestamp(), to_timestamp(:until)))
      AND id <> ALL(CAST(:without AS uuid[]))"""
# By ctid: exactly the row that was locked, whatever the planner believes of a queue's statistics. The lock waits for
# nobody and looks at the lease again: a lease renewed a moment ago is not stolen. What was lost with its worker runs
# alone from now on, so that one poison job does not use up the attempts of a batch.
_LOCK = "FOR NO KEY UPDATE SKIP LOCKED"
_CHANGE = f"""UPDATE {JOBS} AS job
SET state = CASE WHEN attempt >= max_attempts THEN 'failed' ELSE 'queued' END,
    finished_at = CASE WHEN attempt >= max_attempts THEN clock_timestamp() END,
    alone = true, given_back = 0,
    claim_token = NULL, lease_expires_at = NULL, run_until = NULL, run_at = clock_timestamp(),
    error_class = 'LeaseExpired',
    error_message = format('attempt %s of %s on %s gave no sign of life: its worker was killed, froze or lost its '
                           'connection, or the job ran longer than its limit', attempt, max_attempts, claimed_by),
    error_traceback = NULL
FROM expired
WHERE job.ctid = expired.ctid
RETURNING job.organization_id, job.id, job.kind, job.state, job.attempt"""
_RESCUE = text(f"""
WITH before AS MATERIALIZED (
    SELECT clock_timestamp() AS clock, {entries_of("ix_jobs_running")} AS entries
), expired AS MATERIALIZED (
    SELECT ctid FROM {JOBS}
    WHERE {_ENDED} AND lease_expires_at >= coalesce(CAST(:since AS timestamptz), '-infinity')
    ORDER BY organization_id, id LIMIT :most {_LOCK}
), rescued AS (
{_CHANGE}
)
SELECT rescued.*, clock, {entries_of("ix_jobs_running")} - entries AS passed FROM before LEFT JOIN rescued ON true
""")
_FIND = text(f"SELECT ctid, id FROM {JOBS} WHERE {_ENDED} ORDER BY organization_id, id LIMIT :most")
_RESCUE_ONE = text(f"""
WITH expired AS MATERIALIZED (
    SELECT ctid FROM {JOBS} WHERE ctid = CAST(:ctid AS tid) AND {_ENDED} {_LOCK}
)
{_CHANGE}
""")
_REFUSE_AT_ONCE = text("SET CONSTRAINTS ALL IMMEDIATE")  # not at the end, for all of them
_MOST_APART = 100
_APART_SECONDS = 1.0
"""Beyond two, a judge takes it all back."""
_LEFT = timedelta(seconds=3)
"""So long jobs are looked for that were locked or claimed late, where walking all leases is dear."""


def rescue_expired(
    session: Session,
    *,
    until: float = math.inf,
    most: int = 1000,
    floor: Floor[datetime] | None = None,
    without: Collection[UUID] = (),
) -> Sequence[Rescued]:
    """`running -> queued | failed` for leases that have ended, also by the caller's idea of the master's time `until`
    (seconds since 1970), but for the jobs `without`. For the dispatcher's session.

    With `-math.inf` it takes none, and waits for what any renewal would have to wait for. Raises what the server
    refuses, be it for one of them (`is_refused`).
    """
    floor = floor or Floor()
    parameters = {"until": until, "most": most, "since": floor.begin(), "without": list(without)}
    rows = session.execute(_RESCUE, parameters).all()
    rescued = [Rescued(*row[:5]) for row in rows if row.id is not None]
    if until > -math.inf and len(rescued) < most:
        clock = rows[0].clock
        seen_until = clock if until == math.inf else min(clock, datetime.fromtimestamp(until, UTC))
        floor.ended(seen_until - _LEFT, clock=clock, dead=max(row.passed for row in rows) - len(rescued))
    return rescued


def rescue_apart(
    session: Session,
    then: Callable[[Session, Sequence[Rescued]], None],
    *,
    until: float = math.inf,
    without: Collection[UUID] = (),
) -> tuple[Sequence[Rescued], dict[UUID, Exception]]:
    """`rescue_expired`, but one by one, and only the first ones: those of which one was refused. `then` is done in the
    savepoint of each. Returns what was rescued, and the jobs that the server refuses to change, and why."""
    rescued: list[Rescued] = []
    refused: dict[UUID, Exception] = {}
    choice = {"until": until, "without": list(without)}
    session.execute(_REFUSE_AT_ONCE)
    begun = time.monotonic()
    for ctid, job_id in session.execute(_FIND, {**choice, "most": _MOST_APART}).all():
        if time.monotonic() - begun > _APART_SECONDS:
            break
        try:
            with session.begin_nested():
                taken = [Rescued(*row) for row in session.execute(_RESCUE_ONE, {"ctid": ctid, **choice})]
                then(session, taken)
        except Exception as error:
            if not is_refused(error):
                raise
            refused[job_id] = error
        else:
            rescued += taken
    return rescued, refused


# Statistics are older than any burst of deaths, and no COMMIT here waits for the disk: see
# `db.ledger.dispatching.dispatch`.
_BEGIN_JUDGING = text("""
SELECT set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true),
       set_config('synchronous_commit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)
""")


def begin_judging(session: Session) -> None:
    """Have this transaction read the leases in the order of their index, and commit without a wait for the disk."""
    session.execute(_BEGIN_JUDGING)


# Rows that do not fit into memory are written to the server's disk: that asks for no right, and leaves nothing behind.
_SMALL_MEMORY = text("SELECT set_config('work_mem', '64kB', true), set_config('temp_tablespaces', '', true)")
_MEGABYTE = text("SELECT count(*) FROM generate_series(1, 75000)")


def check_room(session: Session) -> None:
    """Raises, with SQLSTATE 53100, where the server's disk has no room for a megabyte. Then a lease is no sign: one
    renewal finds room in an old page, and another one is refused."""
    try:
        with session.begin_nested():
            session.execute(_SMALL_MEMORY)
            session.execute(_MEGABYTE)
    except DBAPIError as error:
        if error.connection_invalidated or sqlstate_of(error) == DISK_FULL:
            raise


_CLOCK = text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)")


def master_seconds(session: Session) -> float:
    """The master's clock now, in seconds since 1970."""
    return float(session.scalar(_CLOCK) or 0.0)
