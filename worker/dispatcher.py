"""The dispatcher: moves due jobs from the ledger to the broker, and rescues those whose worker fell silent.

Several may run; each tick one of them plans and the others stand by. It keeps the broker's queue short: the backlog
stays in PostgreSQL.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import structlog
from celery import Celery
from kombu import Connection, Queue
from prometheus_client import Counter, Gauge
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from db import ledger
from db.engines import connect_arguments, open_database
from db.faults import classify
from db.ledger import Lane, Message
from db.sessions import overseeing
from db.settings import Settings
from jobs.kinds import Kind
from worker.health import LoopHealth
from worker.metrics import serving

log = structlog.get_logger(__name__)

_ONE_PLANS = text("SELECT pg_try_advisory_xact_lock(hashtext('docworker'), hashtext('dispatcher'))")
_SHORTEST_WAIT_SECONDS = 0.01
_SWEEP_SECONDS = 0.5
_COUNT_SECONDS = 15
_STUCK_AFTER_SECONDS = 120.0

MESSAGES = Counter("docworker_dispatched_messages_total", "Messages given to the broker.", ("kind",))
DISPATCHED = Counter("docworker_dispatched_jobs_total", "Jobs given to the broker.", ("kind",))
RESCUED = Counter(
    "docworker_rescued_jobs_total", "Jobs whose lease had ended, by what became of them.", ("kind", "state")
)
OVERDUE = Counter("docworker_overdue_jobs_total", "Dispatched jobs that nobody claimed in time.")
UNKNOWN = Gauge("docworker_unknown_kind_lanes", "Queues of a kind that this dispatcher does not know.")
BROKER_DEPTH = Gauge("docworker_broker_depth", "Messages that wait at the broker.")
PLANNING = Gauge("docworker_dispatcher_planning", "1 on the dispatcher that plans, 0 on those that stand by.")
BACKLOG = Gauge("docworker_ledger_jobs", "Live jobs.", ("kind", "state"))
OLDEST = Gauge("docworker_ledger_oldest_due_seconds", "How long the oldest due job has been waiting.")


@dataclass(frozen=True)
class Tick:
    """What one look did. `planned` is false on a dispatcher that stands by."""

    planned: bool
    messages: Sequence[Message] = ()

    @property
    def busy(self) -> bool:
        return bool(self.messages)


class Broker:
    """The broker as the dispatcher needs it: how many messages wait, and take this one. Reconnects by itself."""

    def __init__(self, app: Celery, queue: str) -> None:
        self._app = app
        self._queue = queue
        self._connection: Connection | None = None

    def depth(self) -> int:
        """Messages waiting now; raises the transport's errors."""
        with self._connected() as connection:
            declared = Queue(self._queue, channel=connection.default_channel).queue_declare()
            return int(declared.message_count)

    def publish(self, messages: Sequence[Message]) -> list[Message]:
        """Send what can be sent; returns the messages the broker did not take."""
        for number, message in enumerate(messages):
            try:
                self._send(message)
            except Exception as error:  # noqa: BLE001 - each transport has its own errors, all mean: not taken
                log.warning("broker.refused", messages=len(messages) - number, error=str(error))
                return list(messages[number:])
        return []

    def _send(self, message: Message) -> None:
        with self._connected() as connection, self._app.amqp.Producer(connection.default_channel) as producer:
            self._app.send_task(
                message.lane.kind,
                kwargs={
                    "organization_id": str(message.lane.organization_id),
                    "job_ids": [str(one) for one in message.job_ids],
                },
                task_id=str(message.id),
                queue=self._queue,
                producer=producer,
                retry=False,
                ignore_result=True,
            )
        MESSAGES.labels(message.lane.kind).inc()
        DISPATCHED.labels(message.lane.kind).inc(len(message.job_ids))

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        if self._connection is None:
            self._connection = self._app.connection_for_write()
        try:
            yield self._connection
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.release()
            self._connection = None


