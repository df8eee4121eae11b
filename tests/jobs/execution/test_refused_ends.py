"""The master refuses the ends of attempts and takes claims and rescues, as one whose disk is full: who is at the end of
a job waits with it, nobody is charged, and nothing new is begun that could not end either."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from docworker.db import ledger
from docworker.db.errors import BacklogFullError
from docworker.db.ledger import Failure
from docworker.db.sessions import all_jobs_session
from docworker.jobs.execution.leases import clear_stop, leases, request_stop
from docworker.jobs.execution.message import run_message
from docworker.jobs.execution.outcomes import settle_error
from docworker.jobs.task import AsyncAttempt, Attempt, Batch
from docworker.jobs.testing import dispatch_due, run
from docworker.worker.dispatcher.judge import Judge
from docworker.worker.local.stack import LocalStack
from tests.support.adhoc_kinds import (
    awaiting,
    batched,
    deliver,
    do_nothing,
    enter,
    enter_batch,
    message_of,
    raising,
    single,
    state,
)
from tests.support.database import reopened_database
from tests.support.ledger import LedgerSteps
from tests.support.refusals import refusing_ends
from tests.support.tenants import Tenant
from tests.support.troubled import own_database, shut
from tests.support.waiting import eventually

LEASE_SECONDS = 1.5
FAR_SECONDS = 5 * LEASE_SECONDS


@pytest.fixture(autouse=True)
def _short_leases(tenant: Tenant) -> Iterator[None]:
    with reopened_database(lease=LEASE_SECONDS):
        yield
    clear_stop()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@contextmanager
def refused(work: Callable[[], Any], pool: ThreadPoolExecutor, **what: Any) -> Iterator[Future[Any]]:
    """Have it run in a thread; the block begins when an end of this process is refused. After it they are taken."""
    with refusing_ends(**what):
        future = pool.submit(work)
        eventually(lambda: leases().held_up, what="an end to be refused")
        yield future


def rescue_for(tenant: Tenant, seconds: float = FAR_SECONDS) -> int:
    """As a dispatcher does all the time; returns how many of the tenant's jobs were rescued."""
    judge = Judge(LEASE_SECONDS)
    ends, rescued = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        rescued += sum(one.organization_id == tenant.id for one in judge.look())
        time.sleep(0.1)
    return rescued


def told(job_id: UUID) -> tuple[str, int, str | None]:
    job = state(job_id)
    return job.state, job.attempt, job.error_class


def test_the_end_waits_for_many_leases_and_past_the_limit_of_the_job(tenant: Tenant, pool: ThreadPoolExecutor) -> None:
    task = single(raising(ValueError("no such thing")), soft_limit_seconds=1, hard_limit_seconds=3)
    job_id = enter(tenant, task)
    with capture_logs() as logs, refused(lambda: deliver(task), pool) as delivering:
        assert rescue_for(tenant) == 0
        assert not delivering.done()
        assert state(job_id).state == "running"
    assert delivering.result(30) == 1
    assert told(job_id) == ("queued", 1, "ValueError")
    assert [one["jobs"] for one in logs if one["event"] == "attempts.end_refused"] == [[str(job_id)]]
    assert not leases().held_up


def test_so_do_the_ends_of_a_batch_begun_or_not(tenant: Tenant, pool: ThreadPoolExecutor) -> None:
    def do(batch: Batch) -> None:
        next(batch.starting())
        raise ValueError("at the first one")

    task = batched(do, soft_limit_seconds=1, hard_limit_seconds=3)
    ids = enter_batch(tenant, task, 3)
    with refused(lambda: deliver(task), pool) as delivering:
        assert rescue_for(tenant) == 0
    delivering.result(30)
    assert [told(one)[:2] for one in ids] == [("queued", 1), ("queued", 0), ("queued", 0)]


def test_a_database_of_one_organization_that_cannot_be_reached_is_not_waited_for_for_ever(
    stack: LocalStack, template: str, pool: ThreadPoolExecutor
) -> None:
    shut_by_it = ExitStack()

    def shut_and_fail(attempt: Attempt) -> None:
        shut_by_it.enter_context(shut(stack, own))
        raise ValueError("no such thing")

    with own_database(stack, template) as own, shut_by_it, capture_logs() as logs:
        task = single(shut_and_fail)
        steps = LedgerSteps(database=own)
        steps.enqueue(kind=task.kind.name, arguments=[{}])
        began = time.monotonic()
        assert pool.submit(run, steps.dispatch(), {task.kind.name: task.kind}).result(60) == 1
        assert time.monotonic() - began > LEASE_SECONDS, "it may come back"
    assert "attempts.end_not_written" in [one["event"] for one in logs]


