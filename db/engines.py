"""The engines of one process: a master and its replicas per cluster, connecting only when first used.

Engines never cross a fork: whoever forks opens a database of its own in the child.
"""

import os
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine

from db.connecting import connect_arguments as connect_arguments
from db.connecting import watch
from db.errors import ConfigurationError, ForkedEngineError
from db.pool import Holders, MeasuredPool
from db.replication import Server, Timelines
from db.sampler import Sampler
from db.settings import Settings
from db.transactions import SERVER

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
    sampler: Sampler

    def dispose(self) -> None:
        self.sampler.stop()
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
    timelines = Timelines()

    def engine(url: str, role: str) -> Engine:
        return build_engine(url, settings, Server(name, role, timelines), application_name=application_name)

    return Cluster(
        name=name,
        master=engine(settings.master_url, "master"),
        replicas=tuple(engine(url, f"replica{number}") for number, url in enumerate(settings.replica_urls, 1)),
        ledger=_single_connection_engine(
            settings.master_url, settings, Server(name, "lease", timelines), f"{application_name} lease"
        ),
        dispatcher=(None if settings.dispatcher_url is None else engine(settings.dispatcher_url, "dispatcher")),
        sampler=Sampler(name, settings, timelines, application_name=f"{application_name} sampler"),
    )


def build_engine(url: str, settings: Settings, server: Server, *, application_name: str, **limits: Any) -> Engine:
    """One measured and watched engine; `limits` are pool arguments other than those of the settings."""
    engine = create_engine(
        "postgresql+psycopg://", **engine_arguments(url, settings, server, application_name, **limits)
    )
    return watched(engine, server)


def engine_arguments(
    url: str, settings: Settings, server: Server, application_name: str, **limits: Any
) -> dict[str, Any]:
    """What `create_engine` and `create_async_engine` are given. No pre-ping: see `db.connecting`."""
    return {
        "connect_args": connect_arguments(url, settings, application_name),
        "execution_options": {SERVER: server},
        "poolclass": MeasuredPool,
        "pool_size": settings.pool_size,
        "max_overflow": settings.max_overflow,
        "pool_timeout": settings.pool_timeout,
        "pool_recycle": settings.pool_recycle,
        "pool_use_lifo": True,
        **limits,
    }


def watched(engine: Engine, server: Server) -> Engine:
    pool = engine.pool
    assert isinstance(pool, MeasuredPool)
    pool.label(server.cluster, server.role, Holders())
    watch(engine, server)
    return engine


def _single_connection_engine(url: str, settings: Settings, server: Server, application_name: str) -> Engine:
    return build_engine(url, settings, server, application_name=application_name, pool_size=1, max_overflow=0)


def owner_engine(settings: Settings) -> Engine:
    """The owner's engine for migrations; raises ConfigurationError when DOCWORKER_OWNER_URL is not set."""
    if settings.owner_url is None:
        raise ConfigurationError(
            "DOCWORKER_OWNER_URL is not set: give the master's address as the role that owns the database"
        )
    arguments = connect_arguments(settings.owner_url, settings, "docworker migrate")
    return create_engine("postgresql+psycopg://", connect_args=arguments, poolclass=NullPool)
