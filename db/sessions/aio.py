"""The asyncio twin of `db.cluster.engines` and `db.sessions`, for producers: the same servers, choices and checks.

Only the waiting differs: the code that decides is the synchronous one, run where it can be awaited (a greenlet), on
asyncio's engines.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.util import await_only, greenlet_spawn

from docworker.db.cluster import Cluster, engines
from docworker.db.cluster.balancer import ReadFrom
from docworker.db.cluster.health import ServerHealth
from docworker.db.cluster.health import health as cluster_health
from docworker.db.cluster.long_sessions import LongSessionWatch
from docworker.db.cluster.pool import AsyncMeasuredPool, OpenSession
from docworker.db.cluster.positions import WalPosition
from docworker.db.cluster.servers import Server
from docworker.db.cluster.tenant_databases import TenantDatabases
from docworker.db.cluster.transactions import ask_position, master_of
from docworker.db.errors import ConfigurationError
from docworker.db.sessions import opening
from docworker.db.sessions.opening import Placed
from docworker.db.sessions.routing import RoutingSession
from docworker.db.sessions.tenant_session import TenantSession, opener
from docworker.db.settings import HOME, Settings
from docworker.db.settings import settings as settings_of_environment

T = TypeVar("T")
P = ParamSpec("P")


class AsyncTenantSession(AsyncSession):
    """An AsyncSession around a TenantSession; `sync_session` has its organization, choice and settings."""

    def __init__(self, session: TenantSession) -> None:
        super().__init__(sync_session_class=cast("type[TenantSession]", lambda **_: session))
        self.session = session

    @property
    def routing(self) -> RoutingSession | None:
        """The RoutingSession, where `routing()` opened this."""
        return self.session if isinstance(self.session, RoutingSession) else None

    async def commit_with_position(self) -> WalPosition:
        """As `TenantSession.commit_with_position`."""
        return await greenlet_spawn(self.session.commit_with_position)


class AsyncDatabase:
    """All clusters of this program, on asyncio engines. `async with` opens and closes; so do the module's functions.

    `cluster(name).master` and the others are the engines' synchronous faces, for use inside a greenlet.
    """

    def __init__(self, settings: Settings, *, application_name: str = "docworker") -> None:
        self.settings = settings
        self._application_name = application_name
        self._engines: list[AsyncEngine] = []
        self._clusters = {
            name: engines.build_cluster(name, settings, application_name, build=self._build)
            for name in settings.cluster_names
        }
        self._tenants: TenantDatabases[Cluster] = TenantDatabases(settings.databases_open)
        self._long_sessions = LongSessionWatch(self._open_engines, limit_seconds=settings.long_session)
        self._long_sessions.start()

    def _build(self, url: str, settings: Settings, server: Server, *, application_name: str, **limits: Any) -> Any:
        limits["poolclass"] = AsyncMeasuredPool
        arguments = engines.engine_arguments(url, settings, server, application_name, **limits)
        engine = create_async_engine("postgresql+psycopg://", **arguments)
        self._engines.append(engine)
        return engines.watched(engine.sync_engine, server, settings)

    def cluster(self, name: str, database: str | None = None) -> Cluster:
        """As `db.cluster.Database.cluster`."""
        self.settings.addresses(name)
        if database is None:
            return self._clusters[name]
        return self._tenants.get(name, database, lambda: self._build_tenant_database(name, database))

    def _build_tenant_database(self, name: str, database: str) -> Cluster:
        return engines.build_tenant_database(
            self._clusters[name], database, self.settings, self._application_name, build=self._build
        )

    def pause(self, seconds: float) -> None:
        """How code waits that runs where that can be awaited."""
        _pause(seconds)

    def _open_engines(self) -> list[Engine]:
        clusters = [*self._clusters.values(), *self._tenants.open()]
        return [engine for cluster in clusters for engine in cluster.engines]

    def placed(self, organization_id: UUID | None) -> Placed:
        """Where an organization's sessions go; asks the catalog, so it runs where that can be awaited."""
        return opening.placed(organization_id, self)

    async def dispose(self) -> None:
        self._long_sessions.stop()
        self._tenants.forget()
        for cluster in self._clusters.values():
            await asyncio.to_thread(cluster.monitor.stop)
        for engine in self._engines:
            await engine.dispose()

    async def __aenter__(self) -> "AsyncDatabase":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.dispose()