def test_who_loses_the_job_waits_no_longer(tenant: Tenant, pool: ThreadPoolExecutor) -> None:
    task = single(raising(ValueError("no such thing")))
    job_id = enter(tenant, task)
    with refused(lambda: deliver(task), pool, retries=True) as delivering:
        with all_jobs_session() as session:
            ledger.cancel(session, ledger.Filter(), [job_id])
        delivering.result(20)
    assert state(job_id).state == "cancelled"


def settle_each(batch: Batch) -> None:
    for attempt in batch.starting():
        settle_error(attempt, ValueError("no such thing"))


def fail_all(batch: Batch) -> None:
    list(batch.starting())
    raise ValueError("no such thing")


@pytest.mark.parametrize("do", [settle_each, fail_all])
def test_at_the_deadline_of_a_stop_jobs_that_wait_are_given_back_and_pay_nothing(
    tenant: Tenant, pool: ThreadPoolExecutor, do: Callable[[Batch], None]
) -> None:
    task = batched(do)
    ids = enter_batch(tenant, task, 2)
    with refused(lambda: deliver(task), pool, but="NEW.given_back > OLD.given_back") as delivering:
        request_stop(2)
        delivering.result(30)
        assert [told(one) for one in ids] == [("queued", 0, None)] * 2


def test_a_stop_has_its_end_also_when_nothing_can_be_written(tenant: Tenant, pool: ThreadPoolExecutor) -> None:
    task = single(raising(ValueError("no such thing")))
    job_id = enter(tenant, task)
    with capture_logs() as logs, refused(lambda: deliver(task), pool) as delivering:
        request_stop(2)
        delivering.result(30)
        assert state(job_id).state == "running"
    assert "attempts.end_not_written" in [one["event"] for one in logs]


def test_coroutines_of_a_process_that_waits_begin_no_more(tenant: Tenant, pool: ThreadPoolExecutor) -> None:
    begun: list[UUID] = []

    async def do(attempt: AsyncAttempt) -> None:
        begun.append(attempt.id)
        if len(begun) == 1:
            raise ValueError("at the first one")
        while not leases().held_up:
            await asyncio.sleep(0.05)

    task = awaiting(do, concurrency=5)
    ids = [enter(tenant, task) for _ in range(5)]
    message, two_at_a_time = message_of(task), replace(task.kind, concurrency=2)

    def work() -> int:
        return run_message(two_at_a_time, message.parts, message.id)

    with refused(work, pool, but="NEW.state = 'succeeded'") as delivering:
        eventually(lambda: len(begun) == 2, what="the second one")
        assert rescue_for(tenant) == 0
    delivering.result(30)
    assert len(begun) == 2
    assert sorted(told(one)[:2] for one in ids) == [("queued", 0)] * 3 + [("queued", 1), ("succeeded", 1)]


def test_another_thread_of_a_process_that_waits_claims_nothing_until_the_end_is_written(
    tenant: Tenant, pool: ThreadPoolExecutor
) -> None:
    failing, other = single(raising(ValueError("no such thing"))), single(do_nothing)
    enter(tenant, failing)
    job_id = enter(tenant, other)
    kinds = {other.kind.name: other.kind}
    messages = dispatch_due(kinds)
    with refused(lambda: deliver(failing), pool):
        running = pool.submit(run, messages, kinds)
        rescue_for(tenant, 1)
        assert state(job_id).state == "dispatched"
    assert running.result(30) == 1
    assert state(job_id).state == "succeeded"


def test_what_no_server_refuses_is_waited_for_during_one_lease(tenant: Tenant, pool: ThreadPoolExecutor) -> None:
    """Such as a full backlog in `on_failure`, which only this process may be able to empty."""

    def tell(session: Session, job_id: UUID, arguments: dict[str, Any], failure: Failure) -> None:
        raise BacklogFullError("full")

    task = single(raising(ValueError("no such thing")), max_attempts=1, on_failure=tell)
    job_id = enter(tenant, task)
    delivering = pool.submit(deliver, task)
    eventually(lambda: leases().held_up, what="the end to be refused")
    delivering.result(10 * LEASE_SECONDS)
    assert state(job_id).state == "running"


def test_a_function_that_settles_a_job_itself_waits_as_well(tenant: Tenant, pool: ThreadPoolExecutor) -> None:
    task = batched(settle_each, soft_limit_seconds=1, hard_limit_seconds=3)
    (job_id,) = enter_batch(tenant, task, 1)
    with refused(lambda: deliver(task), pool) as delivering:
        assert rescue_for(tenant) == 0
    delivering.result(30)
    assert told(job_id) == ("queued", 1, "ValueError")
