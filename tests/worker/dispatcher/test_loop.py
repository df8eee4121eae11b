"""The dispatcher: what it gives the broker and when, alone and beside others, and through every outage.

Most tests take one look at a time (`tick`) on a real ledger and broker, and play the workers themselves.
"""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from prometheus_client import REGISTRY
from psycopg import OperationalError
from sqlalchemy import text
from structlog.testing import capture_logs

from docworker.db import ledger
from docworker.db.cluster.engines import owner_engine
from docworker.db.ledger import Claimed
from docworker.db.ledger.dispatching import dispatch, turns
from docworker.db.ledger.message import Part
from docworker.db.ledger.values import EARLIEST
from docworker.db.ledger.waiting.backlogs import backlogs, set_backlog
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import settings
from docworker.jobs.kind import Kind
from docworker.jobs.testing import advance_clock
from docworker.worker.app import build_app
from docworker.worker.brokers import channel
from docworker.worker.dispatcher import gauges, loop
from docworker.worker.dispatcher.loop import Dispatcher, Tick
from docworker.worker.dispatcher.pace import SHORTEST_SECONDS
from docworker.worker.local.stack import LocalStack
from tests.support.database import opened_database, reopened_database, somebody_waits
from tests.support.dispatchers import kind
from tests.support.faults import flush, freeze, thaw
from tests.support.ledger import LedgerSteps
from tests.support.metrics import get, metric
from tests.support.processes import Process, Processes
from tests.support.refusals import refusing_jobs
from tests.support.stack import InForce, OwnStack
from tests.support.waiting import eventually

LONG_WAIT = 30.0


class Dispatchers:
    """Dispatchers on one ledger, and a worker that takes messages when the test says so."""

    def __init__(self) -> None:
        self._dispatchers: list[Dispatcher] = []
        self._connection: Any = build_app(settings()).connection_for_read()

    def add(self, *kinds: Kind, **changed: Any) -> Dispatcher:
        """One more dispatcher, with these settings changed."""
        configured = settings().model_copy(update=changed)
        known = {one.name: one for one in kinds or (kind(),)}
        self._dispatchers.append(Dispatcher(configured, build_app(configured), known))
        return self._dispatchers[-1]

    def depth(self) -> int:
        queue = self._connection.default_channel.queue_declare(settings().queue)
        return int(queue.message_count)

    def take(self) -> tuple[UUID, UUID, list[UUID]] | None:
        """Take the next message: its id, the organization, the jobs; None when none waits."""
        message = self._connection.default_channel.basic_get(settings().queue, no_ack=True)
        if message is None:
            return None
        _, arguments, _ = message.payload
        return (
            UUID(message.headers["id"]),
            UUID(arguments["organization_id"]),
            [UUID(one) for one in arguments["job_ids"]],
        )

    def claim_next(self) -> list[Claimed] | None:
        """Take the next message and claim its jobs; None when none waits."""
        taken = self.take()
        if taken is None:
            return None
        message_id, organization_id, job_ids = taken
        return LedgerSteps(organization_id).claim(job_ids, message_id=message_id)

    def claim_all(self) -> list[Claimed]:
        return [claimed for batch in iter(self.claim_next, None) for claimed in batch]

    def close(self) -> None:
        for one in self._dispatchers:
            one.close()
        self._connection.release()


@contextmanager
def open_dispatchers() -> Iterator[Dispatchers]:
    with opened_database(), closing(Dispatchers()) as dispatchers:
        yield dispatchers


@pytest.fixture
def dispatchers(fresh_environment: dict[str, str]) -> Iterator[Dispatchers]:
    """On an empty ledger."""
    with open_dispatchers() as dispatchers:
        yield dispatchers


@pytest.fixture
def own_dispatchers(own_stack: OwnStack, in_force: InForce) -> Iterator[tuple[Dispatchers, LocalStack]]:
    """On servers of its own, to be damaged."""
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    with open_dispatchers() as dispatchers:
        yield dispatchers, stack


def jobs() -> list[Any]:
    with all_jobs_session() as session:
        return list(session.execute(text("SELECT * FROM ledger.jobs ORDER BY created_at")).all())


def states() -> Counter[str]:
    return Counter(job.state for job in jobs())


@contextmanager
def running(dispatcher: Dispatcher, *, waits_long: bool = False) -> Iterator[Dispatcher]:
    """The dispatcher's own loop, in a thread; with `waits_long` it has found nothing for a while."""
    if waits_long:
        dispatcher.pace.seconds = LONG_WAIT / 1.5
    with ThreadPoolExecutor(1) as pool:
        loop = pool.submit(dispatcher.run)
        try:
            yield dispatcher
        finally:
            dispatcher.stop()
            loop.result(timeout=5)


def waits_for_long(dispatcher: Dispatcher) -> bool:
    return dispatcher.pace.seconds == LONG_WAIT


