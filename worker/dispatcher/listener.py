"""`Listener`: LISTEN on a connection of its own; `wait(seconds)` returns early on a NOTIFY or after `wake()`.

Without a connection waiting is just waiting: the polling finds the work.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from socket import socketpair
from typing import Any

import psycopg
import structlog
from psycopg import sql

from docworker.db.cluster.connections import connect_arguments, connect_plainly, discovery_of, examine
from docworker.db.cluster.discovery import LOOK_AGAIN_SECONDS
from docworker.db.cluster.servers import Server, Timelines
from docworker.db.errors import ConfigurationError, DemotedMasterError
from docworker.db.settings import HOME, Settings
from docworker.worker.logs import first_line

log = structlog.get_logger(__name__)

_SHORTEST_RETRY_SECONDS = 1.0
_SHARE_OF_TIME_FOR_RETRIES = 0.1


class Listener:
    """`open()`, then `wait()` as often as needed; `wake()` from a signal handler. A notification that names another
    place is for `heard`."""

    def __init__(
        self, settings: Settings, cluster: str = HOME, *, heard: Callable[[str], None] = lambda _: None
    ) -> None:
        self._heard_of = heard
        self._settings = settings
        self._log = log.bind(cluster=cluster)
        arguments = connect_arguments(_address(settings, cluster), settings, "docworker listener")
        self._server = Server(cluster, "listener", Timelines())
        self._discovery = discovery_of(arguments, settings, self._server)
        self._examine_at = float("-inf")
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._retry_at = float("-inf")
        # Sockets, because a wait goes on after a signal was handled, and locks can deadlock in its handler.
        self._reader, self._writer = socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def open(self) -> bool:
        """Listen; a failure leaves the polling to find the work, and is not repeated too soon."""
        started = time.monotonic()
        try:
            self._connection = connect_plainly(self._discovery.master(), self._settings)
            self._examine(self._connection)
            self._connection.execute(sql.SQL("LISTEN docworker_jobs"))
        except (psycopg.Error, DemotedMasterError) as error:
            self._log.warning("listener.silent", error=first_line(error))
            self._hang_up()
            now = time.monotonic()
            self._retry_at = now + max(_SHORTEST_RETRY_SECONDS, (now - started) / _SHARE_OF_TIME_FOR_RETRIES)
            return False
        self._log.debug("listener.listening")
        return True

    def wait(self, seconds: float) -> bool:
        """Wait that long at most; True when it was notified, or may have been without hearing it: look now."""
        if self._connection is None and time.monotonic() >= self._retry_at and self.open():
            return True
        if self._connection is not None and time.monotonic() >= self._examine_at:
            self._examine_again(self._connection)
        connection = self._connection
        line = None if connection is None else connection.fileno()
        ready = wait([self._reader] if line is None else [self._reader, line], seconds)
        if self._reader in ready:
            self._forget_wakes()
        return connection is not None and line in ready and self._heard(connection)

    def wake(self) -> None:
        """End the wait of now, or else the next one."""
        with suppress(OSError):  # full of wakes already, or closed
            self._writer.send(b"w")

    def close(self) -> None:
        self._hang_up()
        self._reader.close()
        self._writer.close()

    def _heard(self, connection: psycopg.Connection[tuple[object, ...]]) -> bool:
        try:
            places = {one.payload for one in connection.notifies(timeout=0)}
        except psycopg.Error as error:
            self._log.warning("listener.lost", error=first_line(error))
            self._hang_up()
            return True
        for place in filter(None, places):
            self._heard_of(place)
        return "" in places

    def _examine(self, connection: psycopg.Connection[Any]) -> None:
        """Raises StaleMasterError on an old master, which nobody notifies."""
        self._examine_at = time.monotonic() + LOOK_AGAIN_SECONDS
        examine(connection, self._server)
        self._discovery.look_again()

    def _examine_again(self, connection: psycopg.Connection[Any]) -> None:
        try:
            self._examine(connection)
        except (psycopg.Error, DemotedMasterError) as error:
            self._log.warning("listener.lost", error=first_line(error))
            self._hang_up()

    def _forget_wakes(self) -> None:
        with suppress(BlockingIOError):
            self._reader.recv(1024)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _address(settings: Settings, cluster: str) -> str:
    """Raises ConfigurationError where the dispatcher has none."""
    if cluster == HOME:
        return settings.listen_url or settings.dispatcher_database_url()
    addresses = settings.addresses(cluster)
    url = addresses.listen_url or addresses.dispatcher_url
    if url is None:
        raise ConfigurationError(
            f"DOCWORKER_CLUSTERS: {cluster} has no dispatcher_url: give its master's address as the role "
            "docworker_dispatcher"
        )
    return url
