"""`Beat`: enqueues scheduled jobs when they are due, through the ledger and never through the broker.

Several may run. A tick is one row of `ledger.schedule_fires`, made in the transaction that enqueues its job: whoever
inserts it fires, the others find it done. Missed ticks are made up once, for the latest one. A tick that lies ahead of
the master's clock (which was wrong for a moment) holds up none before it, and is not fired again when its time comes.

A schedule that cannot be fired (its kind is unknown here, or refuses its arguments; its rule raises) is set aside with
a log line and a metric, and tried again at each look; the others go on.
"""

import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError

from docworker.db.cluster import close_database, open_database
from docworker.db.errors import ConfigurationError, DocworkerError
from docworker.db.faults import Fault, classify
from docworker.db.ledger import insert_jobs
from docworker.db.ledger.schedules import Fired, enter_tick, fired_ticks, forget_ticks, master_time
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import TenantSession, all_jobs_session
from docworker.db.settings import Settings
from docworker.jobs.kind import Kind
from docworker.worker.beat.schedule import SCHEDULES, Schedule, distinct
from docworker.worker.http.health import LoopHealth
from docworker.worker.http.server import serving
from docworker.worker.logs import first_line

log = structlog.get_logger(__name__)

FIRES = Counter("docworker_schedule_fires_total", "Ticks that this beat fired.", ("schedule",))

SET_ASIDE = Gauge(
    "docworker_schedules_set_aside", "1: this beat cannot fire the schedule; its log says why.", ("schedule",)
)
AHEAD = Gauge(
    "docworker_schedule_ticks_ahead",
    "Ticks beyond the next one that have fired already: the master's clock was wrong.",
    ("schedule",),
)

LONGEST_WAIT_SECONDS = 5.0
STUCK_AFTER_SECONDS = 120.0
READY_SECONDS = 5.0
SHORTEST_WAIT_SECONDS = 0.05
KEEP_FIRES = timedelta(days=30)
KEEP_TICKS = 1000
"""Ticks that are kept however old they are: those that a wrong clock adds must not push out the true ones."""
_SLICE_SECONDS = 0.25


class NoDueTimeError(DocworkerError):
    """A rule gave something else than a time, or one on the wrong side of the time it was asked for."""


@dataclass(frozen=True)
class ScheduleState:
    """A schedule with its last and next tick, by the master's clock. `ahead_due_at` is the last of the ticks beyond the
    next one that have fired already; `problem` says why the schedule cannot be fired."""

    schedule: Schedule
    last_due_at: datetime | None
    last_fired_at: datetime | None
    last_job_id: UUID | None
    next_due_at: datetime | None
    ahead_due_at: datetime | None = None
    problem: str | None = None


class Beat:
    """`run()` until `stop()`; `tick()` is one look, for tests.

    Raises ConfigurationError for two schedules of one name.
    """

    def __init__(self, kinds: Mapping[str, Kind], schedules: Sequence[Schedule] = SCHEDULES) -> None:
        self.health = LoopHealth(
            stuck_after_seconds=STUCK_AFTER_SECONDS, ready_within_seconds=LONGEST_WAIT_SECONDS + READY_SECONDS
        )
        self._kinds = kinds
        self._schedules = distinct(*schedules)
        self._set_aside: dict[str, type[Exception]] = {}
        self._ahead: set[str] = set()
        self._stopping = False

    def run(self) -> None:
        """Fire what is due until stopped. Outages of the master are waited out; the broker is not involved."""
        failures = 0
        while not self._stopping:
            try:
                wait_seconds = self.tick()
            except (SQLAlchemyError, DocworkerError) as error:
                failures += 1
                wait_seconds = random.uniform(0.5, 1) * min(LONGEST_WAIT_SECONDS, 2.0**failures)  # noqa: S311
                reason = first_line(error)
                log.warning("beat.waiting", error=reason, seconds=round(wait_seconds, 1))
                self.health.failed(reason)
            else:
                failures = 0
                self.health.turned()
            self._wait(wait_seconds)

    def stop(self) -> None:
        """Safe in a signal handler."""
        self._stopping = True

    def _wait(self, seconds: float) -> None:
        # In slices, because an Event set in a signal handler may deadlock with its own wait.
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE_SECONDS))

    def tick(self) -> float:
        """Fire what is due now; returns the seconds to wait until the next look."""
        with all_jobs_session() as session:
            now = master_time(session)
            fired = fired_ticks(session, now)
        waits: list[float] = []
        held_up: Exception | None = None
        for schedule in self._schedules:
            try:
                waits.append(self._look(schedule, now, fired.get(schedule.name, Fired())))
            except Exception as error:
                fault = classify(error)
                if fault.is_infrastructure:
                    raise
                if fault is Fault.SERIALIZATION:  # somebody holds its job: the others need not wait
                    held_up = error
                else:
                    self._put_aside(schedule, error)
        if held_up is not None:
            raise held_up
        return min(LONGEST_WAIT_SECONDS, max(SHORTEST_WAIT_SECONDS, min(waits, default=LONGEST_WAIT_SECONDS)))

    def _look(self, schedule: Schedule, now: datetime, fired: Fired) -> float:
        """Fire one schedule if it is due; returns the seconds until its next tick."""
        next_due_at = next_tick(schedule, now)
        due_at = last_tick(schedule, now)
        if due_at is not None and (fired.last is None or fired.last.due_at < due_at):
            self._fire(schedule, due_at)
        self._take_back(schedule)
        self._tell_what_is_ahead(schedule, [one for one in fired.ahead if one > next_due_at])
        return (next_due_at - now).total_seconds()

    def _put_aside(self, schedule: Schedule, error: Exception) -> None:
        SET_ASIDE.labels(schedule.name).set(1)
        if self._set_aside.get(schedule.name) is not type(error):  # what it says may differ at each look
            reason = f"{type(error).__name__}: {first_line(error)}"
            log.error("schedule.set_aside", schedule=schedule.name, place=schedule.place, error=reason)
        self._set_aside[schedule.name] = type(error)

    def _take_back(self, schedule: Schedule) -> None:
        if self._set_aside.pop(schedule.name, None) is not None:
            log.info("schedule.goes_on", schedule=schedule.name)
        SET_ASIDE.labels(schedule.name).set(0)

    def _tell_what_is_ahead(self, schedule: Schedule, ahead: Sequence[datetime]) -> None:
        AHEAD.labels(schedule.name).set(len(ahead))
        if ahead and schedule.name not in self._ahead:
            self._ahead.add(schedule.name)
            log.warning(
                "schedule.ticks_ahead",
                schedule=schedule.name,
                ticks=len(ahead),
                last=ahead[-1].isoformat(),
                reason="the master's clock was ahead when they fired; they hold up nothing",
            )
        if not ahead:
            self._ahead.discard(schedule.name)

    def _fire(self, schedule: Schedule, due_at: datetime) -> None:
        kind = kind_of(schedule, self._kinds)
        arguments = kind.serialize(dict(schedule.arguments))
        with all_jobs_session() as session:
            (job_id,) = insert_jobs(
                session,
                SYSTEM_ORGANIZATION_ID,
                kind.name,
                [arguments],
                max_attempts=kind.max_attempts,
                priority=kind.priority,
                unique_keys=[f"schedule:{schedule.name}"],
            )
            if not enter_tick(session, schedule.name, due_at, job_id):
                session.rollback()  # another beat was faster, and the job is its
                return
            forget_ticks(session, schedule.name, due_at - KEEP_FIRES, keep=KEEP_TICKS)
        FIRES.labels(schedule.name).inc()
        log.info("schedule.fired", schedule=schedule.name, due_at=due_at.isoformat(), job=str(job_id))


