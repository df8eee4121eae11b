"""A largest backlog: who would enqueue more is refused, by whatever way, by what was counted last."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from docworker.db import ledger
from docworker.db.errors import BacklogFullError, InvalidArgumentError
from docworker.db.faults import Fault, classify, sqlstate_of
from docworker.db.ledger.waiting.backlogs import Bounded, backlogs, count_backlogs, remove_backlog, set_backlog
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id
from docworker.db.sessions import all_jobs_session, writing
from tests.support.ledger import LedgerSteps


@pytest.fixture(autouse=True)
def _no_bounds(steps: LedgerSteps) -> Iterator[None]:
    """None before a test, and none behind it."""
    forget()
    yield
    forget()


def forget() -> None:
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.backlogs"))


def bound(most: int, organization_id: UUID | None = None) -> None:
    with all_jobs_session() as session:
        set_backlog(session, organization_id, most)


def unbound(organization_id: UUID | None = None) -> bool:
    with all_jobs_session() as session:
        return remove_backlog(session, organization_id)


def count() -> list[Bounded]:
    """Count anew; what is known then."""
    with all_jobs_session() as session:
        count_backlogs(session)
    with all_jobs_session() as session:
        return list(backlogs(session))


def test_who_would_enqueue_more_is_told_who_has_how_many_and_what_to_do(steps: LedgerSteps) -> None:
    bound(3, steps.organization_id)
    steps.enqueue(2)
    assert count() == [(steps.organization_id, 3, 2, 3)]
    with pytest.raises(
        BacklogFullError, match=f"{steps.organization_id} has 2 due jobs waiting and may have 3"
    ) as told:
        steps.enqueue(2)
    assert "docworker jobs backlogs" in str(told.value)
    assert classify(told.value) is Fault.OVERLOAD, "a job that is refused is run again later"
    steps.enqueue(1, unique_keys=["k"])
    count()
    with pytest.raises(BacklogFullError, match="has 3 due jobs"):
        steps.enqueue(1, unique_keys=["other"])


def test_more_than_the_bound_at_once_is_refused_before_anything_was_counted(steps: LedgerSteps) -> None:
    bound(3, steps.organization_id)
    with pytest.raises(BacklogFullError, match="has 0 due jobs"):
        steps.enqueue(4)
    assert len(steps.enqueue(3)) == 3


def test_there_is_room_again_when_some_have_been_sent(steps: LedgerSteps) -> None:
    bound(2, steps.organization_id)
    steps.enqueue(2)
    count()
    assert steps.dispatch(capacity=1, batch_size=1)
    assert count() == [(steps.organization_id, 2, 1, 2)]
    steps.enqueue(1)
    assert steps.dispatch(capacity=100)
    assert count() == [(steps.organization_id, 2, None, None)], "far from the bound"


def test_each_organization_has_the_bound_of_all_unless_it_has_its_own(steps: LedgerSteps) -> None:
    others = [LedgerSteps() for _ in range(3)]
    bound(2)
    bound(5, steps.organization_id)
    for one in (steps, *others[:2]):
        one.enqueue(2)
    known = {one.organization_id: one[1:] for one in count()}
    full = {one.organization_id: (None, 2, 2) for one in others[:2]}
    assert known == {SYSTEM_ORGANIZATION_ID: (2, None, None), steps.organization_id: (5, None, None)} | full
    assert len(steps.enqueue(3)) == len(others[2].enqueue(3)) == 3
    for one in others[:2]:
        with pytest.raises(BacklogFullError):
            one.enqueue()
    assert unbound(steps.organization_id)
    assert not unbound(steps.organization_id)
    count()
    with pytest.raises(BacklogFullError, match="more than 2"):
        steps.enqueue()
    assert unbound()
    assert count() == []
    assert all(one.enqueue() for one in (steps, *others))


def test_another_program_is_refused_by_the_function_of_the_ledger(steps: LedgerSteps) -> None:
    bound(1, steps.organization_id)
    steps.enqueue()
    count()
    call = "SELECT ledger.enqueue(:organization, 'k', parent_id => CAST(:parent AS uuid))"
    with pytest.raises(DBAPIError, match="may have 1") as told, writing(steps.organization_id) as session:
        session.execute(text(call), {"organization": steps.organization_id, "parent": None})
    assert sqlstate_of(told.value) == "53400"
    with writing(steps.organization_id) as session:
        session.execute(text(call), {"organization": steps.organization_id, "parent": new_id()})


def test_children_of_jobs_and_what_a_judge_has_told_are_let_in(steps: LedgerSteps) -> None:
    bound(1, steps.organization_id)
    steps.enqueue()
    count()
    assert len(steps.enqueue(3, parent_id=new_id())) == 3
    with all_jobs_session() as session:
        assert ledger.insert_jobs(session, steps.organization_id, "k", [{}], max_attempts=1)


def test_organizations_see_no_bound_of_others_and_change_none(steps: LedgerSteps) -> None:
    bound(1)
    bound(1, steps.organization_id)
    with writing(LedgerSteps().organization_id) as session:
        assert backlogs(session) == []
    with writing(steps.organization_id) as session:
        assert backlogs(session) == [(steps.organization_id, 1, None, None)]
    with pytest.raises(DBAPIError, match="permission denied"), writing(steps.organization_id) as session:
        set_backlog(session, steps.organization_id, 2)


@pytest.mark.parametrize("most", [0, -1, 10**9 + 1])
def test_a_bound_that_is_none_is_refused(steps: LedgerSteps, most: int) -> None:
    with pytest.raises(InvalidArgumentError, match="most"):
        bound(most, steps.organization_id)


def test_no_count_where_nothing_is_bounded_writes_anything(steps: LedgerSteps) -> None:
    steps.enqueue(5)
    assert count() == []


def test_what_has_not_changed_is_not_written_again(steps: LedgerSteps) -> None:
    bound(2)
    steps.enqueue(2)
    count()
    versions = "SELECT array_agg(xmin::text ORDER BY organization_id) FROM ledger.backlogs"
    with all_jobs_session() as session:
        before = session.scalar(text(versions))
    count()
    with all_jobs_session() as session:
        assert session.scalar(text(versions)) == before
