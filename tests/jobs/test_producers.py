"""Enqueueing in a transaction of another program's: any session, its own role, nothing left behind."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from psycopg.rows import dict_row
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from docworker import (
    Attempt,
    InvalidArgumentError,
    NotFoundError,
    aio,
    enqueue,
    enqueue_many,
    job,
    new_id,
    reading,
    writing,
)
from docworker.db import ledger
from docworker.db.errors import ConfigurationError, UnavailableOrganizationError
from docworker.db.models import Job
from docworker.db.sessions.trace import current_trace
from docworker.db.settings import settings
from docworker.jobs.testing import drain
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.isolation import check_isolation
from docworker.worker.tenants.places import Model
from tests.support.places import add_placements, execute
from tests.support.project import PROJECT
from tests.support.tenants import Tenant

ran: list[str] = []


@job(name="tests.invoice", priority=3, max_attempts=2)
def invoice(attempt: Attempt, order: str = "") -> None:
    ran.append(order)


@pytest.fixture(scope="module")
def address(stack: LocalStack, environment: dict[str, str], database_name: str) -> str:
    """Of the module's database, as the role of a shop that has a schema of its own in it."""
    for role in ("shop", "stranger"):
        with suppress(psycopg.errors.DuplicateObject):
            stack.master.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    stack.master.execute("GRANT docworker_producer TO shop")
    stack.master.execute("CREATE SCHEMA shop AUTHORIZATION shop", database=database_name)
    url = stack.master.url("shop", "secret", database_name)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE shop.orders (id text PRIMARY KEY, organization_id uuid NOT NULL)")
    return url


