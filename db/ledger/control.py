"""`find`, `cancel`, `retry_failed`, `pause`, `resume`: what operators do to jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Row,
    Text,
    TextClause,
    and_,
    case,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from docworker.db.errors import NotFoundError
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, any_of
from docworker.db.models.ledger.gate import Gate
from docworker.db.models.ledger.job import JOBS, LIVE_STATES, REASON, Job, JobState, Pause


@dataclass(frozen=True)
class Filter:
    """Which jobs: every part that is given must hold. `older_than` is the age since the job was enqueued."""

    states: Sequence[str] = ()
    kind: str | None = None
    organization_id: UUID | None = None
    older_than: timedelta | None = None
    parent_id: UUID | None = None
    reason: str | None = None
    """The class of the error, '' for none."""

    def conditions(self) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = []
        if self.states:
            conditions.append(Job.state.in_(self.states))
        if self.kind is not None:
            conditions.append(Job.kind == self.kind)
        if self.organization_id is not None:
            conditions.append(Job.organization_id == self.organization_id)
        if self.older_than is not None:
            conditions.append(Job.created_at < func.clock_timestamp() - self.older_than)
        if self.parent_id is not None:
            conditions.append(Job.parent_id == self.parent_id)
        if self.reason is not None:
            conditions.append(literal_column(REASON, Text) == self.reason)
        return conditions


class Listed(NamedTuple):
    """What a list shows of a job. The kind and the error are cut; arguments, result and traceback are not read."""

    organization_id: UUID
    id: UUID
    kind: str
    state: str
    priority: int
    attempt: int
    max_attempts: int
    parent_id: UUID | None
    created_at: datetime
    run_at: datetime
    finished_at: datetime | None
    error_class: str | None
    error_message: str | None


_SHOWN = 1000
LISTED = tuple(
    func.left(column, _SHOWN).label(column.key) if isinstance(column.type, Text) else column
    for column in (Job.__table__.c[name] for name in Listed._fields)
)


class Found(NamedTuple):
    """A page of jobs, and where the next begins; None behind the last one."""

    jobs: list[Listed]
    behind: str | None


# As the server writes it: not every time that it has is one of Python's.
_ENQUEUED = cast(Job.created_at, Text).label("enqueued")


def find(session: Session, wanted: Filter, *, limit: int, behind: str | None = None) -> Found:
    """Jobs by filter, the latest first; `behind` is where the page before has ended, or what `behind_job` says.

    There is no index of this order, so take many at a time, and none of them holds a snapshot while it is shown.
    """
    statement = select(*LISTED, _ENQUEUED).where(*wanted.conditions())
    if behind is not None:
        enqueued, _, job_id = behind.rpartition(" ")
        moment = cast(enqueued, Job.created_at.type)
        statement = statement.where(or_(Job.created_at < moment, and_(Job.created_at == moment, Job.id > UUID(job_id))))
    rows = session.execute(statement.order_by(Job.created_at.desc(), Job.id).limit(limit)).all()
    jobs = [Listed(*row[:-1]) for row in rows]
    return Found(jobs, f"{rows[-1].enqueued} {jobs[-1].id}" if len(jobs) == limit else None)


def behind_job(session: Session, job_id: UUID) -> str:
    """For `find`: what comes behind this job. Raises NotFoundError."""
    enqueued = session.scalar(select(_ENQUEUED).where(Job.id == job_id))
    if enqueued is None:
        raise _no_job(job_id)
    return f"{enqueued} {job_id}"


def get(session: Session, job_id: UUID) -> Job:
    """One job; raises NotFoundError."""
    job = session.scalars(select(Job).where(Job.id == job_id)).first()
    if job is None:
        raise _no_job(job_id)
    return job


def _no_job(job_id: UUID) -> NotFoundError:
    return NotFoundError(f"no job {job_id}: it never was, belongs to another organization, or has been pruned")


def organizations_of(session: Session, job_ids: Sequence[UUID]) -> set[UUID]:
    """Whose these jobs are."""
    return set(session.scalars(select(Job.organization_id).where(Job.id.in_(job_ids)).distinct()))


def by_organization(session: Session, job_ids: Sequence[UUID], *, kind: str) -> dict[UUID, list[UUID]]:
    """Those of these jobs that are of the kind, by whose they are."""
    rows = session.execute(select(Job.organization_id, Job.id).where(Job.id == any_of(job_ids), Job.kind == kind))
    found: dict[UUID, list[UUID]] = {}
    for organization_id, job_id in rows:
        found.setdefault(organization_id, []).append(job_id)
    return found


def count_by_state(session: Session, wanted: Filter) -> Sequence[Row[UUID, str, str, int]]:
    """Rows of (organization_id, kind, state, jobs)."""
    return session.execute(
        select(Job.organization_id, Job.kind, Job.state, func.count().label("jobs"))
        .where(*wanted.conditions())
        .group_by(Job.organization_id, Job.kind, Job.state)
        .order_by(Job.organization_id, Job.kind, Job.state)
    ).all()


# Each key of a chunk by the primary key, whatever the planner believes of a queue's statistics.
BY_KEY = text("""
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)
""")


Key = tuple[UUID, UUID]
"""The primary key of a job: organization and id."""


class Change(NamedTuple):
    """What an operator does to many jobs at once: to those in which states, and what becomes of them."""

    states: Sequence[JobState]
    values: Mapping[str, Any]


CANCEL = Change(LIVE_STATES, {"state": JobState.CANCELLED, "finished_at": func.clock_timestamp()})
"""`queued | dispatched | running -> cancelled`. The state is the cancellation: a running attempt no longer owns its
job, commits nothing, and stops at its next safe point."""

# Not by a trigger: one that may change the row has the server lock each row of any change once more.
_IS_HELD = (
    select(Gate.id)
    .where(Gate.organization_id == Job.organization_id, Gate.id == Job.id, Gate.pending > 0)
    .correlate(Job)
    .exists()
)
CONDITION_NOT_MET = "ConditionNotMet"
"""The `error_class` by which the ledger's triggers know a job again that its gate has cancelled."""
_WAITS = or_(Job.order_key.is_not(None), Job.limit_key.is_not(None), and_(Job.gated, _IS_HELD))
RETRY = Change(
    (JobState.FAILED,),
    {
        # Behind others of its key it stands in line again, of an order key at its old place, and what waits for others
        # waits for them.
        "state": case((_WAITS, JobState.WAITING), else_=JobState.QUEUED),
        "attempt": 0,
        "faults": 0,
        "given_back": 0,
        "finished_at": None,
        # Whose condition had cancelled it has been asked for all the same: what it waits for decides no more about it.
        "error_class": func.nullif(Job.error_class, CONDITION_NOT_MET),
        "run_at": func.clock_timestamp(),
        "later": False,
        "dispatches": 0,
        # It has been claimed before, or is taken for it: a job retried by hand never folds with a newer one.
        "claimed_at": func.coalesce(Job.claimed_at, func.clock_timestamp()),
    },
)
"""`failed -> queued`, or `waiting`, with all attempts anew."""


