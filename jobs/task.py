"""`@job` for a function that runs one job, `@batch_job` for one that runs several at once: what makes a kind.

Both are Celery tasks. A message only names jobs (`jobs.execution.message` works it off), and everything that counts
is in the ledger.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, overload
from uuid import UUID

from celery import Task, shared_task
from pydantic import BaseModel
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.errors import ConfigurationError, InvalidArgumentError
from docworker.db.ledger import Failure, Part
from docworker.db.ledger.values import check_nesting
from docworker.db.sessions import writing
from docworker.db.settings import HOME
from docworker.jobs.execution.attempts import A
from docworker.jobs.execution.attempts import Attempt as Attempt
from docworker.jobs.execution.attempts import Batch as Batch
from docworker.jobs.execution.coroutines import AsyncAttempt as AsyncAttempt
from docworker.jobs.execution.fork_guard import no_way_out_of_a_fork
from docworker.jobs.execution.message import run_message
from docworker.jobs.kind import Kind, arguments_of, check_function

CONCURRENCY = 20
"""Of a coroutine kind that does not say."""


@dataclass(frozen=True)
class _Definition:
    kind: Kind
    function: Callable[..., Any]

    @property
    def place(self) -> str:
        return place_of(self.function)


_defined: dict[str, _Definition] = {}
"""Every kind that was defined in this process, by name."""


class LedgerTask(Task):
    """The Celery task of a kind. Its messages carry an organization and job ids."""

    abstract = True

    @property
    def kind(self) -> Kind:
        """What was defined last: Celery keeps the first task of a module that is loaded again."""
        return _defined[str(self.name)].kind


class Limits(TypedDict, total=False):
    """What both decorators take besides; the defaults are `Kind`'s. `name` is that of the function unless given."""

    name: str
    max_attempts: int
    priority: int
    soft_limit_seconds: float
    hard_limit_seconds: float
    max_running: int
    concurrency: int
    on_failure: Callable[[Session, UUID, dict[str, Any], Failure], None]


@overload
def job(function: Callable[..., Any], /) -> LedgerTask: ...


@overload
def job(**limits: Unpack[Limits]) -> Callable[[Callable[..., Any]], LedgerTask]: ...


def job(
    function: Callable[..., Any] | None = None, /, **limits: Unpack[Limits]
) -> LedgerTask | Callable[[Callable[..., Any]], LedgerTask]:
    """Make a Celery task of `function(attempt, **arguments)`, which runs one job.

    The function ends its job with `attempt.finish(effect)`; if it just returns, the job succeeds with no effect, unless
    `attempt.should_stop` has told it to stop: then it is given back.
    Arguments are validated against its signature when a job is enqueued.

    A coroutine function gets an `AsyncAttempt` and runs on the event loop of its process, beside up to `concurrency`
    jobs of its kind.
    """

    def decorate(function: Callable[..., Any]) -> LedgerTask:
        named = Limits(name=function.__name__) | limits
        if inspect.iscoroutinefunction(function):
            named = Limits(concurrency=CONCURRENCY) | named
            return _task_of(Kind(arguments=arguments_of(function), run=_awaiting(function), **named), function)
        if "concurrency" in named:
            raise ConfigurationError(f"{named['name']}: concurrency is of coroutine functions: write `async def`")
        return _task_of(Kind(arguments=arguments_of(function), run=_one_by_one(function), **named), function)

    return decorate if function is None else decorate(function)


def _one_by_one(function: Callable[..., Any]) -> Callable[[Batch], None]:
    def run(batch: Batch) -> None:
        for attempt in batch.starting():
            with no_way_out_of_a_fork():
                function(attempt, **_named(attempt.arguments))
            if not (attempt.settled or attempt.saw_stop or attempt.failed_finish):
                attempt.finish()

    return run


def _awaiting(function: Callable[..., Any]) -> Callable[[AsyncAttempt], Awaitable[None]]:
    async def run(attempt: AsyncAttempt) -> None:
        with no_way_out_of_a_fork():
            await function(attempt, **_named(attempt.arguments))

    return run


def _named(arguments: BaseModel) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in type(arguments).model_fields}


def batch_job(*, arguments: type[A], **limits: Unpack[Limits]) -> Callable[[Callable[[Batch[A]], None]], LedgerTask]:
    """Make a Celery task of `function(batch)`, which runs up to `batch_size` jobs of one organization.

    The function settles each attempt that it gets from `batch.starting()`. One that it leaves unsettled has failed; one
    that it never came to is given back, and so are all when the worker stops, without using an attempt.
    """

    if arguments.model_config.get("extra") is None:
        raise ConfigurationError(
            f"{arguments.__name__} would drop arguments that it does not know, such as a newer release's: derive it "
            "from docworker.jobs.kind.Arguments, or set `extra` in its model_config"
        )

    def decorate(function: Callable[[Batch[A]], None]) -> LedgerTask:
        check_function(function)
        if inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"{function.__name__}: a batch is for an ordinary function, not an async one")
        named = Limits(name=function.__name__) | limits
        return _task_of(Kind(arguments=arguments, run=function, takes_batches=True, **named), function)

    return decorate


