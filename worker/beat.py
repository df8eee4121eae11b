"""Beat: enqueues scheduled jobs when they are due, through the ledger and never through the broker.

Several may run. A tick is one row of `ledger.schedule_fires`, made in the transaction that enqueues its job: whoever
inserts it fires, the others find it done. Missed ticks are made up once, for the latest one.
"""

import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from prometheus_client import Counter
from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.exc import SQLAlchemyError

from db.engines import close_database, open_database
from db.errors import ConfigurationError, DocworkerError
from db.ledger import enqueue_statement
from db.models.base import SYSTEM_ORGANIZATION_ID
from db.models.job import ScheduleFire
from db.sessions import TenantSession, overseeing
from db.settings import Settings
from jobs.kinds import Kind
from worker.health import LoopHealth
from worker.logs import first_line
from worker.metrics import serving
from worker.schedule import SCHEDULES, Schedule

log = structlog.get_logger(__name__)

FIRES = Counter("docworker_schedule_fires_total", "Ticks that this beat fired.", ("schedule",))

LONGEST_WAIT_SECONDS = 5.0
STUCK_AFTER_SECONDS = 120.0
READY_SECONDS = 5.0
SHORTEST_WAIT_SECONDS = 0.05
KEEP_FIRES = timedelta(days=30)
_SLICE_SECONDS = 0.25

_FIRE = text(
    "INSERT INTO ledger.schedule_fires (schedule, due_at, job_id) VALUES (:schedule, :due_at, :job_id)"
    " ON CONFLICT DO NOTHING RETURNING true"
)
_FORGET = text("DELETE FROM ledger.schedule_fires WHERE schedule = :schedule AND due_at < :before")


@dataclass(frozen=True)
class ScheduleState:
    """A schedule with its last and next tick, by the master's clock."""

    schedule: Schedule
    last_due_at: datetime | None
    last_fired_at: datetime | None
    last_job_id: UUID | None
    next_due_at: datetime


class Beat:
    """`run()` until `stop()`; `tick()` is one look, for tests.

    Raises ConfigurationError for a schedule whose kind or arguments are unknown.
    """

    def __init__(self, kinds: Mapping[str, Kind], schedules: Sequence[Schedule] = SCHEDULES) -> None:
        check(kinds, schedules)
        self.health = LoopHealth(
            stuck_after_seconds=STUCK_AFTER_SECONDS, ready_within_seconds=LONGEST_WAIT_SECONDS + READY_SECONDS
        )
        self._kinds = kinds
        self._schedules = schedules
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
        with overseeing() as session:
            now = master_time(session)
            last_fires = latest_fires(session)
        for schedule in self._schedules:
            due_at = schedule.when.latest_until(now)
            last = last_fires.get(schedule.name)
            if due_at is not None and (last is None or last.due_at < due_at):
                self._fire(schedule, due_at)
        until_next = min((one.when.next_after(now) - now).total_seconds() for one in self._schedules)
        return min(LONGEST_WAIT_SECONDS, max(SHORTEST_WAIT_SECONDS, until_next))

    def _fire(self, schedule: Schedule, due_at: datetime) -> None:
        kind = self._kinds[schedule.kind]
        entered = enqueue_statement(
            SYSTEM_ORGANIZATION_ID,
            kind.name,
            [kind.serialize(dict(schedule.arguments))],
            max_attempts=kind.max_attempts,
            priority=kind.priority,
            unique_keys=[f"schedule:{schedule.name}"],
        )
        with overseeing() as session:
            job_id = entered.ids(session.execute(entered.statement, entered.parameters).all())[0]
            tick = {"schedule": schedule.name, "due_at": due_at, "job_id": job_id}
            if session.scalar(_FIRE, tick) is None:
                session.rollback()  # another beat was faster, and the job is its
                return
            session.execute(_FORGET, {"schedule": schedule.name, "before": due_at - KEEP_FIRES})
        FIRES.labels(schedule.name).inc()
        log.info("schedule.fired", schedule=schedule.name, due_at=due_at.isoformat(), job=str(job_id))


def check(kinds: Mapping[str, Kind], schedules: Sequence[Schedule]) -> None:
    """Raises ConfigurationError for a kind that is not there, InvalidArgumentError for arguments it does not take."""
    for schedule in schedules:
        if schedule.kind not in kinds:
            raise ConfigurationError(
                f"schedule {schedule.name!r} is of the unknown kind {schedule.kind!r}; "
                f"known: {', '.join(sorted(kinds))}"
            )
        kinds[schedule.kind].serialize(dict(schedule.arguments))


def master_time(session: TenantSession) -> datetime:
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now


def latest_fires(session: TenantSession) -> dict[str, ScheduleFire]:
    """The newest tick of each schedule that ever fired."""
    newest = (
        select(ScheduleFire)
        .ext(distinct_on(ScheduleFire.schedule))
        .order_by(ScheduleFire.schedule, ScheduleFire.due_at.desc())
    )
    return {fire.schedule: fire for fire in session.scalars(newest)}


def states(session: TenantSession, schedules: Sequence[Schedule] = SCHEDULES) -> list[ScheduleState]:
    """Each schedule with its last and next tick."""
    now = master_time(session)
    last_fires = latest_fires(session)
    found = []
    for schedule in schedules:
        last = last_fires.get(schedule.name)
        found.append(
            ScheduleState(
                schedule,
                last_due_at=None if last is None else last.due_at,
                last_fired_at=None if last is None else last.fired_at,
                last_job_id=None if last is None else last.job_id,
                next_due_at=schedule.when.next_after(now),
            )
        )
    return found


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
