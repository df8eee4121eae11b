"""`enqueue` and `enqueue_many`: jobs enter the ledger in the caller's own transaction.

No commit, no job; commit, and the job is as safe as the data. The broker is not involved: a dispatcher carries on.
The transaction is one of a session of ours, or of any program's own session or connection (`db.ledger.producing`).
"""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack, cast, overload
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger import insert_jobs
from docworker.db.ledger.enqueue import checked_rows
from docworker.db.ledger.producing import AsyncProducer, Producer, enqueue_by
from docworker.db.ledger.values import shortened
from docworker.db.ledger.waiting.gates import After, When, checked_after, wait_for
from docworker.db.ledger.waiting.keys import checked_limit_key, under_key
from docworker.db.ledger.waiting.order import InOrder, OnFailure, checked_order, in_order
from docworker.db.sessions import TenantSession, organization_of
from docworker.jobs.kind import Kind
from docworker.jobs.tracing import enqueuing


class EnqueueOptions(TypedDict, total=False):
    """As `enqueue` has them; keys and ids come one for each job."""

    organization_id: UUID | None
    run_at: datetime | None
    priority: int | None
    unique_keys: Iterable[str] | None
    max_attempts: int | None
    ids: Iterable[UUID] | None
    parent_id: UUID | None
    after: Iterable[UUID] | None
    after_children_of: UUID | None
    when: When
    order_keys: Iterable[str] | None
    on_failure: OnFailure
    limit_key: str | None


@overload
def enqueue(
    session: Producer,
    task: Any,
    /,
    *,
    organization_id: UUID | None = None,
    run_at: datetime | None = None,
    priority: int | None = None,
    unique_key: str | None = None,
    max_attempts: int | None = None,
    id: UUID | None = None,
    parent_id: UUID | None = None,
    after: Iterable[UUID] | None = None,
    after_children_of: UUID | None = None,
    when: When = "succeeded",
    order_key: str | None = None,
    on_failure: OnFailure = "block",
    limit_key: str | None = None,
    **arguments: Any,
) -> UUID: ...


@overload
def enqueue(
    session: AsyncProducer,
    task: Any,
    /,
    *,
    organization_id: UUID | None = None,
    run_at: datetime | None = None,
    priority: int | None = None,
    unique_key: str | None = None,
    max_attempts: int | None = None,
    id: UUID | None = None,
    parent_id: UUID | None = None,
    after: Iterable[UUID] | None = None,
    after_children_of: UUID | None = None,
    when: When = "succeeded",
    order_key: str | None = None,
    on_failure: OnFailure = "block",
    limit_key: str | None = None,
    **arguments: Any,
) -> Awaitable[UUID]: ...


def enqueue(
    session: Producer | AsyncProducer,
    task: Any,
    /,
    *,
    organization_id: UUID | None = None,
    run_at: datetime | None = None,
    priority: int | None = None,
    unique_key: str | None = None,
    max_attempts: int | None = None,
    id: UUID | None = None,
    parent_id: UUID | None = None,
    after: Iterable[UUID] | None = None,
    after_children_of: UUID | None = None,
    when: When = "succeeded",
    order_key: str | None = None,
    on_failure: OnFailure = "block",
    limit_key: str | None = None,
    **arguments: Any,
) -> UUID | Awaitable[UUID]:
    """Enqueue one job of `task`; returns its id (awaitable with what is asyncio's).

    `session` is one of ours and has its organization; or a Session, AsyncSession, Connection or AsyncConnection of
    SQLAlchemy's, or a connection of psycopg's, to the same database, and needs `organization_id`.
    `run_at` delays it (aware datetime); `priority` is 0 (first) to 9; `id` makes the call idempotent; while a job with
    an equal `unique_key` waits unclaimed, that job takes these arguments instead of a second one. With `after` it waits
    until those jobs have ended, with `after_children_of` until that job has and all its children, theirs included;
    then it runs, if they have ended as `when` says, or is cancelled. Jobs of one `order_key` run one after another, in
    this order; one that has failed for good holds up those behind it, unless `on_failure` is "pass".
    Of those of one `limit_key` no more are under way at a time than `docworker limits` says.

    Raises InvalidArgumentError when the arguments do not fit the task's signature, or an option or argument is nothing
    that the ledger could read back. The server has seen nothing then: the caller's transaction goes on.
    """
    options: EnqueueOptions = {
        "organization_id": organization_id,
        "run_at": run_at,
        "priority": priority,
        "unique_keys": None if unique_key is None else [unique_key],
        "max_attempts": max_attempts,
        "ids": None if id is None else [id],
        "parent_id": parent_id,
        "after": after,
        "after_children_of": after_children_of,
        "when": when,
        "order_keys": None if order_key is None else [order_key],
        "on_failure": on_failure,
        "limit_key": limit_key,
    }
    ids: Any = enqueue_many(cast(Any, session), task, [arguments], **options)
    return ids[0] if isinstance(ids, list) else _first_of(ids)


