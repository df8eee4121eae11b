"""What roles, databases and the server have as defaults changes nothing of what our sessions mean."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import sql
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from docworker.db.cluster import close_database, open_database
from docworker.db.cluster.engines import owner_engine
from docworker.db.errors import ConfigurationError
from docworker.db.models import Organization
from docworker.db.sessions import TenantSession, aio, all_jobs_session, position_after, read, reading, writing
from docworker.db.settings import HOME, settings
from docworker.migrations.runner import downgrade, upgrade
from docworker.worker.dispatcher.listener import Listener
from docworker.worker.local.servers.roles import OWNER, ROLES, drop_database
from docworker.worker.local.stack import LocalStack
from tests.support.faults import environment_of_any_master
from tests.support.ledger import LedgerSteps
from tests.support.replicas import OpenDatabase, sees, write_row
from tests.support.stack import applied, unique_name
from tests.support.tenants import entered
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)

HOSTILE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "America/St_Johns",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "row_security": "off",
    "synchronous_commit": "off",
    "gin_fuzzy_search_limit": "1",
    "quote_all_identifiers": "on",
    "statement_timeout": "1h",
    "lock_timeout": "1h",
    "idle_in_transaction_session_timeout": "1h",
    "transaction_timeout": "1h",
}
MEANT = {
    "transaction_isolation": "read committed",
    "transaction_deferrable": "off",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "row_security": "on",
    "synchronous_commit": "on",
    "gin_fuzzy_search_limit": "0",
    "search_path": "public, pg_temp",
    "statement_timeout": "60000",
    "lock_timeout": "10000",
    "idle_in_transaction_session_timeout": "60000",
    "transaction_timeout": "0",
}
EVIL = (
    "CREATE SCHEMA evil",
    "GRANT USAGE ON SCHEMA evil TO PUBLIC",
    "CREATE FUNCTION evil.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT true'",
    "CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT '1999-01-01'::timestamptz$$",
    "CREATE FUNCTION evil.pg_advisory_lock(bigint) RETURNS void LANGUAGE sql AS 'SELECT 1/0'",
    "CREATE FUNCTION evil.set_config(text, text, bool) RETURNS text LANGUAGE sql AS $$SELECT 'no'$$",
    "CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT '1'$$",
)
TEXT = "naïve \\ 'quoted' 漢字 €"


@pytest.fixture
def hostile(servers: LocalStack) -> Iterator[LocalStack]:
    """Every role of ours has defaults that would change what our statements mean."""
    with servers.master.connect("docworker") as superuser:
        for statement in EVIL:
            superuser.execute(statement)
        for role in ROLES:
            for name, value in HOSTILE.items():
                superuser.execute(
                    sql.SQL("ALTER ROLE {} SET {} = {}").format(sql.Identifier(role), sql.Identifier(name), value)
                )
            superuser.execute(sql.SQL("ALTER ROLE {} SET search_path = evil, pg_catalog").format(sql.Identifier(role)))
    servers.wait_for_replicas()
    yield servers
    close_database()
    with servers.master.connect("docworker") as superuser:
        for role in ROLES:
            superuser.execute(sql.SQL("ALTER ROLE {} RESET ALL").format(sql.Identifier(role)))
        superuser.execute("DROP SCHEMA evil CASCADE")
    servers.wait_for_replicas()


def in_force(session: Session) -> dict[str, str]:
    query = text("SELECT lower(name), setting FROM pg_settings WHERE lower(name) = ANY(:names)")
    return dict(session.execute(query, {"names": list(MEANT)}).all())


def read_only(session: Session) -> bool:
    return bool(session.scalar(text("SELECT current_setting('transaction_read_only')::bool")))


def test_every_kind_of_session_asks_for_what_it_means(hostile: LocalStack, open_on: OpenDatabase) -> None:
    open_on(hostile, replica_wait=5)
    row = write_row()
    with writing(entered()) as session:
        assert in_force(session) == MEANT
        assert not read_only(session)
        assert session.scalar(text("SELECT clock_timestamp() > '2020-01-01'"))
        assert session.scalar(text("SELECT pg_is_in_recovery()")) is False
    with all_jobs_session() as session:
        assert (in_force(session), read_only(session)) == (MEANT, False)
    for source in ("master", "replica"):
        with reading(row[0], position=row[1], source=source) as session:
            assert session.choice is not None
            assert session.choice.target == source
            assert (in_force(session), read_only(session)) == (MEANT, True)


def test_every_later_transaction_of_a_session_asks_again(hostile: LocalStack, open_on: OpenDatabase) -> None:
    open_on(hostile)
    with writing(entered()) as session:
        session.commit()
        assert in_force(session) == MEANT


def test_values_go_out_and_come_back_as_they_are(hostile: LocalStack, open_on: OpenDatabase) -> None:
    open_on(hostile, replica_wait=5)
    now = datetime.now(UTC)
    third = 1 / 3
    organization_id = entered()
    with writing(organization_id) as session:
        session.add(Organization(id=organization_id, slug="s", name=TEXT))
        position = session.commit_with_position()

    def load(session: TenantSession) -> None:
        assert session.scalars(select(Organization.name)).all() == [TEXT]
        assert session.scalars(text("SELECT 'a\\b'")).one() == "a\\b"
        assert session.scalars(text("SELECT CAST(:it AS timestamptz)"), {"it": now}).one() == now
        assert session.scalars(text("SELECT date '2024-02-03'")).one().isoformat() == "2024-02-03"
        assert session.scalars(text("SELECT interval '1 day 2 hours'")).one() == timedelta(days=1, hours=2)
        assert session.scalars(text("SELECT CAST(:it AS float8)"), {"it": third}).one() == third
        assert session.scalars(text("SELECT '\\x00ff'::bytea")).one() == b"\x00\xff"
        assert session.scalars(text("SELECT '{NULL}'::text[]")).one() == [None]

    read(organization_id, load, position=position)
    read(organization_id, load, source="master")


def test_writers_that_meet_wait_for_each_other_and_none_fails(hostile: LocalStack, open_on: OpenDatabase) -> None:
    """Under the role's serializable default one of the two would be cancelled."""
    open_on(hostile)
    organization_id, _ = write_row()
    errors: list[Exception] = []

    def write() -> None:
        try:
            for _ in range(20):
                with writing(organization_id) as session:
                    session.execute(text("UPDATE app.organizations SET name = name || 'x'"))
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    with reading(organization_id, source="master") as session:
        assert session.scalars(select(Organization.name)).one() == "x" * 41


