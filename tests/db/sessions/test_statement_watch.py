"""A statement in a loop is found: counted in tests, logged with its place in production."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from docworker.db.errors import ConfigurationError
from docworker.db.models import Document
from docworker.db.sessions import TenantSession, count_statements, reading, writing
from docworker.db.sessions.routing import RoutingSession
from tests.support.database import opened_database
from tests.support.tenants import Tenant


@pytest.fixture(scope="module")
def tenant(environment: dict[str, str]) -> Iterator[Tenant]:
    with opened_database(repeated_statements=3):
        yield Tenant()


def ask(session: TenantSession, times: int) -> None:
    for number in range(times):
        session.execute(select(Document.id).where(Document.filename == str(number)))


def test_what_is_sent_within_the_block_is_counted(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        ask(session, 1)
        with count_statements(session) as counts:
            ask(session, 2)
            session.add(Document(organization_id=tenant.id, filename="new"))
            session.flush()
        ask(session, 1)
    assert counts.total == 3
    assert sorted(counts.by_sql.values()) == [1, 2]


def test_what_a_session_sends_in_its_next_transaction_is_counted_as_well(tenant: Tenant) -> None:
    with writing(tenant.id) as session, count_statements(session) as counts:
        session.commit()
        ask(session, 2)
    assert counts.total == 2


def test_a_routing_session_is_counted_on_both_servers(tenant: Tenant) -> None:
    with RoutingSession(tenant.id) as session, count_statements(session) as counts:
        ask(session, 2)
        session.execute(text("SELECT 1"))
        ask(session, 1)
    assert counts.total == 4


def test_a_foreign_session_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Session is no session of docworker"), count_statements(Session()):
        pass


def repeated(logs: list[Any]) -> list[Any]:
    return [one for one in logs if one["event"] == "session.repeated_statement"]


def test_a_statement_in_a_loop_is_logged_once_with_its_place(tenant: Tenant) -> None:
    with capture_logs() as logs, reading(tenant.id) as session:
        ask(session, 6)
    (found,) = repeated(logs)
    assert found["times"] == 4
    assert found["sent_at"] == f"{__file__}:{ask.__code__.co_firstlineno + 2}"
    assert found["opened_at"].startswith(__file__)
    assert "app.documents" in found["statement"]


def test_fewer_are_not_logged_and_other_sessions_count_for_themselves(tenant: Tenant) -> None:
    with capture_logs() as logs:
        for _ in range(3):
            with reading(tenant.id) as session:
                ask(session, 3)
    assert repeated(logs) == []


def test_nothing_is_logged_unless_it_is_asked_for(environment: dict[str, str], tenant: Tenant) -> None:
    with opened_database(), capture_logs() as logs, reading(tenant.id) as session:
        ask(session, 50)
    assert repeated(logs) == []
