"""`enqueue` and `enqueue_many`: jobs enter the ledger in the caller's own transaction.

No commit, no job; commit, and the job is as safe as the data. The broker is not involved: a dispatcher carries on.
"""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack, overload
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger import insert_jobs
from docworker.db.ledger.values import shortened
from docworker.db.sessions import organization_of
from docworker.jobs.kind import Kind


class EnqueueOptions(TypedDict, total=False):
    """As `enqueue` has them; keys and ids come one for each job."""

    run_at: datetime | None
    priority: int | None
    unique_keys: Iterable[str] | None
    max_attempts: int | None
    ids: Iterable[UUID] | None
    parent_id: UUID | None


@overload
def enqueue(
    session: Session,
    task: Any,
    /,
    *,
    run_at: datetime | None = None,
    priority: int | None = None,
    unique_key: str | None = None,
    max_attempts: int | None = None,
    id: UUID | None = None,
    parent_id: UUID | None = None,
    **arguments: Any,
) -> UUID: ...


@overload
def enqueue(
    session: AsyncSession,
    task: Any,
    /,
    *,
    run_at: datetime | None = None,
    priority: int | None = None,
    unique_key: str | None = None,
    max_attempts: int | None = None,
    id: UUID | None = None,
    parent_id: UUID | None = None,
    **arguments: Any,
) -> Awaitable[UUID]: ...


def enqueue(
    session: Session | AsyncSession,
    task: Any,
    /,
    *,
    run_at: datetime | None = None,
    priority: int | None = None,
    unique_key: str | None = None,
    max_attempts: int | None = None,
    id: UUID | None = None,
    parent_id: UUID | None = None,
    **arguments: Any,
) -> UUID | Awaitable[UUID]:
    """Enqueue one job of `task` for the session's organization; returns its id (awaitable with an AsyncSession).

    `run_at` delays it (aware datetime); `priority` is 0 (first) to 9; `id` makes the call idempotent; while a job with
    an equal `unique_key` waits unclaimed, that job takes these arguments instead of a second one.

    Raises InvalidArgumentError when the arguments do not fit the task's signature, or an option or argument is nothing
    that the ledger could read back. The server has seen nothing then: the caller's transaction goes on.
    """
    options: EnqueueOptions = {
        "run_at": run_at,
        "priority": priority,
        "unique_keys": None if unique_key is None else [unique_key],
        "max_attempts": max_attempts,
        "ids": None if id is None else [id],
        "parent_id": parent_id,
    }
    if isinstance(session, AsyncSession):
        return _first_of(enqueue_many(session, task, [arguments], **options))
    return enqueue_many(session, task, [arguments], **options)[0]


@overload
def enqueue_many(
    session: Session, task: Any, arguments: Iterable[Mapping[str, Any]], **options: Unpack[EnqueueOptions]
) -> list[UUID]: ...


@overload
def enqueue_many(
    session: AsyncSession, task: Any, arguments: Iterable[Mapping[str, Any]], **options: Unpack[EnqueueOptions]
) -> Awaitable[list[UUID]]: ...


def enqueue_many(
    session: Session | AsyncSession,
    task: Any,
    arguments: Iterable[Mapping[str, Any]],
    **options: Unpack[EnqueueOptions],
) -> list[UUID] | Awaitable[list[UUID]]:
    """Enqueue many jobs of one task with one statement; as `enqueue`, with one key or id for each of the arguments."""
    kind = kind_of(task)
    kept = [kind.serialize(one) for one in _listed("arguments", arguments)]
    if isinstance(session, AsyncSession):
        return session.run_sync(_insert, kind, kept, options)
    return _insert(session, kind, kept, options)


def _insert(session: Session, kind: Kind, kept: Sequence[dict[str, Any]], options: EnqueueOptions) -> list[UUID]:
    ids, unique_keys = options.get("ids"), options.get("unique_keys")
    priority, max_attempts = options.get("priority"), options.get("max_attempts")
    if ids is not None and unique_keys is not None:
        raise InvalidArgumentError("give an id or a unique_key, not both: an id names one job, a key folds several")
    return insert_jobs(
        session,
        organization_of(session),
        kind.name,
        kept,
        run_at=options.get("run_at"),
        priority=kind.priority if priority is None else priority,
        unique_keys=None if unique_keys is None else _listed("unique_keys", unique_keys),
        max_attempts=kind.max_attempts if max_attempts is None else max_attempts,
        ids=None if ids is None else _listed("ids", ids),
        parent_id=options.get("parent_id"),
    )


async def _first_of(ids: Awaitable[list[UUID]]) -> UUID:
    return (await ids)[0]


def _listed(name: str, given: Any) -> list[Any]:
    """What an iterable gives, all before the server sees anything; what it raises itself is the caller's to see."""
    try:
        items = iter(given)
    except TypeError:
        raise InvalidArgumentError(f"{name} come one for each job, in a sequence; got {shortened(given)}") from None
    return list(items)


def kind_of(task: Any) -> Kind:
    """The kind behind a task; raises InvalidArgumentError for a Celery task that is not one of the ledger's."""
    kind = getattr(task, "kind", None)
    if not isinstance(kind, Kind):
        raise InvalidArgumentError(f"{task!r} is not a job: make it with @job or @batch_job of docworker.jobs.task")
    return kind
