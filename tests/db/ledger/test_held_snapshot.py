"""Somebody holds an old snapshot, and nothing that is dead can be removed: a look does not walk past it all each time.

What is walked is counted by the server, in entries of the indexes.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.ledger import LaneKey
from docworker.db.ledger.dispatching import shortcuts
from docworker.db.ledger.dispatching.shortcuts import DEAR, Floor, KnownLanes, entries_of
from docworker.db.ledger.prune import prune_jobs
from docworker.db.models import JobState
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import settings
from tests.support.ledger import LedgerSteps
from tests.support.tenants import entered
from tests.support.waiting import eventually

MANY = 50_000
ORGANIZATIONS = [UUID(int=number) for number in range(1, 6)]
SIZE = ledger.Size(20, 20)
NOW = datetime(2026, 1, 1, tzinfo=UTC)

_PASSED = text(
    "SELECT " + entries_of("ix_jobs_ready", "ix_jobs_arrived", "ix_jobs_later", "ix_jobs_dispatched", "ix_jobs_running")
)
_FINISHED_PASSED = text(f"SELECT {entries_of('ix_jobs_finished')}")
_FILL = """
INSERT INTO ledger.jobs (organization_id, id, kind, arguments, state, priority, later, run_at, attempt, max_attempts,
                         faults, alone, dispatches)
SELECT (%(organizations)s::uuid[])[1 + number %% 5], gen_random_uuid(), 'test_kind', '{}', 'queued', 5, true,
       clock_timestamp() - interval '1 minute', 0, 3, 0, false, 0
FROM generate_series(1, %(rows)s) AS number
"""
_END_DISPATCHED = "UPDATE ledger.jobs SET state = 'succeeded', redispatch_at = NULL WHERE state = 'dispatched'"
_STEPS = (
    "SET later = false WHERE state = 'queued'",
    "SET state = 'dispatched', redispatch_at = clock_timestamp(), dispatched_at = clock_timestamp()"
    " WHERE state = 'queued'",
    "SET state = 'running', redispatch_at = NULL, claim_token = gen_random_uuid(), claimed_at = clock_timestamp(),"
    " lease_expires_at = clock_timestamp(), run_until = clock_timestamp() WHERE state = 'dispatched'",
    "SET state = 'succeeded', finished_at = clock_timestamp(), lease_expires_at = NULL, run_until = NULL"
    " WHERE state = 'running'",
)


def leave_dead(rows: int) -> None:
    """Jobs of five organizations that have passed through every state; the last one lives."""
    with psycopg.connect(str(settings().dispatcher_url)) as connection:
        connection.execute(_FILL, {"rows": rows, "organizations": ORGANIZATIONS})
        for step in _STEPS:
            connection.execute(f"UPDATE ledger.jobs {step}".encode())


@contextmanager
def held_snapshot() -> Iterator[None]:
    with psycopg.connect(str(settings().owner_url)) as foreign:
        foreign.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        foreign.execute("SELECT count(*) FROM catalog.placements")
        yield


@pytest.fixture(scope="module")
def many_dead(environment: dict[str, str]) -> Iterator[None]:
    with held_snapshot():
        leave_dead(MANY)
        yield


@pytest.fixture
def rotten(many_dead: None, steps: LedgerSteps) -> LedgerSteps:
    return steps


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once dear, nothing is walked from its beginning a second time."""
    monkeypatch.setattr(shortcuts, "SHARE_OF_TIME", 1e-6)


class Looked(NamedTuple):
    messages: list[ledger.Message]
    entries: int

    @property
    def job_ids(self) -> set[UUID]:
        return {one for message in self.messages for one in message.job_ids}


