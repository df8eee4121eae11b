"""Limits of what runs at a time and how often: never exceeded, nothing that may go held back, in force at once."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.cluster import Database
from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger import LimitsInForce, Rate, Rule
from docworker.db.ledger.dispatching.limiting import Bucket, Counts, Rules
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID as ALL
from docworker.db.sessions import all_jobs_session
from tests.support.ledger import LedgerSteps
from tests.support.waiting import eventually

KINDS = ("one", "two")


def look(in_force: LimitsInForce, *, capacity: int = 100) -> Counter[tuple[UUID, str]]:
    """One look of a planner that knows every kind: how many jobs it dispatched, of which organization and kind."""
    with ledger.planning() as (session, permit):
        assert permit is not None
        in_force.refresh(session, permit)
        book = in_force.book()
        limits = ledger.Limits(
            lambda _: ledger.Size(3, 3),
            largest=3,
            largest_single=3,
            batch_kinds=KINDS,
            cap_of_kind=lambda kind: book.cap_of_kind(kind, None),
            book=book,
        )
        dispatched = ledger.dispatch_due(
            session,
            ledger.Turns(),
            ledger.load(session),
            limits,
            capacity=capacity,
            redispatch_after_seconds=60,
            in_force=in_force,
        )
    return Counter(
        (part.organization_id, message.kind)
        for message in dispatched.messages
        for part in message.parts
        for _ in part.job_ids
    )


def set_limit(**limit: Any) -> None:
    with all_jobs_session() as session:
        ledger.set_limit(session, **limit)


def remove_limit(**limit: Any) -> bool:
    with all_jobs_session() as session:
        return ledger.remove_limit(session, **limit)


def empty() -> None:
    with all_jobs_session() as session:
        for table in ("jobs", "limits", "rates_spent"):
            session.execute(text(f"DELETE FROM ledger.{table}"))
        session.execute(text("UPDATE ledger.limit_changes SET spends = spends + 1"))


def take_away(kind: str) -> None:
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.jobs WHERE kind = :kind"), {"kind": kind})


@pytest.fixture
def organizations(opened: Database) -> list[LedgerSteps]:
    empty()
    return sorted((LedgerSteps() for _ in range(3)), key=lambda one: one.organization_id)


def counted() -> Counter[tuple[UUID, str, str]]:
    with all_jobs_session() as session:
        rows = ledger.count_by_state(session, ledger.Filter())
    return Counter({(row.organization_id, row.kind, row.state): row.jobs for row in rows})


def end_some(kind: str, most: int) -> None:
    with all_jobs_session() as session:
        session.execute(
            text(
                "UPDATE ledger.jobs SET state = 'succeeded', redispatch_at = NULL WHERE id IN ("
                "SELECT id FROM ledger.jobs WHERE kind = :kind AND state = 'dispatched' ORDER BY id LIMIT :most)"
            ),
            {"kind": kind, "most": most},
        )


ORGANIZATION = st.integers(0, 2)
KIND = st.sampled_from(KINDS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue"), ORGANIZATION, KIND, st.integers(1, 6)),
        st.tuples(st.just("end"), KIND, st.integers(1, 5)),
        st.tuples(st.just("limit"), st.none() | ORGANIZATION, st.none() | KIND, st.booleans(), st.integers(0, 4)),
        st.tuples(st.just("remove"), st.none() | ORGANIZATION, st.none() | KIND, st.booleans()),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_no_more_run_than_any_limit_lets_and_no_fewer_than_all_let(
    organizations: list[LedgerSteps], steps: Sequence[tuple[Any, ...]]
) -> None:
    empty()
    in_force = LimitsInForce()
    limits: dict[tuple[UUID, str, bool], int] = {}
    for what, *rest in steps:
        match what:
            case "enqueue":
                number, kind, count = rest
                organizations[number].enqueue(count, kind=kind)
            case "end":
                end_some(*rest)
            case _:
                number, kind, is_each, *cap = rest
                owner = None if number is None else organizations[number].organization_id
                is_each = is_each and owner is None
                place = {"organization_id": owner, "kind": kind, "is_each": is_each}
                if cap:
                    set_limit(**place, max_running=cap[0])
                    limits[owner or ALL, kind or "", is_each] = cap[0]
                else:
                    remove_limit(**place)
                    limits.pop((owner or ALL, kind or "", is_each), None)
        before = counted()
        sent = look(in_force)
        check(before, sent, limits, [one.organization_id for one in organizations])


def check(
    before: Counter[tuple[UUID, str, str]],
    sent: Counter[tuple[UUID, str]],
    limits: dict[tuple[UUID, str, bool], int],
    organizations: Sequence[UUID],
) -> None:
    """By a plain model: for each organization and kind all caps that count its jobs, and how many jobs each counts."""

    def under_way(owner: UUID | None, kind: str | None) -> int:
        return sum(
            (before[one, each, "dispatched"] + sent[one, each])
            for one in organizations
            for each in KINDS
            if owner in (None, one) and kind in (None, each)
        )

    for one in organizations:
        for kind in KINDS:
            room = []
            for of in (kind, ""):
                cap = limits.get((one, of, False), limits.get((ALL, of, True)))
                if cap is not None:
                    room.append(cap - under_way(one, of or None))
                if (ALL, of, False) in limits:
                    room.append(limits[ALL, of, False] - under_way(None, of or None))
            if sent[one, kind]:
                assert min(room, default=0) >= 0, "a limit is exceeded"
            left = before[one, kind, "queued"] - sent[one, kind]
            assert left == 0 or min(room, default=1) <= 0, "jobs wait that no limit holds back"


def test_a_rate_is_spent_once_whichever_dispatcher_plans_and_fills_again(organizations: list[LedgerSteps]) -> None:
    first, second = LimitsInForce(), LimitsInForce()
    one, other, _ = organizations
    set_limit(kind="one", rate=Rate(jobs=100, seconds=3600, burst=5))
    one.enqueue(4, kind="one")
    other.enqueue(4, kind="one")
    other.enqueue(2, kind="two")
    assert sum(look(first, capacity=1).values()) == 3
    rest = look(second)
    assert sum(jobs for (_, kind), jobs in rest.items() if kind == "one") == 2
    assert rest[other.organization_id, "two"] == 2
    assert look(first) == look(second) == Counter()

    with all_jobs_session() as session:  # two intervals later
        session.execute(text("UPDATE ledger.rates_spent SET spent_until = spent_until - interval '72.5 seconds'"))
        session.execute(text("UPDATE ledger.limit_changes SET spends = spends + 1"))
    assert sum(look(first).values()) == 2
    set_limit(kind="one", rate=Rate(jobs=10, seconds=0.1, burst=5))
    eventually(lambda: look(second), within_seconds=5, what="a faster rate lets the last one go")


def messages_of_singles(capacity: int, room: int) -> list[Counter[UUID]]:
    """Of each message of a look how many jobs each organization has in it, where the jobs of one run one by one."""
    in_force = LimitsInForce()
    with ledger.planning() as (session, permit):
        assert permit is not None
        in_force.refresh(session, permit)
        limits = ledger.Limits(lambda _: ledger.Size(1, room), largest_single=room, book=in_force.book())
        dispatched = ledger.dispatch_due(
            session, ledger.Turns(), ledger.load(session), limits, capacity=capacity, redispatch_after_seconds=60
        )
    return [
        Counter({part.organization_id: len(part.job_ids) for part in message.parts}) for message in dispatched.messages
    ]


def test_who_has_a_slow_rate_travels_alone_and_the_others_share_a_message(organizations: list[LedgerSteps]) -> None:
    slow, fast, free = (one.organization_id for one in organizations)
    set_limit(organization_id=slow, rate=Rate(jobs=5, seconds=60, burst=100))
    set_limit(organization_id=fast, rate=Rate(jobs=1000, seconds=1, burst=1000))
    for one in organizations:
        one.enqueue(1, kind="one")
    assert messages_of_singles(capacity=2, room=3) == [Counter([slow]), Counter([fast, free])]


def test_no_more_share_a_message_than_their_rate_makes_good_soon(organizations: list[LedgerSteps]) -> None:
    first, second, third = organizations
    set_limit(organization_id=first.organization_id, rate=Rate(jobs=1, seconds=4, burst=100))
    for one, jobs in ((first, 9), (second, 4), (third, 4)):
        one.enqueue(jobs, kind="one")
    (message,) = messages_of_singles(capacity=1, room=20)
    assert message[first.organization_id] == 2
    set_limit(kind="two", rate=Rate(jobs=1, seconds=3, burst=100))
    for one in organizations:
        one.enqueue(4, kind="two")
    take_away("one")
    assert [message.total() for message in messages_of_singles(capacity=3, room=20)] == [3, 3, 3]


def test_what_was_not_committed_has_spent_nothing(organizations: list[LedgerSteps]) -> None:
    in_force = LimitsInForce()
    one = organizations[0]
    set_limit(organization_id=one.organization_id, rate=Rate(jobs=2, seconds=3600, burst=2))
    one.enqueue(2, kind="one")
    with ledger.planning() as (session, permit):
        assert permit is not None
        in_force.refresh(session, permit)
        in_force.spend(session, {Bucket(one.organization_id, ""): permit.now + 7200})
        session.rollback()
    in_force.forget()
    assert sum(look(in_force).values()) == 2


def test_limits_that_nobody_has_changed_are_not_read_again(organizations: list[LedgerSteps]) -> None:
    in_force = LimitsInForce()
    set_limit(kind="one", max_running=1)
    look(in_force)
    book = in_force._rules
    look(in_force)
    assert in_force._rules is book
    set_limit(kind="one", max_running=2)
    look(in_force)
    assert [rule.max_running for rule in in_force._rules.values()] == [2]


@settings(max_examples=200, deadline=None)
@given(
    rate=st.builds(Rate, st.integers(1, 50), st.floats(0.01, 1000), st.integers(1, 60)),
    asked=st.lists(st.tuples(st.floats(0, 100), st.integers(0, 80)), max_size=40),
)
def test_a_rate_lets_no_more_through_in_any_stretch_of_time_and_no_less_at_any_moment(
    rate: Rate, asked: list[tuple[float, int]]
) -> None:
    now, spent, went = 1.8e9, 0.0, [(1.8e9, 0)]
    tokens = float(rate.burst)
    for pause, wanted in asked:
        now += pause
        tokens = min(rate.burst, tokens + pause / rate.interval)
        goes = min(wanted, rate.free(spent, now))
        spent = rate.spend(spent, now, goes) if goes else spent
        assert goes >= min(wanted, int(tokens - 0.01))
        tokens -= goes
        went.append((now, goes))
    for begin in range(len(went)):
        total = 0
        for at, goes in went[begin:]:
            total += goes
            assert total <= rate.burst + (at - went[begin][0]) / rate.interval + 0.01


def test_which_limit_holds_a_lane_is_said(opened: Database) -> None:
    one = UUID(int=7)
    each, own = Rule(ALL, "one", True, max_running=1), Rule(one, "", False, rate=Rate(1, 60, 1))
    book = ledger.Book(Rules([each, own]), {}, now=1000.0)
    nothing, busy = Counts({}, {}, {}), Counts({one: 1}, {"one": 1}, {(one, "one"): 1})
    assert book.holding(one, "one", nothing) is None
    held = book.holding(one, "one", busy)
    assert held is not None
    assert (held.rule, held.is_rate) == (each, False)
    book.take(one, "two", 1)
    held = book.holding(one, "two", busy)
    assert held is not None
    assert (held.rule, held.is_rate) == (own, True)


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        ({"kind": "one"}, "a limit is of the jobs that run at a time, or a rate, or both: give one"),
        ({"kind": "one", "max_running": -1}, "max_running goes from 0 to 1000000, got -1"),
        ({"kind": "", "max_running": 1}, "kind"),
        ({"organization_id": UUID(int=1), "is_each": True, "max_running": 1}, "is not of one: leave it out"),
    ],
)
def test_what_cannot_be_limited_is_told(opened: Database, limit: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidArgumentError, match=complaint):
        set_limit(**limit)


@pytest.mark.parametrize(("jobs", "seconds", "burst"), [(0, 1, None), (1, 0, None), (1, float("nan"), 1), (1, 1, 0)])
def test_what_is_no_rate_is_told(jobs: int, seconds: float, burst: int | None) -> None:
    with pytest.raises(InvalidArgumentError, match=r"rate|burst"):
        ledger.rate_of(jobs, seconds, burst)
