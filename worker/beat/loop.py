"""`Beat`: enqueues scheduled jobs when they are due, through the ledger.

Several may run. A tick is one row of `ledger.schedule_fires`, made in the transaction that enqueues its job: whoever
inserts it fires, the others find it done. A tick that lies ahead of the master's clock (which was wrong for a moment)
holds up none before it, and is not fired again when its time comes. Nothing is fired that was due before its schedule
was added, edited or resumed.

A schedule that cannot be fired (its kind is unknown here, or refuses its arguments; its rule raises) is set aside with
a log line and a metric, and tried again at each look; the others go on.
"""

import random
from collections import Counter as Count
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from celery import current_app
from prometheus_client import Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError

from docworker.db.errors import DocworkerError
from docworker.db.faults import Fault, classify
from docworker.db.ledger.schedules import Fired, enter_tick, fired_ticks, forget_ticks, is_unchanged
from docworker.db.sessions import all_jobs_session
from docworker.jobs.kind import Kind
from docworker.jobs.schedules.firing import check, enqueue_tick
from docworker.jobs.schedules.planning import due_ticks, next_tick
from docworker.jobs.schedules.schedule import SCHEDULES, Schedule, distinct
from docworker.jobs.schedules.sources import Known, look
from docworker.jobs.schedules.tasks import TaskSchedule
from docworker.worker.http.health import LoopHealth
from docworker.worker.logs import first_line

log = structlog.get_logger(__name__)

FIRES = Counter("docworker_schedule_fires_total", "Ticks that this beat fired.", ("schedule",))

SET_ASIDE = Gauge(
    "docworker_schedules_set_aside", "Schedules that this beat cannot fire; its log says why.", ("schedule",)
)
AHEAD = Gauge(
    "docworker_schedule_ticks_ahead",
    "Ticks beyond the next one that have fired already: the master's clock was wrong.",
    ("schedule",),
)

UNSENT = Counter(
    "docworker_schedule_unsent_total",
    "Ticks of plain Celery tasks that the broker did not take: they are lost.",
    ("schedule",),
)

LONGEST_WAIT_SECONDS = 5.0
STUCK_AFTER_SECONDS = 120.0
READY_SECONDS = 5.0
SHORTEST_WAIT_SECONDS = 0.05
KEEP_FIRES = timedelta(days=30)
KEEP_TICKS = 1000
"""Ticks that are kept however old they are: those that a wrong clock adds must not push out the true ones."""
MOST_AT_ONCE = 50
"""Ticks of one schedule in one look, where all that were missed are made up."""


