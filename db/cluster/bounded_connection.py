"""`BoundedConnection`: a psycopg connection that waits for an answer only as long as the server answers others.

A server that is frozen acknowledges what it is sent, and a link that is cut says nothing: neither differs from a slow
statement. So after `answer_seconds` of silence the server is asked, over a connection made for that, whether it answers
at all. If it does, the wait goes on, up to `limit_seconds` of silence; if not, this connection is over.

Whatever waits goes through `wait`: statements, COMMIT and ROLLBACK, executemany, COPY, the pool's own rollback.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any, Self, TypeVar

import psycopg
import structlog

from docworker.db import metrics
from docworker.db.passwords import with_password

log = structlog.get_logger(__name__)

R = TypeVar("R")
Exchange = Generator[Any, Any, R]
"""What psycopg waits for: yields what it waits for, is sent what has become ready (0 when nothing has)."""

# Every PostgreSQL and every pooler answers an SSLRequest with one byte, before it asks who we are.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_INTERVAL_SECONDS = 0.1

QUESTION_SECONDS = 10.0
"""The limit of what takes a server no time: to begin, to say who and where it is, to give up a transaction. Behind a
pooler it includes the wait for one of the pooler's connections."""
GRACE_SECONDS = 5.0
"""A statement's limit is the server's, `statement_timeout`, and so much for the way."""


class NoAnswerError(psycopg.OperationalError):
    """The server did not answer: the connection was given up, and nobody knows what became of the statement."""


class _Patience:
    """How long one exchange may go on, told by when something last arrived."""

    def __init__(self, answer_seconds: float, limit_seconds: float | None) -> None:
        self.answer_seconds = answer_seconds
        self.limit_seconds = limit_seconds
        self._arrived_at = time.monotonic()

    def watched(self, exchange: Exchange[R]) -> Exchange[R]:
        """The same exchange; what arrives is noticed."""
        ready = 0  # None, which `next` would send, is nothing that psycopg's exchanges expect amid their work
        while True:
            try:
                state = exchange.send(ready)
            except StopIteration as end:
                result: R = end.value
                return result
            ready = (yield state) or 0
            if ready:
                self._arrived_at = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        return time.monotonic() - self._arrived_at

    @property
    def is_short(self) -> bool:
        return self.silent_seconds < self.answer_seconds

    @property
    def is_over(self) -> bool:
        return self.limit_seconds is not None and self.silent_seconds >= self.limit_seconds


class BoundedConnection(psycopg.Connection[Any]):
    """A psycopg connection that gives up on a server that does not answer, with NoAnswerError.

    `prepared` are the names of statements that were prepared past psycopg (`db.sessions.exchanges`).
    """

    answer_seconds: float = 4.0
    limit_seconds: float | None = None

    @classmethod
    def connect(cls, conninfo: str = "", **arguments: Any) -> Self:
        """As psycopg's, with the password of now (`db.passwords`), whose errors it raises, too."""
        return super().connect(conninfo, **with_password(arguments))

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.prepared: set[str] = set()

    def _deallocate(self, name: bytes | None) -> Any:
        """psycopg forgets what is prepared, all of it, after a transaction was rolled back."""
        if name is None:
            self.prepared.clear()
        return super()._deallocate(name)

    def wait(self, gen: Any, interval: float = _INTERVAL_SECONDS, timeout: float | None = None) -> Any:
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        patience = _Patience(self.answer_seconds, self.limit_seconds)
        try:
            return super().wait(gen, interval, patience.answer_seconds)
        except psycopg.errors._WaitTimeout:
            pass
        gen = patience.watched(gen)
        while not patience.is_over and (patience.is_short or self._answers()):
            try:
                return super().wait(gen, interval, patience.answer_seconds)
            except psycopg.errors._WaitTimeout:
                continue
        raise _given_up(self, patience)

    def _answers(self) -> bool:
        family, address = _address(self)
        try:
            with closing(socket.socket(family, socket.SOCK_STREAM)) as asked:
                asked.settimeout(self.answer_seconds)
                asked.connect(address)
                asked.sendall(_SSL_REQUEST)
                asked.recv(1)
        except TimeoutError:
            return False
        except OSError as error:
            return isinstance(error, ConnectionError)  # an answer, too: what waits here will hear the same
        return True


class BoundedAsyncConnection(psycopg.AsyncConnection[Any]):
    """The same for asyncio."""

    answer_seconds: float = 4.0
    limit_seconds: float | None = None

    @classmethod
    async def connect(cls, conninfo: str = "", **arguments: Any) -> Self:
        """The same, without stopping the loop while a password is asked for."""
        return await super().connect(conninfo, **await asyncio.to_thread(with_password, arguments))

    async def wait(self, gen: Any, interval: float = _INTERVAL_SECONDS, timeout: float | None = None) -> Any:
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        patience = _Patience(self.answer_seconds, self.limit_seconds)
        try:
            return await super().wait(gen, interval, patience.answer_seconds)
        except psycopg.errors._WaitTimeout:
            pass
        gen = patience.watched(gen)
        while not patience.is_over and (patience.is_short or await self._answers()):
            try:
                return await super().wait(gen, interval, patience.answer_seconds)
            except psycopg.errors._WaitTimeout:
                continue
        raise _given_up(self, patience)

    async def _answers(self) -> bool:
        family, address = _address(self)
        loop = asyncio.get_running_loop()
        try:
            with closing(socket.socket(family, socket.SOCK_STREAM)) as asked:
                asked.setblocking(False)
                async with asyncio.timeout(self.answer_seconds):
                    await loop.sock_connect(asked, address)
                    await loop.sock_sendall(asked, _SSL_REQUEST)
                    await loop.sock_recv(asked, 1)
        except TimeoutError:
            return False
        except OSError as error:
            return isinstance(error, ConnectionError)
        return True


Bounded = BoundedConnection | BoundedAsyncConnection


def _given_up(connection: Bounded, patience: _Patience) -> NoAnswerError:
    """End the connection without a word to the server, which would be waited for as well."""
    info = connection.info
    where = f"{info.host}:{info.port}"
    connection.pgconn.finish()
    metrics.GIVEN_UP.inc()
    log.warning("server.silent", server=where, seconds=round(patience.silent_seconds, 1))
    return NoAnswerError(f"no answer from {where} for {patience.silent_seconds:.1f} s: the connection was given up")


def _address(connection: Bounded) -> tuple[socket.AddressFamily, Any]:
    """Where the connection leads: the address that its name was resolved to."""
    info = connection.info
    host = info.hostaddr or info.host
    if host.startswith(("/", "@")):
        return socket.AF_UNIX, f"{host}/.s.PGSQL.{info.port}"
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, info.port)
