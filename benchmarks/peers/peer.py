"""What a queue has to offer to be measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg

CONCURRENCY = 8
"""Jobs at a time in each process, of the queues that run several in one process; what dramatiq has by default."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Peer:
    """`workers` are arguments of `python -m`; together they are two processes that run jobs."""

    name: str
    workers: Sequence[Sequence[str]]
    send_noops: Callable[[int], object]
    send_documents: Callable[[UUID, list[UUID]], object]
    noops_done: Callable[[], tuple[int, float]]
    """How many jobs that do nothing are done, and when the last one was (seconds since 1970)."""
    install: Callable[[], object] = _nothing
    """Make the queue's own tables."""
    noops: int
    documents: int = 1000
    """How many make a turn of some seconds."""


def recorded(query: str) -> tuple[int, float]:
    """The count and the latest time that a queue's own table holds: `query` yields both, the time may be NULL."""
    with psycopg.connect() as connection:
        count, last = connection.execute(query.encode()).fetchone() or (0, None)
    return int(count), float(last or 0)