_current: AsyncDatabase | None = None
_in_use: ContextVar[AsyncDatabase | None] = ContextVar("_in_use", default=None)


async def open_database(settings: Settings | None = None, *, application_name: str = "docworker") -> AsyncDatabase:
    """Make this program's engines and remember them. Nothing connects yet.

    Without settings those of the environment are taken; raises ConfigurationError where these cannot be.
    """
    global _current
    await close_database()
    _current = AsyncDatabase(settings or settings_of_environment(), application_name=application_name)
    return _current


def database() -> AsyncDatabase:
    """The open database; raises ConfigurationError when none is."""
    found = _in_use.get() or _current
    if found is None:
        raise ConfigurationError("no database is open: await docworker.aio.open_database() first")
    return found


@contextmanager
def using(database: AsyncDatabase) -> Iterator[None]:
    """Have the sessions of this task, and of those it starts, go there: connections belong to one event loop."""
    token = _in_use.set(database)
    try:
        yield
    finally:
        _in_use.reset(token)


async def close_database() -> None:
    """Close this program's connections."""
    global _current
    if _current is not None:
        await _current.dispose()
    _current = None


@asynccontextmanager
async def lifespan(_app: object = None) -> AsyncIterator[None]:
    """For web frameworks, `FastAPI(lifespan=lifespan)`: the database is open while the application runs."""
    await open_database()
    try:
        yield
    finally:
        await close_database()


@asynccontextmanager
async def reading(
    organization_id: UUID | None,
    *,
    position: WalPosition | None = None,
    source: ReadFrom = "replica",
    avoid: Collection[int] = (),
) -> AsyncIterator[AsyncTenantSession]:
    """As `db.sessions.reading`."""
    where = await greenlet_spawn(database().placed, organization_id)
    session = await greenlet_spawn(
        opening.open_reading,
        where,
        organization_id,
        position,
        source,
        avoid,
        pause=_pause,
        open_session=OpenSession.of(opener()),
    )
    async with AsyncTenantSession(session) as wrapped:
        yield wrapped


async def read(
    organization_id: UUID | None,
    load: Callable[[AsyncTenantSession], Awaitable[T]],
    *,
    position: WalPosition | None = None,
    source: ReadFrom = "replica",
) -> T:
    """As `db.sessions.read`."""
    avoid: list[int] = []
    while True:
        async with reading(organization_id, position=position, source=source, avoid=avoid) as session:
            try:
                return await load(session)
            except Exception as error:
                again = opening.next_source(session.session, error, avoid)
                if again is None:
                    raise
                source = again


@asynccontextmanager
async def writing(organization_id: UUID | None) -> AsyncIterator[AsyncTenantSession]:
    """As `db.sessions.writing`."""
    session = await greenlet_spawn(
        opening.open_writing, organization_id, database(), pause=_pause, open_session=OpenSession.of(opener())
    )
    async with AsyncTenantSession(session) as wrapped:
        yield wrapped
        await wrapped.commit()


@asynccontextmanager
async def routing(
    organization_id: UUID | None, *, position: WalPosition | None = None
) -> AsyncIterator[AsyncTenantSession]:
    """An AsyncSession around a `RoutingSession`; rolls back what the block does not commit."""
    where = await greenlet_spawn(database().placed, organization_id)
    session = RoutingSession(organization_id, position=position, where=where, pause=_pause)
    async with AsyncTenantSession(session) as wrapped:
        yield wrapped


async def position_after(session: AsyncSession | None = None) -> WalPosition:
    """As `db.sessions.position_after`, for a session or for the home cluster."""
    engine = master_of(database().cluster(HOME) if session is None else session.sync_session)
    return await greenlet_spawn(ask_position, engine)


async def run(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call a synchronous function that opens sessions by `db.sessions`; its waiting is awaited.

    It must not wait otherwise, for a file or by sleeping: that would hold up the event loop.
    """
    token = engines.awaited.set(database())
    try:
        return await greenlet_spawn(partial(function, *arguments, **named))
    finally:
        engines.awaited.reset(token)


async def health() -> list[ServerHealth]:
    """As `db.cluster.health.health`, of the home cluster."""
    return await greenlet_spawn(cluster_health, database().cluster(HOME), _pause)


def _pause(seconds: float) -> None:
    await_only(asyncio.sleep(seconds))