class Planner:
    """As the dispatcher looks, with one memory."""

    def __init__(self, size: ledger.Size = SIZE) -> None:
        self.size = size
        self.shortcuts = ledger.Shortcuts(redispatch_after_seconds=10, shortest_lease_seconds=10)
        self.turns = ledger.Turns()
        self.since: datetime | None = None

    def look(self, *, capacity: int = 100, cap_of_organization: int | None = None) -> Looked:
        known = self.shortcuts.lanes
        limits = ledger.Limits(
            lambda _: self.size, largest=20, largest_single=20, cap_of_organization=cap_of_organization
        )
        with ledger.planning() as (session, permit):
            assert permit is not None
            before = session.scalar(_PASSED) or 0
            ledger.requeue_held_up(session, shortcuts=self.shortcuts)
            ledger.requeue_overdue(session, shortcuts=self.shortcuts)
            self.turns.came(ledger.promote(session, shortcuts=self.shortcuts))
            if known.is_dear:
                came, self.since = ledger.arrivals(session, since=self.since, known=known)
                self.turns.came(came)
            look = ledger.dispatch_due(
                session,
                self.turns,
                ledger.load(session, self.shortcuts),
                limits,
                capacity=capacity,
                redispatch_after_seconds=10,
                shortcuts=self.shortcuts,
            )
            entries = (session.scalar(_PASSED) or 0) - before
        self.turns.take(look.walk)
        return Looked(look.messages, entries)

    def settle(self) -> None:
        """Find out that walks are dear, and where the living begin."""
        for _ in range(3):
            self.look()
        assert self.shortcuts.lanes.is_dear
        assert self.shortcuts.under_way.is_dear
        assert self.shortcuts.later.is_dear


def test_while_it_is_cheap_everything_is_walked(steps: LedgerSteps, seldom: None) -> None:
    planner = Planner()
    with held_snapshot():
        for number in range(1, 6):
            leave_dead(5)
            (job_id,) = steps.enqueue(run_at=datetime.now(UTC) - timedelta(hours=number))
            assert planner.look().job_ids == {job_id}
        assert not planner.shortcuts.lanes.is_dear


def test_everything_is_walked_again_when_nothing_dead_is_left(steps: LedgerSteps) -> None:
    planner = Planner()
    with held_snapshot():
        leave_dead(MANY)
        planner.settle()
    with psycopg.connect(str(settings().owner_url), autocommit=True) as owner:
        owner.execute("VACUUM ledger.jobs")

    def is_cheap() -> bool:
        planner.look()
        return not (planner.shortcuts.lanes.is_dear or planner.shortcuts.under_way.is_dear)

    eventually(is_cheap, within_seconds=20)


def test_a_look_does_not_pass_all_dead_entries_each_time(rotten: LedgerSteps, seldom: None) -> None:
    planner = Planner()
    planner.settle()
    assert planner.look().entries < 2 * DEAR
    ids = rotten.enqueue(30)
    looked = planner.look()
    assert looked.job_ids == set(ids)
    assert looked.entries < 2 * DEAR


def test_new_jobs_of_any_tenant_go_out_at_the_next_look(rotten: LedgerSteps, seldom: None) -> None:
    planner = Planner()
    planner.settle()
    for _ in range(3):
        new, old = LedgerSteps(), LedgerSteps(ORGANIZATIONS[0])
        ids = new.enqueue() + old.enqueue(2) + old.enqueue(kind="another")
        assert planner.look().job_ids == set(ids)


def test_tenants_take_turns(rotten: LedgerSteps, seldom: None) -> None:
    planner = Planner(ledger.Size(1, 1))
    planner.settle()
    tenants = [LedgerSteps() for _ in range(7)]
    for one in tenants:
        one.enqueue(3)
    served = Counter[UUID]()
    for number in range(1, 22):
        (message,) = planner.look(capacity=1).messages
        served.update(part.organization_id for part in message.parts)
        with all_jobs_session() as session:
            session.execute(text(_END_DISPATCHED))
        assert max(served.values()) - min(served[one.organization_id] for one in tenants) <= 1, number
    assert planner.look(capacity=1).messages == []


def test_jobs_for_later_go_out_when_their_time_has_come(rotten: LedgerSteps, seldom: None) -> None:
    planner = Planner()
    planner.settle()
    (job_id,) = rotten.enqueue(run_at=datetime.now(UTC) + timedelta(seconds=0.5))
    found: set[UUID] = set()

    def goes_out() -> bool:
        found.update(planner.look().job_ids)
        return bool(found)

    eventually(goes_out)
    assert found == {job_id}


