"""The engines of one process: a master and its replicas per cluster, connecting only when first used.

Engines never cross a fork: whoever forks opens a database of its own in the child.
"""

import os
from dataclasses import dataclass
from typing import Any

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, NullPool, create_engine, event

from db import metrics
from db.errors import ConfigurationError, ForkedEngineError
from db.pool import MeasuredPool
from db.settings import Settings

HOME = "home"


@dataclass(frozen=True, eq=False)
class Cluster:
    """One master and the replicas that follow it.

    `ledger` is the connection that renews leases; `dispatcher` sees the jobs of all organizations, where it is allowed.
    """

    name: str
    master: Engine
    replicas: tuple[Engine, ...]
    ledger: Engine
    dispatcher: Engine | None

    def dispose(self) -> None:
        for engine in (self.master, *self.replicas, self.ledger, self.dispatcher):
            if engine is not None:
                engine.dispose()


class Database:
    """All clusters of this process."""

    def __init__(self, clusters: dict[str, Cluster], settings: Settings) -> None:
        self.settings = settings
        self._clusters = clusters
        self._pid = os.getpid()

    def cluster(self, name: str = HOME) -> Cluster:
        """Raises ForkedEngineError in a process that did not open this database, ConfigurationError for a name that
        no setting knows."""
        if os.getpid() != self._pid:
            raise ForkedEngineError(
                f"the database was opened in process {self._pid} and is used in process {os.getpid()}: "
                "open it after the fork"
            )
        try:
            return self._clusters[name]
        except KeyError:
            raise ConfigurationError(
                f"no cluster is called {name!r}; known: {', '.join(sorted(self._clusters))}"
            ) from None

    def dispose(self) -> None:
        for cluster in self._clusters.values():
            cluster.dispose()


_current: Database | None = None


def open_database(settings: Settings, *, application_name: str = "docworker") -> Database:
    """Make this process's engines and remember them for `reading()` and `writing()`. Nothing connects yet."""
    global _current
    close_database()
    _current = Database({HOME: build_cluster(HOME, settings, application_name)}, settings)
    return _current


def database() -> Database:
    """The database of this process; raises ConfigurationError when none is open."""
    if _current is None:
        raise ConfigurationError("no database is open in this process: call db.engines.open_database(settings) first")
    return _current


def close_database() -> None:
    """Close this process's connections. After a fork the parent's connections are left alone."""
    global _current
    if _current is not None and _current._pid == os.getpid():
        _current.dispose()
    _current = None


def build_cluster(name: str, settings: Settings, application_name: str) -> Cluster:
    def engine(url: str, role: str) -> Engine:
        return build_engine(url, settings, cluster=name, role=role, application_name=application_name)

    return Cluster(
        name=name,
        master=engine(settings.master_url, "master"),
        replicas=tuple(engine(url, f"replica{number}") for number, url in enumerate(settings.replica_urls, 1)),
        ledger=_single_connection_engine(settings.master_url, settings, f"{application_name} lease"),
        dispatcher=(None if settings.dispatcher_url is None else engine(settings.dispatcher_url, "dispatcher")),
    )


def build_engine(url: str, settings: Settings, *, cluster: str, role: str, application_name: str) -> Engine:
    """One measured engine. `role` is master, replicaN or dispatcher; it labels metrics and messages."""
    engine = create_engine(
        "postgresql+psycopg://",
        connect_args=connect_arguments(url, settings, application_name),
        poolclass=MeasuredPool,
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_timeout=settings.pool_timeout,
        pool_recycle=settings.pool_recycle,
        pool_pre_ping=True,
        pool_use_lifo=True,
    )
    pool = engine.pool
    assert isinstance(pool, MeasuredPool)
    pool.label(cluster, role)
    _publish_pool(engine, cluster, role)
    return engine


def connect_arguments(url: str, settings: Settings, application_name: str) -> dict[str, Any]:
    """psycopg's arguments for a libpq address; what the address says itself wins."""
    return {
        "application_name": application_name,
        "connect_timeout": settings.connect_timeout,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "prepare_threshold": 5 if settings.prepared_statements else None,
        **conninfo_to_dict(url),
    }


def _single_connection_engine(url: str, settings: Settings, application_name: str) -> Engine:
    return create_engine(
        "postgresql+psycopg://",
        connect_args=connect_arguments(url, settings, application_name),
        pool_size=1,
        max_overflow=0,
        pool_timeout=settings.pool_timeout,
        pool_pre_ping=True,
    )


def owner_engine(settings: Settings) -> Engine:
    """The owner's engine for migrations; raises ConfigurationError when DOCWORKER_OWNER_URL is not set."""
    if settings.owner_url is None:
        raise ConfigurationError(
            "DOCWORKER_OWNER_URL is not set: give the master's address as the role that owns the database"
        )
    arguments = connect_arguments(settings.owner_url, settings, "docworker migrate")
    return create_engine("postgresql+psycopg://", connect_args=arguments, poolclass=NullPool)


def _publish_pool(engine: Engine, cluster: str, role: str) -> None:
    def publish(*_: Any) -> None:
        pool = engine.pool
        assert isinstance(pool, MeasuredPool)
        pool.publish()

    def invalidated(*_: Any) -> None:
        metrics.POOL_INVALIDATIONS.labels(cluster, role).inc()
        publish()

    for name in ("checkout", "checkin", "close", "close_detached"):
        event.listen(engine, name, publish)
    event.listen(engine, "invalidate", invalidated)
    publish()
