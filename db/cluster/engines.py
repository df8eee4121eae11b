"""`open_database`: the engines of this process, a master and its replicas per cluster, connecting when first used.

Engines never cross a fork: whoever forks opens a database of its own in the child.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Engine, NullPool, create_engine, event

from docworker.db.cluster.connections import ask_for_session, bounded, connect_arguments, discovery_of, watch
from docworker.db.cluster.long_sessions import LongSessionWatch
from docworker.db.cluster.monitor import ReplicaMonitor
from docworker.db.cluster.pool import MeasuredPool, OpenSessions
from docworker.db.cluster.roundtrip import SERVER
from docworker.db.cluster.servers import Server, Timelines, replica_role
from docworker.db.errors import ConfigurationError, ForkedEngineError
from docworker.db.settings import HOME, Settings
from docworker.db.settings import settings as settings_of_environment


@dataclass(frozen=True, eq=False)
class Cluster:
    """One master and the replicas that follow it.

    `lease` is the connection that renews leases; `dispatcher` sees the jobs of all organizations, where it is allowed.
    """

    name: str
    master: Engine
    replicas: tuple[Engine, ...]
    lease: Engine
    dispatcher: Engine | None
    monitor: ReplicaMonitor

    @property
    def timelines(self) -> Timelines:
        """What is known of who may be the master."""
        return self.monitor.timelines

    @property
    def engines(self) -> list[Engine]:
        optional = (self.master, *self.replicas, self.lease, self.dispatcher)
        return [engine for engine in optional if engine is not None]

    def dispose(self) -> None:
        self.monitor.stop()
        for engine in self.engines:
            engine.dispose()


class Database:
    """All clusters of this process."""

    def __init__(self, clusters: Mapping[str, Cluster], settings: Settings) -> None:
        self.settings = settings
        self._clusters = clusters
        self._pid = os.getpid()
        engines = [engine for cluster in clusters.values() for engine in cluster.engines]
        self._long_sessions = LongSessionWatch(engines, limit_seconds=settings.long_session)
        self._long_sessions.start()

    def cluster(self, name: str) -> Cluster:
        """Raises ForkedEngineError in a process that did not open this database, ConfigurationError for a name that
        no setting knows."""
        if os.getpid() != self._pid:
            raise ForkedEngineError(
                f"the database was opened in process {self._pid} and is used in process {os.getpid()}: "
                "open it after the fork"
            )
        self.settings.addresses(name)
        return self._clusters[name]

    def dispose(self) -> None:
        self._long_sessions.stop()
        for cluster in self._clusters.values():
            cluster.dispose()


_current: Database | None = None


def open_database(settings: Settings | None = None, *, application_name: str = "docworker") -> Database:
    """Make this process's engines and remember them for `reading()` and `writing()`. Nothing connects yet.

    Without settings those of the environment are taken; raises ConfigurationError where these cannot be.
    """
    global _current
    close_database()
    settings = settings or settings_of_environment()
    clusters = {name: build_cluster(name, settings, application_name) for name in settings.cluster_names}
    _current = Database(clusters, settings)
    return _current


def database() -> Database:
    """The database of this process; raises ConfigurationError when none is open."""
    if _current is None:
        raise ConfigurationError("no database is open in this process: call docworker.open_database() first")
    return _current


def close_database() -> None:
    """Close this process's connections. After a fork the parent's connections are left alone."""
    global _current
    if _current is not None and _current._pid == os.getpid():
        _current.dispose()
    _current = None


class BuildEngine(Protocol):
    """Makes an engine for one server: `build_engine`, or its asyncio twin."""

    def __call__(
        self, url: str, settings: Settings, server: Server, *, application_name: str, **limits: Any
    ) -> Engine: ...


def build_cluster(name: str, settings: Settings, application_name: str, *, build: BuildEngine | None = None) -> Cluster:
    addresses = settings.addresses(name)
    timelines = Timelines()
    build = build or build_engine

    def engine(url: str, role: str, **limits: Any) -> Engine:
        suffix = " lease" if role == "lease" else ""
        server = Server(name, role, timelines)
        return build(url, settings, server, application_name=f"{application_name}{suffix}", **limits)

    return Cluster(
        name=name,
        master=engine(addresses.master_url, "master"),
        replicas=tuple(engine(url, replica_role(number)) for number, url in enumerate(addresses.replica_urls)),
        lease=engine(addresses.master_url, "lease", pool_size=1, max_overflow=0),
        dispatcher=(None if addresses.dispatcher_url is None else engine(addresses.dispatcher_url, "dispatcher")),
        monitor=ReplicaMonitor(name, settings, timelines, application_name=f"{application_name} monitor"),
    )


def build_engine(url: str, settings: Settings, server: Server, *, application_name: str, **limits: Any) -> Engine:
    """One measured and watched engine; `limits` are pool arguments other than those of the settings."""
    engine = create_engine(
        "postgresql+psycopg://", **engine_arguments(url, settings, server, application_name, **limits)
    )
    return watched(engine, server, settings)


def engine_arguments(
    url: str, settings: Settings, server: Server, application_name: str, **limits: Any
) -> dict[str, Any]:
    """What `create_engine` and `create_async_engine` are given. No pre-ping: see `db.cluster.connections`."""
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


def watched(engine: Engine, server: Server, settings: Settings) -> Engine:
    pool = engine.pool
    assert isinstance(pool, MeasuredPool)
    pool.label(server.cluster, server.role, OpenSessions())
    dialect: Any = engine.dialect
    dialect._set_backslash_escapes = lambda _: None  # whatever it finds now: our sessions ask for standard strings
    watch(engine, server, settings)
    return engine


def owner_engine(settings: Settings, cluster: str = HOME) -> Engine:
    """The owner's engine for migrations; raises ConfigurationError when DOCWORKER_OWNER_URL is not set."""
    owner_url = settings.addresses(cluster).owner_url
    if owner_url is None:
        raise ConfigurationError(
            "DOCWORKER_OWNER_URL is not set: give the master's address as the role that owns the database"
        )
    arguments = connect_arguments(owner_url, settings, "docworker migrate")
    engine = create_engine("postgresql+psycopg://", connect_args=arguments, poolclass=NullPool)
    # Without a limit: an index is made for as long as it takes, but not on a server that is gone.
    discovery = discovery_of(arguments, settings, Server(cluster, "owner", Timelines()))
    event.listen(engine, "do_connect", lambda dialect, _, values, __: bounded(dialect, values, discovery.master()))
    event.listen(engine, "connect", lambda connection, _: ask_for_session(connection))
    return engine
