"""`open_database`: the engines of this process, a master and its replicas per cluster, connecting when first used.

Engines never cross a fork: whoever forks opens a database of its own in the child.
"""

import os
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Engine, NullPool, create_engine, event

from docworker.db.cluster.connections import ask_for_session, bounded, connect_arguments, discovery_of, watch
from docworker.db.cluster.long_sessions import LongSessionWatch
from docworker.db.cluster.monitor import ReplicaMonitor
from docworker.db.cluster.pool import MeasuredPool, OpenSessions
from docworker.db.cluster.roundtrip import SERVER
from docworker.db.cluster.servers import Server, Timelines, replica_role
from docworker.db.cluster.tenant_databases import TenantDatabases
from docworker.db.errors import ConfigurationError, ForkedEngineError
from docworker.db.settings import HOME, Settings
from docworker.db.settings import settings as settings_of_environment


@dataclass(frozen=True, eq=False)
class Cluster:
    """One database on a master and the replicas that follow it.

    `lease` is the connection that renews leases; `dispatcher` sees the jobs of all organizations, where it is allowed,
    and `dispatcher_replicas` as the same role, on the replicas.
    """

    name: str
    master: Engine
    replicas: tuple[Engine, ...]
    lease: Engine
    dispatcher: Engine | None
    dispatcher_replicas: tuple[Engine, ...]
    monitor: ReplicaMonitor

    @property
    def timelines(self) -> Timelines:
        """What is known of who may be the master."""
        return self.monitor.timelines

    @property
    def engines(self) -> list[Engine]:
        optional = (self.master, *self.replicas, self.lease, self.dispatcher, *self.dispatcher_replicas)
        return [engine for engine in optional if engine is not None]

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses a connection."""
        pools = [engine.pool for engine in self.engines]
        return not any(pool.checkedout() for pool in pools if isinstance(pool, MeasuredPool))

    def dispose_engines(self) -> None:
        for engine in self.engines:
            engine.dispose()

    def dispose(self) -> None:
        self.monitor.stop()
        self.dispose_engines()


class Database:
    """All clusters of this process."""

    def __init__(self, clusters: Mapping[str, Cluster], settings: Settings, application_name: str) -> None:
        self.settings = settings
        self._clusters = clusters
        self._application_name = application_name
        self._tenants: TenantDatabases[Cluster] = TenantDatabases(settings.databases_open)
        self._pid = os.getpid()
        self._long_sessions = LongSessionWatch(self._open_engines, limit_seconds=settings.long_session)
        self._long_sessions.start()

    def cluster(self, name: str, database: str | None = None) -> Cluster:
        """A cluster's own database, or another one on its servers. Use what it gives soon, and ask again the next time:
        the engines of a database that was not used for longest are disposed for others.

        Raises ForkedEngineError in a process that did not open this database, ConfigurationError for a name that no
        setting knows.
        """
        if os.getpid() != self._pid:
            raise ForkedEngineError(
                f"the database was opened in process {self._pid} and is used in process {os.getpid()}: "
                "open it after the fork"
            )
        self.settings.addresses(name)
        if database is None:
            return self._clusters[name]
        return self._tenants.get(name, database, lambda: self._build_tenant_database(name, database))

    def _build_tenant_database(self, name: str, database: str) -> Cluster:
        return build_tenant_database(self._clusters[name], database, self.settings, self._application_name)

    def watch_replicas(self) -> None:
        """Have the metrics tell how the replicas of all clusters are, also where nobody reads. Waits for nothing."""
        for cluster in self._clusters.values():
            cluster.monitor.start()

    def pause(self, seconds: float) -> None:
        """How code waits that has sessions of this database."""
        time.sleep(seconds)

    def _open_engines(self) -> list[Engine]:
        clusters = [*self._clusters.values(), *self._tenants.open()]
        return [engine for cluster in clusters for engine in cluster.engines]

    def dispose(self) -> None:
        self._long_sessions.stop()
        for cluster in self._tenants.forget():
            cluster.dispose_engines()
        for cluster in self._clusters.values():
            cluster.dispose()


_current: Database | None = None
_of_parent: Database | None = None


def open_database(settings: Settings | None = None, *, application_name: str = "docworker") -> Database:
    """Make this process's engines and remember them for `reading()` and `writing()`. Nothing connects yet: who needs an
    address that is not set is told then.

    Without settings those of the environment are taken; raises ConfigurationError where these cannot be.
    """
    global _current
    close_database()
    settings = settings or settings_of_environment()
    clusters = {name: build_cluster(name, settings, application_name) for name in settings.cluster_names}
    _current = Database(clusters, settings, application_name)
    return _current


awaited: ContextVar[Any] = ContextVar("awaited", default=None)
"""The asyncio twin of `Database` that is used instead, in code that runs where its waiting can be awaited."""


def database() -> Database:
    """The database of this process; raises ConfigurationError when none is open."""
    twin: Database | None = awaited.get()
    if twin is not None:
        return twin
    if _current is None:
        raise ConfigurationError("no database is open in this process: call docworker.open_database() first")
    return _current


def leave_to_parent() -> None:
    """In a process that was forked: have no database, so that no connection of the parent's is used by both. It is kept
    as it is, because its connections are closed by who forgets them."""
    global _current, _of_parent
    _current, _of_parent = None, _current


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

    def engine(url: str | None, role: str, **limits: Any) -> Engine:
        suffix = " lease" if role == "lease" else ""
        server = Server(name, role, timelines)
        return build(url or "", settings, server, application_name=f"{application_name}{suffix}", **limits)

    return Cluster(
        name=name,
        master=engine(addresses.master_url, "master"),
        replicas=tuple(engine(url, replica_role(number)) for number, url in enumerate(addresses.replica_urls)),
        lease=engine(addresses.master_url, "lease", pool_size=1, max_overflow=0),
        dispatcher=(None if addresses.dispatcher_url is None else engine(addresses.dispatcher_url, "dispatcher")),
        dispatcher_replicas=tuple(
            engine(url, f"{replica_role(number)} dispatcher")
            for number, url in enumerate(addresses.dispatcher_replica_urls)
        ),
        monitor=ReplicaMonitor(name, settings, timelines, application_name=f"{application_name} monitor"),
    )


def build_tenant_database(
    of: Cluster, database: str, settings: Settings, application_name: str, *, build: BuildEngine | None = None
) -> Cluster:
    """Another database on a cluster's servers, watched by the cluster's monitor. It is used by one organization, so a
    process keeps one connection to each server, and opens more for as long as they are in use."""
    addresses = settings.addresses(of.name, database)
    build = build or build_engine

    def engine(url: str | None, role: str) -> Engine:
        server = Server(of.name, role, of.timelines, database)
        suffix = " lease" if role == "lease" else ""
        limits = {"pool_size": 1, "max_overflow": 0 if role == "lease" else settings.max_overflow}
        return build(url or "", settings, server, application_name=f"{application_name}{suffix}", **limits)

    return Cluster(
        name=of.name,
        master=engine(addresses.master_url, "master"),
        replicas=tuple(engine(url, replica_role(number)) for number, url in enumerate(addresses.replica_urls)),
        lease=engine(addresses.master_url, "lease"),
        dispatcher=(None if addresses.dispatcher_url is None else engine(addresses.dispatcher_url, "dispatcher")),
        dispatcher_replicas=tuple(
            engine(url, f"{replica_role(number)} dispatcher")
            for number, url in enumerate(addresses.dispatcher_replica_urls)
        ),
        monitor=of.monitor,
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
        "hide_parameters": True,  # among them texts of documents, which errors would carry into logs and the ledger
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


def owner_engine(settings: Settings, cluster: str = HOME, database: str | None = None) -> Engine:
    """The owner's engine for migrations; raises ConfigurationError when its address is not set."""
    arguments = connect_arguments(settings.owner_database_url(cluster, database), settings, "docworker migrate")
    engine = create_engine("postgresql+psycopg://", connect_args=arguments, poolclass=NullPool)
    # Without a limit: an index is made for as long as it takes, but not on a server that is gone.
    discovery = discovery_of(arguments, settings, Server(cluster, "owner", Timelines()))
    event.listen(engine, "do_connect", lambda dialect, _, values, __: bounded(dialect, values, discovery.master()))
    event.listen(engine, "connect", lambda connection, _: ask_for_session(connection))
    return engine
