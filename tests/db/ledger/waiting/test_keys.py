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
from docworker.db.ledger import Claimed, Rate
from docworker.db.ledger.waiting import keys
from docworker.db.ledger.waiting.gates import checked_after, wait_for
from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session, writing
from tests.support.ledger import LedgerSteps
from tests.support.waiting import eventually

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


def set_rate(steps: LedgerSteps | None, key: str, rate: Rate | None, most: int | None = None) -> None:
    with all_jobs_session() as session:
        owner = None if steps is None else steps.organization_id
        keys.set_key_limit(session, key, organization_id=owner, max_running=most, rate=rate)


def let_time_pass(steps: LedgerSteps, seconds: float) -> None:
    """For the rates of its keys."""
    with all_jobs_session() as session:
        session.execute(
            text(
                "UPDATE ledger.key_rates_spent SET spent_until = spent_until - :seconds * interval '1 second',"
                " look_at = look_at - :seconds * interval '1 second' WHERE organization_id = :one"
            ),
            {"seconds": seconds, "one": steps.organization_id},
        )


def empty() -> None:
    with all_jobs_session() as session:
        for table in ("jobs", "key_limits", "key_events", "key_rates_spent"):
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


def test_a_rate_lets_its_burst_go_at_once_and_then_one_after_another(steps: LedgerSteps) -> None:
    set_rate(steps, "a", Rate(jobs=2, seconds=3600, burst=3))
    ids = steps.enqueue_under_key("a", 6)
    assert sent(steps) == ids[:3]
    assert sent(steps) == []
    with all_jobs_session() as session:
        assert not ledger.load(session).is_told, "nobody looks at a key before its time"
    let_time_pass(steps, 1799)
    assert sent(steps) == []
    let_time_pass(steps, 2)
    assert sent(steps) == [ids[3]]
    set_rate(steps, "a", Rate(jobs=100, seconds=1, burst=1))
    for one in ids[4:]:
        assert eventually(lambda: sent(steps), within_seconds=20, what="a faster rate to let one go") == [one]
    eventually(lambda: sent(steps) or spends(steps) == 0, within_seconds=10, what="what is spent to be forgotten")


def test_who_was_handed_back_has_spent_and_who_begins_again_spends_again(steps: LedgerSteps) -> None:
    set_rate(steps, "a", Rate(jobs=1, seconds=3600, burst=2))
    first, second, third = steps.enqueue_under_key("a", 3)
    (message,) = steps.dispatch()
    steps.hand_back([first, second], message_id=message.id)
    assert sent(steps) == [first, second], "nobody had begun them"
    fail(steps, first, again_in=0)
    assert sent(steps) == []
    assert steps.job(first).state == "waiting"
    let_time_pass(steps, 3601)
    assert sent(steps) == [third], "it is due longest"


def test_of_those_that_come_back_who_has_spent_goes_first(steps: LedgerSteps) -> None:
    set_rate(steps, "a", Rate(jobs=1, seconds=3600, burst=2))
    lost, back, last = steps.enqueue_under_key("a", 3)
    (message,) = steps.dispatch()
    steps.claim([lost])
    steps.expire([lost])
    steps.rescue()
    steps.hand_back([back], message_id=message.id)
    with all_jobs_session() as session:
        session.execute(text("UPDATE ledger.jobs SET state = 'queued' WHERE id = :id"), {"id": last})
    assert sent(steps) == [back]


def test_a_number_that_runs_and_a_rate_hold_both(steps: LedgerSteps) -> None:
    set_rate(steps, "a", Rate(jobs=1, seconds=3600, burst=3), most=2)
    ids = steps.enqueue_under_key("a", 5)
    assert sent(steps) == ids[:2]
    steps.finish(steps.claim(ids[:2]))
    assert sent(steps) == [ids[2]]
    assert sent(steps) == [], "one may run more, and the rate is spent"


def spends(steps: LedgerSteps) -> int:
    with all_jobs_session() as session:
        counted = text("SELECT count(*) FROM ledger.key_rates_spent WHERE organization_id = :one")
        return session.scalar(counted, {"one": steps.organization_id}) or 0


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


