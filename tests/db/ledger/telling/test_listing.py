"""Pages of jobs: each choice that there is, page after page without a gap, and what is refused."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.ledger import Filter
from docworker.db.ledger.telling import listing
from docworker.db.ledger.telling.listing import find_job, list_jobs
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session
from tests.support.ledger import LedgerSteps, in_an_hour

Fail = Callable[..., list[UUID]]


def pages(wanted: Filter, *, limit: int) -> list[list[UUID]]:
    """The ids on each page, up to the last one."""
    found: list[list[UUID]] = []
    behind: str | None = None
    while True:
        with all_jobs_session() as session:
            page = list_jobs(session, wanted, limit=limit, behind=behind)
        found.append([one.id for one in page.jobs])
        if (behind := page.behind) is None:
            return found


def all_of(wanted: Filter, *, limit: int = 2) -> list[UUID]:
    return [one for page in pages(wanted, limit=limit) for one in page]


def newest_first(ids: list[UUID]) -> list[UUID]:
    return sorted(ids, reverse=True)


def test_the_latest_jobs_of_all_organizations_come_page_by_page(steps: LedgerSteps) -> None:
    other = LedgerSteps()
    made = [*steps.enqueue(3), *other.enqueue(2), *steps.enqueue(2)]
    assert pages(Filter(), limit=3) == [newest_first(made)[:3], newest_first(made)[3:6], newest_first(made)[6:]]


def test_an_organization_s_jobs_of_any_state_and_kind(steps: LedgerSteps, fail: Fail) -> None:
    LedgerSteps().enqueue(2)
    failed = fail("ValueError", 2)
    others = steps.enqueue(3, kind="other_kind")
    owned = Filter(organization_id=steps.organization_id)
    assert all_of(owned) == newest_first([*failed, *others])
    assert all_of(Filter(organization_id=steps.organization_id, kind="other_kind")) == newest_first(others)
    assert all_of(Filter(["succeeded"], organization_id=steps.organization_id)) == []


def test_a_rare_job_of_an_organization_is_found_pages_further(
    steps: LedgerSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_LOOKED_THROUGH", 3)
    rare = steps.enqueue(1, kind="rare")
    steps.enqueue(7)
    wanted = Filter(kind="rare", organization_id=steps.organization_id)
    with all_jobs_session() as session:
        first = list_jobs(session, wanted)
    assert (first.jobs, first.is_cut) == ([], True)
    assert all_of(wanted) == rare


def test_failed_jobs_are_in_the_order_of_their_ends(steps: LedgerSteps, fail: Fail) -> None:
    other = LedgerSteps()
    first, second = fail("ValueError", 1), fail("TimeoutError", 1, kind="other_kind")
    third, fourth = fail("ValueError", 1, of=other), fail("ValueError", 1)
    steps.enqueue()
    assert all_of(Filter(["failed"])) == [*fourth, *third, *second, *first]
    assert all_of(Filter(["failed"], kind="test_kind", reason="ValueError")) == [*fourth, *third, *first]
    assert all_of(Filter(["failed"], reason="TimeoutError")) == second
    assert all_of(Filter(["failed"], organization_id=steps.organization_id)) == [*fourth, *second, *first]
    assert all_of(Filter(["failed"], kind="none_of_it")) == []


def test_live_jobs_are_listed_by_state_of_all_or_of_one(steps: LedgerSteps) -> None:
    other = LedgerSteps()
    running = [one.id for one in steps.run(3)]
    sent = other.enqueue(2)
    other.dispatch()
    queued, of_other = steps.enqueue(2, kind="other_kind"), other.enqueue(1)
    later = steps.enqueue(1, run_at=in_an_hour())
    waiting = steps.enqueue_after(queued)
    assert all_of(Filter(["running"])) == newest_first(running)
    assert all_of(Filter(["dispatched"])) == newest_first(sent)
    assert all_of(Filter(["queued"])) == newest_first([*queued, *of_other, *later])
    assert all_of(Filter(["queued"], organization_id=steps.organization_id)) == newest_first([*queued, *later])
    assert all_of(Filter(["queued"], kind="other_kind", organization_id=steps.organization_id)) == newest_first(queued)
    assert all_of(Filter(["queued"], kind="other_kind")) == newest_first(queued)
    assert all_of(Filter(["running"], organization_id=other.organization_id)) == []
    assert all_of(Filter(["waiting"], organization_id=steps.organization_id)) == [waiting]


def test_of_many_live_jobs_a_bounded_part_is_looked_at(steps: LedgerSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MOST_OF_A_SET", 3)
    steps.enqueue(4)
    with all_jobs_session() as session:
        page = list_jobs(session, Filter(["queued"]))
        assert (len(page.jobs), page.is_cut) == (3, True)
        assert list_jobs(session, Filter(["running"])).is_cut is False


def test_children_are_found_by_their_parent(steps: LedgerSteps, fail: Fail) -> None:
    (parent,) = steps.enqueue(1)
    children = steps.enqueue(3, parent_id=parent)
    owned: dict[str, Any] = {"organization_id": steps.organization_id, "parent_id": parent}
    assert all_of(Filter(**owned)) == newest_first(children)
    assert all_of(Filter(["failed"], **owned)) == []
    assert all_of(Filter(["failed"], reason="E", **owned)) == []
    assert all_of(Filter(["queued"], kind="other_kind", **owned)) == []


def test_a_job_is_found_by_its_id_alone(steps: LedgerSteps) -> None:
    LedgerSteps().enqueue(1)
    (one,) = steps.enqueue(1)
    with all_jobs_session() as session:
        assert find_job(session, one) == steps.organization_id
        with pytest.raises(NotFoundError, match="it never was, or has been pruned"):
            find_job(session, new_id())


REFUSED: dict[str, dict[str, Any]] = {
    "one state": {"states": ["failed", "running"]},
    "any age": {"older_than": timedelta(1)},
    "only failed jobs have a reason": {"reason": "E"},
    "choose an organization": {"states": ["succeeded"]},
    "or one of the states failed": {"kind": "test_kind"},
    "whose children": {"parent_id": UUID(int=1)},
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_what_only_a_walk_through_all_jobs_would_answer_is_refused(steps: LedgerSteps, message: str) -> None:
    with all_jobs_session() as session, pytest.raises(InvalidArgumentError, match=message):
        list_jobs(session, Filter(**REFUSED[message]))


@pytest.mark.parametrize("states", [[], ["failed"], ["running"]], ids=str)
@pytest.mark.parametrize("behind", ["", "x", "2026-01-01", "' OR true --"])
def test_a_place_that_is_none_is_refused(steps: LedgerSteps, states: list[str], behind: str) -> None:
    with all_jobs_session() as session, pytest.raises(InvalidArgumentError, match="is no place in this list"):
        list_jobs(session, Filter(states), behind=behind)
