"""The dispatcher: moves due jobs from the ledger to the broker.

Several may run; at each tick one of them plans and the others stand by. It keeps the broker's queue short: the backlog
stays in PostgreSQL. Beside it runs a judge (`worker.judge`), which rescues jobs whose worker fell silent.
"""

import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog
from celery import Celery
from prometheus_client import Counter, Gauge
from sqlalchemy.orm import Session

from db import ledger
from db.engines import close_database, database, open_database
from db.faults import Fault, classify
from db.ledger import Lane, Message
from db.sessions import overseeing
from db.settings import Settings
from jobs.kinds import Kind
from worker.bell import Bell
from worker.broker import Broker
from worker.health import LoopHealth
from worker.judge import Judge
from worker.logs import first_line
from worker.metrics import serving
from worker.pace import Pace

log = structlog.get_logger(__name__)

_SWEEP_SECONDS = 0.5
_READY_SECONDS = 5.0
_HELD_UP_SECONDS = 5.0
"""Between planning and publishing. By then another one plans, and may have found these messages overdue."""
_SET_ASIDE_SECONDS = 60.0
_SHOWN = 100
_COUNT_SECONDS = 15
_SHARE_OF_TIME_FOR_COUNTING = 0.02
_STUCK_AFTER_SECONDS = 120.0
_UNKNOWN_FAILURES = 10
"""Failures of unknown meaning since the last look that worked, after which the process ends, for its supervisor to
see."""

OVERDUE = Counter("docworker_overdue_jobs_total", "Dispatched jobs that nobody claimed in time.")
UNKNOWN = Gauge("docworker_unknown_kind_lanes", "Queues of a kind that this dispatcher does not know.")
LANES_SET_ASIDE = Gauge(
    "docworker_lanes_set_aside", "Queues whose jobs the server refuses to dispatch; the log says why. Tried again."
)
PLANNING = Gauge("docworker_dispatcher_planning", "1 on the dispatcher that plans, 0 on those that stand by.")
BACKLOG = Gauge("docworker_ledger_jobs", "Live jobs.", ("kind", "state"))
OLDEST = Gauge("docworker_ledger_oldest_due_seconds", "How long the oldest due job has been waiting.")


class _LaneSetAsideError(Exception):
    """A lane cannot be dispatched; the transaction that tried is lost."""


@dataclass(frozen=True)
class Tick:
    """What one look did. `planned` is false on a dispatcher that stands by; `room` is how many messages the broker
    could have been given."""

    planned: bool
    room: int
    messages: Sequence[Message] = ()
    failure: str | None = None


class Turns:
    """Which organization was served last, for `ledger.plan`. In memory: a new dispatcher begins a new round."""

    MOST = 10_000

    def __init__(self) -> None:
        self._last: dict[UUID, int] = {}
        self._number = 0

    @property
    def last(self) -> Mapping[UUID, int]:
        """Number of the latest turn of each organization; those not in here come first."""
        return self._last

    def take(self, organizations: Iterable[UUID]) -> None:
        for one in organizations:
            self._number += 1
            self._last.pop(one, None)
            self._last[one] = self._number
        while len(self._last) > self.MOST:
            del self._last[next(iter(self._last))]