@overload
def enqueue_many(
    session: Producer, task: Any, arguments: Iterable[Mapping[str, Any]], **options: Unpack[EnqueueOptions]
) -> list[UUID]: ...


@overload
def enqueue_many(
    session: AsyncProducer, task: Any, arguments: Iterable[Mapping[str, Any]], **options: Unpack[EnqueueOptions]
) -> Awaitable[list[UUID]]: ...


def enqueue_many(
    session: Producer | AsyncProducer,
    task: Any,
    arguments: Iterable[Mapping[str, Any]],
    **options: Unpack[EnqueueOptions],
) -> list[UUID] | Awaitable[list[UUID]]:
    """Enqueue many jobs of one task with one statement; as `enqueue`, with one key or id for each of the arguments."""
    kind = kind_of(task)
    kept = [kind.serialize(one) for one in _listed("arguments", arguments)]
    ours: Any = getattr(session, "sync_session", session)
    if not isinstance(ours, TenantSession):
        organization_id = options.get("organization_id")
        if organization_id is None:
            raise InvalidArgumentError(
                "this session is not one of docworker.writing(…): give organization_id=… as well"
            )
        with enqueuing(kind.name, organization_id, len(kept)):
            rows = checked_rows(organization_id, kind.name, kept, **_chosen(kind, options))
            return enqueue_by(session, rows, _order(options, len(kept)), _after(options), _limit_key(options))
    organization_id = organization_of(ours)
    if options.get("organization_id") not in (None, organization_id):
        raise InvalidArgumentError(
            f"this session is of the organization {organization_id}, not of {options.get('organization_id')}: "
            "enqueue for another organization in a session of its own"
        )
    if ours.read_only:
        raise InvalidArgumentError("this session only reads: open one with docworker.writing(organization_id)")
    if isinstance(session, AsyncSession):
        return session.run_sync(_insert, kind, kept, options)
    return _insert(ours, kind, kept, options)


def _insert(session: Session, kind: Kind, kept: Sequence[dict[str, Any]], options: EnqueueOptions) -> list[UUID]:
    order, after, limit_key = _order(options, len(kept)), _after(options), _limit_key(options)
    with enqueuing(kind.name, organization_of(session), len(kept)):
        ids = insert_jobs(session, organization_of(session), kind.name, kept, **_chosen(kind, options))
    if order is not None:
        in_order(session, organization_of(session), ids, order)
    if limit_key is not None:
        under_key(session, organization_of(session), ids, limit_key)
    if after is not None:
        wait_for(session, organization_of(session), ids, after)
    return ids


def _order(options: EnqueueOptions, jobs: int) -> InOrder | None:
    keys = options.get("order_keys")
    if keys is None:
        return None
    if options.get("unique_keys") is not None:
        raise InvalidArgumentError(
            "a job that waits for its turn has no unique_key: what would fold into it runs later"
        )
    return checked_order(_listed("order_keys", keys), options.get("on_failure", "block"), jobs=jobs)


def _limit_key(options: EnqueueOptions) -> str | None:
    key = options.get("limit_key")
    if key is None:
        return None
    if options.get("unique_keys") is not None or options.get("order_keys") is not None:
        raise InvalidArgumentError("a job with a limit_key has no unique_key and no order_key: give one of them")
    return checked_limit_key(key)


def _after(options: EnqueueOptions) -> After | None:
    """What the jobs wait for; None where it is nothing, as with an empty `after`."""
    jobs, tree = _listed("after", options.get("after") or ()), options.get("after_children_of")
    if not jobs and tree is None:
        return None
    if options.get("unique_keys") is not None:
        raise InvalidArgumentError("a job that waits for others has no unique_key: what would fold into it runs later")
    if set(jobs) & set(options.get("ids") or ()):
        raise InvalidArgumentError("a job does not wait for itself: its id is among those that it is to come after")
    return checked_after(jobs, tree, options.get("when", "succeeded"))


class _Chosen(TypedDict):
    """As `insert_jobs` has them."""

    run_at: datetime | None
    priority: int
    unique_keys: list[str] | None
    max_attempts: int
    ids: list[UUID] | None
    parent_id: UUID | None


def _chosen(kind: Kind, options: EnqueueOptions) -> _Chosen:
    ids, unique_keys = options.get("ids"), options.get("unique_keys")
    priority, max_attempts = options.get("priority"), options.get("max_attempts")
    if ids is not None and unique_keys is not None:
        raise InvalidArgumentError("give an id or a unique_key, not both: an id names one job, a key folds several")
    return {
        "run_at": options.get("run_at"),
        "priority": kind.priority if priority is None else priority,
        "unique_keys": None if unique_keys is None else _listed("unique_keys", unique_keys),
        "max_attempts": kind.max_attempts if max_attempts is None else max_attempts,
        "ids": None if ids is None else _listed("ids", ids),
        "parent_id": options.get("parent_id"),
    }


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
