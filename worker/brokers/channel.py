"""`Broker`: the broker as the dispatcher needs it: how many messages wait, and take these.

Connects when used and anew after each error. Nothing here waits for a broker for longer than a few seconds.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from celery import Celery
from kombu.connection import Connection
from prometheus_client import Counter, Gauge

from docworker.db.ledger import Message
from docworker.db.settings import HOME
from docworker.jobs.task import LedgerTask, limits_of_message
from docworker.jobs.tracing import sending
from docworker.worker.brokers.depth import waiting_in
from docworker.worker.brokers.reasons import reason_of

log = structlog.get_logger(__name__)

TIMEOUT_SECONDS = 3.0
"""For each answer. The dispatcher rescues jobs while the broker is away, so it must not be held up for long."""

_TRIAL_KEY = "_docworker.trial"
_TRIAL_SECONDS = 1.0
"""For so long it is believed that a broker which has taken a message takes the next one."""

MESSAGES = Counter("docworker_dispatched_messages_total", "Messages given to the broker.", ("kind",))
DISPATCHED = Counter("docworker_dispatched_jobs_total", "Jobs given to the broker.", ("kind",))
DEPTH = Gauge("docworker_broker_depth", "Messages that wait at the broker.")


class Broker:
    """One connection and one channel, kept while they work."""

    def __init__(self, app: Celery, queue: str) -> None:
        self._app = app
        self._queue = app.amqp.queues[queue]  # declared as the workers declare it
        self._connection: Connection | None = None
        self._channel: Any = None
        self._producer: Any = None
        self._took_at = float("-inf")
        self.trouble: str | None = None
        """What it has answered, or why there was no answer, when it was not well last."""

    def depth(self) -> int | None:
        """Messages waiting now; None when the broker does not answer, or would take no message."""
        try:
            with self._open_channel() as channel:
                depth = waiting_in(self._queue, channel)
                self._try(channel)
        except Exception as error:  # noqa: BLE001 - each transport has its own errors, all mean: not there
            self.trouble = reason_of(error)
            log.warning("broker.unreachable", error=self.trouble)
            return None
        self.trouble = None
        DEPTH.set(depth)
        return depth

    def _try(self, channel: Any) -> None:
        """Raises what a message would meet. A Redis that takes none (a replica, one whose disk or memory is full)
        still says how many wait."""
        assert self._connection is not None
        is_redis = self._connection.transport.driver_type == "redis"
        if not is_redis or time.monotonic() - self._took_at < _TRIAL_SECONDS:
            return
        with channel.conn_or_acquire() as client, client.pipeline() as transaction:
            transaction.lpush(_TRIAL_KEY, "").rpop(_TRIAL_KEY).execute()
        self._took_at = time.monotonic()

    def publish(self, messages: Sequence[Message], *, cluster: str = HOME, timeline: str = "") -> list[Message]:
        """Send in order, with the cluster and the timeline they were planned on; returns the messages that the broker
        did not take, or of which it is not known."""
        for number, message in enumerate(messages):
            try:
                self._send(message, cluster, timeline)
            except Exception as error:  # noqa: BLE001 - each transport has its own errors, all mean: not taken
                self.trouble = reason_of(error)
                log.warning("broker.refused", messages=len(messages) - number, error=self.trouble)
                return list(messages[number:])
        return []

    def _send(self, message: Message, cluster: str, timeline: str) -> None:
        first, *others = message.parts
        task = self._app.tasks.get(message.kind)
        limits = limits_of_message(task) if len(message.job_ids) > 1 and isinstance(task, LedgerTask) else {}
        with self._open_channel(), sending(message.kind, message.id, len(message.job_ids), message.traces):
            self._app.send_task(
                message.kind,
                kwargs={
                    "organization_id": str(first.organization_id),
                    "job_ids": [str(one) for one in first.job_ids],
                    "others": [(str(part.organization_id), [str(one) for one in part.job_ids]) for part in others],
                    "timeline": timeline,
                    **({} if cluster == HOME else {"cluster": cluster}),
                },
                task_id=str(message.id),
                argsrepr="()",
                kwargsrepr=_told(message),
                queue=self._queue.name,
                declare=[],  # the look that has planned this has asked how much waits there
                producer=self._producer,
                retry=False,
                ignore_result=True,
                **limits,
            )
        self._took_at = time.monotonic()
        MESSAGES.labels(message.kind).inc()
        DISPATCHED.labels(message.kind).inc(len(message.job_ids))

    @contextmanager
    def _open_channel(self) -> Iterator[Any]:
        try:
            if self._channel is None:
                self._connect()
            yield self._channel
        except Exception:
            self.close()
            raise

    def _connect(self) -> None:
        options = dict(self._app.conf.broker_transport_options)
        if "socket_timeout" in options:
            options["socket_timeout"] = TIMEOUT_SECONDS
        self._connection = self._app.connection_for_write(
            transport_options=options, connect_timeout=TIMEOUT_SECONDS, heartbeat=0
        )
        # `default_channel` would try to connect for ever.
        self._connection.ensure_connection(max_retries=1, interval_start=0, timeout=TIMEOUT_SECONDS)
        self._channel = self._connection.channel()
        self._producer = self._app.amqp.Producer(self._channel)

    def close(self) -> None:
        connection, self._connection, self._channel, self._producer = self._connection, None, None, None
        if connection is not None:
            with suppress(Exception):  # it may be what has just failed
                connection.release()


def _told(message: Message) -> str:
    """For who watches Celery: to write out all ids, shortened, would cost a fifth of sending them."""
    return f"{len(message.job_ids)} jobs of {len(message.parts)} organizations"
