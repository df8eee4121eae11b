"""`waiting_in`: how many messages wait in a queue; `BrokerProbe` asks so over a connection that it keeps."""

from collections.abc import Callable
from typing import Any

import structlog
from kombu.connection import Connection
from kombu.entity import Queue

log = structlog.get_logger(__name__)

PROBE_TIMEOUT_SECONDS = 2.0


def waiting_in(queue: Queue, channel: Any) -> int:
    """Not by a passive declaration: on Redis that looks for the queue without the key prefix, and finds none."""
    return int(queue(channel).queue_declare().message_count)


class BrokerProbe:
    """Asks the broker how many messages wait in a queue, over a connection that it keeps."""

    def __init__(self, connect: Callable[[], Connection], queue: Queue) -> None:
        """The queue is the app's: RabbitMQ refuses one that is declared otherwise than before."""
        self._connect = connect
        self._queue = queue
        self._connection: Connection | None = None

    def waiting(self) -> int | None:
        """The number of waiting messages; None when the broker does not answer."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            return waiting_in(self._queue, self._connection.default_channel)
        except Exception as error:  # noqa: BLE001 - each transport has its own errors, and all mean: no answer
            log.debug("broker.not_reachable", error=str(error))
            self.close()
            return None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.release()
            except Exception as error:  # noqa: BLE001
                log.debug("broker.close_failed", error=str(error))
