"""Jobs of one limit key: no more are under way than the limit lets, no fewer than it lets, whatever is done to them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster import Database
from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger import Claimed
from docworker.db.ledger.waiting import keys
from docworker.db.ledger.waiting.gates import checked_after, wait_for
from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session, writing
from tests.support.ledger import LedgerSteps

FAILURE = ledger.Failure("E", "m")


def set_limit(key: str, most: int, steps: LedgerSteps | None = None) -> None:
    with all_jobs_session() as session:
        owner = None if steps is None else steps.organization_id
        keys.set_key_limit(session, key, organization_id=owner, max_running=most)


def remove_limit(key: str, steps: LedgerSteps | None = None) -> bool:
    with all_jobs_session() as session:
        return keys.remove_key_limit(session, key, organization_id=None if steps is None else steps.organization_id)


def sent(steps: LedgerSteps) -> list[UUID]:
    """What a look of the dispatcher sends of its jobs."""
    return [
        job_id
        for message in steps.dispatch()
        for part in message.parts
        for job_id in part.job_ids
        if part.organization_id == steps.organization_id
    ]


def fail(steps: LedgerSteps, job_id: UUID, *, again_in: float) -> None:
    (one,) = steps.claim([job_id])
    with writing(steps.organization_id) as session:
        put_off(session, one, again_in)


def put_off(session: Session, one: Claimed, seconds: float) -> None:
    """Its attempt fails, and it is to be run again."""
    ledger.retry(session, one, FAILURE, delay_seconds=seconds, uses_attempt=True, max_faults=3)


def operate(what: str, job_id: UUID) -> None:
    with all_jobs_session() as session:
        match what:
            case "cancel":
                ledger.cancel(session, ledger.Filter(), [job_id])
            case "retry":
                ledger.retry_failed(session, ledger.Filter(), [job_id])
            case "remove":
                session.execute(delete(Job).where(Job.id == job_id))
            case _:
                session.execute(
                    text("UPDATE ledger.jobs SET state = 'succeeded', redispatch_at = NULL WHERE id = :id"),
                    {"id": job_id},
                )


def empty() -> None:
    with all_jobs_session() as session:
        for table in ("jobs", "key_limits", "key_events"):
            session.execute(text(f"DELETE FROM ledger.{table}"))


@pytest.fixture
def organizations(opened: Database) -> Iterator[list[LedgerSteps]]:
    yield [LedgerSteps() for _ in range(2)]
    empty()


def test_as_many_go_as_the_limit_lets_and_the_next_when_one_has_ended(steps: LedgerSteps) -> None:
    set_limit("a", 2, steps)
    ids = steps.enqueue_under_key("a", 4)
    (free,) = steps.enqueue()
    assert steps.states() == {"waiting": 4, "queued": 1}
    assert sorted(sent(steps)) == sorted([*ids[:2], free])
    claimed = steps.claim(ids[:1])
    (last,) = steps.enqueue_under_key("a", 1)
    assert sent(steps) == [], "one is dispatched, and one runs"
    steps.finish(claimed)
    assert sent(steps) == [ids[2]]
    assert steps.job(last).state == "waiting"


def test_one_without_a_limit_goes_at_once_and_a_limit_takes_back_what_is_not_sent(steps: LedgerSteps) -> None:
    ids = steps.enqueue_under_key("a", 5)
    with all_jobs_session() as session:
        ledger.pause(session, kind=None, organization_id=steps.organization_id)
    assert sent(steps) == []
    assert steps.states() == {"queued": 5}, "none is kept back"
    set_limit("a", 2, steps)
    with all_jobs_session() as session:
        ledger.resume(session, kind=None, organization_id=steps.organization_id)
    assert sent(steps) == ids[:2]
    set_limit("a", 3, steps)
    assert len(sent(steps)) == 1
    assert remove_limit("a", steps)
    assert len(sent(steps)) == 2


def test_a_limit_of_each_organization_is_of_those_without_their_own(organizations: list[LedgerSteps]) -> None:
    one, other = organizations
    set_limit("a", 1)
    set_limit("a", 3, other)
    for steps in organizations:
        steps.enqueue_under_key("a", 5)
        steps.enqueue_under_key("b", 1)
    one.dispatch()
    assert (one.states()["dispatched"], other.states()["dispatched"]) == (2, 4)


def test_what_is_put_off_holds_no_place_and_stands_in_line_when_it_is_due(steps: LedgerSteps) -> None:
    set_limit("a", 1, steps)
    first, second, third = steps.enqueue_under_key("a", 3)
    assert sent(steps) == [first]
    fail(steps, first, again_in=3600)
    assert sent(steps) == [second], "the first one's place is free"
    with all_jobs_session() as session:
        session.execute(
            text("UPDATE ledger.jobs SET run_at = clock_timestamp() - interval '1 day' WHERE id = :id"), {"id": first}
        )
    assert sent(steps) == []
    assert steps.job(first).state == "waiting"
    steps.finish(steps.claim([second]))
    assert sent(steps) == [first], "it is due longest"
    assert third


def test_a_lost_one_keeps_its_place(steps: LedgerSteps) -> None:
    set_limit("a", 1, steps)
    first, _ = steps.enqueue_under_key("a", 2)
    assert sent(steps) == [first]
    steps.claim([first])
    steps.expire([first])
    steps.rescue()
    assert sent(steps) == [first]


def test_no_hand_lets_more_go_than_the_limit(steps: LedgerSteps) -> None:
    set_limit("a", 1, steps)
    first, second = steps.enqueue_under_key("a", 2)
    assert sent(steps) == [first]
    with all_jobs_session() as session:
        session.execute(text("UPDATE ledger.jobs SET state = 'queued' WHERE id = :id"), {"id": second})
    assert sent(steps) == []
    assert steps.job(second).state == "waiting"


def test_the_next_one_that_somebody_holds_is_admitted_once_it_is_free(steps: LedgerSteps) -> None:
    (only,) = steps.enqueue_under_key("a", 1)
    with writing(steps.organization_id) as session:
        session.execute(text("SELECT FROM ledger.jobs WHERE id = :id FOR UPDATE"), {"id": only})
        assert sent(steps) == []
    assert sent(steps) == [only]


def test_one_that_waits_for_others_stands_in_line_after_that(steps: LedgerSteps) -> None:
    set_limit("a", 1, steps)
    (other,) = steps.run()
    with writing(steps.organization_id) as session:
        (late,) = ledger.insert_jobs(session, steps.organization_id, steps.kind, [{}], max_attempts=1)
        keys.under_key(session, steps.organization_id, [late], "a")
        wait_for(session, steps.organization_id, [late], checked_after([other.id], None, "succeeded"))
    (first,) = steps.enqueue_under_key("a", 1)
    assert sent(steps) == [first]
    steps.finish([other])
    assert sent(steps) == []
    steps.finish(steps.claim([first]))
    assert sent(steps) == [late]


def test_more_than_a_window_goes_in_several_looks(steps: LedgerSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "WINDOW", 3)
    steps.enqueue_under_key("a", 7)
    assert [len(sent(steps)) for _ in range(4)] == [3, 3, 1, 0]
    with all_jobs_session() as session:
        assert session.scalar(text("SELECT count(*) FROM ledger.key_events")) == 0, "nothing is looked at again"


def test_a_wrong_limit_is_refused(opened: Database) -> None:
    for key, most in (("", 1), ("k" * 501, 1), ("a", -1)):
        with pytest.raises(InvalidArgumentError):
            set_limit(key, most)


KEY = st.sampled_from("ab")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue"), KEY, st.integers(1, 5)),
        st.tuples(st.just("limit"), KEY, st.booleans(), st.none() | st.integers(0, 4)),
        st.tuples(st.sampled_from(["cancel", "retry", "remove", "end"]), st.integers(0, 30)),
        st.tuples(st.sampled_from(["claim", "fail", "put off", "lose"]), st.integers(0, 30)),
    ),
    max_size=14,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_no_more_than_the_limit_and_no_fewer(
    organizations: list[LedgerSteps], taken: Sequence[tuple[Any, ...]]
) -> None:
    empty()
    steps = organizations[0]
    set_limit("a", 2, steps)
    limits = {("a", True): 2}
    ids = steps.enqueue_under_key("a", 4)
    for what, *rest in taken:
        match what:
            case "enqueue":
                ids += steps.enqueue_under_key(*rest)
            case "limit":
                key, is_own, most = rest
                if most is None:
                    remove_limit(key, steps if is_own else None)
                    limits.pop((key, is_own), None)
                else:
                    set_limit(key, most, steps if is_own else None)
                    limits[key, is_own] = most
            case _:
                act(steps, what, ids, rest[0])
        before = of_keys(steps, "dispatched", "running")
        steps.dispatch()
        after, left = of_keys(steps, "dispatched", "running"), of_keys(steps, "waiting", "queued")
        for key in "ab":
            most = limits.get((key, True), limits.get((key, False)))
            assert most is None or after[key] <= max(most, before[key]), "a limit is exceeded"
            assert left[key] == 0 or (most is not None and after[key] >= most), "jobs wait that no limit holds"


def act(steps: LedgerSteps, what: str, ids: Sequence[UUID], number: int) -> None:
    """What may happen to one of these jobs, or of those of them that are dispatched."""
    if what in ("cancel", "retry", "remove"):
        operate(what, ids[number % len(ids)])
        return
    with all_jobs_session() as session:
        dispatched = session.scalars(select(Job.id).where(Job.id.in_(ids), Job.state == "dispatched").order_by(Job.id))
        there = list(dispatched)
    if not there:
        return
    job_id = there[number % len(there)]
    if what == "end":
        operate(what, job_id)
        return
    # One that was rescued is set apart, and only the message it was sent with may claim it.
    claimed = steps.claim([job_id], message_id=steps.job(job_id).message_id)
    match what:
        case "fail" | "put off":
            with writing(steps.organization_id) as session:
                put_off(session, claimed[0], 0 if what == "fail" else 3600)
        case "lose":
            steps.expire([job_id])
            steps.rescue()


def of_keys(steps: LedgerSteps, *states: str) -> Counter[str]:
    """How many jobs of each key are in these states, without those that are due later."""
    with all_jobs_session() as session:
        rows = session.execute(
            text(
                "SELECT limit_key, count(*) AS jobs FROM ledger.jobs WHERE organization_id = :one AND NOT later"
                " AND state = ANY(:states) AND limit_key IS NOT NULL GROUP BY 1"
            ),
            {"one": steps.organization_id, "states": list(states)},
        )
        return Counter({row.limit_key: row.jobs for row in rows})
