"""Kinds of job made for one test each, and short words for entering, running and looking at their jobs."""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.ledger import Message
from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.dispatch_limits import limits_of
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.kind import Arguments
from docworker.jobs.task import AsyncAttempt, Attempt, Batch, batch_job, job
from docworker.jobs.testing import advance_clock, dispatch_due, drain, run
from tests.support.tenants import Tenant

numbers = itertools.count()
Do = Callable[[Attempt], None]


class Number(Arguments):
    number: int


def single(do: Do, **options: Any) -> Any:
    """A kind of job that does this."""

    def function(attempt: Attempt) -> None:
        do(attempt)

    return job(name=f"tests.single_{next(numbers)}", **options)(function)


def awaiting(do: Callable[[AsyncAttempt], Awaitable[None]], **options: Any) -> Any:
    """A coroutine kind that does this."""

    async def function(attempt: AsyncAttempt) -> None:
        await do(attempt)

    return job(name=f"tests.awaiting_{next(numbers)}", **options)(function)


def batched(do: Callable[[Batch], None], **options: Any) -> Any:
    return batch_job(arguments=Number, name=f"tests.batched_{next(numbers)}", **options)(do)


def do_nothing(attempt: Attempt) -> None: ...


def raising(error: BaseException) -> Do:
    def do(attempt: Attempt) -> None:
        raise error

    return do


def enter(tenant: Tenant, task: Any, **options: Any) -> UUID:
    with writing(tenant.id) as session:
        return enqueue(session, task, **options)


def enter_batch(tenant: Tenant, task: Any, count: int) -> list[UUID]:
    with writing(tenant.id) as session:
        return enqueue_many(session, task, [{"number": number} for number in range(count)])


def deliver(task: Any) -> int:
    """What is due of this kind, run once."""
    return run(dispatch_due({task.kind.name: task.kind}), {task.kind.name: task.kind})


def message_of(task: Any) -> Message:
    """All its due jobs in one message."""
    kinds = {task.kind.name: task.kind}
    with all_jobs_session() as session:
        load = ledger.load(session)
        limits = limits_of(kinds, database().settings, load)
        look = ledger.dispatch_due(session, ledger.Turns(), load, limits, capacity=1, redispatch_after_seconds=60)
    (message,) = look.messages
    return message


def finish(task: Any) -> int:
    """Until the kind's jobs have all ended, however long they have to wait between."""
    total = 0
    while ran := drain({task.kind.name: task.kind}):
        total += ran
        advance_clock(3600)
    return total


def state(job_id: UUID) -> Job:
    with all_jobs_session() as session:
        return ledger.get(session, job_id)
