"""Shares of the workers' time by weights and measured costs, against a plain model of workers in virtual time."""

import random
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from docworker.db import ledger
from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger import Lane, Limits, Load, Size, Turns, Walk
from docworker.db.ledger.dispatching.lanes import Due, WantedLanes
from docworker.db.ledger.dispatching.planning import Planner
from docworker.db.ledger.dispatching.samples import Ended
from docworker.db.ledger.weights import remove_weight, set_weight, weights
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import all_jobs_session
from docworker.db.sessions.statements import ask
from tests.support.ledger import LedgerSteps

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Waits(NamedTuple):
    """An organization with a backlog; each of its jobs takes a worker about `cost` seconds."""

    cost: float
    weight: float = 1.0
    kind: str = "k"


WAITS = st.builds(Waits, st.floats(0.05, 1), st.floats(0.5, 4), st.sampled_from("kl"))


class _Sent(NamedTuple):
    organization: int
    kind: str
    seconds: float
    charged: float

    @property
    def place(self) -> tuple[UUID, str]:
        return UUID(int=self.organization), self.kind


class _Begun(NamedTuple):
    sent: _Sent
    left: float


class Workers:
    """Processes that take messages of one job in their order, and a dispatcher that looks every so often."""

    STEP_SECONDS = 0.01

    def __init__(
        self, processes: int = 8, *, look_seconds: float = 0.02, window: int = 32, spread: float = 0.5
    ) -> None:
        self.turns = Turns()
        self.used: Counter[int] = Counter()
        """Seconds of all processes together, in thousandths."""
        self.order: list[int] = []
        """Whose jobs were sent, one by one."""
        self._steps_of_a_look = round(look_seconds / self.STEP_SECONDS)
        self._window = window
        self._spread = spread
        self._left: list[_Begun | None] = [None] * processes
        self._queue: deque[_Sent] = deque()
        self._ended: list[Ended] = []
        self._random = random.Random(7)
        self._step = 0

    def run(self, waiting: Mapping[int, Waits], seconds: float) -> Counter[int]:
        """So much time passes; what each has had of it."""
        before = Counter(self.used)
        for _ in range(round(seconds / self.STEP_SECONDS)):
            if self._step % self._steps_of_a_look == 0:
                self._look(waiting)
            self._work()
            self._step += 1
        return self.used - before

    def shares(self, waiting: Mapping[int, Waits], seconds: float) -> dict[int, float]:
        """What each has had of the time, as a part of what is due to it by its weight."""
        used = self.run(waiting, seconds)
        weights = sum(one.weight for one in waiting.values())
        return {number: used[number] / used.total() / (one.weight / weights) for number, one in waiting.items()}

    def _look(self, waiting: Mapping[int, Waits]) -> None:
        begun = [one for one in self._left if one]
        load, occupied = Load(), Counter[tuple[UUID, str]]()
        for one in [*self._queue, *(one.sent for one in begun)]:
            load.jobs[one.place] += 1
        for sent, left in begun:
            load.running[sent.place] += 1
            occupied[sent.place] += sent.seconds - left  # type: ignore[assignment]
        self.turns.accounts.measure(replace(load, occupied=occupied), self._ended)
        self._ended.clear()
        planner = Planner(load, Limits(lambda _: Size(1, 1)), capacity=self._window - len(self._queue))
        walk = Walk(self.turns, planner)
        ring = [[Lane(UUID(int=number), one.kind, False, 5, 900, NOW, one.weight)] for number, one in waiting.items()]
        ring.sort(key=lambda lanes: (lanes[0].organization_id <= self.turns.after, lanes[0].organization_id))
        walk.go_along(ring, is_last=True)
        assert planner.is_full or not ring, "no room is left while anybody waits"
        self.turns.take(walk)
        of_message = {message: lane for lane, messages in planner.picks.items() for message in messages}
        sent_lanes = [of_message[message] for message in planner.kind_of]
        jobs = Counter((lane.organization_id, lane.kind) for lane in sent_lanes)
        charges = self.turns.accounts.charges(jobs.keys())
        for lane in sent_lanes:
            number, place = lane.organization_id.int, (lane.organization_id, lane.kind)
            cost = waiting[number].cost * self._random.uniform(1 - self._spread, 1 + self._spread)
            each = charges.get(place, 0.0) / jobs[place]
            self._queue.append(_Sent(number, lane.kind, cost, each))
            self.order.append(number)

    def _work(self) -> None:
        for process, running in enumerate(self._left):
            free, now = self.STEP_SECONDS, running
            while free > 0 and (now or self._queue):
                if now is None:
                    sent = self._queue.popleft()
                    now = _Begun(sent, sent.seconds)
                spent = min(free, now.left)
                self.used[now.sent.organization] += round(spent * 1000)
                free -= spent
                now = now._replace(left=now.left - spent)
                if now.left <= 0:
                    self._ended.append(Ended(*now.sent.place, 1, now.sent.seconds, now.sent.charged))
                    now = None
            self._left[process] = now


