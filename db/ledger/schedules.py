"""`enter_tick`: ticks of schedules, a row each, made in the transaction that enqueues its job, so that two beats fire
one once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.orm import Session, aliased

from docworker.db.models.job import ScheduleFire

_MOST_AHEAD = 1000


@dataclass(frozen=True)
class Fired:
    """The ticks of one schedule: the last that was due, and those ahead of the master's clock, in order."""

    last: ScheduleFire | None = None
    ahead: Sequence[datetime] = ()


def fired_ticks(session: Session, now: datetime) -> dict[str, Fired]:
    """What has fired of each schedule that ever did."""
    ahead: dict[str, list[datetime]] = {}
    of_the_future = (
        select(ScheduleFire.schedule, ScheduleFire.due_at)
        .where(ScheduleFire.due_at > now)
        .order_by(ScheduleFire.schedule, ScheduleFire.due_at)
        .limit(_MOST_AHEAD)
    )
    for schedule, due_at in session.execute(of_the_future):
        ahead.setdefault(schedule, []).append(due_at)
    last_due = (
        select(ScheduleFire)
        .ext(distinct_on(ScheduleFire.schedule))
        .where(ScheduleFire.due_at <= now)
        .order_by(ScheduleFire.schedule, ScheduleFire.due_at.desc())
    )
    last = {fire.schedule: fire for fire in session.scalars(last_due)}
    return {name: Fired(last.get(name), ahead.get(name, ())) for name in last.keys() | ahead.keys()}


def enter_tick(session: Session, schedule: str, due_at: datetime, job_id: UUID) -> bool:
    """Whether this tick is ours: false when another beat has fired it."""
    fire = insert(ScheduleFire).values(schedule=schedule, due_at=due_at, job_id=job_id)
    return session.scalar(fire.on_conflict_do_nothing().returning(ScheduleFire.due_at)) is not None


def forget_ticks(session: Session, schedule: str, before: datetime, *, keep: int) -> None:
    """Delete ticks that were due before then, but for the `keep` latest ones."""
    other = aliased(ScheduleFire)
    oldest_kept = (
        select(other.due_at)
        .where(other.schedule == schedule)
        .order_by(other.due_at.desc())
        .offset(keep)
        .limit(1)
        .scalar_subquery()
    )
    gone = delete(ScheduleFire).where(
        ScheduleFire.schedule == schedule, ScheduleFire.due_at < before, ScheduleFire.due_at < oldest_kept
    )
    session.execute(gone, execution_options={"synchronize_session": False})


def master_time(session: Session) -> datetime:
    """The master's clock."""
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now