@pytest.mark.parametrize("since", [timedelta(0), timedelta(hours=1)], ids=["a moment ago", "long ago"])
def test_what_came_past_all_shortcuts_goes_out_soon(rotten: LedgerSteps, since: timedelta) -> None:
    """Committed late, handed back by a worker, changed by hand: found when all is walked, for a share of the time."""
    planner = Planner()
    planner.settle()
    (job_id,) = rotten.enqueue(run_at=datetime.now(UTC) - since)
    with all_jobs_session() as session:
        before = "UPDATE ledger.jobs SET created_at = created_at - interval '1 hour' WHERE id = :id"
        session.execute(text(before), {"id": job_id})
    eventually(lambda: planner.look().job_ids == {job_id}, within_seconds=20)


def test_jobs_that_are_handed_back_go_out_again_at_the_next_look(rotten: LedgerSteps, seldom: None) -> None:
    planner = Planner()
    planner.settle()
    ids = rotten.enqueue(20)
    (message,) = planner.look(capacity=1).messages
    assert set(message.job_ids) == set(ids)
    rotten.hand_back(ids[5:], message_id=message.id)
    assert planner.look().job_ids == set(ids[5:])


def test_what_the_broker_did_not_take_goes_out_again(rotten: LedgerSteps, seldom: None) -> None:
    planner = Planner()
    planner.settle()
    ids = rotten.enqueue(2)
    looked = planner.look()
    assert looked.job_ids == set(ids)
    with all_jobs_session() as session:
        ledger.undispatch(session, looked.messages, planner.shortcuts)
    assert planner.look().job_ids == set(ids)


def test_caps_hold_exactly(rotten: LedgerSteps, seldom: None) -> None:
    """Each running job is counted, though it is claimed after the floors were set."""
    planner = Planner()
    planner.settle()
    rotten.enqueue(20)
    for _ in range(5):
        ids = planner.look(cap_of_organization=3).job_ids
        assert len(ids) == 3
        assert planner.look(cap_of_organization=3).job_ids == set(), "they are dispatched"
        claimed = rotten.claim(list(ids))
        assert planner.look(cap_of_organization=3).job_ids == set(), "they run"
        rotten.finish(claimed)


def test_a_claim_that_commits_late_is_counted(rotten: LedgerSteps, seldom: None) -> None:
    """Its lease began before others that are seen already."""
    planner = Planner()
    planner.settle()
    late, *others = rotten.enqueue(3)
    assert len(planner.look().job_ids) == 3
    with writing(rotten.organization_id) as session:
        ledger.claim(
            session, rotten.kind, [late], message_id=None, worker="tests", lease_seconds=10, max_run_seconds=60
        )
        rotten.claim(others)
        planner.look()
    with all_jobs_session() as session:
        under_way = ledger.load(session, planner.shortcuts)
    assert under_way.jobs_of_organization[rotten.organization_id] == 3


def test_a_job_that_was_folded_into_is_overdue_soon(rotten: LedgerSteps, seldom: None) -> None:
    """A fold brings the time of the next dispatch forward, past what has been set for all others."""
    planner = Planner()
    planner.settle()
    (job_id,) = rotten.enqueue(unique_keys=["one"])
    assert planner.look().job_ids == {job_id}
    rotten.enqueue(unique_keys=["one"])
    eventually(lambda: planner.look().job_ids == {job_id}, within_seconds=5)


def test_the_judge_does_not_pass_all_dead_leases_each_time(rotten: LedgerSteps, seldom: None) -> None:
    floor = Floor[datetime]()

    def judge() -> tuple[set[UUID], int]:
        with all_jobs_session() as session:
            ledger.begin_judging(session)
            before = session.scalar(_PASSED) or 0
            rescued = {one.id for one in ledger.rescue_expired(session, floor=floor)}
            return rescued, (session.scalar(_PASSED) or 0) - before

    assert judge()[1] >= MANY
    eventually(lambda: judge()[1] < DEAR, within_seconds=10, what="what had just ended to be left behind")
    (lost,) = rotten.run()
    rotten.expire([lost.id])
    rescued, entries = judge()
    assert rescued == {lost.id}
    assert entries < DEAR