class Beat:
    """`tick()` is one look, `turn()` one that waits outages of the master out.

    Raises ConfigurationError for two schedules of one name.
    """

    def __init__(
        self, kinds: Mapping[str, Kind], schedules: Sequence[Schedule] = SCHEDULES, app: Any = current_app
    ) -> None:
        self.health = LoopHealth(
            stuck_after_seconds=STUCK_AFTER_SECONDS, ready_within_seconds=LONGEST_WAIT_SECONDS + READY_SECONDS
        )
        self._kinds = kinds
        self._schedules = distinct(*schedules)
        self._set_aside: dict[tuple[str, str], type[Exception]] = {}
        self._ahead: set[tuple[str, str]] = set()
        self._app = app
        self._unsent: list[tuple[TaskSchedule, UUID]] = []
        self._failures = 0

    def turn(self) -> float:
        """Fire what is due now, if the master can be asked; returns the seconds to wait until the next turn."""
        try:
            wait_seconds = self.tick()
        except (SQLAlchemyError, DocworkerError) as error:
            self._failures += 1
            wait_seconds = random.uniform(0.5, 1) * min(LONGEST_WAIT_SECONDS, 2.0**self._failures)  # noqa: S311
            reason = first_line(error)
            log.warning("beat.waiting", error=reason, seconds=round(wait_seconds, 1))
            self.health.failed(reason)
        else:
            self._failures = 0
            self.health.turned()
        return wait_seconds

    def tick(self) -> float:
        """Fire what is due now; returns the seconds to wait until the next look."""
        with all_jobs_session() as session:
            now, known = look(session, self._schedules)
            fired = fired_ticks(session, [one.name for one in known], now)
        waits: list[float] = []
        held_up: Exception | None = None
        ahead: Count[str] = Count()
        for one in known:
            try:
                waits.append(self._look_at(one, now, fired.get(one.name, Fired()), ahead))
            except Exception as error:
                fault = classify(error)
                if fault.is_infrastructure:
                    raise
                if fault is Fault.SERIALIZATION:  # somebody holds its job: the others need not wait
                    held_up = error
                else:
                    self._put_aside(one, error)
        self._send()
        self._tell(known, ahead)
        if held_up is not None:
            raise held_up
        return min(LONGEST_WAIT_SECONDS, max(SHORTEST_WAIT_SECONDS, min(waits, default=LONGEST_WAIT_SECONDS)))

    def _look_at(self, known: Known, now: datetime, fired: Fired, ahead: Count[str]) -> float:
        """Fire one schedule if it is due; returns the seconds until its next tick."""
        schedule = known.checked()
        check(schedule, self._kinds)
        next_due_at = next_tick(schedule.when, now)
        if known.kept.paused:
            self._take_back(known)
            return LONGEST_WAIT_SECONDS
        after = known.kept.since if fired.last is None else max(fired.last.due_at, known.kept.since)
        due = due_ticks(schedule.when, schedule.missed, now, after)
        for due_at in due[:MOST_AT_ONCE]:
            self._fire(known, schedule, due_at)
        self._take_back(known)
        self._tell_what_is_ahead(known, [one for one in fired.ahead if one > next_due_at], ahead)
        return 0 if len(due) > MOST_AT_ONCE else (next_due_at - now).total_seconds()

    def _put_aside(self, known: Known, error: Exception) -> None:
        if self._set_aside.get(known.key) is not type(error):  # what it says may differ at each look
            reason = f"{type(error).__name__}: {first_line(error)}"
            log.error("schedule.set_aside", schedule=known.name, place=known.place, error=reason)
        self._set_aside[known.key] = type(error)

    def _take_back(self, known: Known) -> None:
        if self._set_aside.pop(known.key, None) is not None:
            log.info("schedule.goes_on", schedule=known.name)

    def _tell_what_is_ahead(self, known: Known, ticks: Sequence[datetime], ahead: Count[str]) -> None:
        ahead[known.label] += len(ticks)
        if ticks and known.key not in self._ahead:
            self._ahead.add(known.key)
            log.warning(
                "schedule.ticks_ahead",
                schedule=known.name,
                ticks=len(ticks),
                last=ticks[-1].isoformat(),
                reason="the master's clock was ahead when they fired; they hold up nothing",
            )
        if not ticks:
            self._ahead.discard(known.key)

    def _tell(self, known: Sequence[Known], ahead: Count[str]) -> None:
        keys = {one.key for one in known}
        self._set_aside = {key: error for key, error in self._set_aside.items() if key in keys}
        aside = Count(one.label for one in known if one.key in self._set_aside)
        for label in {one.label for one in known}:
            FIRES.labels(label)  # so that it is there before the first tick
            SET_ASIDE.labels(label).set(aside[label])
            AHEAD.labels(label).set(ahead[label])

    def _fire(self, known: Known, schedule: Schedule, due_at: datetime) -> None:
        with all_jobs_session() as session:
            if not is_unchanged(session, known.kept):
                return  # the next look sees it as it is now
            job_id = enqueue_tick(session, schedule, self._kinds, due_at)
            if not enter_tick(session, schedule.name, due_at, job_id):
                session.rollback()  # another beat was faster, and the job is its
                return
            forget_ticks(session, schedule.name, due_at - KEEP_FIRES, keep=KEEP_TICKS)
        if isinstance(schedule, TaskSchedule):
            self._unsent.append((schedule, job_id))
        FIRES.labels(known.label).inc()
        log.info("schedule.fired", schedule=schedule.name, due_at=due_at.isoformat(), job=str(job_id))

    def _send(self) -> None:
        """Plain tasks come last: the broker holds up no job."""
        unsent, self._unsent = self._unsent, []
        for schedule, task_id in unsent:
            try:
                schedule.send(self._app, task_id)
            except Exception as error:  # noqa: BLE001 - whatever a client raises: it is told, and is not sent again
                UNSENT.labels(schedule.name).inc()
                log.error("schedule.not_sent", schedule=schedule.name, task=str(task_id), error=first_line(error))  # noqa: TRY400