def place_of(function: Callable[..., Any]) -> str:
    """Where a function is defined, for messages."""
    code = getattr(function, "__code__", None)
    line = "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
    return f"{function.__module__}:{function.__qualname__}{line}"


def is_same_place(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two functions are one that was loaded twice: a module reloaded, or run as a program and imported too."""
    files = [getattr(getattr(each, "__code__", None), "co_filename", None) for each in (one, other)]
    is_same_module = one.__module__ == other.__module__ or files[0] == files[1] is not None
    return is_same_module and one.__qualname__ == other.__qualname__


def _define(kind: Kind, function: Callable[..., Any]) -> None:
    """Raises ConfigurationError when another function has the kind's name: one of them would run the other's jobs."""
    earlier = _defined.get(kind.name)
    if earlier is not None and not is_same_place(earlier.function, function):
        raise ConfigurationError(
            f"two kinds of job are called {kind.name!r}: {earlier.place} and {place_of(function)}. "
            "Give one of them another name, with `name=`"
        )
    _defined[kind.name] = _Definition(kind, function)


def _task_of(kind: Kind, function: Callable[..., Any]) -> LedgerTask:
    _define(kind, function)

    @functools.wraps(function)
    def run(self: LedgerTask, organization_id: str, job_ids: Sequence[str] | None = None, **arguments: Any) -> None:
        if job_ids is None:
            enter(self.kind, UUID(organization_id), UUID(self.request.id), arguments)
        else:
            _hear(**arguments)
            with suppress(KeyboardInterrupt):  # a worker handles the real one by a signal
                run_message(self.kind, _parts(organization_id, job_ids, **arguments), UUID(self.request.id))

    # Celery would check calls against the wrapped function's signature.
    del run.__wrapped__
    task: LedgerTask = shared_task(
        bind=True,
        base=LedgerTask,
        name=kind.name,
        typing=False,
        soft_time_limit=kind.soft_limit_seconds,
        time_limit=kind.hard_limit_seconds,
    )(run)
    return task


def _hear(timeline: str = "", **_newer: Any) -> None:
    """The timeline that a message was planned on. It names the system of its cluster, and is noted for that."""
    database().cluster(HOME).timelines.hear(str(timeline))


def _parts(organization_id: str, job_ids: Sequence[str], others: Iterable[Any] = (), **_newer: Any) -> list[Part]:
    """The parts of a message as it travels. The first one is where a release before this one looks for its only one."""
    return [
        Part(UUID(organization), tuple(UUID(one) for one in ids))
        for organization, ids in [(organization_id, job_ids), *others]
    ]


def enter(kind: Kind, organization_id: UUID, job_id: UUID, arguments: dict[str, Any]) -> None:
    """A plain Celery call becomes a job under its Celery id, whatever number of times it is delivered.

    Raises InvalidArgumentError for arguments that the ledger cannot keep.
    """
    check_nesting(arguments, f"the arguments of {kind.name}")
    try:
        kept = kind.serialize(arguments)
    except InvalidArgumentError:
        kept = arguments  # perhaps of another release: the ledger keeps the job for it, and the reason
    with writing(organization_id) as session:
        ledger.insert_jobs(
            session,
            organization_id,
            kind.name,
            [kept],
            max_attempts=kind.max_attempts,
            priority=kind.priority,
            ids=[job_id],
        )


def limits_of_message(task: Any) -> dict[str, float]:
    """Celery's options for a message with several jobs of this kind, the last of which may have its full time."""
    more = task.kind.turn_seconds
    return {"soft_time_limit": task.soft_time_limit + more, "time_limit": task.time_limit + more}


def known_kinds(app: Any) -> dict[str, Kind]:
    """The kinds of job among the tasks of a Celery app, by name; imports the app's task modules.

    Raises ConfigurationError when a plain Celery task has the name of a kind.
    """
    app.loader.import_default_modules()
    app.finalize()
    for name, definition in _defined.items():
        task = app.tasks.get(name)
        if task is not None and not isinstance(task, LedgerTask):
            raise ConfigurationError(
                f"a kind of job and a Celery task are called {name!r}: {definition.place} and "
                f"{type(task).__module__}:{type(task).__qualname__}. Give one of them another name"
            )
    return {task.kind.name: task.kind for task in app.tasks.values() if isinstance(task, LedgerTask)}
