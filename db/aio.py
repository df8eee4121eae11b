"""The asyncio twin of `db.engines` and `db.sessions`, for producers: the same servers, choices and checks.

Only the waiting differs: the code that decides is the synchronous one, run where it can be awaited (a greenlet), on
asyncio's engines.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.util import await_only, greenlet_spawn

from db import engines, sessions
from db.choosing import Source
from db.engines import HOME, Cluster, ServerHealth
from db.errors import ConfigurationError
from db.pool import AsyncMeasuredPool, Holder
from db.replication import Server, WalPosition
from db.routing import RoutingSession
from db.settings import Settings
from db.tenancy import TenantSession, opener
from db.transactions import ask_position, master_of

T = TypeVar("T")


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

    `cluster().master` and the others are the engines' synchronous faces, for use inside a greenlet.
    """

    def __init__(self, settings: Settings, *, application_name: str = "docworker") -> None:
        self.settings = settings
        self._engines: list[AsyncEngine] = []
        self._clusters = {HOME: engines.build_cluster(HOME, settings, application_name, build=self._build)}

    def _build(self, url: str, settings: Settings, server: Server, *, application_name: str, **limits: Any) -> Any:
        limits["poolclass"] = AsyncMeasuredPool
        arguments = engines.engine_arguments(url, settings, server, application_name, **limits)
        engine = create_async_engine("postgresql+psycopg://", **arguments)
        self._engines.append(engine)
        return engines.watched(engine.sync_engine, server, settings)

    def cluster(self, name: str = HOME) -> Cluster:
        return self._clusters[name]

    async def dispose(self) -> None:
        for cluster in self._clusters.values():
            await asyncio.to_thread(cluster.sampler.stop)
        for engine in self._engines:
            await engine.dispose()

    async def __aenter__(self) -> "AsyncDatabase":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.dispose()


_current: AsyncDatabase | None = None


async def open_database(settings: Settings, *, application_name: str = "docworker") -> AsyncDatabase:
    """Make this program's engines and remember them. Nothing connects yet."""
    global _current
    await close_database()
    _current = AsyncDatabase(settings, application_name=application_name)
    return _current


def database() -> AsyncDatabase:
    """The open database; raises ConfigurationError when none is."""
    if _current is None:
        raise ConfigurationError("no database is open: await db.aio.open_database(settings) first")
    return _current


async def close_database() -> None:
    global _current
    if _current is not None:
        await _current.dispose()
    _current = None


@asynccontextmanager
async def reading(
    organization_id: UUID | None,
    *,
    position: WalPosition | None = None,
    source: Source = "replica",
    avoid: Collection[int] = (),
) -> AsyncIterator[AsyncTenantSession]:
    """As `db.sessions.reading`."""
    current = database()
    session = await greenlet_spawn(
        sessions.open_reading,
        current.cluster(),
        organization_id,
        current.settings,
        position,
        source,
        avoid,
        pause=_pause,
        holder=Holder.of(opener()),
    )
    async with AsyncTenantSession(session) as wrapped:
        yield wrapped


async def read(
    organization_id: UUID | None,
    load: Callable[[AsyncTenantSession], Awaitable[T]],
    *,
    position: WalPosition | None = None,
    source: Source = "replica",
) -> T:
    """As `db.sessions.read`."""
    avoid: list[int] = []
    while True:
        async with reading(organization_id, position=position, source=source, avoid=avoid) as session:
            try:
                return await load(session)
            except Exception as error:
                again = sessions.next_source(session.session, error, avoid)
                if again is None:
                    raise
                source = again


@asynccontextmanager
async def writing(organization_id: UUID | None) -> AsyncIterator[AsyncTenantSession]:
    """As `db.sessions.writing`."""
    current = database()
    session = TenantSession(current.cluster().master, organization_id, current.settings)
    async with AsyncTenantSession(session) as wrapped:
        await greenlet_spawn(session.begin_now)
        yield wrapped
        await wrapped.commit()


@asynccontextmanager
async def routing(
    organization_id: UUID | None, *, position: WalPosition | None = None
) -> AsyncIterator[AsyncTenantSession]:
    """An AsyncSession around a `RoutingSession`; rolls back what the block does not commit."""
    current = database()
    session = RoutingSession(
        organization_id, position=position, cluster=current.cluster(), settings=current.settings, pause=_pause
    )
    async with AsyncTenantSession(session) as wrapped:
        yield wrapped


async def position_after(session: AsyncSession | None = None) -> WalPosition:
    """As `db.replication.position_after`, for a session or for the home cluster."""
    engine = master_of(database().cluster() if session is None else session.sync_session)
    return await greenlet_spawn(ask_position, engine)


async def health() -> list[ServerHealth]:
    """As `db.engines.health`."""
    current = database()
    return await greenlet_spawn(engines.health, current.cluster(), _pause)


def _pause(seconds: float) -> None:
    await_only(asyncio.sleep(seconds))
