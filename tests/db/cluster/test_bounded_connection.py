"""A server that falls silent is given up, whatever was asked of it; one that is slow is waited for."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from docworker.db.cluster import Database, database, open_database
from docworker.db.cluster.engines import owner_engine
from docworker.db.faults import Fault, classify
from docworker.db.models import Organization
from docworker.db.sessions import TenantSession, aio, position_after, reading, writing
from docworker.db.sessions.aio import AsyncTenantSession
from docworker.db.settings import HOME, settings
from docworker.worker.dispatcher.listener import Listener
from docworker.worker.local.stack import LocalStack
from tests.support.network import Proxy, proxy_to, stopped, through
from tests.support.stack import applied
from tests.support.tenants import entered
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(60)

QUICK = {
    "DOCWORKER_ANSWER_TIMEOUT": "0.3",
    "DOCWORKER_CONNECT_TIMEOUT": "2",
    "DOCWORKER_REPLICA_URLS": "",
    "DOCWORKER_STATEMENT_TIMEOUT": "30",
}


@pytest.fixture
def link(servers: LocalStack) -> Iterator[Proxy]:
    """All addresses of the master lead through it."""
    environment = servers.environment()
    with proxy_to(servers.master) as proxy, applied(environment | through(environment, proxy) | QUICK):
        yield proxy
        proxy.resume()


@pytest.fixture
def opened(link: Proxy) -> Iterator[Database]:
    yield open_database(settings(), application_name="tests")
    link.resume()
    database().dispose()


def copy(session: TenantSession) -> None:
    driver: Any = session.connection().connection.driver_connection
    with driver.cursor().copy("COPY (SELECT generate_series(1, 10)) TO STDOUT") as rows:
        list(rows)


def execute_many(session: TenantSession) -> None:
    session.connection().exec_driver_sql("SELECT length(%(it)s::text)", [{"it": "x" * 1000}] * 50)


STEPS: dict[str, Callable[[TenantSession], object]] = {
    "statement": lambda session: session.execute(text("SELECT 1")),
    "commit": lambda session: session.commit(),
    "commit-with-position": lambda session: session.commit_with_position(),
    "rollback": lambda session: session.connection().connection.driver_connection.rollback(),  # type: ignore[union-attr]
    "savepoint": lambda session: session.begin_nested(),
    "executemany": execute_many,
    "copy": copy,
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_silence_ends_whatever_a_session_waits_for(
    opened: Database, link: Proxy, step: Callable[[TenantSession], object]
) -> None:
    with pytest.raises((DBAPIError, psycopg.OperationalError)) as caught:
        freeze_before(step, link)
    assert classify(caught.value) is Fault.CONNECTION
    assert "no answer from 127.0.0.1" in f"{caught.value} {caught.value.__context__}"
    link.resume()
    write_again()


def freeze_before(step: Callable[[TenantSession], object], link: Proxy) -> None:
    with writing(entered()) as session:
        session.execute(text("SELECT 1"))
        link.freeze()
        step(session)


def write_again() -> None:
    """By the first try: what was given up is not in the pool any more."""
    organization_id = entered()
    with writing(organization_id) as session:
        session.add(Organization(id=organization_id, slug=str(organization_id), name="x"))


def begin() -> None:
    with writing(entered()):
        pass


def listen() -> None:
    listener = Listener(settings())
    try:
        assert not listener.open(), "it must say that it does not listen"
    finally:
        listener.close()
    raise psycopg.OperationalError("not listening")


ASKING: dict[str, Callable[[], object]] = {
    "begin": begin,
    "position": lambda: position_after(database().cluster(HOME)),
    "raw-connection": lambda: database().cluster(HOME).master.connect().execute(text("SELECT 1")),
    "listen": listen,
    "migrate": lambda: owner_engine(settings()).connect(),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING.keys())
@pytest.mark.parametrize("idle", [False, True], ids=["just-used", "idle"])
def test_silence_ends_whatever_begins(opened: Database, link: Proxy, ask: Callable[[], object], idle: bool) -> None:
    write_again()
    if idle:
        for engine in opened.cluster(HOME).engines:
            for record in list(engine.pool._pool.queue):  # type: ignore[attr-defined]
                record.info["returned_at"] = float("-inf")
    link.freeze()
    with pytest.raises((DBAPIError, psycopg.OperationalError)) as caught:
        ask()
    assert classify(caught.value) is Fault.CONNECTION
    link.resume()
    write_again()


def test_silence_during_the_pools_own_rollback_does_not_hold_the_session(opened: Database, link: Proxy) -> None:
    def fail(_: TenantSession) -> None:
        raise ValueError("the caller's own")

    with pytest.raises(ValueError, match="the caller's own"):
        freeze_before(fail, link)
    link.resume()
    write_again()


async def async_begin() -> None:
    async with aio.writing(None):
        pass


def during(step: Callable[[AsyncTenantSession], Awaitable[object]]) -> Callable[[Proxy], Awaitable[None]]:
    async def run(link: Proxy) -> None:
        async with aio.writing(None) as session:
            await session.execute(text("SELECT 1"))
            link.freeze()
            await step(session)

    return run


async def async_beginning(link: Proxy) -> None:
    await async_begin()
    link.freeze()
    await async_begin()


ASYNC: dict[str, Callable[[Proxy], Awaitable[None]]] = {
    "begin": async_beginning,
    "statement": during(lambda session: session.execute(text("SELECT 1"))),
    "commit": during(lambda session: session.commit()),
    "commit-with-position": during(lambda session: session.commit_with_position()),
}


@pytest.mark.parametrize("step", ASYNC.values(), ids=ASYNC.keys())
def test_silence_ends_a_coroutines_wait_and_stops_no_other(
    link: Proxy, step: Callable[[Proxy], Awaitable[None]]
) -> None:
    async def test() -> None:
        await aio.open_database(settings())
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.02)
                beats += 1

        beating = asyncio.create_task(beat())
        try:
            with pytest.raises(DBAPIError) as caught:
                await step(link)
            assert classify(caught.value) is Fault.CONNECTION
            assert beats > 10
            link.resume()
            await async_begin()
        finally:
            beating.cancel()
            await aio.close_database()

    asyncio.run(test())


def test_frozen_master_is_given_up_and_used_again(servers: LocalStack) -> None:
    """Its kernel accepts connections and acknowledges what is sent."""
    assert servers.master.pid is not None
    with applied(servers.environment() | QUICK):
        open_database(settings(), application_name="tests")
        with (
            pytest.raises(DBAPIError) as caught,
            writing(entered()) as session,
            stopped(servers.master.pid, family=True),
        ):
            session.execute(text("SELECT 1"))
        assert classify(caught.value) is Fault.CONNECTION
        with stopped(servers.master.pid, family=True), pytest.raises(DBAPIError) as caught:
            begin()
        assert classify(caught.value) is Fault.CONNECTION
        write_again()
        database().dispose()


def test_slow_statement_is_waited_for_while_its_server_answers_others(opened: Database) -> None:
    with writing(entered()) as session:
        assert session.scalar(text("SELECT 'done' FROM pg_sleep(2)")) == "done"

    async def test() -> None:
        await aio.open_database(settings())
        async with aio.writing(None) as session:
            assert await session.scalar(text("SELECT 'done' FROM pg_sleep(2)")) == "done"
        await aio.close_database()

    asyncio.run(test())


def test_slow_reader_of_many_rows_and_many_statements_is_not_cut(opened: Database, link: Proxy) -> None:
    link.delay(0.1)
    with writing(entered()) as session:
        execute_many(session)
        session.execute(text("SELECT pg_sleep(0.01) FROM generate_series(1, 100)"))
        session.rollback()


def test_limit_ends_what_hangs_alone(servers: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers others: it is this one backend that does not go on, nor heed its own time-out."""
    monkeypatch.setattr("docworker.db.cluster.transactions.GRACE_SECONDS", 0.5)
    with applied(servers.environment() | QUICK | {"DOCWORKER_STATEMENT_TIMEOUT": "1"}):
        open_database(settings(), application_name="tests")
        with writing(entered()) as session:
            backend = session.scalars(text("SELECT pg_backend_pid()")).one()
            with stopped(backend), pytest.raises(DBAPIError) as caught:
                session.execute(text("SELECT 1"))
            session.rollback()
        assert classify(caught.value) is Fault.CONNECTION
        write_again()
        database().dispose()


def test_limit_follows_a_session_that_gives_its_statements_longer(
    servers: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docworker.db.cluster.transactions.GRACE_SECONDS", 0.1)
    with applied(servers.environment() | QUICK | {"DOCWORKER_STATEMENT_TIMEOUT": "0.5"}):
        open_database(settings(), application_name="tests")
        with writing(entered()) as session:
            session.limit_statements(30)
            assert session.scalar(text("SELECT 'done' FROM pg_sleep(1.5)")) == "done"
            session.commit()
            with pytest.raises(DBAPIError, match="statement timeout") as caught:
                session.execute(text("SELECT pg_sleep(1.5)"))
            assert classify(caught.value) is Fault.OVERLOAD
            session.rollback()
        database().dispose()


def test_reader_on_the_master_does_not_wait_for_a_silent_one(opened: Database, link: Proxy) -> None:
    def read() -> None:
        with reading(entered(), source="master") as session:
            link.freeze()
            session.execute(text("SELECT 1"))

    started = time.monotonic()
    with pytest.raises(DBAPIError):
        read()
    assert time.monotonic() - started < settings().statement_timeout
    link.resume()
    eventually(write_again)
