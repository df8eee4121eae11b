"""Priorities order an organization's jobs, and none of them starves: against a plain model in virtual time."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from docworker.db.ledger import Lane, Limits, Load, Size, Turns, Walk
from docworker.db.ledger.dispatching.planning import OLDEST_EVERY, LaneKey, Planner
from tests.support.ledger import LedgerSteps

START = datetime(2026, 1, 1, tzinfo=UTC)
ONE = UUID(int=1)


class Waiting(NamedTuple):
    """A job that waits when an endless stream of more urgent ones begins."""

    kind: str
    priority: int
    age: int


class Stream:
    """An organization's jobs, and one new job of the highest priority at each turn; one job is a turn."""

    def __init__(self, waiting: list[Waiting], *, held_kind: str | None = None) -> None:
        self.turns = Turns()
        self.sent: list[tuple[LaneKey, datetime]] = []
        self._due = [(self._key(one), START - timedelta(seconds=one.age)) for one in waiting]
        self._held = {(ONE, held_kind)} if held_kind else set()
        self._clock = START

    @staticmethod
    def _key(one: Waiting) -> LaneKey:
        return LaneKey(ONE, one.kind, False, one.priority)

    def pass_turns(self, turns: int) -> None:
        for _ in range(turns):
            self._clock += timedelta(seconds=1)
            self._due.append((LaneKey(ONE, "urgent", False, 0), self._clock))
            self._look()

    def _look(self) -> None:
        lanes = [
            Lane(
                *key, due=sum(key == other for other, _ in self._due), oldest=min(at for k, at in self._due if k == key)
            )
            for key in {key for key, _ in self._due}
        ]
        planner = Planner(Load(paused=self._held), Limits(lambda _: Size(1, 1)), capacity=1, passed=self.turns.passed)
        walk = Walk(self.turns, planner)
        walk.go_along([sorted(lanes)], is_last=True)
        self.turns.take(walk)
        ((key, _),) = planner.picks.items()
        job = min(one for one in self._due if one[0] == key)
        self._due.remove(job)
        self.sent.append(job)


WAITING = st.builds(Waiting, st.sampled_from("ab"), st.integers(1, 9), st.integers(0, 50))


@settings(max_examples=40, deadline=None)
@given(st.lists(WAITING, min_size=1, max_size=6))
def test_whatever_waits_goes_in_so_many_turns_and_the_urgent_have_the_others(waiting: list[Waiting]) -> None:
    stream = Stream(waiting)
    turns = OLDEST_EVERY * len(waiting)
    stream.pass_turns(turns)
    old = [(place, at) for place, (_, at) in enumerate(stream.sent, 1) if at <= START]
    assert len(old) == len(waiting), "all have gone"
    assert [at for _, at in old] == sorted(at for _, at in old), "the oldest first"
    assert [place for place, _ in old] == [OLDEST_EVERY * number for number in range(1, len(old) + 1)]


def test_an_older_job_that_may_not_go_does_not_turn_the_others_round() -> None:
    stream = Stream([Waiting("held", 9, 50), Waiting("b", 9, 20), Waiting("b", 9, 10)], held_kind="held")
    stream.pass_turns(4 * OLDEST_EVERY)
    old = [place for place, (key, _) in enumerate(stream.sent, 1) if key.kind == "b"]
    assert old == [OLDEST_EVERY, 2 * OLDEST_EVERY]
    assert not any(key.kind == "held" for key, _ in stream.sent)


def test_of_a_kind_at_its_cap_the_oldest_has_its_turn_too() -> None:
    load, limits, turns = Load(), Limits(lambda _: Size(1, 1), cap_of_kind=lambda _: 1), Turns()
    turns.queues = {"k": {ONE: None}}
    sent = []
    for second in range(1, OLDEST_EVERY + 1):
        planner = Planner(load, limits, capacity=1, queues=turns.queues, passed=turns.passed)
        lanes = [Lane(ONE, "k", False, 9, 1, START), Lane(ONE, "k", False, 0, 1, START + timedelta(seconds=second))]
        planner.admit("k", ONE, lanes)
        sent += [key.priority for key in planner.picks]
        turns.take(Walk(turns, planner))
    assert sent == [0] * (OLDEST_EVERY - 1) + [9]


def test_a_dispatcher_lets_the_oldest_go_in_between(steps: LedgerSteps) -> None:
    (old,) = steps.enqueue(priority=9)
    turns, sent = Turns(), []
    for _ in range(OLDEST_EVERY):
        steps.enqueue(priority=0)
        sent += [message.job_ids for message in steps.dispatch(capacity=1, batch_size=1, turns=turns)]
    assert [number for number, ids in enumerate(sent, 1) if ids == (old,)] == [OLDEST_EVERY]