def test_pruning_does_not_pass_what_it_has_deleted(rotten: LedgerSteps) -> None:
    leave_dead(5 * 6000)
    with psycopg.connect(str(settings().owner_url)) as owner:
        owner.execute("ANALYZE ledger.jobs")
    since: datetime | None = None
    for chunk in range(5):
        with writing(entered(ORGANIZATIONS[0])) as session:
            session.execute(text("SET LOCAL enable_bitmapscan = off"))  # as with many more of them
            before = session.scalar(_FINISHED_PASSED) or 0
            pruned, since = prune_jobs(
                session, states=[JobState.SUCCEEDED], older_than=timedelta(0), most=1000, since=since
            )
            assert pruned == 1000
            passed = (session.scalar(_FINISHED_PASSED) or 0) - before
        assert chunk == 0 or passed < 2 * 1000, f"chunk {chunk}"


# What is remembered of the lanes


def lane(organization: int) -> LaneKey:
    return LaneKey(UUID(int=organization), "k", alone=False, priority=5)


def known_lanes(*organizations: int) -> KnownLanes:
    known = KnownLanes()
    known.walked(dead=DEAR + 1)
    known.surveyed({lane(one): NOW for one in organizations}, dead=DEAR + 1, seconds=1)
    return known


def test_the_ring_is_gone_along_from_any_place_and_ends_where_it_began() -> None:
    known = known_lanes(*range(1, 8))
    first = known.section(after=UUID(int=5), passed=0, most=4)
    second = known.section(after=UUID(int=5), passed=4, most=4)
    assert [one.organization_id.int for one in first.lanes] == [6, 7, 1, 2]
    assert [one.organization_id.int for one in second.lanes] == [3, 4, 5]
    assert (first.is_last, second.is_last) == (False, True)
    assert known_lanes().section(after=UUID(int=5), passed=0, most=4).is_last


def test_a_floor_rises_only_where_walking_from_it_is_dear() -> None:
    known, later = known_lanes(1), NOW + timedelta(seconds=1)
    known.asked([lane(1)], {lane(1): later}, dead=DEAR)
    assert known.lanes_of([UUID(int=1)]) == {lane(1): NOW}
    known.asked([lane(1)], {lane(1): later}, dead=DEAR + 1)
    assert known.lanes_of([UUID(int=1)]) == {lane(1): later}
    known.came([(lane(1), NOW)])
    assert known.lanes_of([UUID(int=1)]) == {lane(1): NOW}


def test_of_many_lanes_the_empty_ones_are_forgotten_and_of_few_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = known_lanes(1, 2), known_lanes(*range(1, 2 + KnownLanes.KEPT_ORGANIZATIONS))
    for known in (few, many):
        known.asked([lane(1), lane(2)], {lane(2): NOW}, dead=0)
        known.tidy()
    assert [bool(known.lanes_of([UUID(int=1)])) for known in (few, many)] == [True, False]
    monkeypatch.setattr(KnownLanes, "KEPT_SECONDS", -1.0)
    few.tidy()
    assert [one.organization_id.int for one in few.section(after=UUID(int=0), passed=0, most=4).lanes] == [2]


def test_only_a_survey_says_that_walking_is_dear_and_is_made_for_a_share_of_the_time() -> None:
    known = KnownLanes()
    known.walked(dead=DEAR)
    assert not known.is_survey_due
    known.walked(dead=DEAR + 1)
    assert known.is_survey_due
    assert not known.is_dear
    known.surveyed({}, dead=DEAR, seconds=10)
    assert not known.is_dear
    known.walked(dead=DEAR + 1)
    assert not known.is_survey_due, "that was a moment ago"


def test_with_too_many_lanes_they_are_found_in_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KnownLanes, "MOST", 3)
    assert not known_lanes(1, 2, 3).is_dear
    assert known_lanes(1, 2).is_dear


def test_no_floor_holds_after_a_clock_that_was_set_back(seldom: None) -> None:
    floor = Floor[datetime]()
    for clock in (NOW, NOW + timedelta(seconds=1)):
        floor.begin()
        floor.ended(clock, clock=clock, dead=DEAR + 1)
    assert floor.begin() == NOW + timedelta(seconds=1)
    floor.ended(NOW, clock=NOW, dead=0)
    assert floor.begin() is None
