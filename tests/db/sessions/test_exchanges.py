"""Transactions that travel whole: what they mean must not depend on how they are sent."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from docworker.db.cluster import Database, close_database, database, open_database
from docworker.db.cluster.prepared import Statement
from docworker.db.models import Organization
from docworker.db.sessions import reading, writing
from docworker.db.sessions.exchanges import commit_with, transact
from docworker.db.sessions.statements import Call
from docworker.db.settings import settings
from docworker.worker.local.stack import LocalStack
from tests.support.tenants import Tenant, entered

ECHO = Statement("tests_echo", "SELECT :one, :number, :id", {"one": "text", "number": "float8", "id": "uuid"})
NAMES = Statement("tests_names", "SELECT name FROM app.organizations WHERE :all", {"all": "bool"})
RENAME = Statement("tests_rename", "UPDATE app.organizations SET name = :name RETURNING id", {"name": "text"})
DIVIDE = Statement("tests_divide", "SELECT 1 / :by", {"by": "int4"})


@pytest.fixture(params=[True, False], ids=["prepared", "plain"], autouse=True)
def opened(environment: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Database]:
    own = settings().model_copy(update={"prepared_statements": request.param})
    yield open_database(own, application_name="tests")
    close_database()


def rename(tenant: Tenant, name: str) -> Call:
    return Call(tenant.id, RENAME, {"name": name})


def name_of(tenant: Tenant) -> str:
    with reading(tenant.id, source="master") as session:
        return session.get_one(Organization, tenant.id).name


@pytest.mark.parametrize(
    "value", ["", "it's", "back\\slash", "\\'); DROP TABLE x; --", ":one $1 %s %%", "schön 🙂\n", None]
)
def test_values_arrive_as_they_were(tenant: Tenant, value: str | None) -> None:
    call = Call(tenant.id, ECHO, {"one": value, "number": 1e-9, "id": tenant.id})
    assert transact([call]).rows == [[(value, 1e-9, tenant.id)]]


def test_each_call_is_its_own_tenants(tenant: Tenant) -> None:
    other = Tenant()
    calls = [Call(one.id, NAMES, {"all": True}) for one in (tenant, other, tenant)]
    assert transact(calls).rows == [[(one.slug,)] for one in (tenant, other, tenant)]
    assert transact([rename(tenant, "first"), rename(other, "second")]).rows == [[(tenant.id,)], [(other.id,)]]
    assert [name_of(one) for one in (tenant, other)] == ["first", "second"]


def test_what_fails_takes_all_of_it_back_and_the_connection_goes_on(tenant: Tenant) -> None:
    transact([rename(tenant, "before")])
    with pytest.raises(DBAPIError, match="division by zero"):
        transact([rename(tenant, "after"), divide(tenant)])
    assert name_of(tenant) == "before"
    assert transact([rename(tenant, "again")]).rows == [[(tenant.id,)]]


def test_a_session_begins_with_its_first_call(tenant: Tenant) -> None:
    with writing(tenant.id, first=[rename(tenant, "begun")]) as session:
        assert session.first_rows == [[(tenant.id,)]]
        session.commit()
        session.get_one(Organization, tenant.id).name += " once"
    assert name_of(tenant) == "begun once"


def test_a_first_call_is_made_on_a_new_connection_where_the_pooled_one_was_lost(
    tenant: Tenant, stack: LocalStack
) -> None:
    with writing(tenant.id) as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    stack.master.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    with writing(tenant.id, first=[rename(tenant, "begun")]) as session:
        assert session.first_rows == [[(tenant.id,)]]
        assert session.scalar(text("SELECT pg_backend_pid()")) != pid
    assert name_of(tenant) == "begun"


def test_a_first_call_that_fails_leaves_the_connection_usable(tenant: Tenant) -> None:
    with pytest.raises(DBAPIError, match="division by zero"), writing(tenant.id, first=[divide(tenant)]):
        pass
    assert transact([rename(tenant, "again")]).rows == [[(tenant.id,)]]


def divide(tenant: Tenant) -> Call:
    return Call(tenant.id, DIVIDE, {"by": 0})


def test_a_session_commits_with_its_last_call(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        session.get_one(Organization, tenant.id).name = "flushed"
        assert commit_with(session, [Call(tenant.id, NAMES, {"all": True})]).rows == [[("flushed",)]]
    assert name_of(tenant) == "flushed"
    with pytest.raises(DBAPIError, match="division by zero"):
        rename_and_divide(tenant)
    assert name_of(tenant) == "flushed"


def rename_and_divide(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        session.get_one(Organization, tenant.id).name = "lost"
        commit_with(session, [divide(tenant)])


def test_the_position_is_one_that_a_reader_can_wait_for(tenant: Tenant) -> None:
    transact([rename(tenant, "seen")])
    flushed = Statement("tests_flushed", "SELECT CAST(pg_current_wal_flush_lsn() - '0/0' AS bigint)", {})
    committed = transact([Call(tenant.id, flushed, {})])
    ((lsn,),) = committed.rows[0]
    with reading(tenant.id, position=committed.position_at(lsn)) as session:
        assert session.get_one(Organization, tenant.id).name == "seen"


def test_statements_are_prepared_once_where_they_stay(tenant: Tenant) -> None:
    prepared = Statement(
        "tests_prepared", "SELECT count(*) FROM pg_prepared_statements WHERE name = :name", {"name": "text"}
    )
    calls: list[Any] = [Call(tenant.id, prepared, {"name": prepared.name})]
    count = 1 if database().settings.prepared_statements else 0
    assert [transact(calls).rows for _ in range(2)] == [[[(count,)]]] * 2


@pytest.mark.parametrize("undo", ["transaction", "savepoint"])
def test_what_psycopg_forgets_at_a_rollback_is_prepared_again(tenant: Tenant, undo: str) -> None:
    call = Call(tenant.id, NAMES, {"all": True})
    transact([call])
    with writing(tenant.id) as session:
        for _ in range(10):  # psycopg prepares what is often asked
            session.scalar(text("SELECT :number"), {"number": 1})
        nested = session.begin_nested() if undo == "savepoint" else session
        nested.rollback()
    assert transact([call]).rows == [[(tenant.slug,)]]


def test_a_server_without_seq_scans_is_asked_for(tenant: Tenant) -> None:
    """A queue that was empty when its plan was made is not read from end to end for ever."""
    asked = Statement("tests_asked", "SELECT current_setting(:name)", {"name": "text"})
    assert transact([Call(tenant.id, asked, {"name": "enable_seqscan"})]).rows == [[("off",)]]
    with writing(tenant.id) as session:
        assert commit_with(session, [Call(tenant.id, asked, {"name": "enable_seqscan"})]).rows == [[("off",)]]
    with writing(tenant.id) as session:
        assert session.connection().exec_driver_sql("SHOW enable_seqscan").scalar_one() == "on"


def test_organization_that_owns_nothing_sees_nothing(tenant: Tenant) -> None:
    assert transact([Call(entered(), NAMES, {"all": True}), rename(tenant, "mine")]).rows == [[], [(tenant.id,)]]
