"""Failures by kind and reason: what has failed, how much of it is counted, and what is shown of it."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.ledger import Filter
from docworker.db.ledger.telling import failures
from docworker.db.ledger.telling.failures import HOURS, FailureGroup, failure_groups
from docworker.db.sessions import all_jobs_session
from tests.support.ledger import LedgerSteps

Fail = Callable[..., list[UUID]]


def groups(**wanted: Any) -> list[FailureGroup]:
    with all_jobs_session() as session:
        return failure_groups(session, **wanted)


def test_failed_jobs_are_grouped_by_kind_and_reason_the_largest_first(steps: LedgerSteps, fail: Fail) -> None:
    fail("TimeoutError", 2)
    fail("ValueError", 3)
    last = fail("ValueError", 1, kind="other_kind")
    steps.enqueue(5)
    found = groups()
    assert [(one.kind, one.reason, one.jobs) for one in found] == [
        ("test_kind", "ValueError", 3),
        ("test_kind", "TimeoutError", 2),
        ("other_kind", "ValueError", 1),
    ]
    assert not any(one.is_cut for one in found)
    (other,) = groups(kind="other_kind")
    assert (other.latest_id, other.latest_organization_id) == (last[0], steps.organization_id)
    assert other.example == f"why {last[0]}"
    assert len(other.by_hour) == HOURS
    assert other.by_hour[-1] == 1, "the latest hour is the last one"


def test_the_failures_of_one_organization_are_its_own(steps: LedgerSteps, fail: Fail) -> None:
    fail("ValueError", 2)
    other = LedgerSteps()
    fail("ValueError", 1, of=other)
    assert [one.jobs for one in groups()] == [3]
    assert [one.jobs for one in groups(organization_id=other.organization_id)] == [1]
    assert groups(organization_id=UUID(int=5)) == []


def test_an_hour_counts_what_failed_in_it(fail: Fail) -> None:
    now, before, long_ago = fail("ValueError", 3)
    with all_jobs_session() as session:
        moved = text(
            "UPDATE ledger.jobs SET finished_at = clock_timestamp() - :hours * interval '1 hour' WHERE id = :id"
        )
        session.execute(moved, {"hours": 2.5, "id": before})
        session.execute(moved, {"hours": 300, "id": long_ago})
    (one,) = groups()
    assert one.jobs == 3
    assert (sum(one.by_hour), one.by_hour[-1], one.by_hour[-3]) == (2, 1, 1)
    assert one.latest_id == now


def test_of_a_large_group_the_latest_are_counted_up_to_a_bound(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_LEAST_OF_A_GROUP", 2)
    fail("ValueError", 4)
    (one,) = groups(most_counted=2)
    assert (one.jobs, one.is_cut) == (2, True)


def test_a_group_is_retried_as_it_is_shown_with_reasons_however_long(steps: LedgerSteps, fail: Fail) -> None:
    long = "E" * 300
    fail(long, 2)
    fail("ValueError", 1)
    (shown,) = [one for one in groups() if one.jobs == 2]
    with all_jobs_session() as session:
        assert len(ledger.retry_failed(session, Filter(kind=shown.kind, reason=shown.reason))) == 2
    assert steps.states() == {"queued": 2, "failed": 1}


def test_a_job_that_failed_without_an_error_has_the_reason_of_none(steps: LedgerSteps, fail: Fail) -> None:
    fail("ValueError", 1)
    with all_jobs_session() as session:
        session.execute(text("UPDATE ledger.jobs SET error_class = NULL, error_message = NULL"))
    (one,) = groups()
    assert (one.reason, one.example) == ("", None)
    with all_jobs_session() as session:
        assert len(ledger.retry_failed(session, Filter(reason=""))) == 1