class Dispatcher:
    """`run()` until `stop()`; `tick()` is one look, for tests."""

    def __init__(self, settings: Settings, app: Celery, kinds: Mapping[str, Kind]) -> None:
        self.health = LoopHealth(
            stuck_after_seconds=_STUCK_AFTER_SECONDS + settings.dispatch_interval,
            ready_within_seconds=_READY_SECONDS + settings.dispatch_interval,
        )
        self._settings = settings
        self._kinds = kinds
        self._broker = Broker(app, settings.queue)
        self._bell = Bell(settings)
        self.judge = Judge(settings.lease)
        self._turns = Turns()
        self._unknown: set[str] = set()
        self._set_aside: dict[tuple[object, ...], float] = {}
        self._stopping = False
        self._swept_at = self._count_at = float("-inf")
        self._broker_takes = True
        self._unknown_failures = 0
        self.pace = Pace(settings.dispatch_interval)

    def run(self) -> None:
        """Dispatch until stopped. Outages of the master or of the broker are waited out; what is our own fault, or
        keeps happening for no known reason, is raised."""
        self._bell.open()
        self.judge.start()
        try:
            while not self._stopping:
                self._turn()
                self._wait()
        finally:
            self.close()

    def stop(self) -> None:
        """Safe in a signal handler."""
        self._stopping = True
        self._bell.wake()

    def close(self) -> None:
        self.judge.stop()
        self._bell.close()
        self._broker.close()

    def _turn(self) -> None:
        started = time.monotonic()
        self.judge.raise_failure()
        try:
            tick = self.tick()
        except Exception as error:
            fault = classify(error)
            self._unknown_failures += fault is Fault.UNKNOWN
            if not fault.retryable or self._unknown_failures >= _UNKNOWN_FAILURES:
                raise
            reason = first_line(error)
            log.warning("dispatcher.waiting", error=reason, fault=fault.value)
            self.health.failed(reason)
            self.pace.failed()
            return
        self._unknown_failures = 0
        if tick.failure is None:
            self.health.turned()
            self.pace.looked(
                sent=len(tick.messages),
                room=tick.room,
                window=self._settings.dispatch_window,
                look_seconds=time.monotonic() - started,
            )
        else:
            self.health.failed(tick.failure)
            self.pace.failed()

    def _wait(self) -> None:
        looked_at = time.monotonic()
        while not self._stopping and (left := looked_at + self.pace.seconds - time.monotonic()) > 0:
            if self._bell.wait(left) and self.pace.hears:
                self.pace.rung()

    def tick(self) -> Tick:
        """Plan, mark, commit; then publish, holding nothing. What the broker does not take goes back to the queue; when
        we are killed before that, the jobs are dispatched again when they are overdue."""
        asked_at = time.monotonic()
        depth = self._broker.depth()
        while True:
            try:
                planner, room, planned, planned_at = self._look(depth, asked_at)
            except _LaneSetAsideError:
                continue  # its transaction is lost; this time without that lane
            break
        messages = self._publish(planned, planned_at)
        if planner:
            self._count()
        broker_is_well = depth is not None and len(messages) == len(planned)
        return Tick(planner, room, messages, failure=None if broker_is_well else "the broker does not answer")

    def _look(self, depth: int | None, asked_at: float) -> tuple[bool, int, Sequence[Message], float]:
        """Whether this dispatcher plans, how much room there is, the messages to send, and when they were planned."""
        with overseeing() as session:
            planner = ledger.may_plan(session)
            PLANNING.set(planner)
            if not planner or depth is None:
                return planner, self._settings.dispatch_window, (), time.monotonic()
            self._sweep(session, depth, asked_at)
            return planner, *self._plan(session, depth, asked_at), time.monotonic()

    def _publish(self, messages: Sequence[Message], planned_at: float) -> Sequence[Message]:
        """Returns what was sent."""
        held_up_seconds = time.monotonic() - planned_at
        if messages and held_up_seconds > _HELD_UP_SECONDS:
            log.warning("dispatcher.held_up", seconds=round(held_up_seconds, 1), messages=len(messages))
            unsent: Sequence[Message] = messages
        else:
            unsent = self._broker.publish(messages, timeline=str(database().cluster().timelines))
        if messages:
            self._broker_takes = not unsent
        if unsent:
            with overseeing() as session:
                ledger.undispatch(session, unsent)
        return messages[: len(messages) - len(unsent)]

    def _sweep(self, session: Session, depth: int, asked_at: float) -> None:
        """Dispatch again what was lost on its way. Not by a look at the broker that has grown old: what has been sent
        since would be taken for what waits there."""
        now = time.monotonic()
        if now - self._swept_at < _SWEEP_SECONDS or now - asked_at > ledger.JUST_SENT_SECONDS:
            return
        self._swept_at = now
        overdue = ledger.requeue_overdue(session, waiting=depth)
        if overdue:
            OVERDUE.inc(overdue)
            log.warning("jobs.overdue", jobs=overdue)

    def _plan(self, session: Session, depth: int, asked_at: float) -> tuple[int, list[Message]]:
        """Fill what room there is; returns how much that was, and the messages.

        A lane that gave less than planned (its jobs are locked by somebody just now) is left out, and the room it did
        not use is planned again: a lane must not starve the others by being locked.
        """
        messages: list[Message] = []
        left_out: set[tuple[object, ...]] = set()
        room: int | None = None
        self._set_aside = {lane: until for lane, until in self._set_aside.items() if until > time.monotonic()}
        LANES_SET_ASIDE.set(len(self._set_aside))
        while True:
            under_way = ledger.load(session)
            left = self._settings.dispatch_window - max(under_way.messages, depth + len(messages))
            # What others have sent since a look at the broker that is too old is in neither count.
            is_old = time.monotonic() - asked_at > ledger.JUST_SENT_SECONDS
            if is_old or not self._broker_takes:  # then one is tried, not all that there seems to be room for
                left = min(left, 1 - len(messages))
            room = left if room is None else room
            if left <= 0:
                return room, messages
            waiting = self._known(ledger.lanes(session, most=left * self._settings.batch_size))
            planned = ledger.plan(
                [lane for lane in waiting if lane[:4] not in left_out and lane[:4] not in self._set_aside],
                under_way,
                capacity=left,
                batch_size=self._batch_size,
                cap_of_kind=lambda kind: self._kinds[kind].max_running,
                cap_of_organization=self._settings.max_running_per_organization,
                last_turns=self._turns.last,
            )
            marked = [self._mark(session, message) for message in planned]
            messages += [message for message in marked if message.job_ids]
            self._turns.take(message.lane.organization_id for message in marked)
            short = {message.lane[:4] for message in marked if len(message.job_ids) < message.size}
            if not short:
                return room, messages
            left_out |= short

    def _mark(self, session: Session, message: Message) -> Message:
        """Dispatch the jobs of one message. A lane whose rows the server refuses to change is set aside for a while, in
        memory: the others go on, also after a restart."""
        try:
            return ledger.dispatch(session, message, redispatch_after_seconds=self._settings.redispatch_after)
        except Exception as error:
            if classify(error) not in (Fault.BAD_INPUT, Fault.UNKNOWN):
                raise
            lane = message.lane
            self._set_aside[lane[:4]] = time.monotonic() + _SET_ASIDE_SECONDS
            log.warning(
                "lane.set_aside",
                organization=str(lane.organization_id),
                kind=lane.kind,
                priority=lane.priority,
                seconds=_SET_ASIDE_SECONDS,
                error=first_line(error),
            )
            raise _LaneSetAsideError from error

    def _known(self, lanes: Sequence[Lane]) -> list[Lane]:
        known = [lane for lane in lanes if lane.kind in self._kinds]
        UNKNOWN.set(len(lanes) - len(known))
        unknown = {lane.kind for lane in lanes} - self._kinds.keys()
        if unknown - self._unknown:
            log.warning("kinds.unknown", kinds=[kind[:_SHOWN] for kind in sorted(unknown)[:_SHOWN]])
        self._unknown = unknown
        return known

    def _batch_size(self, kind: str) -> int:
        return self._settings.batch_size if self._kinds[kind].takes_batches else 1

    def _count(self) -> None:
        """With a large backlog counting takes long: it then happens less often, never while we plan, and what has been
        sent counts for more than a count that takes longer than a statement may."""
        started = time.monotonic()
        if started < self._count_at:
            return
        try:
            with overseeing() as session:
                counts, oldest = ledger.count_live(session), ledger.oldest_due_seconds(session)
        except Exception as error:
            if not classify(error).retryable:
                raise
            log.warning("ledger.not_counted", error=first_line(error))
        else:
            BACKLOG.clear()
            for kind, state, jobs in counts:
                BACKLOG.labels(kind, state).set(jobs)
            OLDEST.set(oldest)
        now = time.monotonic()
        self._count_at = now + max(_COUNT_SECONDS, (now - started) / _SHARE_OF_TIME_FOR_COUNTING)


def main(settings: Settings, app: Celery, kinds: Mapping[str, Kind]) -> None:
    """Run a dispatcher in the foreground until SIGTERM or SIGINT."""
    open_database(settings, application_name="docworker dispatcher")
    dispatcher = Dispatcher(settings, app, kinds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: dispatcher.stop())
    with serving(settings, "dispatcher", dispatcher.health):
        log.info("dispatcher.started", kinds=sorted(kinds))
        dispatcher.run()
    close_database()
    log.info("dispatcher.stopped")