@pytest.fixture(scope="module")
def engine(address: str) -> Iterator[Engine]:
    engine = create_engine(address.replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


def async_engine(address: str) -> AsyncEngine:
    return create_async_engine(address.replace("postgresql:", "postgresql+psycopg:"))


ORDER = "INSERT INTO shop.orders VALUES ('{}', '{}')"


@contextmanager
def own_session(address: str) -> Iterator[Any]:
    with Session(create_engine(address)) as session:
        yield session


@contextmanager
def own_scoped_session(address: str) -> Iterator[Any]:
    """As Flask-SQLAlchemy's `db.session`."""
    session = scoped_session(sessionmaker(create_engine(address)))
    yield session
    session.remove()


@contextmanager
def own_connection(address: str) -> Iterator[Any]:
    with create_engine(address).connect() as connection:
        yield connection


@contextmanager
def own_psycopg(address: str) -> Iterator[Any]:
    """With a row factory of its own; Django's `connection.connection` is one of these."""
    with psycopg.connect(address.replace("+psycopg", ""), row_factory=dict_row) as connection:
        yield connection


@asynccontextmanager
async def own_async_session(address: str) -> AsyncIterator[Any]:
    async with AsyncSession(async_engine(address)) as session:
        yield session


@asynccontextmanager
async def own_async_scoped_session(address: str) -> AsyncIterator[Any]:
    session = async_scoped_session(async_sessionmaker(async_engine(address)), asyncio.current_task)
    yield session
    await session.remove()


@asynccontextmanager
async def own_async_connection(address: str) -> AsyncIterator[AsyncConnection]:
    async with async_engine(address).connect() as connection:
        yield connection


@asynccontextmanager
async def own_async_psycopg(address: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(
        address.replace("+psycopg", ""), row_factory=dict_row
    ) as connection:
        yield connection


SYNC = [own_session, own_scoped_session, own_connection, own_psycopg]
ASYNC = [own_async_session, own_async_scoped_session, own_async_connection, own_async_psycopg]


def run_sync(producer: Callable[[str], Any], address: str, tenant: Tenant, end: str) -> list[UUID]:
    with producer(address) as session:
        statement = ORDER.format(tenant.slug, tenant.id)
        session.execute(statement if producer is own_psycopg else text(statement))
        ids = [enqueue(session, invoice, organization_id=tenant.id, order="one")]
        ids += enqueue_many(session, invoice, [{"order": "two"}, {"order": "three"}], organization_id=tenant.id)
        getattr(session, end)()
    return ids


async def run_async(producer: Callable[[str], Any], address: str, tenant: Tenant, end: str) -> list[UUID]:
    async with producer(address) as session:
        statement = ORDER.format(tenant.slug, tenant.id)
        await session.execute(statement if producer is own_async_psycopg else text(statement))
        ids = [await enqueue(session, invoice, organization_id=tenant.id, order="one")]
        ids += await enqueue_many(session, invoice, [{"order": "two"}, {"order": "three"}], organization_id=tenant.id)
        await getattr(session, end)()
    return ids


def jobs_of(tenant: Tenant) -> dict[UUID, Job]:
    with reading(tenant.id, source="master") as session:
        return {one.id: one for one in session.query(Job)}


@pytest.mark.parametrize("producer", [None, own_session, own_psycopg], ids=["ours", "session", "psycopg"])
def test_a_job_keeps_the_trace_it_was_enqueued_in_and_the_later_one_where_it_was_folded(
    opened: Any, tenant: Tenant, address: str, producer: Callable[[str], Any] | None
) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("shop")
    url = address.replace("postgresql:", "postgresql+psycopg:")
    with writing(tenant.id) if producer is None else producer(url) as session:
        options: Any = {} if producer is None else {"organization_id": tenant.id}
        untraced = enqueue(session, invoice, order="1", **options)
        with tracer.start_as_current_span("order"):
            traced = enqueue_many(session, invoice, [{"order": "2"}, {"order": "3"}], **options)
            ordered = enqueue(session, invoice, order="4", order_key="a", **options)
            enqueue(session, invoice, order="5", unique_key="one", **options)
            first = current_trace()
        with tracer.start_as_current_span("other order"):
            folded = enqueue(session, invoice, order="6", unique_key="one", **options)
            second = current_trace()
        session.commit()
    kept = {one.id: one.traceparent for one in jobs_of(tenant).values()}
    assert kept == {untraced: None, **dict.fromkeys([*traced, ordered], first), folded: second}
    assert first != second
    assert drain({"tests.invoice": invoice.kind}) == 5


@pytest.mark.parametrize("producer", [*SYNC, *ASYNC], ids=lambda one: one.__name__)
def test_a_job_enters_with_the_programs_own_rows_and_not_without(
    opened: Any, tenant: Tenant, address: str, engine: Engine, producer: Callable[[str], Any]
) -> None:
    url = address.replace("postgresql:", "postgresql+psycopg:")

    def run(end: str) -> list[UUID]:
        if producer in ASYNC:
            return asyncio.run(run_async(producer, url, tenant, end))
        return run_sync(producer, url, tenant, end)

    run("rollback")
    assert jobs_of(tenant) == {}
    ids = run("commit")
    jobs = jobs_of(tenant)
    assert [jobs[one].arguments["order"] for one in ids] == ["one", "two", "three"]
    assert {(one.state, one.priority, one.max_attempts) for one in jobs.values()} == {("queued", 3, 2)}
    with engine.connect() as connection:
        orders = connection.scalar(text("SELECT count(*) FROM shop.orders WHERE id = :id"), {"id": tenant.slug})
    assert orders == 1
    ran.clear()
    assert drain({"tests.invoice": invoice.kind}) == 3
    assert sorted(ran) == ["one", "three", "two"]


def test_other_drivers_will_do(opened: Any, tenant: Tenant, address: str) -> None:
    url = address.replace("postgresql:", "postgresql+asyncpg:").partition("?")[0]

    async def produce() -> list[UUID]:
        async with create_async_engine(url).begin() as connection:
            return await enqueue_many(connection, invoice, [{}, {}], organization_id=tenant.id, unique_keys="ba")

    jobs = asyncio.run(produce())
    assert [jobs_of(tenant)[one].unique_key for one in jobs] == ["b", "a"]


def test_options_mean_what_they_mean_in_a_session_of_ours(opened: Any, tenant: Tenant, engine: Engine) -> None:
    at, job_id, parent_id = datetime.now(UTC) + timedelta(hours=1), new_id(), new_id()
    with Session(engine) as session:
        for _ in range(2):
            enqueue(session, invoice, organization_id=tenant.id, id=job_id, order="by id", parent_id=parent_id)
        first = enqueue(session, invoice, organization_id=tenant.id, unique_key="b", order="old", run_at=at)
        folded = enqueue_many(
            session,
            invoice,
            [{"order": text} for text in ("a1", "b1", "c1", "a2")],
            organization_id=tenant.id,
            unique_keys="abca",
            priority=1,
        )
        session.commit()
    jobs = jobs_of(tenant)
    assert (folded[0], folded[1]) == (folded[3], first)
    assert [jobs[one].arguments["order"] for one in folded] == ["a2", "b1", "c1", "a2"]
    assert (jobs[job_id].arguments["order"], jobs[job_id].parent_id) == ("by id", parent_id)
    assert jobs[first].run_at < at
    assert (jobs[first].priority, jobs[first].later) == (1, False)
    assert len(jobs) == 4


SETTING = text("SELECT current_setting('docworker.organization_id', true)")


@pytest.mark.parametrize("is_local", [True, False], ids=["of the transaction", "of the session"])
@pytest.mark.parametrize("named", [True, False], ids=["own", "none"])
def test_what_the_programs_session_knows_of_the_organization_stays(
    opened: Any, tenant: Tenant, engine: Engine, named: bool, is_local: bool
) -> None:
    value = str(tenant.id) if named else ""
    with engine.connect() as connection:
        setting = {"value": value, "local": is_local}
        connection.execute(text("SELECT set_config('docworker.organization_id', :value, :local)"), setting)
        enqueue(connection, invoice, organization_id=tenant.id)
        assert connection.scalar(SETTING) == value
        with suppress(NotFoundError, InvalidArgumentError), connection.begin_nested():
            enqueue(connection, invoice, organization_id=new_id())
        assert connection.scalar(SETTING) == value
        connection.commit()
        assert connection.scalar(SETTING) == ("" if is_local else value)
        connection.execute(text("RESET docworker.organization_id"))
        connection.commit()
    assert len(jobs_of(tenant)) == 1


def test_a_transaction_of_one_organization_enqueues_for_no_other(opened: Any, tenant: Tenant, engine: Engine) -> None:
    other = Tenant()
    with engine.connect() as connection:
        connection.execute(text(f"SET LOCAL docworker.organization_id = '{other.id}'"))
        with pytest.raises(InvalidArgumentError, match=f"is of the organization {other.id}, not of {tenant.id}"):
            enqueue(connection, invoice, organization_id=tenant.id)
    with writing(other.id) as session, pytest.raises(InvalidArgumentError, match="in a session of its own"):
        enqueue(session, invoice, organization_id=tenant.id)
    with reading(tenant.id) as session, pytest.raises(InvalidArgumentError, match="only reads"):
        enqueue(session, invoice)
    with Session(engine) as session, pytest.raises(InvalidArgumentError, match="organization_id"):
        enqueue(session, invoice)
    with pytest.raises(InvalidArgumentError, match=r"got builtins\.object"):
        enqueue(object(), invoice, organization_id=tenant.id)  # type: ignore[call-overload]
    assert jobs_of(tenant) == jobs_of(other) == {}


def test_an_organization_that_is_not_here_or_not_served_is_told_by_name(
    opened: Any, tenant: Tenant, engine: Engine
) -> None:
    elsewhere, suspended = new_id(), new_id()
    add_placements(
        {"organization_id": elsewhere, "slug": f"e-{elsewhere}", "database": "tenant_of_its_own"},
        {"organization_id": suspended, "slug": f"s-{suspended}", "state": "suspended"},
    )
    expected: dict[UUID, tuple[type[Exception], str]] = {
        new_id(): (NotFoundError, "there is no organization"),
        UUID(int=0): (NotFoundError, "there is no organization"),
        elsewhere: (NotFoundError, "is not in this database"),
        suspended: (UnavailableOrganizationError, "is suspended"),
    }
    for organization_id, (error, message) in expected.items():
        with Session(engine) as session, pytest.raises(error, match=message):
            enqueue(session, invoice, organization_id=organization_id)
    execute("DELETE FROM catalog.placements WHERE database_name = 'tenant_of_its_own'")


def test_an_organization_that_left_since_the_snapshot_is_not_enqueued_for(
    opened: Any, tenant: Tenant, engine: Engine
) -> None:
    moved = Tenant()
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.scalar(text("SELECT count(*) FROM shop.orders"))
        execute(f"UPDATE catalog.placements SET state = 'moving' WHERE organization_id = '{moved.id}'")
        with pytest.raises(OperationalError, match="could not serialize"):
            enqueue(connection, invoice, organization_id=moved.id)


@pytest.mark.parametrize("model", [Model.SCHEMA, Model.DATABASE])
def test_organizations_with_a_place_of_their_own_are_enqueued_for_there(
    opened: Any, address: str, stack: LocalStack, model: Model
) -> None:
    created = create_tenant(f"own-{model}-{new_id().hex[:8]}", model=model)
    there = stack.master.url("shop", "secret", created.place.database) if created.place.database else address
    with psycopg.connect(there) as connection:
        job_id = enqueue(connection, invoice, organization_id=created.organization_id)
        with pytest.raises(NotFoundError):
            enqueue(connection, invoice, organization_id=new_id())
        connection.rollback()
        assert enqueue(connection, invoice, organization_id=created.organization_id, id=job_id) == job_id
    with reading(created.organization_id, source="master") as session:
        assert session.query(Job).one().id == job_id
    if model is Model.DATABASE:
        execute(f"INSERT INTO ledger.suspensions VALUES ('{created.organization_id}')", database=created.place.database)
        with psycopg.connect(there) as connection, pytest.raises(UnavailableOrganizationError):
            enqueue(connection, invoice, organization_id=created.organization_id)


def test_a_commit_wakes_the_dispatcher(opened: Any, tenant: Tenant, address: str) -> None:
    with psycopg.connect(address, autocommit=True) as listening, psycopg.connect(address) as producing:
        listening.execute("LISTEN docworker_jobs")
        enqueue(producing, invoice, organization_id=tenant.id)
        producing.commit()
        assert [one.channel for one in listening.notifies(timeout=10, stop_after=1)] == ["docworker_jobs"]


def test_a_trigger_enqueues(opened: Any, tenant: Tenant, address: str) -> None:
    page = (PROJECT / "docs" / "applications.md").read_text()
    (example,) = re.findall(r"^```sql\n(CREATE FUNCTION shop.*?)^```$", page, re.DOTALL | re.MULTILINE)
    with psycopg.connect(address) as connection:
        connection.execute(example)
        connection.execute(ORDER.format(f"trigger-{tenant.slug}", tenant.id))
        connection.commit()
        connection.execute("DROP TRIGGER placed ON shop.orders")
    (made,) = jobs_of(tenant).values()
    assert (made.kind, made.arguments) == ("invoice", {"order": f"trigger-{tenant.slug}"})


DEEP: Any = "end"
for _ in range(100):
    DEEP = [DEEP]
REFUSED: dict[str, str] = {
    "kind => NULL": "NULL",
    "arguments => NULL": "NULL",
    "kind => ''": "1 to 200 bytes",
    "kind => repeat('ü', 101)": "1 to 200 bytes",
    "priority => 10": "priority",
    "priority => NULL": "priority",
    "max_attempts => 0": "max_attempts",
    "max_attempts => 1001": "max_attempts",
    "run_at => 'infinity'": "run_at",
    "run_at => '0001-01-01 BC'": "run_at",
    "unique_key => ''": "unique_key",
    "unique_key => repeat('x', 501)": "unique_key",
    "unique_key => 'a', id => gen_random_uuid()": "not both",
    "arguments => '[1]'": "an object",
    "arguments => '7'": "an object",
    "arguments => jsonb_build_object('a', repeat('x', 8388608))": "8 MiB",
    f"arguments => '{ledger.as_json({'a': DEEP[0]})[:-1]}, \"b\": {'[' * 100}{']' * 100}}}'": "100 levels",
    f"arguments => '{{\"a\": 1{'0' * 300}}}'": "300 digits",
    f"arguments => '{{\"a\": [-1{'0' * 300}]}}'": "300 digits",
}


def test_the_function_refuses_what_the_ledger_could_not_read_back(opened: Any, tenant: Tenant, address: str) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        call = f"SELECT ledger.enqueue(organization_id => '{tenant.id}', "
        for given, complaint in REFUSED.items():
            kind = "" if "kind" in given else "kind => 'tests.invoice', "
            with pytest.raises(psycopg.DataError, match=complaint) as refusal:
                connection.execute(f"{call}{kind}{given})")
            assert refusal.value.sqlstate == "22023", given
        for keys in ("ARRAY['a']", "ARRAY['a', NULL]", "ARRAY['a', 'b', 'c']"):
            many = f"ledger.enqueue_many('{tenant.id}', 'x', ARRAY['{{}}', '{{}}']::jsonb[], unique_keys => {keys})"
            with pytest.raises(psycopg.DataError, match="for each of 2 jobs"):
                connection.execute(f"SELECT {many}")
    assert jobs_of(tenant) == {}


def test_what_python_takes_the_function_takes(opened: Any, tenant: Tenant, engine: Engine) -> None:
    deepest = {"a": DEEP[0]}
    largest = {"a": "x" * (8 * 1024 * 1024 - 400), "b": 10**300 - 1}
    with Session(engine) as session:
        rows = [ledger.as_json(one) for one in (deepest, largest)]
        made = session.execute(
            text("SELECT ledger.enqueue_many(:organization, 'x', CAST(CAST(:rows AS text[]) AS jsonb[]))"),
            {"organization": tenant.id, "rows": rows},
        ).scalar_one()
        session.commit()
    assert len(made) == 2


def test_producers_may_do_nothing_else(opened: Any, tenant: Tenant, address: str) -> None:
    everything: list[LiteralString] = [
        "SELECT FROM ledger.jobs",
        "DELETE FROM ledger.jobs",
        "TRUNCATE ledger.jobs",
        "UPDATE ledger.jobs SET priority = 1",
        "INSERT INTO ledger.jobs (kind) VALUES ('mine')",
        "SELECT FROM app.documents",
        "SELECT FROM auth.users",
        "SELECT FROM catalog.placements",
        "SELECT FROM ledger.suspensions",
        "CREATE TABLE ledger.mine ()",
        "CREATE FUNCTION ledger.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER FUNCTION ledger.enqueue_many RESET ALL",
    ]
    with psycopg.connect(address, autocommit=True) as connection:
        for statement in everything:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_the_isolation_check_finds_nothing_wrong_with_producers(opened: Any) -> None:
    assert [one for one in check_isolation() if "producer" in one.fault or "function" in one.fault] == []


def test_tables_and_functions_of_the_callers_path_are_not_used(opened: Any, tenant: Tenant, address: str) -> None:
    with psycopg.connect(address) as connection:
        connection.execute("CREATE TEMPORARY TABLE jobs (id int)")
        connection.execute("CREATE FUNCTION shop.cardinality(anyarray) RETURNS int LANGUAGE sql AS 'SELECT 1/0'")
        connection.execute("GRANT USAGE ON SCHEMA shop TO PUBLIC")
        connection.execute("SET search_path = shop, pg_temp, pg_catalog")
        enqueue(connection, invoice, organization_id=tenant.id)
    assert len(jobs_of(tenant)) == 1


def test_a_role_that_may_not_enqueue_is_told_the_remedy(
    opened: Any, tenant: Tenant, address: str, stack: LocalStack, database_name: str
) -> None:
    for role, database, remedy in (
        ("stranger", database_name, "GRANT docworker_producer TO"),
        ("shop", "postgres", "none of docworker's"),
    ):
        with psycopg.connect(stack.master.url(role, "secret", database)) as connection:
            with pytest.raises(ConfigurationError, match=remedy):
                enqueue(connection, invoice, organization_id=tenant.id)
            connection.rollback()


def test_the_isolation_check_finds_producers_with_other_rights(opened: Any, tenant: Tenant) -> None:
    execute("GRANT SELECT ON ledger.jobs TO docworker_producer")
    execute("GRANT EXECUTE ON FUNCTION ledger.enqueue_many TO PUBLIC")
    found = {(one.subject, one.fault.partition(":")[0]) for one in check_isolation()}
    execute("REVOKE SELECT ON ledger.jobs FROM docworker_producer")
    execute("REVOKE EXECUTE ON FUNCTION ledger.enqueue_many FROM PUBLIC")
    assert ("ledger.jobs (SELECT)", "producers may do more than enqueue") in found
    assert any(subject.startswith("ledger.enqueue_many(") for subject, _ in found)


def test_a_session_of_ours_with_asyncio_takes_the_organization_as_well(opened: Any, tenant: Tenant) -> None:
    async def produce() -> UUID:
        await aio.open_database(settings())
        try:
            async with aio.writing(tenant.id) as session:
                return await enqueue(session, invoice, organization_id=tenant.id)
        finally:
            await aio.close_database()

    assert asyncio.run(produce()) in jobs_of(tenant)
