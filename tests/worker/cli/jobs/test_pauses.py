"""`docworker jobs pause` where organizations have ledgers of their own."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.models import Organization
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.tenants import steering
from docworker.worker.cli.options import actor
from docworker.worker.local.stack import LocalStack
from tests.support.commands import ask
from tests.support.database import opened_database
from tests.support.ledger import LedgerSteps
from tests.support.stack import fresh_database, unique_name


@pytest.fixture
def tenants(fresh_environment: dict[str, str], stack: LocalStack, template: str) -> Iterator[list[LedgerSteps]]:
    """One among others, and one with a database of its own."""
    with fresh_database(stack, unique_name("tenant"), template=template) as name:
        with opened_database():
            made = [LedgerSteps(), LedgerSteps(database=name)]
            for one in made:
                with writing(one.organization_id) as session:
                    session.add(Organization(id=one.organization_id, slug=slug_of(one), name=slug_of(one)))
        yield made


def slug_of(one: LedgerSteps) -> str:
    return f"entered-{one.organization_id.hex}"


def sent(one: LedgerSteps) -> int:
    """How many of its jobs a dispatcher sends just now."""
    with opened_database(), all_jobs_session(*one.where) as session:
        limits = ledger.Limits(lambda _: ledger.Size(10, 10))
        look = ledger.dispatch_due(
            session, ledger.Turns(), ledger.load(session), limits, capacity=10, redispatch_after_seconds=10
        )
        session.rollback()
        return sum(len(message.job_ids) for message in look.messages)


def test_an_organization_is_paused_in_its_own_database_and_in_no_other(tenants: list[LedgerSteps]) -> None:
    shared, own = tenants
    with opened_database():
        shared.enqueue(1), own.enqueue(2)
    assert (sent(shared), sent(own)) == (1, 2)
    slug = slug_of(own)
    assert ask("jobs", "pause", "-o", slug).out == f"paused all kinds of {slug}\n"
    assert (sent(shared), sent(own)) == (1, 0)
    assert [line[:2] for line in ask("jobs", "paused").lines] == [["organization", "kind"], [slug, "all"]]
    assert ask("jobs", "resume", "-o", slug).exit_code == 0
    assert (sent(shared), sent(own)) == (1, 2)
    assert ask("jobs", "resume", "-o", slug).exit_code == 1


def test_a_kind_is_paused_in_every_ledger(tenants: list[LedgerSteps]) -> None:
    kind = "process_document"
    with opened_database():
        for one in tenants:
            one.enqueue(1, kind=kind)
    assert ask("jobs", "pause", "--kind", kind).exit_code == 0
    assert [sent(one) for one in tenants] == [0, 0]
    (paused,) = ask("jobs", "paused", "--json").json
    assert (paused["organization"], paused["kind"], paused["by"]) == (None, kind, actor())
    assert ask("jobs", "resume", "--kind", kind).exit_code == 0
    assert [sent(one) for one in tenants] == [1, 1]


def test_status_counts_the_pauses_of_all_ledgers(tenants: list[LedgerSteps]) -> None:
    assert ask("jobs", "pause", "-o", slug_of(tenants[1])).exit_code == 0
    assert ask("jobs", "pause", "--kind", "process_document").exit_code == 0
    assert ask("status", "--json").json["pauses"] == 2


def test_what_is_recorded_with_a_pause_is_there_with_it_or_neither_is(tenants: list[LedgerSteps]) -> None:
    shared, _ = tenants
    recorded: list[int] = []

    def fail(session: Session) -> None:
        recorded.append(len(ledger.pauses(session)))
        raise ZeroDivisionError

    with opened_database():
        with pytest.raises(ZeroDivisionError):
            steering.pause(kind=None, organization_id=shared.organization_id, record=fail)
        assert (recorded, steering.all_pauses()) == ([1], [])
        assert steering.pause(kind=None, organization_id=shared.organization_id)
        assert not steering.pause(kind=None, organization_id=shared.organization_id, record=fail)
        assert recorded == [1]


def test_a_pause_of_the_installations_own_jobs_does_not_stop_everybodys(tenants: list[LedgerSteps]) -> None:
    shared, _ = tenants
    with opened_database():
        shared.enqueue(1)
    refused = ask("jobs", "pause", "-o", "system")
    assert refused.exit_code == 1
    assert "are not paused as an organization's: name a kind alone" in refused.err
    assert sent(shared) == 1
