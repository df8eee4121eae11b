"""`enter_tick`, `kept_schedules`: ticks of schedules, a row each, made in the transaction that enqueues its job, so
that two beats fire one once; and the schedules themselves, as far as they are kept here."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Text, bindparam, delete, func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models.ledger.schedule import KeptSchedule, ScheduleFire, Source

_MOST_AHEAD = 1000
_NO_SYNC = {"synchronize_session": False}


@dataclass(frozen=True)
class Fired:
    """The ticks of one schedule: the last that was due, and those ahead of the master's clock, in order."""

    last: ScheduleFire | None = None
    ahead: Sequence[datetime] = ()


def fired_ticks(session: Session, names: Collection[str], now: datetime) -> dict[str, Fired]:
    """What has fired of each of these schedules that ever did; one look into the key for each."""
    ahead: dict[str, list[datetime]] = {}
    of_the_future = (
        select(ScheduleFire.schedule, ScheduleFire.due_at)
        .where(ScheduleFire.due_at > now)
        .order_by(ScheduleFire.schedule, ScheduleFire.due_at)
        .limit(_MOST_AHEAD)
    )
    for schedule, due_at in session.execute(of_the_future):
        ahead.setdefault(schedule, []).append(due_at)
    wanted = func.unnest(bindparam(None, list(names), type_=ARRAY(Text))).table_valued("name").render_derived()
    latest = (
        select(ScheduleFire)
        .where(ScheduleFire.schedule == wanted.c.name, ScheduleFire.due_at <= now)
        .order_by(ScheduleFire.due_at.desc())
        .limit(1)
        .lateral()
    )
    fire = aliased(ScheduleFire, latest)
    last = {one.schedule: one for one in session.scalars(select(fire).select_from(wanted).join(latest, true()))}
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
    session.execute(gone, execution_options=_NO_SYNC)


def master_time(session: Session) -> datetime:
    """The master's clock."""
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now


def kept_schedules(session: Session) -> dict[str, KeptSchedule]:
    """All that are kept, by name."""
    return {one.name: one for one in session.scalars(select(KeptSchedule).order_by(KeptSchedule.name))}


def remember_rule(session: Session, name: str, rule: str) -> None:
    """Keep the rule of a schedule in code. From when it is new, or another one than before, it is promised; where ticks
    have fired before any rule was kept, from the last one on."""
    last_fired = (
        select(func.max(ScheduleFire.due_at))
        .where(ScheduleFire.schedule == name, ScheduleFire.due_at <= func.clock_timestamp())
        .scalar_subquery()
    )
    new = insert(KeptSchedule).values(
        name=name, source=Source.CODE, rule=rule, since=func.coalesce(last_fired, func.clock_timestamp())
    )
    statement = new.on_conflict_do_update(
        index_elements=[KeptSchedule.name],
        set_={"rule": new.excluded.rule, "since": func.clock_timestamp(), "updated_at": func.clock_timestamp()},
        where=(KeptSchedule.source == Source.CODE) & (KeptSchedule.rule != new.excluded.rule),
    )
    session.execute(statement)


def heal_times(session: Session) -> None:
    """What was changed while the master's clock was ahead was changed now: else it would be silent until then."""
    session.execute(
        update(KeptSchedule)
        .where(KeptSchedule.since > func.clock_timestamp())
        .values(since=func.clock_timestamp(), updated_at=func.clock_timestamp()),
        execution_options=_NO_SYNC,
    )


def is_unchanged(session: Session, kept: KeptSchedule) -> bool:
    """Whether nobody has changed it since it was read; nobody does before this transaction ends."""
    changed_at = select(KeptSchedule.updated_at).where(KeptSchedule.name == kept.name).with_for_update(read=True)
    return session.scalar(changed_at) == kept.updated_at


def add_kept(session: Session, name: str, **values: Any) -> KeptSchedule:
    """Raises InvalidArgumentError for a name that is taken."""
    made = insert(KeptSchedule).values(name=name, source=Source.TABLE, **values).on_conflict_do_nothing()
    added: KeptSchedule | None = session.scalar(made.returning(KeptSchedule))
    if added is None:
        raise InvalidArgumentError(
            f"a schedule is called {name!r} already: choose another name; see `docworker schedules list`"
        )
    return added


def locked_schedule(session: Session, name: str) -> KeptSchedule:
    """To be changed in this transaction; raises NotFoundError."""
    found = session.scalar(select(KeptSchedule).where(KeptSchedule.name == name).with_for_update())
    if found is None:
        raise NotFoundError(f"no schedule is called {name!r}: see `docworker schedules list`")
    return found


def change_kept(session: Session, kept: KeptSchedule, **values: Any) -> None:
    """From now on it is as these values say, and nothing before is made up."""
    for name, value in {**values, "since": func.clock_timestamp()}.items():
        setattr(kept, name, value)
    session.flush()


def delete_kept(session: Session, name: str) -> None:
    """With its ticks, so that another one of this name begins anew."""
    session.execute(delete(ScheduleFire).where(ScheduleFire.schedule == name), execution_options=_NO_SYNC)
    session.execute(delete(KeptSchedule).where(KeptSchedule.name == name), execution_options=_NO_SYNC)