def cancel(session: Session, wanted: Filter, ids: Sequence[UUID] = ()) -> list[UUID]:
    """CANCEL the jobs that are chosen, in one transaction: for a few."""
    return _change(session, CANCEL, [*wanted.conditions(), *([Job.id.in_(ids)] if ids else [])])


def retry_failed(session: Session, wanted: Filter, ids: Sequence[UUID] = ()) -> list[UUID]:
    """RETRY the jobs that are chosen, in one transaction: for a few. Cancelled ones only if ids are named."""
    change = RETRY._replace(states=(JobState.FAILED, JobState.CANCELLED)) if ids else RETRY
    return _change(session, change, [*wanted.conditions(), *([Job.id.in_(ids)] if ids else [])])


def next_keys(session: Session, change: Change, wanted: Filter, *, after: Key | None, most: int) -> list[Key]:
    """The keys of the next jobs that are to be changed, in their order; it locks nothing. Take many: each time it may
    walk through all jobs."""
    statement = select(Job.organization_id, Job.id).where(Job.state.in_(change.states), *wanted.conditions())
    if after is not None:
        statement = statement.where(tuple_(Job.organization_id, Job.id) > tuple_(*after))
    rows = session.execute(statement.order_by(Job.organization_id, Job.id).limit(most))
    return [(organization_id, job_id) for organization_id, job_id in rows]


