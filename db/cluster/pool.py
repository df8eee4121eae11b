"""`MeasuredPool`: a connection pool that records how long a checkout waits, and names who holds the rest when it gives
up."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Self
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from docworker.db import metrics
from docworker.db.errors import DemotedMasterError, PoolTimeoutError

log = structlog.get_logger(__name__)

_SHOWN_HOLDERS = 5


@dataclass(slots=True, eq=False)
class OpenSession:
    """An open session: where in the caller's code it was opened, and when (monotonic seconds)."""

    filename: str
    line: int
    opened_at: float
    reported: bool = False

    @classmethod
    def of(cls, frame: FrameType) -> Self:
        return cls(frame.f_code.co_filename, frame.f_lineno, time.monotonic())

    @property
    def place(self) -> str:
        return f"{self.filename}:{self.line}"

    def open_seconds(self) -> float:
        return time.monotonic() - self.opened_at

    def report(self) -> None:
        """Log this session as open for too long; once."""
        if not self.reported:
            self.reported = True
            metrics.LONG_SESSIONS.inc()
            log.warning("session.long", opened_at=self.place, open_seconds=round(self.open_seconds(), 1))

    def __str__(self) -> str:
        return f"{self.place} ({self.open_seconds():.1f} s)"


class OpenSessions:
    """The open sessions of one engine. One that is dropped without being closed is forgotten with its connection."""

    def __init__(self) -> None:
        self._open: WeakKeyDictionary[object, OpenSession] = WeakKeyDictionary()

    def add(self, session: object, open_session: OpenSession) -> None:
        self._open[session] = open_session

    def remove(self, session: object) -> None:
        self._open.pop(session, None)

    def longest_first(self) -> list[OpenSession]:
        return sorted(self._open.values(), key=lambda open_session: open_session.opened_at)


class MeasuredPool(QueuePool):
    """A QueuePool that records its waits; SQLAlchemy has no event for waiting or timing out.

    Raises PoolTimeoutError, naming the pool, its size and who holds it, when no connection came free in time.
    """

    def label(self, cluster: str, role: str, open_sessions: OpenSessions) -> None:
        """Name the pool for metrics and messages."""
        self.cluster, self.role, self.open_sessions = cluster, role, open_sessions
        self._checkout_seconds = metrics.POOL_CHECKOUT_SECONDS.labels(cluster, role)
        self._gauges = [gauge.labels(cluster, role) for gauge in metrics.POOL_GAUGES]

    def recreate(self) -> Self:
        pool = super().recreate()
        assert isinstance(pool, type(self))
        pool.label(self.cluster, self.role, self.open_sessions)
        return pool

    def connect(self) -> PoolProxiedConnection:
        """Raises DemotedMasterError where what was connected anew is refused as well before it is lent, as may happen
        while a server is promoted: SQLAlchemy then says no more than that it is closed."""
        try:
            return super().connect()
        except exc.InvalidRequestError as error:
            raise DemotedMasterError(
                f"{self.cluster} {self.role}: two connections, one made after the other, were to a server that is no "
                "master now, or an old one"
            ) from error

    def _do_get(self) -> ConnectionPoolEntry:
        started = time.perf_counter()
        try:
            return super()._do_get()
        except exc.TimeoutError as error:
            metrics.POOL_TIMEOUTS.labels(self.cluster, self.role).inc()
            raise PoolTimeoutError(self._explain(time.perf_counter() - started)) from error
        finally:
            self._checkout_seconds.observe(time.perf_counter() - started)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        self.publish()  # the checkin event comes too early: by its count the connection is still in use

    def _explain(self, waited_seconds: float) -> str:
        return (
            f"no connection to {self.cluster} {self.role} within {waited_seconds:.1f} s: "
            f"all {self.checkedout()} of pool_size {self.size()} + max_overflow {self._max_overflow} are in use; "
            f"{_named(self.open_sessions.longest_first())}; raise DOCWORKER_POOL_SIZE or DOCWORKER_MAX_OVERFLOW, "
            "or find the session that is held too long"
        )

    def publish(self, *_: Any) -> None:
        """Write the pool's present state to the gauges; called on every pool event."""
        size, checked_out, idle = self.size(), self.checkedout(), self.checkedin()
        values = (size, checked_out, idle, max(0, checked_out + idle - size))
        for gauge, value in zip(self._gauges, values, strict=True):
            gauge.set(value)


class AsyncMeasuredPool(MeasuredPool, AsyncAdaptedQueuePool):
    """The same for asyncio."""


def _named(open_sessions: Iterable[OpenSession]) -> str:
    places = [str(open_session) for open_session in open_sessions]
    if not places:
        return "no session of ours holds one"
    more = f" and {len(places) - _SHOWN_HOLDERS} more" if len(places) > _SHOWN_HOLDERS else ""
    return f"open sessions, longest first: {', '.join(places[:_SHOWN_HOLDERS])}{more}"
