"""`schedule_states`: each schedule with its last and next tick, and what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from docworker.db.ledger.schedules import Fired, fired_ticks, master_time
from docworker.db.sessions import TenantSession
from docworker.jobs.kind import Kind
from docworker.jobs.schedules.firing import check
from docworker.jobs.schedules.planning import next_tick
from docworker.jobs.schedules.schedule import SCHEDULES, Schedule
from docworker.jobs.schedules.sources import Known, known_schedules

MAX_REASON = 300


@dataclass(frozen=True)
class ScheduleState:
    """A schedule with its last and next tick, by the master's clock; `schedule` is None where what is kept is none.
    `ahead_due_at` is the last of the ticks beyond the next one that have fired already; `problem` says why the schedule
    cannot be fired."""

    name: str
    source: str
    schedule: Schedule | None
    is_paused: bool
    since: datetime
    last_due_at: datetime | None
    last_fired_at: datetime | None
    last_job_id: UUID | None
    next_due_at: datetime | None
    ahead_due_at: datetime | None = None
    problem: str | None = None


def schedule_states(
    session: TenantSession, kinds: Mapping[str, Kind], in_code: Sequence[Schedule] = SCHEDULES
) -> list[ScheduleState]:
    """`session` is one of `all_jobs_session`."""
    now = master_time(session)
    known = known_schedules(session, in_code, now)
    fired = fired_ticks(session, [one.name for one in known], now)
    return [_state_of(one, now, fired.get(one.name, Fired()), kinds) for one in known]


def _state_of(known: Known, now: datetime, fired: Fired, kinds: Mapping[str, Kind]) -> ScheduleState:
    next_due_at = problem = None
    ahead: Sequence[datetime] = ()
    try:
        schedule = known.checked()
        check(schedule, kinds)
        first_after = next_due_at = next_tick(schedule.when, now)
        ahead = [one for one in fired.ahead if one > first_after]
        while next_due_at in fired.ahead:
            next_due_at = next_tick(schedule.when, next_due_at)
    except Exception as error:  # noqa: BLE001 - whatever a rule raises, the others are shown
        problem = f"{type(error).__name__}: {error}".partition("\n")[0][:MAX_REASON]
    return ScheduleState(
        known.name,
        known.kept.source,
        known.schedule,
        known.kept.paused,
        known.kept.since,
        last_due_at=None if fired.last is None else fired.last.due_at,
        last_fired_at=None if fired.last is None else fired.last.fired_at,
        last_job_id=None if fired.last is None else fired.last.job_id,
        next_due_at=None if known.kept.paused else next_due_at,
        ahead_due_at=ahead[-1] if ahead else None,
        problem=problem,
    )
