"""How a message with many jobs is worked off: each is claimed when it starts, in its own organization, and what is not
come to stays as good as new."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from threading import Event
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

import docworker.jobs.execution.message
import docworker.jobs.kind
from docworker.db import ledger
from docworker.db.catalog import SERVED, place_of
from docworker.db.cluster import database, roundtrip
from docworker.db.errors import UnavailableOrganizationError
from docworker.db.ledger import Message
from docworker.db.models import PlacementState
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.sessions.fence import lock_key
from docworker.db.sessions.opening import placed
from docworker.jobs.dispatch_limits import limits_of
from docworker.jobs.execution.leases import clear_stop, request_stop
from docworker.jobs.execution.message import run_message
from docworker.jobs.task import Attempt
from docworker.jobs.testing import drain
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.owner import set_placement
from tests.support.adhoc_kinds import Do, batched, do_nothing, enter, enter_batch, message_of, single, state
from tests.support.database import reopened_database
from tests.support.refusals import refusing_claims, refusing_jobs
from tests.support.tenants import Tenant, is_served
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _no_stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nor the end of a turn, unless a test is about that: a slow machine would begin fewer jobs."""
    monkeypatch.setattr(docworker.jobs.kind, "TURN_SECONDS", 60)
    yield
    clear_stop()


def deliver(task: Any, message: Message) -> int:
    return run_message(task.kind, message.parts, message.id)


def states(message: Message) -> list[tuple[str, int, int]]:
    """State, attempts and dispatches of its jobs, in their order."""
    return [(one.state, one.attempt, one.dispatches) for one in map(state, message.job_ids)]


def tenants_with_jobs(tenant: Tenant, task: Any, *, each: int) -> list[Tenant]:
    tenants = [tenant, Tenant(), Tenant()]
    for one in tenants:
        for _ in range(each):
            enter(one, task)
    return tenants


def at_the(number: int, do: Do) -> Do:
    """Do so as the job with that number, and nothing as any other."""
    seen: list[Attempt] = []

    def counted(attempt: Attempt) -> None:
        seen.append(attempt)
        if len(seen) == number:
            do(attempt)

    return counted


@pytest.mark.parametrize("ends_with_an_effect", [False, True])
def test_a_job_is_claimed_when_it_starts(tenant: Tenant, ends_with_an_effect: bool) -> None:
    seen: list[list[str]] = []

    def look(attempt: Attempt) -> None:
        seen.append([one for one, _, _ in states(message)])
        if ends_with_an_effect:
            attempt.finish(lambda _: {"number": len(seen)})

    task = single(look)
    for _ in range(3):
        enter(tenant, task)
    message = message_of(task)
    assert deliver(task, message) == 3
    assert seen == [
        ["running", "dispatched", "dispatched"],
        ["succeeded", "running", "dispatched"],
        ["succeeded", "succeeded", "running"],
    ]
    assert states(message) == [("succeeded", 1, 0)] * 3


def finish_with_effect(attempt: Attempt) -> None:
    attempt.finish(lambda session: {"sees": len(whose_rows(session))})


def enter_three(tenant: Tenant, task: Any) -> Message:
    for _ in range(3):
        enter(tenant, task)
    return message_of(task)


def changed_by(message: Message) -> list[str]:
    """The transactions that have changed its jobs last."""
    with all_jobs_session() as session:
        changes = text("SELECT id, CAST(xmin AS text) AS xmin FROM ledger.jobs")
        by_id = {one.id: one.xmin for one in session.execute(changes)}
        return [by_id[one] for one in message.job_ids]


@pytest.mark.parametrize("finish", [do_nothing, finish_with_effect])
def test_the_next_job_of_an_organization_is_claimed_in_the_transaction_that_ends_the_one_before(
    tenant: Tenant, finish: Do
) -> None:
    seen: list[list[str]] = []

    def look(attempt: Attempt) -> None:
        seen.append(changed_by(message))
        finish(attempt)

    task = single(look)
    message = enter_three(tenant, task)
    assert deliver(task, message) == 3
    _, second, third = seen
    assert second[0] == second[1] != second[2]
    assert third[1] == third[2] != third[0]


