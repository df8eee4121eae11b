"""Planning: fair, capped, batched; and the plan of the queries when the ledger is large."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

from docworker.db.ledger import Lane, Limits, Load, Message, Size, Turns, Walk
from docworker.db.ledger.dispatching.dispatch import admit
from docworker.db.ledger.dispatching.planning import Planner
from tests.support.ledger import LedgerSteps

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = Size(100, 100)


def lane(
    organization: int, *, kind: str = "k", due: int = 1, priority: int = 5, alone: bool = False, age: int = 0
) -> Lane:
    return Lane(UUID(int=organization), kind, alone, priority, due, NOW - timedelta(seconds=age))


def look(
    lanes: Iterable[Lane],
    *,
    capacity: int = 4,
    size: Size = BATCH,
    load: Load | None = None,
    turns: Turns | None = None,
    newest: Sequence[int] = (),
    **limits: Any,
) -> Planner:
    """One look at a ledger with these lanes and nothing else."""
    turns = turns or Turns()
    planner = Planner(load or Load(), Limits(lambda _: size, **limits), capacity=capacity, queues=turns.queues)
    walk = Walk(turns, planner)
    of_each = {one: list(some) for one, some in groupby(sorted(lanes), attrgetter("organization_id"))}
    heads = admit(planner, turns.heads(planner), of_each, most=turns.share_of_heads(capacity))
    ring = sorted(of_each, key=lambda one: (one <= turns.after, one))
    walk.meet(of_each[UUID(int=one)] for one in newest)
    walk.go_along([of_each[one] for one in ring], is_last=True)
    admit(planner, heads, of_each, most=capacity)
    turns.take(walk)
    return planner


def sent(planner: Planner) -> list[dict[int, int]]:
    """Of each message the organizations and how many jobs each has in it."""
    parts: dict[UUID, Counter[int]] = {message: Counter() for message in planner.kind_of}
    for lane, messages in planner.picks.items():
        for message in messages:
            parts[message][lane.organization_id.int] += 1
    return [dict(one) for one in parts.values()]


def served(planner: Planner) -> Counter[int]:
    """How many jobs each organization sends."""
    return Counter({lane.organization_id.int: len(messages) for lane, messages in planner.picks.items()})


def test_a_single_goes_at_once_and_a_backlog_in_full_batches() -> None:
    assert sent(look([lane(1)])) == [{1: 1}]
    assert sent(look([lane(1, due=250)])) == [{1: 100}, {1: 100}, {1: 50}]


def test_a_single_job_of_another_tenant_goes_before_the_second_batch_of_a_large_one() -> None:
    assert sent(look([lane(1, due=400, age=99), lane(2)], capacity=2)) == [{1: 100}, {2: 1, 1: 99}]


def test_idle_workers_share_what_there_is_before_a_message_is_filled() -> None:
    assert sent(look([lane(1, due=3)], size=Size(1, 20))) == [{1: 1}] * 3
    assert sent(look([lane(n) for n in range(1, 7)])) == [{1: 1, 5: 1}, {2: 1, 6: 1}, {3: 1}, {4: 1}]


def test_a_message_carries_the_jobs_of_many_tenants_of_one_kind() -> None:
    lanes = [lane(1), lane(2, kind="other"), lane(3), lane(4, kind="other"), lane(5)]
    planner = look(lanes, capacity=2, size=Size(1, 3))
    assert sent(planner) == [{1: 1, 3: 1, 5: 1}, {2: 1, 4: 1}]
    assert list(planner.kind_of.values()) == ["k", "other"]


def test_within_a_tenant_the_urgent_goes_first_then_the_old() -> None:
    lanes = [lane(1, kind="a"), lane(1, kind="b", age=9), lane(1, kind="c", priority=0)]
    assert list(look(lanes, capacity=3).kind_of.values()) == ["c", "b", "a"]


def test_never_more_messages_than_there_is_room_for() -> None:
    assert sent(look([lane(1, due=900)], capacity=0)) == []
    assert len(sent(look([lane(n, due=100) for n in range(1, 50)], capacity=3))) == 3
    assert [len(one) for one in sent(look([lane(n) for n in range(1, 50)], capacity=2, size=Size(1, 5)))] == [5, 5]


def test_caps_of_running_jobs_hold_exactly() -> None:
    load = Load(jobs_of_organization=Counter({UUID(int=1): 3}), jobs_of_kind=Counter({"k": 3}))
    lanes = [lane(1, due=100), lane(2, due=100)]
    assert sent(look(lanes, load=load, cap_of_organization=5)) == [{1: 2}, {2: 5}]
    assert sent(look(lanes, load=load, cap_of_kind=lambda _: 7)) == [{1: 4}]


def test_a_job_set_apart_travels_alone() -> None:
    assert sent(look([lane(1, due=3, alone=True)])) == [{1: 1}] * 3
    assert sent(look([lane(1, alone=True), lane(2)], capacity=1)) == [{1: 1}]
    assert sent(look([lane(1), lane(2, alone=True)], capacity=1)) == [{1: 1}]


def test_every_tenant_has_had_its_turn_before_one_has_its_second() -> None:
    turns, rounds = Turns(), Counter[int]()
    for number in range(1, 41):
        rounds += served(look([lane(n, due=900) for n in range(1, 8)], capacity=2, size=Size(1, 1), turns=turns))
        assert max(rounds.values()) - min(rounds[n] for n in range(1, 8)) <= 1, number
    assert rounds.total() == 80


def test_rounds_go_on_within_one_look() -> None:
    turns = Turns()
    look([lane(n, due=900) for n in (1, 2, 3)], capacity=1, size=Size(1, 4), turns=turns)
    second = look([lane(n, due=900) for n in (1, 2, 3)], capacity=1, size=Size(1, 5), turns=turns)
    assert served(second) == {2: 2, 3: 2, 1: 1}


def test_who_found_no_room_is_first_in_the_next_look_and_the_others_lose_nothing() -> None:
    turns = Turns()
    lanes = [lane(1), lane(2, kind="rare"), lane(3), lane(4, kind="rare"), lane(5)]
    assert served(look(lanes, capacity=1, size=Size(1, 20), turns=turns)).keys() == {1, 3, 5}
    assert served(look(lanes, capacity=1, size=Size(1, 20), turns=turns)).keys() == {2, 4}
    assert served(look(lanes, capacity=1, size=Size(1, 20), turns=turns)).keys() == {1, 3, 5}


def test_tenants_take_turns_at_a_kind_that_is_at_its_cap() -> None:
    """The same ones would come by each time that something is free."""
    turns, sent_by = Turns(), Counter[int]()
    lanes = [lane(n, due=900) for n in range(1, 6)]
    running: list[int] = []
    for _ in range(60):
        load = Load(jobs_of_kind=Counter({"k": len(running)}))
        now = served(look(lanes, capacity=1, size=Size(1, 1), load=load, turns=turns, cap_of_kind=lambda _: 3))
        sent_by += now
        running = [*running, *now.elements()][-2:]  # the oldest one ends
    assert max(sent_by.values()) - min(sent_by[n] for n in range(1, 6)) <= 1


def test_who_waits_for_a_kind_at_its_cap_keeps_nobody_from_the_others() -> None:
    turns, of_capped, of_free = Turns(), Counter[int](), Counter[int]()
    lanes = [lane(n, kind=kind, due=900) for n in range(1, 6) for kind in ("capped", "free")]
    for number in range(60):
        load = Load(jobs_of_kind=Counter({"capped": number % 2}))
        planner = look(
            lanes,
            capacity=1,
            size=Size(1, 1),
            load=load,
            turns=turns,
            cap_of_kind=lambda kind: 1 if kind == "capped" else None,
        )
        kinds = Counter(planner.kind_of.values())
        of_capped += served(planner) if kinds["capped"] else Counter()
        of_free += served(planner) if kinds["free"] else Counter()
    for sent_by in (of_capped, of_free):
        assert sent_by.total() >= 15
        assert max(sent_by.values()) - min(sent_by[n] for n in range(1, 6)) <= 1


def test_the_less_urgent_jobs_of_a_tenant_do_not_take_the_turn_of_those_that_find_no_room() -> None:
    turns = Turns()
    lanes = [lane(1, due=900), lane(2, kind="rare", priority=0), lane(2, due=900)]
    assert served(look(lanes, capacity=1, size=Size(1, 20), turns=turns)) == {1: 1}
    assert list(look(lanes, capacity=1, size=Size(1, 20), turns=turns).kind_of.values()) == ["rare"]


def test_newcomers_get_every_other_turn_and_none_twice() -> None:
    turns = Turns()
    lanes = [lane(n, due=900) for n in range(1, 101)]
    first = look(lanes, capacity=1, size=Size(1, 6), turns=turns, newest=(90, 80, 70))
    assert served(first).keys() == {90, 1, 80, 2, 70, 3}
    rounds = served(first)
    while rounds.total() < 100:
        rounds += served(look(lanes, capacity=1, size=Size(1, 1), turns=turns, newest=(90, 80, 70)))
    assert set(rounds.values()) == {1}


def test_the_latest_to_come_is_the_first_newcomer_until_it_has_had_its_turn() -> None:
    turns = Turns()
    turns.came(UUID(int=one) for one in (7, 8, 9, 7))
    assert [one.int for one in turns.newest(2)] == [7, 9]
    look([lane(7), lane(9), lane(10)], capacity=1, size=Size(1, 2), turns=turns, newest=(7,))
    turns.came([UUID(int=9)])
    assert [one.int for one in turns.newest(9)] == [8]


def test_messages_take_the_jobs_due_longest(steps: LedgerSteps) -> None:
    ids = [steps.enqueue()[0] for _ in range(4)]
    first: list[Message] = steps.dispatch(capacity=1, batch_size=3)
    assert set(first[0].job_ids) == set(ids[:3])


def test_a_job_due_longer_goes_first_although_it_was_made_later(steps: LedgerSteps) -> None:
    steps.enqueue()
    (older,) = steps.enqueue(run_at=datetime.now(UTC) - timedelta(hours=1))
    (message, _) = steps.dispatch(capacity=2, batch_size=1)
    assert message.job_ids == (older,)


def test_a_job_set_apart_does_not_slip_into_a_batch(steps: LedgerSteps) -> None:
    (lost,) = steps.run()
    steps.expire([lost.id])
    steps.rescue()
    others = steps.enqueue(run_at=datetime.now(UTC) - timedelta(hours=1)) + steps.enqueue(2)
    messages = steps.dispatch()
    assert sorted([set(one.job_ids) for one in messages], key=len) == [{lost.id}, set(others)]


def test_a_job_for_later_waits(steps: LedgerSteps) -> None:
    steps.enqueue(run_at=datetime.now(UTC) + timedelta(hours=1))
    assert steps.dispatch() == []
