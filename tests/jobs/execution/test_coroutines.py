"""Coroutine kinds: many jobs at a time on one event loop, each with a claim, a limit and an end of its own."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

import docworker.aio
from docworker.db import ledger
from docworker.db.models import Document, Job
from docworker.db.models.base import new_id
from docworker.db.sessions import writing
from docworker.db.sessions.aio import AsyncTenantSession
from docworker.jobs.execution.coroutines import close_event_loop
from docworker.jobs.execution.leases import clear_stop, request_stop
from docworker.jobs.execution.message import run_message
from docworker.jobs.task import AsyncAttempt
from tests.support.adhoc_kinds import awaiting, enter, message_of, state
from tests.support.tenants import Tenant
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _no_stop_and_no_loop_left() -> Iterator[None]:
    yield
    clear_stop()
    close_event_loop()


def delivered(task: Any) -> int:
    """How many jobs its one message has run."""
    message = message_of(task)
    return run_message(task.kind, message.parts, message.id)


class Crowd:
    """Counts who is in it at the same time; `until` so many have come, each waits."""

    def __init__(self, until: int) -> None:
        self.most = self._here = self._came = 0
        self._until = until
        self._all_here = asyncio.Event()

    async def join(self) -> None:
        self._here += 1
        self._came += 1
        self.most = max(self.most, self._here)
        if self._came == self._until:
            self._all_here.set()
        await asyncio.wait_for(self._all_here.wait(), 30)
        self._here -= 1


def test_as_many_run_at_a_time_as_the_kind_says_and_no_more(tenant: Tenant) -> None:
    crowd = Crowd(until=5)

    async def do(_attempt: AsyncAttempt) -> None:
        await crowd.join()

    task = awaiting(do, concurrency=5)
    ids = [enter(tenant, task) for _ in range(12)]
    eventually(lambda: (delivered(task) or True) and {state(one).state for one in ids} == {"succeeded"})
    assert crowd.most == 5
    assert {state(one).attempt for one in ids} == {1}


def test_a_coroutine_tells_how_far_it_is_goes_on_and_puts_itself_off(tenant: Tenant) -> None:
    async def do(attempt: AsyncAttempt) -> None:
        await attempt.progress(1, 2)
        await attempt.log("asked", by="coroutine")
        if attempt.checkpointed is None:
            await attempt.checkpoint({"asked": True})
            await attempt.snooze(0)

    task = awaiting(do)
    job_id = enter(tenant, task)
    eventually(lambda: (delivered(task) or True) and state(job_id).state == "succeeded")
    told = docworker.get_story(tenant.id, job_id).attempts
    assert [(one.outcome, [line["by"] for line in one.log]) for one in told] == [
        ("snoozed", ["coroutine"]),
        ("succeeded", ["coroutine"]),
    ]
    assert all(one.progress is not None and one.progress["done"] == 1 for one in told)


def test_each_job_is_its_own_tenants_and_reads_and_writes_by_asyncio(tenant: Tenant) -> None:
    tenants = [tenant, Tenant(), Tenant()]
    for one in tenants:
        one.write("/a.txt", f"of {one.id}")
    threads: set[int] = set()

    async def do(attempt: AsyncAttempt) -> None:
        threads.add(threading.get_ident())
        await attempt.progress(1, 2, "half")
        found = await attempt.read(lambda session: session.scalars(select(Document.organization_id)).all())
        async with docworker.aio.reading(attempt.organization_id) as session:
            assert list(await session.scalars(select(Document.organization_id))) == list(found)

        async def effect(session: AsyncTenantSession) -> dict[str, Any]:
            titles = await session.scalars(select(Document.title))
            return {"seen": [str(one) for one in found], "titles": len(list(titles)), "key": attempt.idempotency_key}

        await attempt.finish(effect)

    task = awaiting(do)
    ids = {enter(one, task): one for one in tenants}
    assert delivered(task) == 3
    for job_id, one in ids.items():
        job = state(job_id)
        assert job.state == "succeeded", job.error_message
        assert job.result == {"seen": [str(one.id)], "titles": 1, "key": str(job_id)}
        assert (job.progress or {})["message"] == "half"
    assert threads != {threading.get_ident()}


def test_one_that_fails_one_that_takes_too_long_and_one_that_exits_cost_nobody_else(tenant: Tenant) -> None:
    doings: dict[UUID, str] = {}

    async def do(attempt: AsyncAttempt) -> None:
        match doings[attempt.id]:
            case "fails":
                raise ValueError("no such thing")
            case "sleeps":
                await asyncio.sleep(600)
            case "exits":
                raise SystemExit(3)

    task = awaiting(do, soft_limit_seconds=1, hard_limit_seconds=5, max_attempts=1)
    for what in ("fails", "sleeps", "exits", "works", "works"):
        doings[enter(tenant, task)] = what
    assert delivered(task) == 5
    ended = {what: state(job_id) for job_id, what in doings.items()}
    assert Counter(state(one).state for one in doings) == {"failed": 3, "succeeded": 2}
    assert ended["fails"].error_message == "no such thing"
    assert ended["sleeps"].error_message == "ran longer than its soft limit of 1 s"
    assert ended["exits"].error_class == "SystemExit"


def test_what_is_cancelled_stops_and_the_others_go_on(tenant: Tenant) -> None:
    begun: list[UUID] = []
    stopped: list[UUID] = []
    others_go_on = asyncio.Event()

    async def do(attempt: AsyncAttempt) -> None:
        begun.append(attempt.id)
        try:
            await asyncio.wait_for(others_go_on.wait(), 30)
        except asyncio.CancelledError:
            stopped.append(attempt.id)
            others_go_on.set()
            raise

    task = awaiting(do)
    ids = [enter(tenant, task) for _ in range(3)]
    thread = threading.Thread(target=delivered, args=[task])
    thread.start()
    eventually(lambda: len(begun) == 3)
    with writing(tenant.id) as session:
        assert ledger.cancel(session, ledger.Filter(), ids[:1]) == ids[:1]
    thread.join(30)
    assert stopped == ids[:1]
    assert [state(one).state for one in ids] == ["cancelled", "succeeded", "succeeded"]


def test_at_a_stop_it_begins_no_more_and_who_sees_it_is_given_back_free(tenant: Tenant) -> None:
    async def do(attempt: AsyncAttempt) -> None:
        request_stop(60)
        while not attempt.should_stop:
            await asyncio.sleep(0.01)

    task = awaiting(do, concurrency=2)
    ids = [enter(tenant, task) for _ in range(6)]
    assert delivered(task) == 2
    assert {(one.state, one.attempt) for one in map(state, ids)} == {("queued", 0)}


def test_one_that_blocks_the_loop_is_told_of(tenant: Tenant) -> None:
    async def do(_attempt: AsyncAttempt) -> None:
        time.sleep(1.5)
        await asyncio.sleep(0.3)

    task = awaiting(do)
    job_id = enter(tenant, task)
    with capture_logs() as logs:
        assert delivered(task) == 1
    assert state(job_id).state == "succeeded"
    assert [one["seconds"] >= 1 for one in logs if one["event"] == "loop.blocked"] == [True]


def test_what_was_taken_over_meanwhile_writes_nothing(tenant: Tenant) -> None:
    async def do(attempt: AsyncAttempt) -> None:
        with writing(tenant.id) as session:
            session.get_one(Job, (tenant.id, attempt.id)).claim_token = UUID(int=1)

        def effect(session: Session) -> None:
            session.add(Document(organization_id=tenant.id, id=new_id(), filename="b.txt", content="written"))

        await attempt.finish(effect)

    task = awaiting(do)
    enter(tenant, task)
    assert delivered(task) == 1
    with writing(tenant.id) as session:
        assert session.scalars(select(Document)).all() == []