def kind_of(schedule: Schedule, kinds: Mapping[str, Kind]) -> Kind:
    """Raises ConfigurationError for a kind that is not there."""
    if schedule.kind not in kinds:
        raise ConfigurationError(
            f"schedule {schedule.name!r} is of the unknown kind {schedule.kind!r}; known: {', '.join(sorted(kinds))}"
        )
    return kinds[schedule.kind]


def next_tick(schedule: Schedule, now: datetime) -> datetime:
    """The first tick after now; raises NoDueTimeError when its rule gives none."""
    due_at = schedule.when.next_after(now)
    if not _is_time(due_at) or due_at <= now:
        raise NoDueTimeError(f"the rule gives {due_at!r} as the time after {now}")
    return due_at


def last_tick(schedule: Schedule, now: datetime) -> datetime | None:
    """The last tick that is not after now, if there is one; raises NoDueTimeError as `next_tick`."""
    due_at = schedule.when.latest_until(now)
    if due_at is not None and (not _is_time(due_at) or due_at > now):
        raise NoDueTimeError(f"the rule gives {due_at!r} as the last time until {now}")
    return due_at


def _is_time(due_at: object) -> bool:
    return isinstance(due_at, datetime) and due_at.utcoffset() is not None


def states(
    session: TenantSession, kinds: Mapping[str, Kind], schedules: Sequence[Schedule] = SCHEDULES
) -> list[ScheduleState]:
    """Each schedule with its last and next tick, and what is wrong with it."""
    now = master_time(session)
    fired = fired_ticks(session, now)
    return [_state_of(schedule, now, fired.get(schedule.name, Fired()), kinds) for schedule in schedules]


def _state_of(schedule: Schedule, now: datetime, fired: Fired, kinds: Mapping[str, Kind]) -> ScheduleState:
    next_due_at = problem = None
    ahead: Sequence[datetime] = ()
    try:
        kind_of(schedule, kinds).serialize(dict(schedule.arguments))
        first_after = next_due_at = next_tick(schedule, now)
        ahead = [one for one in fired.ahead if one > first_after]
        while next_due_at in fired.ahead:
            next_due_at = next_tick(schedule, next_due_at)
    except Exception as error:  # noqa: BLE001 - whatever a rule raises, the others are shown
        problem = f"{type(error).__name__}: {first_line(error)}"
    return ScheduleState(
        schedule,
        last_due_at=None if fired.last is None else fired.last.due_at,
        last_fired_at=None if fired.last is None else fired.last.fired_at,
        last_job_id=None if fired.last is None else fired.last.job_id,
        next_due_at=next_due_at,
        ahead_due_at=ahead[-1] if ahead else None,
        problem=problem,
    )


def main(settings: Settings, kinds: Mapping[str, Kind]) -> None:
    """Run a beat in the foreground until SIGTERM or SIGINT."""
    beat = Beat(kinds)
    open_database(settings, application_name="docworker beat")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: beat.stop())
    with serving(settings, "beat", beat.health):
        log.info("beat.started", schedules=[one.name for one in SCHEDULES])
        beat.run()
    close_database()
    log.info("beat.stopped")
