"""`count_statements`, `RepeatedStatements`: how often one session sends which statement, so that a query in a loop is
found (N + 1)."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import structlog
from sqlalchemy import Connection, event

from docworker.db.errors import ConfigurationError

log = structlog.get_logger(__name__)

_NOT_THE_CALLER = ("sqlalchemy.", "docworker.db.sessions.", "contextlib", "asyncio.", "greenlet")


class StatementCounts:
    """How often which statement was sent, by its SQL, which has places for values. What the session sends by itself
    when a transaction begins and ends is not counted."""

    def __init__(self) -> None:
        self.by_sql: Counter[str] = Counter()
        self._is_counting = True

    @property
    def total(self) -> int:
        return self.by_sql.total()

    def listen(self, connection: Connection) -> None:
        event.listen(connection, "before_cursor_execute", self._sent)

    def stop(self) -> None:
        self._is_counting = False

    def _sent(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if self._is_counting:
            self.by_sql[statement] += 1


@contextmanager
def count_statements(session: Any) -> Iterator[StatementCounts]:
    """Count what a session, also an asynchronous one, sends within the block; the counts stay afterwards.

    Raises ConfigurationError for a session that docworker has not opened.
    """
    watched = getattr(session, "sync_session", session)
    if not hasattr(watched, "watch_statements"):
        raise ConfigurationError(
            f"{type(session).__name__} is no session of docworker: open it with docworker.reading()"
        )
    counts = StatementCounts()
    watched.watch_statements(counts)
    try:
        yield counts
    finally:
        counts.stop()


class RepeatedStatements(StatementCounts):
    """Logs a statement that one session sends more often than `most` times, and from where; once."""

    def __init__(self, most: int, *, opened_at: str) -> None:
        super().__init__()
        self._opened_at = opened_at
        self._most = most

    def _sent(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        super()._sent(_connection, _cursor, statement)
        if self.by_sql[statement] == self._most + 1:
            log.warning(
                "session.repeated_statement",
                times=self._most + 1,
                sent_at=_caller(),
                opened_at=self._opened_at,
                statement=statement,
            )


def _caller() -> str:
    """The nearest code that belongs to neither SQLAlchemy nor our sessions; asyncio's sessions run in a greenlet, whose
    outermost frame has no caller: then where the session was opened tells more."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(_NOT_THE_CALLER):
        frame = frame.f_back
    return "unknown" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
