"""Planning: fair, capped, batched; and the plan of the queries when the ledger is large."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

from db.ledger import Lane, Load, Message, plan
from tests.db.ledger.conftest import Steps

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def lane(
    organization: int, *, kind: str = "k", due: int = 1, priority: int = 5, alone: bool = False, age: int = 0
) -> Lane:
    return Lane(UUID(int=organization), kind, alone, priority, due, NOW - timedelta(seconds=age))


def planned(
    lanes: list[Lane], *, capacity: int = 4, batch_size: int = 100, load: Load | None = None, **options: object
) -> list[tuple[int, int]]:
    messages = plan(lanes, load or Load(), capacity=capacity, batch_size=lambda _: batch_size, **options)  # type: ignore[arg-type]
    return [(message.lane.organization_id.int, message.size) for message in messages]


def test_a_single_goes_at_once_and_a_backlog_in_full_batches() -> None:
    assert planned([lane(1)]) == [(1, 1)]
    assert planned([lane(1, due=250)]) == [(1, 100), (1, 100), (1, 50)]


def test_a_single_job_of_another_tenant_goes_before_the_second_batch_of_a_large_one() -> None:
    assert planned([lane(1, due=400, age=99), lane(2)], capacity=2) == [(1, 100), (2, 1)]


def test_the_tenant_with_the_fewest_messages_under_way_goes_first() -> None:
    load = Load(messages=2, messages_of=Counter({UUID(int=1): 2}))
    assert planned([lane(1, age=99), lane(2)], capacity=1, load=load) == [(2, 1)]


def test_within_a_tenant_the_urgent_goes_first_then_the_old() -> None:
    lanes = [lane(1, kind="a"), lane(1, kind="b", age=9), lane(1, kind="c", priority=0)]
    kinds = [message.lane.kind for message in plan(lanes, Load(), capacity=3, batch_size=lambda _: 1)]
    assert kinds == ["c", "b", "a"]


def test_never_more_messages_than_there_is_room_for() -> None:
    assert planned([lane(1, due=900)], capacity=0) == []
    assert len(planned([lane(n, due=100) for n in range(50)], capacity=3)) == 3


def test_caps_of_running_jobs_hold_exactly() -> None:
    load = Load(jobs_of_organization=Counter({UUID(int=1): 3}), jobs_of_kind=Counter({"k": 3}))
    assert planned([lane(1, due=100), lane(2, due=100)], load=load, cap_of_organization=5) == [(1, 2), (2, 5)]
    assert planned([lane(1, due=100), lane(2, due=100)], load=load, cap_of_kind=lambda _: 7) == [(1, 4)]


def test_a_job_set_apart_travels_alone() -> None:
    assert planned([lane(1, due=3, alone=True)]) == [(1, 1), (1, 1), (1, 1)]


def test_messages_take_the_jobs_due_longest(steps: Steps) -> None:
    ids = [steps.enqueue()[0] for _ in range(4)]
    first: list[Message] = steps.dispatch(capacity=1, batch_size=3)
    assert set(first[0].job_ids) == set(ids[:3])


def test_a_job_due_longer_goes_first_although_it_was_made_later(steps: Steps) -> None:
    steps.enqueue()
    (older,) = steps.enqueue(run_at=datetime.now(UTC) - timedelta(hours=1))
    (message, _) = steps.dispatch(capacity=2, batch_size=1)
    assert message.job_ids == (older,)


def test_a_job_set_apart_does_not_slip_into_a_batch(steps: Steps) -> None:
    (lost,) = steps.run()
    steps.expire([lost.id])
    steps.rescue()
    others = steps.enqueue(run_at=datetime.now(UTC) - timedelta(hours=1)) + steps.enqueue(2)
    messages = steps.dispatch()
    assert sorted([set(one.job_ids) for one in messages], key=len) == [{lost.id}, set(others)]


def test_a_job_for_later_waits(steps: Steps) -> None:
    steps.enqueue(run_at=datetime.now(UTC) + timedelta(hours=1))
    assert steps.dispatch() == []
