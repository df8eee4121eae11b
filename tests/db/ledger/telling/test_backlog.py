"""The backlog per kind and organization, and the fan-outs with how far they are."""

import pytest

from docworker.db.ledger.telling import backlog as insight
from docworker.db.ledger.telling.backlog import backlog, due, under_way
from docworker.db.ledger.telling.fanouts import children_of, fan_outs
from docworker.db.sessions import all_jobs_session
from tests.support.ledger import LedgerSteps, in_an_hour


def test_jobs_are_counted_by_kind_and_organization_those_that_wait_longest_first(steps: LedgerSteps) -> None:
    other = LedgerSteps()
    steps.run(2)
    first_two = steps.enqueue(2, priority=3)
    steps.enqueue(1, priority=7)
    steps.enqueue(4, run_at=in_an_hour())
    steps.enqueue_after(first_two)
    other.enqueue(1, kind="other_kind")
    with all_jobs_session() as session:
        found = backlog(session)
        of_other = backlog(session, organization_id=other.organization_id)
        of_due = due(session)
        in_all = under_way(session)
    assert not found.is_cut
    first, second = found.waiting
    assert (first.organization_id, first.kind, first.due) == (steps.organization_id, "test_kind", 3)
    assert first.others == {"running": 2, "later": 4, "waiting": 1}
    assert (second.organization_id, second.kind, second.due, second.others) == (
        other.organization_id,
        "other_kind",
        1,
        {},
    )
    assert first.oldest_seconds is not None
    assert second.oldest_seconds is not None
    assert first.oldest_seconds >= second.oldest_seconds >= 0
    assert [one.kind for one in of_other.waiting] == ["other_kind"]
    assert [(one.kind, one.due, one.others) for one in of_due.waiting] == [("test_kind", 3, {}), ("other_kind", 1, {})]
    assert in_all == {"later": 4, "waiting": 1, "dispatched": 0, "running": 2}


def test_nothing_waits(steps: LedgerSteps) -> None:
    with all_jobs_session() as session:
        assert backlog(session) == ([], False)


@pytest.mark.parametrize("bound", ["MOST_COUNTED", "MOST_LANES", "_COUNTED"])
def test_what_is_counted_has_a_bound(steps: LedgerSteps, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(insight, bound, 2)
    monkeypatch.setattr(insight, "_LEAST_OF_A_LANE", 1)
    steps.enqueue(3)
    steps.enqueue(3, kind="other_kind")
    steps.enqueue(3, run_at=in_an_hour())
    with all_jobs_session() as session:
        found = backlog(session)
        monkeypatch.setattr(insight, "MOST_IN_ALL", 2)
        assert under_way(session)["later"] == 2
    assert found.is_cut or all(one.is_cut for one in found.waiting if one.due)


def test_fan_outs_tell_how_far_their_children_are(steps: LedgerSteps) -> None:
    first, second = steps.enqueue(2)
    steps.enqueue(2, parent_id=first)
    children = steps.run(3, parent_id=second, priority=0)
    steps.finish(children[:1])
    with all_jobs_session() as session:
        found = fan_outs(session, organization_id=steps.organization_id)
        assert [(one.parent_id, one.jobs, one.ended) for one in found] == [(second, 3, 1), (first, 2, 0)]
        (latest,) = fan_outs(session)
        assert latest.parent_id == second
        assert children_of(session, steps.organization_id, second).states == {"running": 2, "succeeded": 1}
        assert children_of(session, steps.organization_id, children[0].id).jobs == 0
