"""The database that the settings in force describe, open in this process, and who waits for a lock in it."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text

from docworker.db.cluster import Database, close_database, database, open_database
from docworker.db.sessions import TenantSession
from docworker.db.settings import HOME, settings
from tests.support.waiting import eventually


@contextmanager
def opened_database(**changed: Any) -> Iterator[Database]:
    """Open it, with these settings changed; closed afterwards."""
    try:
        yield open_database(settings().model_copy(update=changed), application_name="tests")
    finally:
        close_database()


@contextmanager
def reopened_database(**changed: Any) -> Iterator[Database]:
    """Within the block the database that is open has these settings changed."""
    try:
        with opened_database(**changed) as database:
            yield database
    finally:
        open_database(settings(), application_name="tests")


@contextmanager
def held_back(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Run `work` in a thread; the block begins once it waits for a lock, and its end waits for `work`."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        eventually(lambda: future.done() or somebody_waits(), within_seconds=10, what="the other one to wait")
        assert not future.done(), f"it did not wait: {future.result()}"
        yield future


_WAITING = text("""
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE NOT granted AND datname = current_database()
AND (CAST(:table AS text) IS NULL OR relation = to_regclass(CAST(:table AS text)))
""")


def somebody_waits(table: str | None = None) -> bool:
    """Whether a session of the database waits for a lock; of this whole table, if one is named with its schema."""
    with TenantSession(database().cluster(HOME).lease, None, database().settings) as session:
        return bool(session.scalar(_WAITING, {"table": table}))