@pytest.mark.parametrize("costs", [(0.5, 0.15, 0.05), (0.05, 0.15, 0.5)])
def test_the_workers_time_is_shared_by_weights_whatever_jobs_cost(costs: tuple[float, ...]) -> None:
    waiting = {number: Waits(cost, weight) for number, cost, weight in zip((1, 2, 3), costs, (1, 2, 4), strict=True)}
    for share in Workers().shares(waiting, 30).values():
        assert share == pytest.approx(1, abs=0.05)


def test_jobs_that_end_between_two_looks_cost_what_they_took() -> None:
    """Most of the short ones are never seen running."""
    waiting = {1: Waits(0.05), 2: Waits(0.2, weight=2), 3: Waits(0.5, weight=4)}
    workers = Workers(2, look_seconds=0.25, window=8, spread=0)
    workers.run(waiting, 15)
    for share in workers.shares(waiting, 60).values():
        assert share == pytest.approx(1, abs=0.03)
    turned = {number: one._replace(weight=4 / one.weight) for number, one in waiting.items()}
    for share in workers.shares(turned, 60).values():
        assert share == pytest.approx(1, abs=0.05)


def test_jobs_that_were_handed_back_say_nothing_of_what_others_cost_and_their_charge_is_returned() -> None:
    """Many come back at first, while messages hold too many."""
    turns, one = Turns(), UUID(int=1)
    ended = [Ended(one, "k", 1, 0.5, 0.5)] * 12
    turns.accounts.measure(Load(), ended)
    assert turns.accounts.cost(one, "k", 1) == pytest.approx(0.5)
    turns.accounts.measure(Load(), [Ended(one, "k", 1, 0.0, 0.5)] * 2)
    assert turns.accounts.cost(one, "k", 1) == pytest.approx(0.5)
    assert turns.accounts.correction(one, 0.5, 0.0) == pytest.approx(-0.25)
    assert turns.accounts.correction(one, 0.5, -0.75) == pytest.approx(-0.0625)


def test_who_runs_for_longer_than_was_charged_pays_for_it_before_it_ends() -> None:
    turns, one, other = Turns(), UUID(int=1), UUID(int=2)
    turns.accounts.measure(Load(), [Ended(each, "k", 1, 0.5, 0.5) for each in (one, other)] * 30)
    load = Load(running=Counter({(one, "k"): 2, (other, "k"): 1}), occupied={(one, "k"): 9.0, (other, "k"): 0.4})
    turns.accounts.measure(load)
    assert turns.accounts.correction(one, 0.5, 0.0) == 0.5
    assert turns.accounts.correction(other, 0.5, 0.0) == 0
    turns.accounts.measure(Load())
    assert turns.accounts.correction(one, 0.5, 0.0) == 0


def test_tenants_of_equal_weight_get_equal_time_of_cheap_and_dear_jobs() -> None:
    waiting = {number: Waits(0.05 * number) for number in range(1, 7)}
    for share in Workers().shares(waiting, 40).values():
        assert share == pytest.approx(1, abs=0.05)


@settings(max_examples=5, deadline=None)
@given(st.lists(WAITS, min_size=2, max_size=6))
@example([Waits(1.0, 1.0, "l"), Waits(1.0, 4.0), Waits(1.0, 4.0)])
def test_shares_follow_any_weights_and_costs(waits: list[Waits]) -> None:
    """In the long run: what is sent before anything is known of costs has been made up for by then."""
    waiting, seconds = dict(enumerate(waits, 1)), 60
    total = sum(one.weight for one in waits)
    used = Workers().run(waiting, seconds)
    for number, one in waiting.items():
        due = 8 * seconds * one.weight / total
        slack = 0.05 * due + 6 * max(other.cost for other in waits)
        assert abs(used[number] / 1000 - due) <= slack, (number, used, due)


def test_where_jobs_cost_about_the_same_all_send_about_as_many() -> None:
    workers = Workers()
    waiting = {number: Waits(0.2) for number in range(1, 8)}
    workers.run(waiting, 20)
    rounds, sent = Counter(workers.order), len(workers.order)
    assert max(rounds.values()) - min(rounds.values()) <= sent / 7 * 0.1


