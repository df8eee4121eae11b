"""`change_chunks`: what an operator does to many jobs, in chunks, each a transaction of its own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db.ledger.control import Change, Filter, Key, change_keys, next_keys

CHUNK = 1000
CHUNKS_OF_A_LOOK = 100
"""Chunks whose keys are read at once: to look for jobs may cost a walk through the whole table, however few it gives.
"""


class Chunk(NamedTuple):
    """The ids of the jobs that were changed; and the keys of those that somebody held, or that had changed since."""

    changed: list[UUID]
    left: list[Key]


def change_chunks(
    opened: Callable[[], AbstractContextManager[Session]],
    change: Change,
    wanted: Filter,
    *,
    record: Callable[[Session, list[UUID]], None] | None = None,
) -> Iterator[Chunk]:
    """Change all jobs of the filter that nobody holds. `opened` gives a session of the dispatcher's role, which commits
    at its end; `record` is called in each of these transactions that has changed any."""
    after: Key | None = None
    most = CHUNKS_OF_A_LOOK * CHUNK
    while True:
        with opened() as session:
            keys = next_keys(session, change, wanted, after=after, most=most)
        for chunk in chunks(keys):
            with opened() as session:
                changed = change_keys(session, change, chunk, skip_locked=True)
                if changed and record is not None:
                    record(session, changed)
            done = set(changed)
            yield Chunk(changed, [key for key in chunk if key[1] not in done])
        if len(keys) < most:
            return
        after = keys[-1]


def chunks(keys: list[Key]) -> Iterator[list[Key]]:
    """Of CHUNK keys each."""
    return (keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK))