def act(steps: LedgerSteps, what: str, ids: Sequence[UUID], number: int) -> UUID | None:
    """What may happen to one of these jobs, or of those of them that are dispatched; returns the one that has begun."""
    if what in ("cancel", "retry", "remove"):
        operate(what, ids[number % len(ids)])
        return None
    with all_jobs_session() as session:
        dispatched = session.scalars(select(Job.id).where(Job.id.in_(ids), Job.state == "dispatched").order_by(Job.id))
        there = list(dispatched)
    if not there:
        return None
    job_id = there[number % len(there)]
    # One that was rescued is set apart, and only the message it was sent with may claim it.
    message_id = steps.job(job_id).message_id
    if what == "end":
        operate(what, job_id)
        return None
    if what == "hand back" and message_id is not None:
        steps.hand_back([job_id], message_id=message_id)
        return None
    claimed = steps.claim([job_id], message_id=message_id)
    match what:
        case "fail" | "put off":
            with writing(steps.organization_id) as session:
                put_off(session, claimed[0], 0 if what == "fail" else 3600)
        case "lose":
            steps.expire([job_id])
            steps.rescue()
    return job_id


RATED_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue"), KEY, st.integers(1, 5)),
        st.tuples(st.just("pass"), st.integers(0, 16)),
        st.tuples(
            st.just("limit"),
            KEY,
            st.booleans(),
            st.none() | st.builds(Rate, st.integers(1, 4), st.just(1000.0), st.integers(1, 4)),
            st.none() | st.integers(0, 4),
        ),
        st.tuples(st.sampled_from(["claim", "fail", "put off", "lose", "hand back", "cancel"]), st.integers(0, 30)),
    ),
    max_size=16,
)


class PlainRates:
    """Of each key for how many seconds its rate is spent, and of each rule of a key its rate and number."""

    def __init__(self) -> None:
        self.rules: dict[tuple[str, bool], tuple[Rate | None, int | None]] = {}
        self.spent = dict.fromkeys("ab", 0.0)

    def set(self, key: str, is_own: bool, rate: Rate | None, most: int | None) -> None:
        if rate is None and most is None:
            self.rules.pop((key, is_own), None)
            return
        self.rules[key, is_own] = rate, most
        if rate is not None:
            self.spent[key] = min(self.spent[key], rate.burst * rate.seconds / rate.jobs)

    def of(self, key: str) -> tuple[Rate | None, int | None]:
        return self.rules.get((key, True), self.rules.get((key, False), (None, None)))

    def tokens(self, key: str) -> float:
        rate, _ = self.of(key)
        return 1e9 if rate is None else rate.burst - self.spent[key] * rate.jobs / rate.seconds

    def go(self, key: str, jobs: int) -> None:
        rate, _ = self.of(key)
        self.spent[key] = 0.0 if rate is None else self.spent[key] + jobs * rate.seconds / rate.jobs


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RATED_STEPS)
def test_no_faster_than_the_rate_and_no_slower(
    organizations: list[LedgerSteps], taken: Sequence[tuple[Any, ...]]
) -> None:
    empty()
    steps, model = organizations[0], PlainRates()
    set_rate(steps, "a", Rate(2, 1000.0, 3))
    model.set("a", True, Rate(2, 1000.0, 3), None)
    key_of = dict.fromkeys(steps.enqueue_under_key("a", 4), "a")
    sent_unbegun: set[UUID] = set()
    for what, *rest in taken:
        match what:
            case "enqueue":
                key_of |= dict.fromkeys(steps.enqueue_under_key(*rest), rest[0])
            case "pass":
                let_time_pass(steps, rest[0] * 125)
                model.spent = {key: max(0.0, spent - rest[0] * 125) for key, spent in model.spent.items()}
            case "limit":
                key, is_own, rate, most = rest
                model.set(key, is_own, rate, most)
                if rate is None and most is None:
                    remove_limit(key, steps if is_own else None)
                else:
                    set_rate(steps if is_own else None, key, rate, most)
            case _:
                sent_unbegun -= {act(steps, what, list(key_of), rest[0])}
        went = sent(steps)
        spend = Counter(key_of[one] for one in went if one not in sent_unbegun)
        sent_unbegun |= set(went)
        under_way, left = of_keys(steps, "dispatched", "running"), of_keys(steps, "waiting", "queued")
        for key in "ab":
            _, most = model.of(key)
            assert spend[key] <= max(0.0, model.tokens(key)) + 0.1, "a rate is exceeded"
            model.go(key, spend[key])
            is_full = most is not None and under_way[key] >= most
            assert left[key] == 0 or is_full or model.tokens(key) < 1.1, "jobs wait that no limit holds"


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