@contextmanager
def held_in_planning(plan: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Within the block, `plan` runs in a thread and stands still between its look at the broker and its commit."""
    with ThreadPoolExecutor(1) as pool, held_planning():
        future = pool.submit(plan)
        eventually(planner_waits, what="the planner to stand still")
        yield future


@contextmanager
def held_planning() -> Iterator[None]:
    engine = owner_engine(settings())
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE ledger.pauses IN ACCESS EXCLUSIVE MODE"))
        yield


def planner_waits() -> bool:
    return somebody_waits("ledger.pauses")


# What the broker holds


def test_never_more_messages_at_the_broker_than_the_window(dispatchers: Dispatchers) -> None:
    dispatcher = dispatchers.add(batch_size=2, dispatch_window=3)
    for _ in range(3):
        LedgerSteps().enqueue(20)
    for _ in range(5):
        dispatcher.tick()
        assert dispatchers.depth() == 3
    # Nobody took them in time: the jobs go back, the messages are still there.
    advance_clock(3600)
    eventually(lambda: dispatcher.tick() and states() == {"queued": 60}, what="the jobs to go back")
    assert dispatchers.depth() == 3
    assert dispatchers.claim_all() == []
    dispatcher.tick()
    assert len(dispatchers.claim_all()) == 6


def test_an_idle_system_sends_a_single_at_once_and_a_backlog_full_batches(dispatchers: Dispatchers) -> None:
    dispatcher = dispatchers.add(batch_size=10, dispatch_window=4)
    LedgerSteps().enqueue()
    assert [len(message.job_ids) for message in dispatcher.tick().messages] == [1]
    dispatchers.claim_all()
    LedgerSteps().enqueue(100)
    assert [len(message.job_ids) for message in dispatcher.tick().messages] == [10] * 4


def test_lost_messages_are_dispatched_again_and_take_no_room_meanwhile(dispatchers: Dispatchers) -> None:
    dispatcher = dispatchers.add(batch_size=1, dispatch_window=2)
    lost = LedgerSteps().enqueue(2)
    dispatcher.tick()
    while dispatchers.take():
        pass
    others = LedgerSteps().enqueue(2)
    assert not dispatcher.tick().messages, "what was sent a moment ago may be on its way"
    advance_clock(3)
    dispatcher.tick()
    claimed = dispatchers.claim_all()
    assert {one.id for one in claimed} == set(others)
    LedgerSteps(claimed[0].organization_id).finish(claimed)
    advance_clock(3600)
    eventually(lambda: dispatcher.tick().messages, what="the lost ones to be dispatched again")
    assert {one.id for one in dispatchers.claim_all()} == set(lost)


def overdue() -> float:
    return REGISTRY.get_sample_value("docworker_overdue_jobs_total") or 0.0


def test_what_waits_at_the_broker_behind_slow_work_is_not_overdue(dispatchers: Dispatchers) -> None:
    dispatcher = dispatchers.add(batch_size=1, dispatch_window=3)
    LedgerSteps().enqueue(3)
    dispatcher.tick()
    before = overdue()
    advance_clock(60)
    assert not dispatcher.tick().messages
    assert states() == {"dispatched": 3}
    assert overdue() == before
    assert len(dispatchers.claim_all()) == 3


def test_what_a_look_has_just_sent_does_not_make_those_before_it_overdue(dispatchers: Dispatchers) -> None:
    LedgerSteps().enqueue(2)
    dispatchers.add(batch_size=1, dispatch_window=4).tick()
    advance_clock(60)
    LedgerSteps().enqueue(2)
    before = overdue()
    assert len(dispatchers.add(batch_size=1, dispatch_window=4).tick().messages) == 2
    assert states() == {"dispatched": 4}
    assert overdue() == before


def test_of_what_waits_and_what_was_lost_only_the_lost_is_dispatched_again(dispatchers: Dispatchers) -> None:
    dispatcher = dispatchers.add(batch_size=1, dispatch_window=3)
    (lost,) = LedgerSteps().enqueue()
    dispatcher.tick()
    dispatchers.take()
    LedgerSteps().enqueue(2)
    dispatcher.tick()
    before = overdue()
    advance_clock(60)
    (message,) = eventually(lambda: dispatcher.tick().messages, what="a message")
    assert message.job_ids == (lost,)
    assert overdue() == before + 1


def test_while_the_broker_is_away_nothing_is_overdue(own_dispatchers: tuple[Dispatchers, LocalStack]) -> None:
    dispatchers, stack = own_dispatchers
    dispatcher = dispatchers.add()
    LedgerSteps().enqueue()
    dispatcher.tick()
    stack.broker.kill()
    advance_clock(60)
    dispatcher.tick()
    assert states() == {"dispatched": 1}
    stack.broker.start()
    flush(stack.broker)
    eventually(lambda: dispatcher.tick().messages, what="the lost one to be dispatched again")


# Fairness and caps


def test_every_tenant_gets_its_turn_whatever_the_age_of_the_others_backlogs(dispatchers: Dispatchers) -> None:
    """Room comes free one message at a time: the tenants with the oldest jobs must not share it among themselves."""
    dispatcher = dispatchers.add(batch_size=5, dispatch_window=2)
    for _ in range(6):
        LedgerSteps().enqueue(200)
    for _ in range(10):
        dispatcher.tick()
        dispatchers.claim_next()
    late = LedgerSteps()
    late.enqueue()
    order = []
    while late.organization_id not in order:
        dispatcher.tick()
        order += [claimed[0].organization_id for claimed in [dispatchers.claim_next()] if claimed]
    assert len(order) <= 2 + 2, "what waited at the broker, and a couple more"


def test_the_backlogs_of_many_tenants_are_served_in_equal_parts(dispatchers: Dispatchers) -> None:
    dispatcher = dispatchers.add(batch_size=2, dispatch_window=2)
    for _ in range(7):
        LedgerSteps().enqueue(100)
    served: Counter[UUID] = Counter()
    while served.total() < 7 * 4:
        dispatcher.tick()
        served.update(claimed[0].organization_id for claimed in [dispatchers.claim_next()] if claimed)
    assert set(served.values()) == {4}


def test_who_comes_last_to_a_long_line_of_tenants_is_served_early(
    dispatchers: Dispatchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind one that keeps adding jobs."""
    monkeypatch.setattr(dispatch, "_FIRST_STRETCH", 4)
    dispatcher = dispatchers.add(batch_size=1, dispatch_window=1)
    line = [LedgerSteps() for _ in range(40)]
    for one in line:
        one.enqueue(5)
    for _ in range(3):
        dispatcher.tick()
        dispatchers.claim_next()
    late = LedgerSteps()
    late.enqueue(2)
    order: list[UUID] = []
    while late.organization_id not in order:
        line[0].enqueue(3)
        dispatcher.tick()
        order += [claimed[0].organization_id for claimed in [dispatchers.claim_next()] if claimed]
    assert len(order) <= 5
    while len(order) < 30:
        dispatcher.tick()
        order += [claimed[0].organization_id for claimed in [dispatchers.claim_next()] if claimed]
    assert max(Counter(order).values()) == 1, "nobody has a second turn in the round"


def test_whom_a_crowd_of_paused_tenants_stands_before_is_found_at_once_and_then_it_is_quiet(
    dispatchers: Dispatchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MOST_VISITED", 4)
    monkeypatch.setattr(dispatch, "_FIRST_STRETCH", 2)
    crowd = [LedgerSteps() for _ in range(30)]
    for one in crowd:
        one.enqueue()
        with all_jobs_session() as session:
            ledger.pause(session, kind=None, organization_id=one.organization_id)
    dispatcher = dispatchers.add()
    free = LedgerSteps()
    free.enqueue()
    pauses = []
    while free.states() != {"dispatched": 1}:
        dispatcher.turn()
        pauses.append(dispatcher.pace.seconds)
    assert set(pauses[:-1]) == {SHORTEST_SECONDS}
    for _ in range(40):
        dispatcher.turn()
    assert dispatcher.pace.seconds > pauses[-1]
    with all_jobs_session() as session:
        assert ledger.resume(session, kind=None, organization_id=crowd[7].organization_id)
    eventually(lambda: dispatcher.tick() and crowd[7].states() == {"dispatched": 1}, what="the resumed one's turn")


def test_a_tenant_whose_jobs_are_locked_does_not_keep_the_others_waiting(dispatchers: Dispatchers) -> None:
    dispatcher = dispatchers.add(batch_size=5, dispatch_window=1)
    held, other = LedgerSteps(), LedgerSteps()
    held.enqueue(20)
    other.enqueue()
    with all_jobs_session() as session:
        ledger.cancel(session, ledger.Filter(organization_id=held.organization_id))
        (message,) = dispatcher.tick().messages
        assert message.parts[0].organization_id == other.organization_id


# What a look asks ahead


def queries(work: Callable[[], Any], trace: Path) -> list[str]:
    """What `work` sends on the dispatcher's connection, exchange by exchange."""
    with all_jobs_session() as session:
        driver: Any = session.connection().connection.driver_connection
    with trace.open("w") as file:
        driver.pgconn.trace(file.fileno())
        work()
        driver.pgconn.untrace()
    return [line for line in trace.read_text().splitlines() if "\tF\t" in line and ("Query" in line or "Parse" in line)]


def test_what_an_idle_planner_needs_travels_with_its_begin(dispatchers: Dispatchers, tmp_path: Path) -> None:
    dispatcher = dispatchers.add()
    dispatcher.turn()
    LedgerSteps().enqueue()
    sent = queries(dispatcher.turn, tmp_path / "trace")
    assert dispatchers.depth() == 1
    looks = [query for query in sent if "docworker_load" in query or "docworker_lanes" in query]
    assert len([query for query in looks if "EXECUTE" in query]) == 1, looks
    assert "BEGIN" in looks[-1]


def test_what_was_asked_ahead_is_what_a_look_would_have_seen(dispatchers: Dispatchers) -> None:
    dispatcher = dispatchers.add(batch_size=1, dispatch_window=4)
    steps, other = LedgerSteps(), LedgerSteps()
    dispatcher.turn()
    first, second = steps.enqueue_in_order("a", "a")
    dispatcher.turn()
    (claimed,) = dispatchers.claim_all()
    assert claimed.id == first
    assert dispatcher._turns.newest(1) == [], "it has had its turn"
    steps.finish([claimed])  # its key lets the second one go, which comes into its lane during the look
    dispatcher.turn()
    assert [claimed.id for claimed in dispatchers.claim_all()] == [second]
    with all_jobs_session() as session:
        ledger.pause(session, organization_id=other.organization_id, kind=other.kind)
    other.enqueue()
    dispatcher.turn()
    assert dispatchers.depth() == 0


def test_what_was_asked_ahead_holds_for_the_first_plan_only(dispatchers: Dispatchers) -> None:
    """What it has sent counts when it plans again, because somebody has locked what it would have sent."""
    dispatcher = dispatchers.add(batch_size=1, dispatch_window=4, max_running_per_organization=1)
    dispatcher.turn()
    held, other = LedgerSteps(), LedgerSteps()
    for one in (held, other):
        one.enqueue(3)
    with all_jobs_session() as session:
        ledger.cancel(session, ledger.Filter(organization_id=held.organization_id))
        dispatcher.turn()
        assert dispatchers.depth() == 1


def test_who_plans_no_more_asks_nothing_ahead(dispatchers: Dispatchers, tmp_path: Path) -> None:
    dispatcher = dispatchers.add()
    dispatcher.turn()
    with ledger.planning():
        dispatcher.turn()
        sent = queries(dispatcher.turn, tmp_path / "trace")
    assert [query for query in sent if "docworker_may_plan" in query]
    assert not [query for query in sent if "docworker_lanes" in query]


def refused_by_the_server(
    organization_id: UUID, *, allowed: str = "state IN ('queued', 'cancelled')"
) -> AbstractContextManager[None]:
    """Nothing of this organization's jobs may be changed."""
    return refusing_jobs(but=f"organization_id <> '{organization_id}' OR {allowed}")


def test_a_lane_that_the_server_refuses_to_dispatch_is_set_aside_and_the_others_go_on(
    dispatchers: Dispatchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, other = LedgerSteps(), LedgerSteps()
    refused.enqueue(2)
    other.enqueue(2)
    with refused_by_the_server(refused.organization_id), capture_logs() as logs:
        for restarted in range(2):
            dispatcher = dispatchers.add()
            (message,) = dispatcher.tick().messages
            assert message.parts[0].organization_id == other.organization_id
            assert REGISTRY.get_sample_value("docworker_lanes_set_aside", {"cluster": "home"}) == 1
            assert not dispatcher.tick().messages
            assert len([one for one in logs if one["event"] == "lane.set_aside"]) == restarted + 1
            other.enqueue()
    monkeypatch.setattr("docworker.worker.dispatcher.loop._SET_ASIDE_SECONDS", 1.0)
    with refused_by_the_server(refused.organization_id):
        dispatchers.claim_all()
        dispatcher = dispatchers.add()
        dispatcher.tick()
    eventually(lambda: dispatcher.tick() and refused.states() == {"dispatched": 2}, what="it to be tried again")


def test_jobs_for_later_that_the_server_refuses_to_change_stop_nobody(dispatchers: Dispatchers) -> None:
    refused, other = LedgerSteps(), LedgerSteps()
    soon = datetime.now(UTC) + timedelta(hours=1)
    refused.enqueue(3, run_at=soon)
    other.enqueue(2, run_at=soon)
    advance_clock(7200)
    dispatcher = dispatchers.add()
    with refused_by_the_server(refused.organization_id, allowed="later"), capture_logs() as logs:
        (message,) = eventually(lambda: dispatcher.tick().messages, what="the other's jobs")
        assert [part.organization_id for part in message.parts] == [other.organization_id]
        dispatcher.turn()
    assert len([one for one in logs if one["event"] == "job.set_aside"]) == 3


def test_overdue_jobs_that_the_server_refuses_to_change_stop_nobody(dispatchers: Dispatchers) -> None:
    refused, other = LedgerSteps(), LedgerSteps()
    dispatcher = dispatchers.add()
    refused.enqueue(2)
    other.enqueue(2)
    dispatcher.tick()
    while dispatchers.take():
        pass
    advance_clock(3600)
    with refused_by_the_server(refused.organization_id, allowed="state <> 'queued'"):
        messages = eventually(lambda: dispatcher.tick().messages, what="the other's jobs")
    assert {part.organization_id for message in messages for part in message.parts} == {other.organization_id}


def test_tenants_take_turns_at_a_kind_at_its_cap(dispatchers: Dispatchers) -> None:
    dispatcher = dispatchers.add(kind(max_running=1))
    tenants = [LedgerSteps() for _ in range(3)]
    for one in tenants:
        one.enqueue(5)
    order = []
    for _ in range(9):
        dispatcher.tick()
        (claimed,) = dispatchers.claim_all()
        order.append(claimed.organization_id)
        LedgerSteps(claimed.organization_id).finish([claimed])
    assert set(Counter(order).values()) == {3}


def test_caps_hold_exactly_while_jobs_run_and_two_dispatchers_plan(dispatchers: Dispatchers) -> None:
    capped, free = kind(max_running=4), kind("free")
    planners = [
        dispatchers.add(capped, free, batch_size=3, dispatch_window=50, max_running_per_organization=3)
        for _ in range(2)
    ]
    tenants = [LedgerSteps() for _ in range(3)]
    for one in tenants:
        one.enqueue(12)
        one.enqueue(12, kind="free")
    most_of_kind = most_of_tenant = 0
    barrier = threading.Barrier(2)

    def tick(dispatcher: Dispatcher) -> Tick:
        barrier.wait()
        return dispatcher.tick()

    with ThreadPoolExecutor(2) as pool:
        while states()["succeeded"] < 36:
            list(pool.map(tick, planners))
            claimed = dispatchers.claim_all()
            under_way = [job for job in jobs() if job.state in ("dispatched", "running")]
            most_of_kind = max(most_of_kind, sum(job.kind == capped.name for job in under_way))
            most_of_tenant = max(most_of_tenant, *Counter(job.organization_id for job in under_way).values())
            for done in claimed:
                LedgerSteps(done.organization_id).finish([done])
            finish_free()
    assert (most_of_kind, most_of_tenant) == (4, 3)


def finish_free() -> None:
    with all_jobs_session() as session:
        done = "UPDATE ledger.jobs SET state = 'cancelled', redispatch_at = NULL WHERE kind = 'free' AND state = "
        session.execute(text(done + "'dispatched'"))


# Several dispatchers


def test_one_dispatcher_plans_and_the_other_stands_by(dispatchers: Dispatchers) -> None:
    planner, standby = dispatchers.add(), dispatchers.add()
    LedgerSteps().enqueue()
    with held_in_planning(planner.tick) as tick:
        assert not standby.tick().planned
    assert len(tick.result().messages) == 1
    assert dispatchers.depth() == 1


def test_what_another_dispatcher_has_sent_takes_room_also_when_its_jobs_were_cancelled(
    dispatchers: Dispatchers,
) -> None:
    first, second = (dispatchers.add(batch_size=1, dispatch_window=2) for _ in range(2))
    first.tick()
    cancelled = LedgerSteps()
    cancelled.enqueue(2)
    second.tick()
    with all_jobs_session() as session:
        ledger.cancel(session, ledger.Filter(organization_id=cancelled.organization_id))
    LedgerSteps().enqueue(2)
    first.tick()
    assert dispatchers.depth() == 2


def test_a_look_at_the_broker_that_has_grown_old_is_good_for_one_message_only(dispatchers: Dispatchers) -> None:
    late, other = (dispatchers.add(batch_size=1, dispatch_window=2) for _ in range(2))
    tenant = LedgerSteps()
    tenant.enqueue(4)
    channel.DEPTH.set(-1)
    with ThreadPoolExecutor(1) as pool:
        with every_connection_of_dispatchers_taken():
            tick = pool.submit(late.tick)
            eventually(lambda: REGISTRY.get_sample_value("docworker_broker_depth") == 0, what="its look at the broker")
            assert not other._broker.publish(planned_by_another(tenant, messages=2))
            eventually(lambda: not just_sent(tenant), what="the messages to be no news")
        assert len(tick.result(timeout=10).messages) == 1


def planned_by_another(tenant: LedgerSteps, *, messages: int) -> list[ledger.Message]:
    """Of one job each; as the tenant, since dispatchers may have no connection left."""
    lane = ledger.LaneKey(tenant.organization_id, tenant.kind, alone=False, priority=5)
    with writing(tenant.organization_id) as session:
        rows = dispatch.mark(session, [(lane, [new_id() for _ in range(messages)])], 10, {lane: EARLIEST})
    return [ledger.Message(row.message_id, row.kind, (Part(row.organization_id, (row.id,)),)) for row in rows]


def just_sent(tenant: LedgerSteps) -> bool:
    with writing(tenant.organization_id) as session:
        age = session.scalar(text("SELECT extract(epoch FROM clock_timestamp() - max(dispatched_at)) FROM ledger.jobs"))
        return float(age) <= ledger.JUST_SENT_SECONDS


@contextmanager
def every_connection_of_dispatchers_taken() -> Iterator[None]:
    """Whoever needs one waits until the block ends."""
    with ExitStack() as taken:
        for _ in range(settings().pool_size + settings().max_overflow):
            taken.enter_context(all_jobs_session())
        yield


def test_two_dispatchers_at_full_speed_send_every_job_once(dispatchers: Dispatchers) -> None:
    ids = set(LedgerSteps().enqueue(150)) | set(LedgerSteps().enqueue(150))
    claimed: list[UUID] = []
    sent: list[UUID] = []
    with running(dispatchers.add(batch_size=7)), running(dispatchers.add(batch_size=7)):

        def all_taken() -> bool:
            while (taken := dispatchers.take()) is not None:
                message_id, organization_id, job_ids = taken
                sent.extend(job_ids)
                claimed.extend(one.id for one in LedgerSteps(organization_id).claim(job_ids, message_id=message_id))
            return len(claimed) >= len(ids)

        eventually(all_taken, within_seconds=20, what="all jobs to be claimed")
    assert set(claimed) == ids
    assert len(claimed) == len(sent) == len(ids)


def test_a_standby_takes_over_when_the_planner_is_killed_while_it_plans(
    dispatchers: Dispatchers, processes: Processes
) -> None:
    standby = dispatchers.add(kind("process_document"))
    with held_planning():
        LedgerSteps().enqueue(kind="process_document")
        planner = processes.start("dispatcher")
        eventually(planner_waits, within_seconds=20, what="the planner to stand still")
        assert not standby.tick().planned
        planner.kill9()
    eventually(lambda: standby.tick().messages, within_seconds=10, what="the standby to plan")
    assert dispatchers.depth() == 1


def test_a_planner_that_is_stopped_while_it_plans_is_replaced_within_seconds(
    dispatchers: Dispatchers, processes: Processes
) -> None:
    standby = dispatchers.add(kind("process_document"))
    with held_planning():
        LedgerSteps().enqueue(kind="process_document")
        planner = processes.start("dispatcher")
        eventually(planner_waits, within_seconds=20, what="the planner to stand still")
        planner.send(signal.SIGSTOP)
        assert not standby.tick().planned
    stopped_at = time.monotonic()
    eventually(lambda: standby.tick().messages, within_seconds=20, what="the standby to plan")
    assert time.monotonic() - stopped_at < 5
    planner.send(signal.SIGCONT)
    planner.wait_for_log("dispatcher.waiting")
    assert dispatchers.depth() == 1, "what it had planned was not published"
    assert planner.stop() == 0


def test_a_planner_that_was_held_up_before_it_publishes_gives_the_jobs_back(
    dispatchers: Dispatchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_HELD_UP_SECONDS", 0.0)
    dispatcher = dispatchers.add()
    LedgerSteps().enqueue()
    assert not dispatcher.tick().messages
    assert (dispatchers.depth(), states()) == (0, {"queued": 1})


# Outages


def test_without_a_broker_producers_notice_nothing_and_all_jobs_run_when_it_is_back(
    own_dispatchers: tuple[Dispatchers, LocalStack],
) -> None:
    dispatchers, stack = own_dispatchers
    dispatcher = dispatchers.add()
    dispatcher.tick()
    stack.broker.kill()
    ids = LedgerSteps().enqueue(5)
    for _ in range(2):  # on the old connection, and with none
        started = time.monotonic()
        dispatcher.turn()
        assert time.monotonic() - started < 3, "it does not wait for the broker"
        assert not dispatcher.health.ready().well
    assert [(job.state, job.dispatches) for job in jobs()] == [("queued", 0)] * 5
    stack.broker.start()
    dispatcher.turn()
    assert dispatcher.health.ready().well
    assert {one.id for one in dispatchers.claim_all()} == set(ids)


def test_what_the_broker_does_not_take_any_more_goes_back_to_the_queue(
    own_dispatchers: tuple[Dispatchers, LocalStack],
) -> None:
    dispatchers, stack = own_dispatchers
    dispatcher = dispatchers.add(batch_size=1)
    ids = LedgerSteps().enqueue(3)
    with held_in_planning(dispatcher.tick) as tick:
        stack.broker.kill()
    assert not tick.result().messages
    assert [(job.state, job.dispatches, job.message_id) for job in jobs()] == [("queued", 0, None)] * 3
    stack.broker.start()
    assert len(dispatcher.tick().messages) == 1, "a broker that has refused is tried with one"
    assert len(dispatcher.tick().messages) == 2
    assert {one.id for one in dispatchers.claim_all()} == set(ids)


def test_a_broker_that_has_refused_is_tried_again_while_messages_wait_there(
    own_dispatchers: tuple[Dispatchers, LocalStack],
) -> None:
    dispatchers, stack = own_dispatchers
    dispatcher = dispatchers.add(batch_size=1, dispatch_window=4)
    LedgerSteps().enqueue(2)
    assert len(dispatcher.tick().messages) == 2
    LedgerSteps().enqueue(2)
    with held_in_planning(dispatcher.tick) as tick:
        stack.broker.kill()
    assert not tick.result().messages
    stack.broker.start()
    assert len(dispatcher.tick().messages) == 1
    assert len(dispatcher.tick().messages) == 1


def test_a_frozen_broker_does_not_keep_the_dispatcher_from_rescuing(
    own_dispatchers: tuple[Dispatchers, LocalStack],
) -> None:
    """Each look at the planner's waits for the broker for longer than a judge may be held up."""
    dispatchers, stack = own_dispatchers
    dispatcher = dispatchers.add(lease=1)
    steps = LedgerSteps()
    steps.enqueue()
    dispatcher.tick()
    (claimed,) = dispatchers.claim_all()
    freeze(stack.broker)
    with running(dispatcher):
        steps.expire([claimed.id])
        eventually(lambda: states() == {"queued": 1}, within_seconds=20, what="the rescue")
    thaw(stack.broker)


def test_jobs_of_a_dispatcher_killed_between_commit_and_publishing_are_dispatched_again(
    own_dispatchers: tuple[Dispatchers, LocalStack], processes: Processes
) -> None:
    dispatchers, stack = own_dispatchers
    (job_id,) = LedgerSteps().enqueue(kind="process_document")
    with held_planning():
        dispatcher = processes.start("dispatcher", environment={"DOCWORKER_REDISPATCH_AFTER": "1"})
        eventually(planner_waits, within_seconds=20, what="the dispatcher to plan")
        freeze(stack.broker)
    eventually(lambda: states() == {"dispatched": 1}, what="the commit")
    dispatcher.kill9()
    thaw(stack.broker)
    flush(stack.broker)  # also of what still was in the broker's socket
    (first,) = jobs()
    standby = dispatchers.add(kind("process_document"))
    eventually(lambda: standby.tick().messages, what="the job to be dispatched again")
    taken = dispatchers.take()
    assert taken is not None
    assert taken[2] == [job_id]
    assert taken[0] != first.message_id


def test_an_outage_of_the_master_is_waited_out(
    own_dispatchers: tuple[Dispatchers, LocalStack], processes: Processes
) -> None:
    dispatchers, stack = own_dispatchers
    dispatcher = processes.start("dispatcher")
    dispatcher.wait_for_log("dispatcher.started")
    stack.master.kill()
    dispatcher.wait_for_log("dispatcher.waiting")
    stack.master.start()
    LedgerSteps().enqueue(kind="process_document")
    eventually(lambda: dispatchers.depth() == 1, within_seconds=20, what="the job to be dispatched")
    assert dispatcher.stop() == 0


class FailingKinds(dict[str, Kind]):
    """Raises these when it is asked for a kind, one after the other."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self._errors = iter(errors)

    def get(self, *_: Any) -> Any:
        raise next(self._errors)


def test_an_outage_is_not_a_reason_to_end_at_the_first_unknown_failure_after_it(dispatchers: Dispatchers) -> None:
    dispatcher = dispatchers.add()
    LedgerSteps().enqueue()
    outage, unknown = [OperationalError("gone")] * 20, [RuntimeError()] * 10
    dispatcher._kinds = FailingKinds(*outage, *unknown, *unknown)  # what may be refused is tried again lane by lane
    for _ in [*outage, *unknown[1:]]:
        dispatcher.turn()
    with pytest.raises(RuntimeError):
        dispatcher.turn()


def test_who_plans_counts_what_waits_of_those_with_a_largest_backlog(
    dispatchers: Dispatchers,
) -> None:
    steps = LedgerSteps()
    with all_jobs_session() as session:
        set_backlog(session, steps.organization_id, 10)
    steps.enqueue(9)
    dispatchers.add(kind("another")).tick()
    with all_jobs_session() as session:
        known = {one.organization_id: one.jobs for one in backlogs(session)}
        session.execute(text("DELETE FROM ledger.backlogs"))
    assert known[steps.organization_id] == 9


def test_a_count_that_fails_costs_no_tick(dispatchers: Dispatchers) -> None:
    """With a backlog so large that counting it takes longer than a statement may."""
    dispatcher = dispatchers.add()
    LedgerSteps().enqueue()
    with reopened_database(lock_timeout=2), ThreadPoolExecutor(2) as pool:
        with held_planning():
            turn = pool.submit(dispatcher.turn)
            eventually(planner_waits, what="the dispatcher to stand still")
            locking = pool.submit(lock_jobs_until, turn)
            eventually(lambda: somebody_waits("ledger.jobs"), what="the lock to be next")
        turn.result(timeout=10)
        locking.result(timeout=10)
    assert dispatchers.depth() == 1
    assert dispatcher.health.ready().well


def lock_jobs_until(done: Future[Any]) -> None:
    with owner_engine(settings()).begin() as connection:
        connection.execute(text("LOCK TABLE ledger.jobs IN ACCESS EXCLUSIVE MODE"))
        done.exception(timeout=10)


# Kinds that not everybody knows


def test_a_kind_that_the_dispatcher_does_not_know_stays_queued_and_shows_in_a_gauge(dispatchers: Dispatchers) -> None:
    LedgerSteps().enqueue(kind="of_a_newer_release")
    LedgerSteps().enqueue()
    assert len(dispatchers.add().tick().messages) == 1
    assert [job.state for job in jobs()] == ["queued", "dispatched"]
    assert REGISTRY.get_sample_value("docworker_unknown_kind_lanes", {"cluster": "home"}) == 1


def test_a_kind_that_a_worker_does_not_know_is_counted_and_dispatched_again(
    dispatchers: Dispatchers, processes: Processes
) -> None:
    worker = processes.start("worker")
    worker.wait_for_log("worker.ready", within_seconds=30)
    dispatcher = dispatchers.add(kind("of_a_newer_release"))
    LedgerSteps().enqueue(kind="of_a_newer_release")
    for times in (1, 2):
        eventually(lambda: dispatcher.tick().messages, what="the job to be dispatched")
        eventually(lambda: metric("docworker_unknown_messages_total") == times, what="the worker to count it")  # noqa: B023
        advance_clock(60)
    assert jobs()[0].attempt == 0


# Waiting


def test_a_commit_wakes_an_idle_dispatcher(dispatchers: Dispatchers) -> None:
    with running(dispatchers.add(dispatch_interval=LONG_WAIT), waits_long=True) as dispatcher:
        eventually(lambda: dispatcher._listener.is_open and waits_for_long(dispatcher), what="the dispatcher to wait")
        LedgerSteps().enqueue()
        eventually(lambda: dispatchers.depth() == 1, within_seconds=5, what="the job to be dispatched")


def test_a_stop_ends_a_long_wait(dispatchers: Dispatchers) -> None:
    started = time.monotonic()
    with running(dispatchers.add(dispatch_interval=LONG_WAIT), waits_long=True) as dispatcher:
        eventually(lambda: waits_for_long(dispatcher), what="the dispatcher to wait")
    assert time.monotonic() - started < 5


def bells() -> set[int]:
    with all_jobs_session() as session:
        listening = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'docworker listener'"
            " AND datname = current_database() AND query LIKE 'LISTEN%'"
        )
        return set(session.scalars(text(listening)))


def test_a_lost_listening_connection_is_made_again_and_polling_goes_on(dispatchers: Dispatchers) -> None:
    with running(dispatchers.add(dispatch_interval=LONG_WAIT), waits_long=True) as dispatcher:
        (pid,) = eventually(bells, what="the dispatcher to listen")
        dispatcher._listener._retry_at = time.monotonic() + 1  # for long enough to enqueue unheard
        with all_jobs_session() as session:
            session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        eventually(lambda: not dispatcher._listener.is_open, what="the loss to be noticed")
        LedgerSteps().enqueue()
        eventually(lambda: dispatchers.depth() == 1, within_seconds=5, what="the job to be found by polling")
        eventually(lambda: bells() - {pid}, within_seconds=5, what="the dispatcher to listen again")
        dispatcher.pace.seconds = LONG_WAIT
        dispatchers.claim_all()
        LedgerSteps().enqueue()
        eventually(lambda: dispatchers.depth() == 1, within_seconds=5, what="the listener to be heard again")


# As a process


@pytest.fixture
def dispatcher_process(dispatchers: Dispatchers, processes: Processes) -> Process:
    started = processes.start("dispatcher")
    started.wait_for_log("dispatcher.started")
    return started


def test_it_serves_its_metrics_and_health_and_ends_in_order(
    dispatcher_process: Process, dispatchers: Dispatchers
) -> None:
    LedgerSteps().enqueue(3, kind="process_document")
    eventually(lambda: metric("docworker_dispatched_jobs_total", process="dispatcher") == 3)
    assert metric("docworker_dispatcher_planning", process="dispatcher") == 1
    assert get("/healthz", process="dispatcher")[0] == 200
    eventually(lambda: get("/readyz", process="dispatcher")[0] == 200, what="its first look to end")
    assert dispatcher_process.stop(within_seconds=10) == 0
    assert "dispatcher.stopped" in dispatcher_process.log


# An old snapshot


def held_seconds(holder: str) -> float | None:
    return REGISTRY.get_sample_value("docworker_oldest_snapshot_seconds", {"cluster": "home", "holder": holder})


def test_who_holds_an_old_snapshot_is_told_once_with_what_ends_it(
    dispatchers: Dispatchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "_OLD_SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(gauges, "_COUNT_SECONDS", 0.0)
    monkeypatch.setattr(gauges, "_SHARE_OF_TIME_FOR_COUNTING", 1e9)
    dispatcher = dispatchers.add()
    with psycopg.connect(str(settings().owner_url), application_name="forgotten") as foreign, capture_logs() as logs:
        foreign.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        foreign.execute("SELECT count(*) FROM catalog.placements")
        for _ in range(3):
            dispatcher.tick()
        assert held_seconds("session")
        assert held_seconds("prepared") == 0
        pid = foreign.info.backend_pid
        (told,) = [line for line in logs if line["event"] == "snapshot.old" and f"pid {pid}" in line["who"]]
        assert "application 'forgotten'" in told["who"]
        assert told["state"] == "idle in transaction"
        assert told["remedy"] == f"SELECT pg_terminate_backend({pid})"


def test_who_does_not_plan_tells_no_snapshot(dispatchers: Dispatchers) -> None:
    planner, standby = dispatchers.add(), dispatchers.add()
    planner.tick()
    assert held_seconds("session") is not None
    with ledger.planning() as (_, permit):
        assert permit is not None
        standby.tick()
    assert held_seconds("session") is None