def going_on(then: Callable[[Attempt], None]) -> Do:
    """The function of the first job goes on after the end of it, when the next one is claimed already."""

    def do(attempt: Attempt) -> None:
        finish_with_effect(attempt)
        then(attempt)

    return at_the(1, do)


def test_a_job_may_go_on_after_its_end_while_the_next_one_is_kept_for_it(tenant: Tenant) -> None:
    seen: list[list[tuple[str, int, int]]] = []
    renewed: list[bool] = []

    def outlast(_: Attempt) -> None:
        seen.append(states(message))
        before = lease_of(message.job_ids[1])
        eventually(lambda: lease_of(message.job_ids[1]) > before, within_seconds=30, what="its lease is renewed")
        renewed.append(True)

    task = single(going_on(outlast))
    message = enter_three(tenant, task)
    assert deliver(task, message) == 3
    assert seen == [[("succeeded", 1, 0), ("running", 1, 0), ("dispatched", 0, 1)]]
    assert renewed
    assert states(message) == [("succeeded", 1, 0)] * 3


def lease_of(job_id: UUID) -> datetime:
    lease = state(job_id).lease_expires_at
    assert lease is not None
    return lease


def interrupt(_: Attempt) -> None:
    raise KeyboardInterrupt


def outstay(_: Attempt) -> None:
    time.sleep(0.2)


@pytest.mark.parametrize("then", [lambda _: request_stop(60), interrupt, outstay])
def test_what_was_claimed_and_has_not_begun_goes_back_uncharged(
    tenant: Tenant, then: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docworker.jobs.kind, "TURN_SECONDS", 0.05 if then is outstay else 60)
    task = single(going_on(then))
    message = enter_three(tenant, task)
    with suppress(KeyboardInterrupt):
        deliver(task, message)
    assert states(message) == [("succeeded", 1, 0), ("queued", 0, 0), ("queued", 0, 0)]


def whose_rows(session: Session) -> set[UUID]:
    """Of which organizations this transaction sees the jobs."""
    return set(session.scalars(text("SELECT organization_id FROM ledger.jobs")))


@pytest.mark.parametrize("has_an_effect", [False, True])
def test_each_job_of_a_message_of_many_tenants_is_its_own_tenants(tenant: Tenant, has_an_effect: bool) -> None:
    seen: list[tuple[UUID, set[UUID]]] = []

    def effect(attempt: Attempt) -> Callable[[Session], None]:
        return lambda session: seen.append((attempt.organization_id, whose_rows(session)))

    def do(attempt: Attempt) -> None:
        attempt.read(lambda session: seen.append((attempt.organization_id, whose_rows(session))))
        if has_an_effect:
            attempt.finish(effect(attempt))

    task = single(do)
    tenants = tenants_with_jobs(tenant, task, each=2)
    message = message_of(task)
    assert {part.organization_id for part in message.parts} == {one.id for one in tenants}
    assert deliver(task, message) == 6
    assert {one for one, _ in seen} == {one.id for one in tenants}
    assert all(rows == {one} for one, rows in seen)
    assert states(message) == [("succeeded", 1, 0)] * 6


def test_a_message_that_is_being_worked_off_takes_no_room_at_the_broker(tenant: Tenant) -> None:
    def look(_: Attempt) -> None:
        with all_jobs_session() as session:
            assert ledger.load(session).messages == 0

    task = single(look)
    tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    with all_jobs_session() as session:
        assert ledger.load(session).messages == 1
    assert deliver(task, message) == 3
    assert states(message) == [("succeeded", 1, 0)] * 3