def test_a_weight_that_is_changed_holds_from_the_next_look_on() -> None:
    workers = Workers()
    workers.run({1: Waits(0.1), 2: Waits(0.1)}, 10)
    sent = len(workers.order)
    workers.run({1: Waits(0.1), 2: Waits(0.1, weight=9)}, 0.2)
    since = Counter(workers.order[sent:])
    assert since[2] >= 4 * since[1]


def test_who_was_idle_has_saved_nothing_and_is_served_at_once() -> None:
    workers = Workers()
    workers.run({1: Waits(0.1)}, 20)
    sent = len(workers.order)
    workers.run({1: Waits(0.1), 2: Waits(0.1)}, 5)
    since = workers.order[sent:]
    assert 2 in since[:2]
    assert abs(since.count(1) - since.count(2)) <= 0.1 * len(since)


@settings(max_examples=8, deadline=None)
@given(st.lists(WAITS, min_size=1, max_size=5), WAITS, st.integers(0, 6), st.floats(0, 20), st.booleans())
def test_who_comes_to_a_backlog_is_served_within_a_round_and_gets_its_share_and_no_more(
    waits: list[Waits], newcomer: Waits, place: int, before_seconds: float, was_there: bool
) -> None:
    """Wherever it stands in the ring, and whether it had been there before."""
    waiting = {2 * number: one for number, one in enumerate(waits, 1)}
    number, workers = 2 * place + 1, Workers()
    together = waiting | {number: newcomer}
    workers.run(together if was_there else waiting, before_seconds)
    workers.run(waiting, 2)
    sent, used_before = len(workers.order), workers.used[number]
    visit = 1.5 * max(one.cost / one.weight for one in together.values())
    round_seconds = sum(visit * one.weight + 1.5 * one.cost for one in together.values()) / 8
    workers.run(together, 0.1 + round_seconds)
    assert number in workers.order[sent:], "it starves"
    workers.run(together, 30 - round_seconds)
    due = 8 * 30 * newcomer.weight / sum(one.weight for one in together.values())
    dearest = max(one.cost for one in together.values())
    had = (workers.used[number] - used_before) / 1000
    assert had <= 1.05 * due + 6 * dearest, "it has a credit"
    assert had >= 0.95 * due - 32 * dearest, "what was sent before ends first"


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(0.5, 4), min_size=2, max_size=5), st.floats(0.5, 4), st.integers(0, 6), st.booleans())
def test_who_comes_gets_its_share_from_its_first_job_on(
    weights: list[float], weight: float, place: int, was_there: bool
) -> None:
    """Where all jobs cost the same: at no moment more than a visit ahead, or two behind. Of whom no cost is known yet,
    each process may have begun one more before that is noticed."""
    waiting = {2 * number: Waits(0.2, one) for number, one in enumerate(weights, 1)}
    number, workers = 2 * place + 1, Workers(spread=0.0)
    together = waiting | {number: Waits(0.2, weight)}
    workers.run(together if was_there else waiting, 2)
    workers.run(waiting, 5)
    sent = len(workers.order)
    workers.run(together, 2)
    share, visit = weight / (sum(weights) + weight), weight * len(together) / (sum(weights) + weight)
    ahead, had = visit + (1.5 if was_there else 9.5), 0
    for jobs, one in enumerate(workers.order[sent:], 1):
        had += one == number
        assert had <= share * jobs + ahead, "it has a credit"
        assert had >= share * jobs - 2 * visit - 2.5, "it has a debt"


def test_who_ran_long_before_the_others_came_owes_them_nothing() -> None:
    workers = Workers()
    workers.run({1: Waits(1.0)}, 30)
    together = {1: Waits(0.1), 2: Waits(0.1)}
    workers.run(together, 10)  # what it had sent ends, and what its jobs cost now is found out
    for share in workers.shares(together, 20).values():
        assert share == pytest.approx(1, abs=0.1)


def test_a_debt_is_not_lost_by_having_nothing_to_send_for_a_moment() -> None:
    """Dear jobs one at a time, with a gap behind each, take no more than the others' share."""
    workers, dear, cheap = Workers(processes=2), Waits(2.0, kind="l"), Waits(0.1)
    workers.run({1: dear, 2: cheap}, 20)
    before = Counter(workers.used)
    for _ in range(40):
        workers.run({1: dear, 2: cheap}, 0.98)
        workers.run({2: cheap}, 0.02)
    used = workers.used - before
    assert used[1] <= 1.2 * used[2]