class Bell:
    """LISTEN on a connection of its own. Without one, waiting is just waiting."""

    def __init__(self, settings: Settings) -> None:
        self._arguments = connect_arguments(
            settings.listen_url or settings.dispatcher_database_url(), settings, "docworker bell"
        )
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def open(self) -> None:
        """Listen; a failure leaves the polling to find the work."""
        try:
            self._connection = psycopg.connect(**self._arguments, autocommit=True)
            self._connection.execute(sql.SQL("LISTEN docworker_jobs"))
        except psycopg.Error as error:
            log.warning("bell.silent", error=str(error))
            self.close()

    def wait(self, seconds: float) -> bool:
        """Wait that long at most; True when somebody rang."""
        if self._connection is None:
            self.open()
        if self._connection is None:
            time.sleep(seconds)
            return False
        try:
            return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))
        except psycopg.Error:
            self.close()
            return True

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Dispatcher:
    """`run()` until `stop()`; `tick()` is one look, for tests."""

    def __init__(self, settings: Settings, app: Celery, kinds: dict[str, Kind]) -> None:
        self._settings = settings
        self._kinds = kinds
        self._broker = Broker(app, settings.queue)
        self._bell = Bell(settings)
        self._stopping = False
        self.health = LoopHealth(stuck_after_seconds=_STUCK_AFTER_SECONDS)
        self._swept_at = self._counted_at = float("-inf")
        self._idle_ticks = 0

    def run(self) -> None:
        """Dispatch until stopped. Outages of the master or of the broker are waited out."""
        self._bell.open()
        while not self._stopping:
            try:
                tick = self.tick()
                self._idle_ticks = 0 if tick.busy else self._idle_ticks + 1
                self.health.turned()
            except Exception as error:
                if not classify(error).is_infrastructure:
                    raise
                reason = str(error).splitlines()[0]
                log.warning("dispatcher.waiting", error=reason)
                self.health.failed(reason)
                self._idle_ticks += 1
            if self._bell.wait(self._wait_seconds()):
                self._idle_ticks = 0
        self._bell.close()
        self._broker.close()

    def stop(self) -> None:
        self._stopping = True

    def _wait_seconds(self) -> float:
        """Short after work, since more may have been committed unheard; then longer and longer."""
        return min(self._settings.dispatch_interval, _SHORTEST_WAIT_SECONDS * 1.5 ** min(self._idle_ticks, 20))

    def tick(self) -> Tick:
        """Rescue, plan, mark, commit; then publish. What the broker does not take goes back to the queue."""
        depth = self._depth()
        with overseeing() as session:
            planner = bool(session.scalar(_ONE_PLANS))
            PLANNING.set(planner)
            if not planner:
                return Tick(planned=False)
            self._sweep(session)
            messages = [] if depth is None else self._plan(session, depth)
        unsent = self._broker.publish(messages)
        if unsent:
            with overseeing() as session:
                ledger.undispatch(session, unsent)
        return Tick(planned=True, messages=messages[: len(messages) - len(unsent)])

    def _depth(self) -> int | None:
        try:
            depth = self._broker.depth()
        except Exception as error:  # noqa: BLE001 - each transport has its own errors, all mean: not there
            log.warning("broker.unreachable", error=str(error))
            return None
        BROKER_DEPTH.set(depth)
        return depth

    def _sweep(self, session: Session) -> None:
        now = time.monotonic()
        if now - self._swept_at < _SWEEP_SECONDS:
            return
        self._swept_at = now
        for rescued in ledger.rescue_expired(session):
            RESCUED.labels(rescued.kind, rescued.state).inc()
            log.warning("job.rescued", job=str(rescued.id), kind=rescued.kind, state=rescued.state)
        overdue = ledger.requeue_overdue(session)
        if overdue:
            OVERDUE.inc(overdue)
            log.warning("jobs.overdue", jobs=overdue)
        if now - self._counted_at >= _COUNT_SECONDS:
            self._counted_at = now
            self._count(session)

    def _count(self, session: Session) -> None:
        BACKLOG.clear()
        for kind, state, jobs in ledger.count_live(session):
            BACKLOG.labels(kind, state).set(jobs)
        OLDEST.set(ledger.oldest_due_seconds(session))

    def _plan(self, session: Session, depth: int) -> list[Message]:
        under_way = ledger.load(session)
        capacity = self._settings.dispatch_window - max(under_way.messages, depth)
        if capacity <= 0:
            return []
        waiting = self._known(ledger.lanes(session, most=capacity * self._settings.batch_size))
        planned = ledger.plan(
            waiting,
            under_way,
            capacity=capacity,
            batch_size=self._batch_size,
            cap_of_kind=lambda kind: self._kinds[kind].max_running,
            cap_of_organization=self._settings.max_running_per_organization,
            paused=ledger.pauses(session),
        )
        marked = [
            ledger.dispatch(session, message, redispatch_after_seconds=self._settings.redispatch_after)
            for message in planned
        ]
        return [message for message in marked if message.job_ids]

    def _known(self, lanes: Sequence[Lane]) -> list[Lane]:
        known = [lane for lane in lanes if lane.kind in self._kinds]
        UNKNOWN.set(len(lanes) - len(known))
        return known

    def _batch_size(self, kind: str) -> int:
        return self._settings.batch_size if self._kinds[kind].takes_batches else 1


def main(settings: Settings, app: Celery, kinds: dict[str, Kind]) -> None:
    """Run a dispatcher in the foreground until SIGTERM or SIGINT."""
    open_database(settings, application_name="docworker dispatcher")
    dispatcher = Dispatcher(settings, app, kinds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: dispatcher.stop())
    with serving(settings, "dispatcher", dispatcher.health):
        log.info("dispatcher.started", kinds=sorted(kinds))
        dispatcher.run()
    log.info("dispatcher.stopped")