def test_an_interrupted_message_hands_the_rest_back(tenant: Tenant) -> None:
    task = single(at_the(1, interrupt))
    tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    with pytest.raises(KeyboardInterrupt):
        deliver(task, message)
    assert states(message) == [("queued", 1, 0), ("queued", 0, 0), ("queued", 0, 0)]


def test_the_batches_of_a_message_are_one_tenants_each(tenant: Tenant) -> None:
    sizes: dict[UUID, int] = {}

    def do(batch: Any) -> None:
        sizes[batch.organization_id] = len(batch.attempts)
        for attempt in batch.starting():
            attempt.finish()

    task = batched(do)
    tenants = [tenant, Tenant(), Tenant()]
    for count, one in enumerate(tenants, 1):
        enter_batch(one, task, count)
    message = message_of(task)
    assert deliver(task, message) == 6
    assert sizes == {one.id: count for count, one in enumerate(tenants, 1)}
    assert states(message) == [("succeeded", 1, 0)] * 6


@pytest.mark.parametrize("takes_batches", [False, True])
def test_after_its_time_a_message_begins_no_more_and_hands_the_rest_back(
    tenant: Tenant, takes_batches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docworker.jobs.kind, "TURN_SECONDS", 0.0)

    def finish_all(batch: Any) -> None:
        for attempt in batch.starting():
            attempt.finish()

    task = batched(finish_all, soft_limit_seconds=1e-9) if takes_batches else single(do_nothing)
    tenants = [tenant, Tenant(), Tenant()]
    for one in tenants:
        if takes_batches:
            enter_batch(one, task, 1)
        else:
            enter(one, task)
    message = message_of(task)
    assert deliver(task, message) == 1
    assert states(message) == [("succeeded", 1, 0), ("queued", 0, 0), ("queued", 0, 0)]
    with all_jobs_session() as session:
        assert not ledger.load(session).messages, "they are anybody's"


def test_at_a_stop_a_message_begins_no_more_and_hands_the_rest_back(tenant: Tenant) -> None:
    task = single(at_the(2, lambda _: request_stop(60)))
    tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    assert deliver(task, message) == 2
    assert states(message) == [("succeeded", 1, 0), ("succeeded", 1, 0), ("queued", 0, 0)]


def test_a_job_that_fails_leaves_those_behind_it_alone(tenant: Tenant) -> None:
    def fail(_: Attempt) -> None:
        raise RuntimeError("its own fault")

    task = single(at_the(2, fail))
    tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    assert deliver(task, message) == 3
    assert states(message) == [("succeeded", 1, 0), ("queued", 1, 0), ("succeeded", 1, 0)]


def test_what_others_have_taken_meanwhile_is_passed_over(tenant: Tenant) -> None:
    task = single(at_the(1, lambda _: cancel(message.job_ids[1])))
    tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    assert deliver(task, message) == 2
    assert [one for one, _, _ in states(message)] == ["succeeded", "cancelled", "succeeded"]


def cancel(job_id: UUID) -> None:
    with all_jobs_session() as session:
        ledger.cancel(session, ledger.Filter(), [job_id])


def test_a_job_taken_over_while_it_ran_ends_without_effect_and_the_next_one_runs(tenant: Tenant) -> None:
    task = single(at_the(1, lambda attempt: cancel(attempt.id)))
    tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    assert deliver(task, message) == 3
    assert [one for one, _, _ in states(message)] == ["cancelled", "succeeded", "succeeded"]