def test_a_look_reads_the_weights_of_those_it_visits(steps: LedgerSteps) -> None:
    other = LedgerSteps()
    steps.enqueue(), other.enqueue()

    def seen() -> dict[UUID, float]:
        with all_jobs_session() as session:
            wanted = WantedLanes(SYSTEM_ORGANIZATION_ID, 10_000, Due(1, 1, []))
            stretch, _ = wanted.found(ask(session, wanted.call))
        ours = (steps.organization_id, other.organization_id)
        return {some[0].organization_id: some[0].weight for some in stretch.ring if some[0].organization_id in ours}

    with all_jobs_session() as session:
        set_weight(session, steps.organization_id, 7)
        set_weight(session, steps.organization_id, 2.5)
        assert weights(session)[steps.organization_id] == 2.5
    assert seen() == {steps.organization_id: 2.5, other.organization_id: 1}
    with all_jobs_session() as session:
        assert remove_weight(session, steps.organization_id)
        assert not remove_weight(session, steps.organization_id)
    assert seen() == {steps.organization_id: 1, other.organization_id: 1}


@pytest.mark.parametrize("weight", [0, -1, 101, float("nan"), float("inf")])
def test_a_weight_has_bounds(weight: float, steps: LedgerSteps) -> None:
    with all_jobs_session() as session, pytest.raises(InvalidArgumentError, match=r"from 0\.01 to 100"):
        set_weight(session, steps.organization_id, weight)


def test_a_message_of_many_running_jobs_occupies_one_process(steps: LedgerSteps) -> None:
    ids = steps.enqueue(6)
    first, second = steps.dispatch(capacity=2, batch_size=3)
    for message in (first, second):
        steps.claim(message.parts[0].job_ids, message_id=message.id)
    with all_jobs_session() as session:
        load = ledger.load(session)
    key = (steps.organization_id, steps.kind)
    assert (load.jobs[key], load.running[key]) == (len(ids), len(ids))
    of_one = load.running_seconds[steps.kind]
    assert load.occupied[key] == pytest.approx(2 * of_one)


class _Jobs(NamedTuple):
    """Due jobs of one kind of an organization."""

    kind: str
    due: int


ORGANIZATION_JOBS = st.tuples(
    st.sampled_from([0.1, 1.0, 7.0]),
    st.lists(st.builds(_Jobs, st.sampled_from("abc"), st.integers(1, 3)), max_size=3, unique_by=lambda one: one.kind),
)


@settings(max_examples=300, deadline=None)
@given(
    costs=st.fixed_dictionaries({kind: st.sampled_from([0.001, 0.05, 1.0, 60.0]) for kind in "abc"}),
    looks=st.lists(st.lists(ORGANIZATION_JOBS, min_size=1, max_size=4), min_size=2, max_size=8),
    capacity=st.integers(1, 5),
    cap=st.none() | st.integers(0, 2),
)
def test_whatever_jobs_cost_a_look_ends_and_leaves_no_room_to_those_that_may_send(
    costs: dict[str, float], looks: list[list[tuple[float, list[_Jobs]]]], capacity: int, cap: int | None
) -> None:
    """Kinds of very unequal costs in one organization, few of them, some at a cap: it lasts no longer than it sends."""
    turns = Turns()
    limits = Limits(lambda _: Size(1, 1), cap_of_kind=lambda kind: cap if kind == "a" else None)
    sent: Counter[tuple[UUID, str]] = Counter()
    for look in looks:
        # What was sent has run and has ended: so all costs become known.
        ended = [Ended(one, kind, 1, costs[kind], 0.0) for (one, kind), jobs in sent.items() for _ in range(jobs)]
        turns.accounts.measure(Load(), [end for end in ended for _ in range(12)])
        ring = [
            [Lane(UUID(int=number), one.kind, False, 5, one.due, NOW, weight) for one in jobs]
            for number, (weight, jobs) in enumerate(look, 1)
            if jobs
        ]
        ring.sort(key=lambda lanes: (lanes[0].organization_id <= turns.after, lanes[0].organization_id))
        planner = Planner(Load(), limits, capacity=capacity, queues=turns.queues)
        walk = Walk(turns, planner)
        walk.go_along(ring, is_last=True)
        turns.take(walk)
        left = [lane for lanes in ring for lane in lanes if len(planner.picks.get(lane.key, ())) < lane.due]
        assert planner.is_full or all(lane.kind == "a" and cap is not None for lane in left)
        sent = Counter({(lane.organization_id, lane.kind): len(ids) for lane, ids in planner.picks.items()})
