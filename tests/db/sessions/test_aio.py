"""The asyncio twin reads, writes, waits and falls back as the synchronous one does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from docworker.db.cluster.positions import WalPosition
from docworker.db.errors import ConfigurationError, InvalidArgumentError, PoolTimeoutError
from docworker.db.faults import Fault, classify
from docworker.db.models import Organization, Placement
from docworker.db.models.base import new_id
from docworker.db.sessions import aio, organization_of
from docworker.db.sessions.aio import AsyncTenantSession
from docworker.db.settings import settings
from docworker.worker.local.stack import LocalStack
from tests.support.faults import freeze, pause_replay
from tests.support.replicas import OpenDatabase

pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def opened() -> AsyncIterator[aio.AsyncDatabase]:
    yield await aio.open_database(settings(), application_name="tests")
    await aio.close_database()


async def entered() -> UUID:
    """An organization that the catalog knows."""
    organization_id = new_id()
    async with aio.writing(None) as session:
        session.add(Placement(organization_id=organization_id, slug=str(organization_id)))
    return organization_id


async def write_row() -> tuple[Any, WalPosition]:
    organization_id = await entered()
    async with aio.writing(organization_id) as session:
        session.add(Organization(id=organization_id, slug=str(organization_id), name="x"))
        return organization_id, await session.commit_with_position()


async def sees(organization_id: Any, position: WalPosition | None = None) -> tuple[bool, str]:
    async with aio.reading(organization_id, position=position) as session:
        assert session.session.choice is not None
        found = await session.get(Organization, organization_id)
        return found is not None, session.session.choice.target


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def test_many_producers_at_once_read_what_they_wrote(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, replica_wait=5, pool_size=4, max_overflow=4)

    async def produce() -> tuple[bool, str]:
        return await sees(*await write_row())

    async def test() -> None:
        async with opened():
            outcomes = await asyncio.gather(*(produce() for _ in range(40)))
        assert set(outcomes) == {(True, "replica")}

    run(test)


def test_paused_replicas_are_waited_for_without_stopping_the_loop(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, replica_wait=0.4)

    async def test() -> None:
        async with opened():
            await sees(*await write_row())
            for replica in servers.replicas:
                pause_replay(replica)
            row = await write_row()
            beats = 0

            async def beat() -> None:
                nonlocal beats
                while True:
                    await asyncio.sleep(0.01)
                    beats += 1

            beating = asyncio.create_task(beat())
            assert await sees(*row) == (True, "master")
            beating.cancel()
            assert beats > 10

    run(test)


def test_frozen_replica_delays_a_coroutine_for_a_second_at_most(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, replica_wait=2)

    async def test() -> None:
        async with opened():
            for _ in range(6):
                await sees(*await write_row())
            freeze(servers.replicas[0])
            async with asyncio.timeout(10):
                for _ in range(20):
                    assert await sees(*await write_row()) == (True, "replica")

    run(test)


def test_recovery_conflict_is_read_again_elsewhere(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, replica_wait=5)
    servers.master.execute("CREATE TABLE public.busy AS SELECT 1 AS x", database="docworker")
    servers.master.execute("GRANT SELECT ON public.busy TO docworker_worker", database="docworker")
    servers.wait_for_replicas()
    places: list[int | None] = []
    faults: list[Fault] = []

    async def load(session: AsyncTenantSession) -> int:
        assert session.session.choice is not None
        places.append(session.session.choice.number)
        count: int = (await session.scalars(text("SELECT count(*) FROM public.busy"))).one()
        if len(places) == 1:
            servers.master.execute("TRUNCATE public.busy", database="docworker")
            try:
                await session.execute(text("SELECT pg_sleep(20) FROM public.busy"))
            except Exception as error:
                faults.append(classify(error))
                raise
        return count

    async def test() -> None:
        async with opened():
            await aio.read(await entered(), load)

    try:
        run(test)
    finally:
        servers.master.execute("DROP TABLE public.busy", database="docworker")
    assert faults == [Fault.RECOVERY_CONFLICT]
    assert sorted(places, key=str) == [0, 1]


def test_routing_session_reads_from_a_replica_until_it_writes(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, replica_wait=5)

    async def test() -> None:
        async with opened():
            organization_id, position = await write_row()
            async with aio.routing(organization_id, position=position) as session:
                assert session.routing is not None
                organization = await session.get_one(Organization, organization_id)
                assert not session.routing.stays_on_master
                organization.name = "renamed"
                await session.commit()
                assert session.routing.stays_on_master
                assert (await session.scalars(select(Organization.name))).all() == ["renamed"]
                assert organization_of(session) == organization_id

    run(test)


def test_position_is_taken_after_the_commit_only(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers)

    async def test() -> None:
        async with opened():
            async with aio.writing(await entered()) as session:
                with pytest.raises(InvalidArgumentError, match="commit it first"):
                    await aio.position_after(session)
            assert await aio.position_after(session) <= await aio.position_after()

    run(test)


def test_full_pool_and_health_are_told_as_in_threads(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, pool_size=1, max_overflow=0, pool_timeout=0.1)

    async def test() -> None:
        async with opened():
            assert [server.healthy for server in await aio.health()] == [True, True, True]
            async with aio.writing(await entered()):
                with pytest.raises(PoolTimeoutError, match=r"test_aio\.py:\d+"):
                    await write_row()
            async with aio.reading(await entered(), source="master"):
                with pytest.raises(PoolTimeoutError, match=r"test_aio\.py:\d+"):
                    await write_row()
            assert (await sees(*await write_row()))[0]

    run(test)


def test_using_it_closed_says_what_to_do(servers: LocalStack, open_on: OpenDatabase) -> None:
    async def test() -> None:
        with pytest.raises(ConfigurationError, match=r"await docworker\.aio\.open_database"):
            await write_row()

    run(test)