def change_keys(session: Session, change: Change, keys: Sequence[Key], *, skip_locked: bool) -> list[UUID]:
    """Change those of these jobs that are still in such a state; returns their ids. With `skip_locked` those that
    somebody holds are left, else they are waited for, as long as a lock may take."""
    session.execute(BY_KEY)
    organizations, ids = zip(*keys, strict=True)
    given = {"organizations": list(organizations), "ids": list(ids), "states": [str(one) for one in change.states]}
    held = session.scalars(_LOCK_FREE if skip_locked else _LOCK, given).all()
    return list(session.scalars(_changed(change).where(text("jobs.ctid = ANY(CAST(:held AS tid[]))")), {"held": held}))


def _locked(wait: str) -> TextClause:
    return text(f"""
SELECT CAST(job.ctid AS text)
FROM (SELECT * FROM unnest(CAST(:organizations AS uuid[]), CAST(:ids AS uuid[])) ORDER BY 1, 2)
    AS given (organization_id, id)
CROSS JOIN LATERAL (
    SELECT ctid FROM {JOBS}
    WHERE organization_id = given.organization_id AND id = given.id AND state || '' = ANY(CAST(:states AS text[]))
    FOR NO KEY UPDATE {wait}
) AS job
""")


# A row that is locked stays where it is until it is changed. One statement for both would be free to look each job of
# the table up among the keys.
_LOCK, _LOCK_FREE = _locked(""), _locked("SKIP LOCKED")


def _change(session: Session, change: Change, conditions: Sequence[ColumnElement[bool]]) -> list[UUID]:
    chosen = (
        select(Job.organization_id, Job.id)
        .where(Job.state.in_(change.states), *conditions)
        .order_by(Job.organization_id, Job.id)
        .with_for_update(key_share=True, of=Job)
        .cte("chosen")
    )
    mine = (Job.organization_id == chosen.c.organization_id, Job.id == chosen.c.id, Job.state.in_(change.states))
    statement = _changed(change).where(*mine)
    return list(session.scalars(statement))


def _changed(change: Change) -> ReturningUpdate[UUID]:
    return (
        update(Job)
        .values(
            redispatch_at=None,
            message_id=None,
            lease_expires_at=None,
            run_until=None,
            claim_token=None,
            **change.values,
        )
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )


def pause(session: Session, *, kind: str | None, organization_id: UUID | None, by: str | None = None) -> bool:
    """Stop dispatching a kind, an organization, or one kind of one organization; what runs goes on. `by` says who asked
    for it. False where there is such a pause already, of which nothing changes."""
    row = {"organization_id": organization_id or SYSTEM_ORGANIZATION_ID, "kind": kind or "", "paused_by": by}
    statement = insert(Pause).values(row).on_conflict_do_nothing()
    return session.execute(statement.returning(Pause.kind)).first() is not None


def resume(session: Session, *, kind: str | None, organization_id: UUID | None) -> bool:
    """Take a pause back; False when there was none."""
    statement = delete(Pause).where(
        Pause.organization_id == (organization_id or SYSTEM_ORGANIZATION_ID), Pause.kind == (kind or "")
    )
    return session.execute(statement.returning(Pause.kind)).first() is not None


def pauses(session: Session) -> Sequence[Pause]:
    """All pauses, by organization and kind."""
    return session.scalars(select(Pause).order_by(Pause.organization_id, Pause.kind)).all()


_TIMES = (
    Job.run_at,
    Job.created_at,
    Job.claimed_at,
    Job.finished_at,
    Job.dispatched_at,
    Job.redispatch_at,
    Job.lease_expires_at,
    Job.run_until,
)


def let_pass(session: Session, seconds: float) -> None:
    """Move the times of every job into the past by so many seconds; for tests of applications."""
    earlier = {one: one - timedelta(seconds=seconds) for one in _TIMES}
    session.execute(update(Job).values(earlier), execution_options={"synchronize_session": False})
