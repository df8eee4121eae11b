"""`Governor`: sizes the steps of work in the background to a duration, and has it wait while the servers are busy.

For work over many rows that nobody waits for: backfills, purges, reprocessing, moves. `obstacle` and `next_size` decide
from what was measured; `Governor` measures.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog
from psycopg.sql import Identifier
from sqlalchemy import text

from docworker.db import metrics
from docworker.db.catalog import TENANT_SCHEMAS
from docworker.db.cluster import Cluster, database
from docworker.db.sessions import reading
from docworker.db.sessions.opening import placed
from docworker.db.settings import Settings

log = structlog.get_logger(__name__)

FIRST_SIZE = 100
LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Load:
    """What the servers of a place are busy with; 0 for what there is nothing of, such as lag without replicas."""

    lag_seconds: float = 0
    """Of the replica that is furthest behind of those that answer."""
    wal_bytes: int = 0
    """Written to the master's log since the step before began, by everybody."""
    seconds: float = 0
    """Since then."""
    pool_wait_seconds: float = 0
    """How long this look has waited for a connection to the master."""
    vacuum_seconds: float = 0
    """For how long VACUUM has been seen at work on the table."""


def obstacle(load: Load, settings: Settings) -> str | None:
    """Why the next step has to wait; None when it may begin."""
    if load.lag_seconds > settings.governor_max_lag:
        return "replica_lag"
    if load.wal_bytes > settings.governor_wal_rate * load.seconds:
        return "wal_rate"
    if load.pool_wait_seconds > settings.governor_pool_wait:
        return "pool_wait"
    if 0 < load.vacuum_seconds <= settings.governor_vacuum_wait:
        return "vacuum"
    return None


def next_size(size: int, took_seconds: float, *, target_seconds: float, most: int) -> int:
    """How many rows come next, after `size` rows took so long: at most twice as many, or half as many."""
    factor = 2.0 if took_seconds <= 0 else min(2.0, max(0.5, target_seconds / took_seconds))
    return max(1, min(most, round(size * factor)))


@dataclass(frozen=True)
class Watched:
    """Where the work writes. `look` asks the master there how many bytes of log were ever written, and whether VACUUM
    is at work on the table; `name` is for the log."""

    name: str
    cluster: Cluster
    look: Callable[[], tuple[int, bool]]


_LOOK = text("""
SELECT CAST(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0') AS bigint) AS wal_bytes,
       EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum AS vacuum
               WHERE vacuum.datname = pg_catalog.current_database()
                 AND vacuum.relid = pg_catalog.to_regclass(CAST(:table AS text))) AS is_vacuumed
""")


def table_of(organization_id: UUID, table: str) -> Watched:
    """A table ("schema.table") where an organization is. To look raises what a session on the master does."""
    schema, name = table.split(".")

    def look() -> tuple[int, bool]:
        with reading(organization_id, source="master") as session:
            own = session.schema if schema in TENANT_SCHEMAS else schema
            row = session.execute(_LOOK, {"table": Identifier(own, name).as_string()}).one()
        return row.wal_bytes, row.is_vacuumed

    return Watched(f"{table} of {organization_id}", placed(organization_id).cluster, look)


class Governor:
    """Of one piece of work. Before each step call `wait`, and do it within `step`, which gives its size.

    What is waited for is logged, counted by `docworker_governor_wait_seconds_total`, and told to `on_wait`, as is None
    when it is over.
    """

    def __init__(
        self,
        watched: Watched,
        *,
        most: int = 10_000,
        first_size: int | None = None,
        on_wait: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self._watched = watched
        self._on_wait = on_wait
        self._most = most
        self.size = min(first_size or FIRST_SIZE, most)
        self._seen = (0.0, 0)
        self._granted: tuple[float, int] | None = None
        """When (monotonic seconds), and how far the log was, at the last look, and when the step before could begin."""
        self._vacuum_since: float | None = None

    def wait(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the next step may begin; False when `should_stop` says so first."""
        waits_for: str | None = None
        while not should_stop():
            found = obstacle(self._look(), database().settings)
            if found != waits_for:
                self._tell(found)
                waits_for = found
            if found is None:
                self._granted = self._seen
                return True
            database().pause(LOOK_SECONDS)
            metrics.GOVERNOR_WAIT_SECONDS.labels(found).inc(LOOK_SECONDS)
        return False

    @contextmanager
    def step(self) -> Iterator[int]:
        """How many rows to take; how long the block takes says how many come next."""
        began_at = time.monotonic()
        yield self.size
        took, target = time.monotonic() - began_at, database().settings.governor_step
        self.size = next_size(self.size, took, target_seconds=target, most=self._most)

    def _tell(self, reason: str | None) -> None:
        event = "governor.goes_on" if reason is None else "governor.waits"
        log.info(event, reason=reason, at=self._watched.name)
        self._on_wait(reason)

    def _look(self) -> Load:
        asked_at = time.monotonic()
        wal_total, is_vacuumed = self._watched.look()
        now = time.monotonic()
        if not is_vacuumed:
            self._vacuum_since = None
        elif self._vacuum_since is None:
            self._vacuum_since = now - LOOK_SECONDS
        self._seen = (now, wal_total)
        began_at, wal_bytes = self._granted or self._seen
        return Load(
            lag_seconds=_lag_seconds(self._watched.cluster),
            wal_bytes=wal_total - wal_bytes,
            seconds=now - began_at,
            pool_wait_seconds=now - asked_at,
            vacuum_seconds=0 if self._vacuum_since is None else now - self._vacuum_since,
        )


def _lag_seconds(cluster: Cluster) -> float:
    """One that does not answer is not waited for: nobody knows for how long."""
    monitor = cluster.monitor
    monitor.start()
    monitor.await_first_samples(database().pause)
    samples = [monitor.sample(number) for number in range(monitor.replica_count)]
    return max((one.lag_seconds for one in samples if one is not None and one.healthy), default=0)