@pytest.mark.parametrize("commits", [False, True])
def test_a_commit_whose_answer_is_lost_ends_one_job_and_begins_the_next_one_once(
    tenant: Tenant, commits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends a job and claims the next one in a transaction: both have happened, or neither."""
    exchange = roundtrip.exchange
    ran: list[UUID] = []

    def lose(connection: Connection, statements: str, timeout_seconds: float | None = None) -> Any:
        if statements.startswith("BEGIN"):
            monkeypatch.setattr(roundtrip, "exchange", exchange)
            if commits:
                exchange(connection, statements)
            raise OperationalError("COMMIT", None, ConnectionResetError("the connection is gone"))
        return exchange(connection, statements, timeout_seconds)

    def do(attempt: Attempt) -> None:
        ran.append(attempt.id)
        if len(ran) == 1:
            monkeypatch.setattr(roundtrip, "exchange", lose)

    task = single(do)
    tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    assert deliver(task, message) == 3
    assert ran == list(message.job_ids)
    assert states(message) == [("succeeded", 1, 0)] * 3


@pytest.mark.parametrize("commits", [False, True])
def test_an_effect_whose_commit_is_not_answered_is_written_once_and_the_next_job_runs_once(
    tenant: Tenant, commits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = roundtrip.exchange
    ran: list[UUID] = []

    def lose(connection: Connection, statements: str, timeout_seconds: float | None = None) -> Any:
        if not statements.endswith("COMMIT"):
            return exchange(connection, statements, timeout_seconds)
        monkeypatch.setattr(roundtrip, "exchange", exchange)
        if commits:
            exchange(connection, statements)
        connection.invalidate()
        lost = ConnectionResetError("the connection is gone")
        raise OperationalError("COMMIT", None, lost, connection_invalidated=True)

    def do(attempt: Attempt) -> None:
        ran.append(attempt.id)
        if len(ran) == 1:
            monkeypatch.setattr(roundtrip, "exchange", lose)
        finish_with_effect(attempt)

    task = single(do)
    message = enter_three(tenant, task)
    assert deliver(task, message) == 3
    assert ran == list(message.job_ids)
    first = ("succeeded", 1, 0) if commits else ("queued", 0, 0)
    assert states(message) == [first, ("succeeded", 1, 0), ("succeeded", 1, 0)]


@pytest.mark.parametrize("when", ["before the claim", "before the end"])
def test_connections_that_were_lost_while_they_idled_cost_nothing(
    tenant: Tenant, when: str, stack: LocalStack, database_name: str
) -> None:
    """As where a server restarts, or a firewall forgets."""

    def lose() -> None:
        stack.master.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE datname = '{database_name}' AND application_name = 'tests'"
        )

    task = single(at_the(1, lambda _: lose() if when == "before the end" else None))
    tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    with writing(tenant.id):
        pass  # so that there is one to lose
    if when == "before the claim":
        lose()
    assert deliver(task, message) == 3
    assert states(message) == [("succeeded", 1, 0)] * 3


@pytest.mark.parametrize("finish", [do_nothing, finish_with_effect])
def test_a_claim_that_fails_does_not_undo_the_job_before_it(
    tenant: Tenant, finish: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its row is locked for longer than a lock may take, or its statement is refused."""
    wanted_call = ledger.Wanted.call
    refused: list[UUID] = []

    def refuse(wanted: ledger.Wanted) -> Any:
        call = wanted_call.__get__(wanted)
        if not refused:
            refused.append(wanted.id)
            return call._replace(values=call.values | {"max_run": math.inf})
        return call

    def do(attempt: Attempt) -> None:
        monkeypatch.setattr(ledger.Wanted, "call", property(refuse))
        finish(attempt)

    task = single(at_the(1, do))
    message = enter_three(tenant, task)
    assert deliver(task, message) == 3
    assert refused == [message.job_ids[1]]
    assert states(message) == [("succeeded", 1, 0)] * 3


@pytest.mark.usefixtures("clusters")
def test_an_organization_that_is_not_served_any_more_stops_no_message(tenant: Tenant) -> None:

    def suspend_the_next(_: Attempt) -> None:
        set_placement(tenants[1].id, state=PlacementState.SUSPENDED)
        eventually(lambda: not is_served(tenants[1].id))

    task = single(at_the(1, suspend_the_next))
    tenants = tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    assert deliver(task, message) == 2
    assert states(message) == [("succeeded", 1, 0), ("queued", 0, 0), ("succeeded", 1, 0)]


def is_written(tenant: Tenant) -> bool:
    """By what this process believes."""
    try:
        placed(tenant.id, states=SERVED)
    except UnavailableOrganizationError:
        return False
    return True


@pytest.mark.usefixtures("clusters")
def test_one_that_arrives_elsewhere_is_waited_for_once_in_a_message(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docworker.jobs.kind, "TURN_SECONDS", 12)

    def move_the_next(_: Attempt) -> None:
        set_placement(tenants[1].id, state=PlacementState.MOVING)
        eventually(lambda: not is_written(tenants[1]))

    task = single(at_the(3, move_the_next))
    tenants = tenants_with_jobs(tenant, task, each=3)
    message = message_of(task)
    assert deliver(task, message) == 6
    succeeded = [("succeeded", 1, 0)] * 3
    assert states(message) == [*succeeded, *[("dispatched", 0, 1)] * 3, *succeeded]


@pytest.mark.usefixtures("clusters")
def test_one_that_has_arrived_elsewhere_holds_up_no_end_of_others(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docworker.jobs.kind, "TURN_SECONDS", 4)

    def move_the_next(_: Attempt) -> None:
        set_placement(tenants[1].id, cluster="east")
        eventually(lambda: place_of(tenants[1].id, database()).cluster == "east")

    task = single(at_the(1, move_the_next))
    tenants = tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    assert deliver(task, message) == 2
    set_placement(tenants[1].id, cluster="home")
    assert [one for one, _, _ in states(message)] == ["succeeded", "dispatched", "succeeded"]


def test_the_end_of_a_job_does_not_wait_for_the_lock_of_another_organization(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docworker.jobs.kind, "TURN_SECONDS", 120)
    held, seconds = Event(), list[float]()

    def hold_until_it_has_ended(job_id: UUID) -> None:
        with all_jobs_session() as session:
            session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(tenants[1].id)})
            held.set()
            began = time.monotonic()
            eventually(lambda: state(job_id).state == "succeeded", within_seconds=60)
            seconds.append(time.monotonic() - began)

    with reopened_database(lock_timeout=30.0), ThreadPoolExecutor(1) as pool:

        def hold_the_next(attempt: Attempt) -> None:
            pool.submit(hold_until_it_has_ended, attempt.id)
            assert held.wait(20)

        task = single(at_the(1, hold_the_next))
        tenants = tenants_with_jobs(tenant, task, each=1)
        message = message_of(task)
        assert deliver(task, message) == 3
    assert states(message) == [("succeeded", 1, 0)] * 3
    assert seconds[0] < 15


