"""The engines of one process: a master and its replicas per cluster, connecting only when first used.

Engines never cross a fork: whoever forks opens a database of its own in the child.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError

from db.choosing import obstacle_to_reading
from db.connecting import ask_for_session, bounded, survey_of, watch
from db.connecting import connect_arguments as connect_arguments
from db.errors import ConfigurationError, DocworkerError, ForkedEngineError
from db.pool import Holders, MeasuredPool
from db.replication import Server, Timelines
from db.sampler import Sampler
from db.settings import Settings
from db.transactions import SERVER, ask_position

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

    @property
    def timelines(self) -> Timelines:
        """What is known of who may be the master."""
        return self.sampler.timelines

    @property
    def engines(self) -> list[Engine]:
        optional = (self.master, *self.replicas, self.ledger, self.dispatcher)
        return [engine for engine in optional if engine is not None]

    def dispose(self) -> None:
        self.sampler.stop()
        for engine in self.engines:
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


class BuildEngine(Protocol):
    """Makes an engine for one server: `build_engine`, or its asyncio twin."""

    def __call__(
        self, url: str, settings: Settings, server: Server, *, application_name: str, **limits: Any
    ) -> Engine: ...


def build_cluster(name: str, settings: Settings, application_name: str, *, build: BuildEngine | None = None) -> Cluster:
    timelines = Timelines()
    build = build or build_engine

    def engine(url: str, role: str, **limits: Any) -> Engine:
        suffix = " lease" if role == "lease" else ""
        server = Server(name, role, timelines)
        return build(url, settings, server, application_name=f"{application_name}{suffix}", **limits)

    cluster = Cluster(
        name=name,
        master=engine(settings.master_url, "master"),
        replicas=tuple(engine(url, f"replica{number}") for number, url in enumerate(settings.replica_urls, 1)),
        ledger=engine(settings.master_url, "lease", pool_size=1, max_overflow=0),
        dispatcher=(None if settings.dispatcher_url is None else engine(settings.dispatcher_url, "dispatcher")),
        sampler=Sampler(name, settings, timelines, application_name=f"{application_name} sampler"),
    )
    cluster.sampler.on_tick = lambda: report_long_sessions(cluster.engines, settings.long_session)
    return cluster


def build_engine(url: str, settings: Settings, server: Server, *, application_name: str, **limits: Any) -> Engine:
    """One measured and watched engine; `limits` are pool arguments other than those of the settings."""
    engine = create_engine(
        "postgresql+psycopg://", **engine_arguments(url, settings, server, application_name, **limits)
    )
    return watched(engine, server, settings)


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


def watched(engine: Engine, server: Server, settings: Settings) -> Engine:
    pool = engine.pool
    assert isinstance(pool, MeasuredPool)
    pool.label(server.cluster, server.role, Holders())
    dialect: Any = engine.dialect
    dialect._set_backslash_escapes = lambda _: None  # whatever it finds now: our sessions ask for standard strings
    watch(engine, server, settings)
    return engine


def report_long_sessions(engines: Sequence[Engine], limit_seconds: float) -> None:
    """Log the open sessions that are open for longer, each once, with the place they were opened at."""
    for engine in engines:
        pool = engine.pool
        assert isinstance(pool, MeasuredPool)
        for holder in pool.holders.longest_first():
            if holder.open_seconds() <= limit_seconds:
                break
            holder.report()


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """One server as seen from this process. `lag_seconds` is of replicas that answer."""

    role: str
    healthy: bool
    reason: str = ""
    lag_seconds: float | None = None


def health(cluster: Cluster, pause: Callable[[float], None] = time.sleep) -> list[ServerHealth]:
    """Whether the master takes writes (asked now) and how the replicas are (as the sampler knows)."""
    settings, sampler = cluster.sampler.settings, cluster.sampler
    sampler.start()
    sampler.await_first_samples(pause)
    try:
        ask_position(cluster.master)
    except (DBAPIError, DocworkerError) as error:
        found = [ServerHealth("master", healthy=False, reason=str(error))]
    else:
        found = [ServerHealth("master", healthy=True)]
    for number in range(len(cluster.replicas)):
        role = f"replica{number + 1}"
        sample = sampler.sample(number)
        if sample is None:
            found.append(ServerHealth(role, healthy=False, reason="does not answer"))
            continue
        obstacle = obstacle_to_reading(sample, None, settings)
        found.append(
            ServerHealth(role, healthy=obstacle is None, reason=obstacle or "", lag_seconds=sample.lag_seconds)
        )
    return found


def owner_engine(settings: Settings) -> Engine:
    """The owner's engine for migrations; raises ConfigurationError when DOCWORKER_OWNER_URL is not set."""
    if settings.owner_url is None:
        raise ConfigurationError(
            "DOCWORKER_OWNER_URL is not set: give the master's address as the role that owns the database"
        )
    arguments = connect_arguments(settings.owner_url, settings, "docworker migrate")
    engine = create_engine("postgresql+psycopg://", connect_args=arguments, poolclass=NullPool)
    # Without a limit: an index is made for as long as it takes, but not on a server that is gone.
    survey = survey_of(arguments, settings, Timelines(), role="owner")
    event.listen(engine, "do_connect", lambda dialect, _, values, __: bounded(dialect, values, survey.master()))
    event.listen(engine, "connect", lambda connection, _: ask_for_session(connection))
    return engine