def test_positions_samples_and_the_ledger_do_not_look_at_defaults(hostile: LocalStack, open_on: OpenDatabase) -> None:
    database = open_on(hostile)
    assert sees(*write_row())[0]
    assert position_after(database.cluster(HOME)).timeline == 1
    eventually(lambda: database.cluster(HOME).monitor.sample(0))
    steps = LedgerSteps()
    claimed = steps.run(3)
    assert steps.finish(claimed) == {one.id for one in claimed}


def test_address_of_all_servers_is_not_put_off_by_a_read_only_default(
    hostile: LocalStack, open_on: OpenDatabase
) -> None:
    environment = environment_of_any_master(hostile)
    open_on(hostile, master_url=environment["DOCWORKER_MASTER_URL"])
    write_row()


def test_asyncio_sessions_ask_as_well(hostile: LocalStack, open_on: OpenDatabase) -> None:
    open_on(hostile)

    async def test() -> None:
        await aio.open_database(settings())
        async with aio.writing(entered()) as session:
            assert await session.run_sync(in_force) == MEANT
            assert not await session.run_sync(read_only)
        await aio.close_database()

    asyncio.run(test())


def test_migrations_and_listening_ask_as_well(hostile: LocalStack) -> None:
    with applied(hostile.environment()):
        downgrade("base")
        upgrade()
        engine = owner_engine(settings())
        with engine.connect() as connection, Session(connection) as session:
            limits = {"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"}
            assert in_force(session) | dict.fromkeys(limits, "-") == MEANT | dict.fromkeys(limits, "-")
            assert not read_only(session)
        listener = Listener(settings())
        assert listener.open()
        hostile.master.execute("NOTIFY docworker_jobs", database="docworker")
        assert listener.wait(10)
        listener.close()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_database_that_cannot_keep_every_text_is_refused(servers: LocalStack, encoding: str) -> None:
    name = unique_name("latin")
    with servers.master.connect() as superuser:
        superuser.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} ENCODING {} LOCALE 'C' TEMPLATE template0").format(
                sql.Identifier(name), sql.Identifier(OWNER), encoding
            )
        )
    refusal = f"has the encoding {encoding}, which cannot keep every text: make one with CREATE DATABASE"

    async def write_async() -> None:
        await aio.open_database(settings())
        try:
            async with aio.writing(entered()):
                pass
        finally:
            await aio.close_database()

    try:
        with applied(servers.environment(database=name)):
            with pytest.raises(ConfigurationError, match=refusal):
                upgrade()
            open_database(settings(), application_name="tests")
            with pytest.raises(ConfigurationError, match=refusal), writing(entered()):
                pass
            with pytest.raises(ConfigurationError, match=refusal), all_jobs_session():
                pass
            with pytest.raises(ConfigurationError, match=refusal):
                asyncio.run(write_async())
            listener = Listener(settings())
            with pytest.raises(ConfigurationError, match=refusal):
                listener.open()
            listener.close()
            close_database()
    finally:
        drop_database(servers.master, name)