def test_an_organization_that_is_locked_keeps_no_others_from_being_claimed(tenant: Tenant) -> None:
    task = single(do_nothing)
    tenants = tenants_with_jobs(tenant, task, each=2)
    message = message_of(task)
    with reopened_database(lock_timeout=0.2), all_jobs_session() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(tenants[1].id)})
        assert deliver(task, message) == 4
    assert [one for one, _, _ in states(message)] == ["succeeded"] * 2 + ["dispatched"] * 2 + ["succeeded"] * 2


def test_a_stop_and_the_turn_hold_also_where_one_locked_organization_comes_after_another(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is waited for."""
    monkeypatch.setattr(docworker.jobs.kind, "TURN_SECONDS", 0)
    monkeypatch.setattr(docworker.jobs.execution.message, "_HAND_BACK_SECONDS", 0.5)
    task = single(do_nothing)
    tenants = tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    with reopened_database(lock_timeout=1.0), all_jobs_session() as session:
        for one in tenants:
            session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(one.id)})
        with capture_logs() as logs:
            assert deliver(task, message) == 0
    waits = Counter(line["event"] for line in logs)
    assert waits["jobs.passed_over"] == 1
    assert waits["jobs.not_handed_back"] <= 1
    assert [(one, attempts) for one, attempts, _ in states(message)] == [("dispatched", 0)] * 3


@pytest.mark.parametrize("takes_batches", [False, True])
def test_a_row_that_the_server_refuses_to_claim_keeps_no_others_of_its_message(
    tenant: Tenant, takes_batches: bool
) -> None:
    def finish_all(batch: Any) -> None:
        for attempt in batch.starting():
            attempt.finish()

    task = batched(finish_all) if takes_batches else single(do_nothing)
    if takes_batches:
        enter_batch(tenant, task, 3)
    message = message_of(task) if takes_batches else enter_three(tenant, task)
    with refusing_jobs(but=f"id <> '{message.job_ids[1]}'"):
        assert deliver(task, message) == 2
    assert [one for one, _, _ in states(message)] == ["succeeded", "dispatched", "succeeded"]


def test_the_jobs_of_a_claim_that_the_servers_do_not_take_go_back(tenant: Tenant) -> None:
    task = single(do_nothing)
    message = enter_three(tenant, task)
    with refusing_claims(), pytest.raises(OperationalError, match="No space left"):
        deliver(task, message)
    assert states(message) == [("queued", 0, 0)] * 3


@pytest.mark.usefixtures("clusters")
def test_the_end_of_a_job_whose_organization_is_being_dropped_is_not_waited_for(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docworker.jobs.kind, "TURN_SECONDS", 9)

    def drop(attempt: Attempt) -> None:
        set_placement(attempt.organization_id, state=PlacementState.DROPPING)
        eventually(lambda: not is_served(attempt.organization_id))

    task = single(at_the(1, drop))
    tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    with capture_logs() as logs:
        assert deliver(task, message) == 3
    assert [one for one, _, _ in states(message)] == ["running", "succeeded", "succeeded"]
    told = [one["event"] for one in logs if one["event"].startswith("attempts.end_")]
    assert told == ["attempts.end_not_written"]


def test_the_jobs_behind_a_slow_one_go_back_to_the_queue(tenant: Tenant) -> None:
    went_back: list[int] = []

    def dawdle(attempt: Attempt) -> None:
        with all_jobs_session() as session:
            went_back.append(ledger.requeue_held_up(session))
            session.execute(text("UPDATE ledger.jobs SET claimed_at = claimed_at - interval '5 seconds'"))
            went_back.append(ledger.requeue_held_up(session))

    task = single(at_the(1, dawdle))
    tenants_with_jobs(tenant, task, each=1)
    message = message_of(task)
    assert deliver(task, message) == 1
    assert went_back == [0, 2]
    assert states(message) == [("succeeded", 1, 0), ("queued", 0, 0), ("queued", 0, 0)]
    assert drain({task.kind.name: task.kind}) == 2


def test_a_slow_kind_travels_in_small_messages_and_a_quick_one_in_large_ones(tenant: Tenant) -> None:
    task = single(do_nothing)
    kinds = {task.kind.name: task.kind}
    size_at = [
        limits_of(kinds, database().settings, ledger.Load(running_seconds={task.kind.name: seconds})).size_of(
            task.kind.name
        )
        for seconds in (0.0, 0.001, 0.0125, 1.0, 100.0)
    ]
    assert size_at == [(1, 50), (1, 50), (1, 10), (1, 1), (1, 1)]
    just_begun = ledger.Load(running_seconds={task.kind.name: 0.001})
    known = limits_of(kinds, database().settings, just_begun, usual_seconds=lambda _: 0.05)
    assert known.size_of(task.kind.name) == (1, 5)


def test_jobs_of_a_kind_with_a_cap_run_side_by_side_up_to_it(tenant: Tenant) -> None:
    task = single(do_nothing, max_running=3)
    size = limits_of({task.kind.name: task.kind}, database().settings, ledger.Load()).size_of(task.kind.name)
    assert size == (1, 1)
