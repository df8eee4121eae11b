"""`Consumer`: Celery's, which waits for a broker in trouble, whatever it answers, and then begins with a new link."""

import time
from contextlib import suppress
from typing import Any

import structlog
from celery import bootsteps
from celery.worker import state
from celery.worker.consumer import consumer as celery_consumer
from celery.worker.consumer.tasks import Tasks
from prometheus_client import Counter

from docworker.worker.brokers.reasons import reason_of
from docworker.worker.brokers.transport import unsettled

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = (0.1, 2.0)
"""The first and the longest pause before a new link, when the one before it lasted for less than the longest."""

_SILENT_SECONDS = 4.0
"""A link that works is answered about once a second; this leaves room for a busy machine."""

LINKS_LOST = Counter("docworker_broker_links_lost_total", "Links to the broker that were given up.")


class Consumer(celery_consumer.Consumer):
    """What `worker_consumer` names."""

    class Blueprint(celery_consumer.Consumer.Blueprint):
        """Without the exchanges and queues by which Celery delays messages at RabbitMQ: jobs wait in the ledger."""

        default_steps = [  # noqa: RUF012 - as Celery has it
            step for step in celery_consumer.Consumer.Blueprint.default_steps if "delayed_delivery" not in step
        ]

    connection: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]
        self.link_errors = 0
        """How often a link was lost or could not be had."""
        self._link: Any = None
        self._linked_at = 0.0
        self._pause_seconds = 0.0

    @property
    def hears(self) -> bool:
        """Whether messages come over the link now, as far as its transport knows. Safe in any thread."""
        link = self._link
        return link is not None and getattr(link, "silent_seconds", 0.0) < _SILENT_SECONDS

    def connect(self) -> Any:
        connection = super().connect()  # type: ignore[no-untyped-call]
        self._link = connection.transport
        return connection

    def ensure_connected(self, conn: Any) -> Any:
        """Wait for the broker without limit, and look often enough that it is soon found well again."""

        def failed(error: Exception, seconds: float) -> None:
            self.link_errors += 1
            log.warning("broker.unreachable", broker=conn.as_uri(), error=reason_of(error), again_in_seconds=seconds)

        conn.ensure_connection(
            failed, interval_start=0.5, interval_step=0.5, interval_max=2, callback=state.maybe_shutdown
        )
        self.first_connection_attempt = False
        self._linked_at = time.monotonic()
        return conn

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        self._link = None
        self.link_errors += 1
        LINKS_LOST.inc()
        log.warning("broker.link_lost", error=str(exc) or repr(exc), running=len(state.active_requests))
        give_up = getattr(self.connection.transport, "give_up", None)
        if give_up is not None:
            give_up()
        with suppress(Exception):  # it may be what has just failed
            self.connection.collect()
        self._pause()

    def _pause(self) -> None:
        """A broker that takes connections and refuses commands is not asked in a tight loop."""
        shortest, longest = _PAUSE_SECONDS
        held = time.monotonic() - self._linked_at > longest
        self._pause_seconds = shortest if held else min(longest, max(shortest, 2 * self._pause_seconds))
        until = time.monotonic() + self._pause_seconds
        while (left := until - time.monotonic()) > 0:
            state.maybe_shutdown()
            time.sleep(min(left, 0.1))


class TakeOver(bootsteps.StartStopStep):
    """On a new link: settles what came over the ones before, or gives it back."""

    requires: tuple[type, ...] = (Tasks,)  # type: ignore[assignment]

    def start(self, consumer: Any) -> None:
        running = {request.message.delivery_tag for request in state.active_requests}
        channel = consumer.task_consumer.channel
        if hasattr(channel, "given_up"):
            unsettled.take_over(channel, running)
