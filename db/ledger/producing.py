"""`enqueue_by`: jobs enter the ledger in another program's transaction, through the function `ledger.enqueue_many`.

That takes any Session or connection of SQLAlchemy's, with any driver, and psycopg's own connections, of whatever role
may call the function. What those believe about the organization of their transaction stays as it is.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from docworker.db.errors import (
    BacklogFullError,
    ConfigurationError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableOrganizationError,
)
from docworker.db.ledger.enqueue import WHEN_FULL, Rows
from docworker.db.ledger.waiting.gates import After
from docworker.db.ledger.waiting.order import InOrder

Producer = Session | scoped_session[Any] | Connection | psycopg.Connection[Any]
AsyncProducer = AsyncSession | async_scoped_session[Any] | AsyncConnection | psycopg.AsyncConnection[Any]

# Everything is sent as text and cast there: drivers differ in what they take a list or an id for.
_ENQUEUE = """ledger.enqueue_many(
    CAST(CAST({organization_id} AS text) AS uuid), CAST({kind} AS text), CAST(CAST({arguments} AS text[]) AS jsonb[]),
    CAST(CAST({ids} AS text[]) AS uuid[]), CAST({unique_keys} AS text[]), CAST({priority} AS integer),
    CAST(CAST({run_at} AS text) AS timestamptz), CAST({max_attempts} AS integer),
    CAST(CAST({parent_id} AS text) AS uuid)
)"""
_ORDER = """ledger.order_jobs(
    CAST(CAST({organization_id} AS text) AS uuid), CAST(CAST({ordered} AS text[]) AS uuid[]),
    CAST({order_keys} AS text[]), CAST({blocks} AS boolean)
)"""
_KEY = """ledger.key_jobs(
    CAST(CAST({organization_id} AS text) AS uuid), CAST(CAST({ordered} AS text[]) AS uuid[]), CAST({limit_key} AS text)
)"""
_AWAIT = """ledger.await_jobs(
    CAST(CAST({organization_id} AS text) AS uuid), ids, CAST(CAST({after} AS text[]) AS uuid[]),
    CAST(CAST({trees} AS text[]) AS uuid[]), CAST({opens_when} AS text)
)"""
_TRACE = """ledger.trace_jobs(
    CAST(CAST({organization_id} AS text) AS uuid), CAST(ids AS uuid[]), CAST({traceparent} AS text)
)"""
_CALL = f"SELECT CAST({_ENQUEUE} AS text[])"
# One step after the other: each reads what the one before it has returned.
_CALL_WAITING = f"""
WITH enqueued AS MATERIALIZED (SELECT {_ENQUEUE} AS ids),
ordered AS MATERIALIZED (
    SELECT CASE WHEN ids IS NULL THEN NULL WHEN {{is_ordered}} THEN {_ORDER} WHEN {{is_keyed}} THEN {_KEY} ELSE ids END
           AS ids
    FROM enqueued
),
waiting AS MATERIALIZED (
    SELECT ids, CASE WHEN {{is_after}} THEN CAST({_AWAIT} AS text) END,
           CASE WHEN {{is_traced}} THEN CAST({_TRACE} AS text) END
    FROM ordered
)
SELECT CAST(enqueued.ids AS text[]) FROM enqueued CROSS JOIN waiting
"""
_NAMES = (
    "organization_id",
    "kind",
    "arguments",
    "ids",
    "unique_keys",
    "priority",
    "run_at",
    "max_attempts",
    "parent_id",
    "after",
    "trees",
    "opens_when",
    "ordered",
    "order_keys",
    "blocks",
    "limit_key",
    "is_ordered",
    "is_keyed",
    "is_after",
    "traceparent",
    "is_traced",
)


class _Call(NamedTuple):
    """A statement as each driver takes it."""

    sqlalchemy: TextClause
    psycopg: str


def _for_drivers(call: str) -> _Call:
    return _Call(
        text(call.format_map({name: f":{name}" for name in _NAMES})),
        call.format_map({name: f"%({name})s" for name in _NAMES}),
    )


_ENTER, _ENTER_WAITING = _for_drivers(_CALL), _for_drivers(_CALL_WAITING)


def enqueue_by(
    producer: Any, rows: Rows, order: InOrder | None = None, after: After | None = None, limit_key: str | None = None
) -> list[UUID] | Awaitable[list[UUID]]:
    """Enter the jobs, to wait for their turn or for others if that is given; returns their ids in the order of the
    call, awaitable where the producer is.

    Raises NotFoundError for an organization that is not in this database, UnavailableOrganizationError for one that is
    not served now, BacklogFullError where it has as many jobs waiting as it may, InvalidArgumentError where the
    transaction is another organization's, ConfigurationError where the role may not enqueue. The server has refused
    then, so the transaction (or savepoint) is to be rolled back.
    """
    call, values = _ENTER, _as_text(rows)
    is_traced = rows.parameters["traceparent"] is not None
    if is_traced or order is not None or after is not None or limit_key is not None:
        call, values = _ENTER_WAITING, values | _waiting_as_text(rows, order, after, limit_key)
    in_order = _order(rows)
    if isinstance(producer, scoped_session | async_scoped_session):
        producer = producer()
    if isinstance(producer, Session):
        producer.flush()  # what is wrong with the program's own rows is not ours to explain
    if isinstance(producer, Session | Connection):
        with _explained():
            return in_order(producer.execute(call.sqlalchemy, values).scalar_one())
    if isinstance(producer, psycopg.Connection):
        with _explained(), psycopg.Cursor(producer, row_factory=tuple_row) as cursor:
            return in_order(_only(cursor.execute(call.psycopg, values).fetchone()))
    if isinstance(producer, AsyncSession | AsyncConnection):
        return _by_sqlalchemy(producer, call, values, in_order)
    if isinstance(producer, psycopg.AsyncConnection):
        return _by_psycopg(producer, call, values, in_order)
    raise InvalidArgumentError(
        "jobs are enqueued in a Session, AsyncSession, Connection or AsyncConnection of SQLAlchemy's, or in a "
        f"connection of psycopg's; got {type(producer).__module__}.{type(producer).__qualname__}"
    )


async def _by_sqlalchemy(
    producer: AsyncSession | AsyncConnection,
    call: _Call,
    values: Mapping[str, Any],
    in_order: Callable[[Any], list[UUID]],
) -> list[UUID]:
    if isinstance(producer, AsyncSession):
        await producer.flush()
    with _explained():
        return in_order((await producer.execute(call.sqlalchemy, values)).scalar_one())


async def _by_psycopg(
    producer: psycopg.AsyncConnection[Any],
    call: _Call,
    values: Mapping[str, Any],
    in_order: Callable[[Any], list[UUID]],
) -> list[UUID]:
    with _explained():
        async with psycopg.AsyncCursor(producer, row_factory=tuple_row) as cursor:
            await cursor.execute(call.psycopg, values)
            return in_order(_only(await cursor.fetchone()))


def _only(row: tuple[Any, ...] | None) -> Any:
    assert row is not None
    return row[0]


def _as_text(rows: Rows) -> dict[str, Any]:
    known = rows.parameters
    by_key = rows.keys is not None
    return {
        "organization_id": str(known["organization_id"]),
        "kind": known["kind"],
        "arguments": known["arguments"],
        "ids": None if by_key else [str(one) for one in known["ids"]],
        "unique_keys": known["unique_keys"] if by_key else None,
        "priority": known["priority"],
        "run_at": None if known["run_at"] is None else known["run_at"].isoformat(),
        "max_attempts": known["max_attempts"],
        "parent_id": None if known["parent_id"] is None else str(known["parent_id"]),
    }


def _waiting_as_text(rows: Rows, order: InOrder | None, after: After | None, limit_key: str | None) -> dict[str, Any]:
    nothing = {"after": None, "trees": None, "opens_when": None, "order_keys": None, "blocks": None}
    given = (nothing | (order.parameters if order else {}) | (after.parameters if after else {})).items()
    return {
        **{name: [*map(str, one)] if isinstance(one, list) else one for name, one in given},
        "ordered": [*map(str, rows.ids)],
        "limit_key": limit_key,
        "is_ordered": order is not None,
        "is_keyed": limit_key is not None,
        "is_after": after is not None,
        "traceparent": rows.parameters["traceparent"],
        "is_traced": rows.parameters["traceparent"] is not None,
    }


def _order(rows: Rows) -> Callable[[Any], list[UUID]]:
    """What puts the ids that came back into the order of the call: rows were sorted, and folded among themselves."""
    if rows.keys is None:
        return lambda _: rows.ids
    keys = rows.keys

    def in_order(ids: Any) -> list[UUID]:
        id_of = dict(zip(rows.parameters["unique_keys"], ids, strict=True))
        return [UUID(id_of[key]) for key in keys]

    return in_order


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        original = error.orig if isinstance(error, DBAPIError) else error
        # psycopg and asyncpg call it so, psycopg2 and SQLAlchemy's own wrapping otherwise.
        state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
        named = _NAMED.get(str(state))
        if named is None:
            raise
        kind, remedy = named
        raise kind(str(original).partition("\n")[0] + remedy) from error


_NAMED: dict[str, tuple[type[Exception], str]] = {
    "P0002": (NotFoundError, ": see `docworker tenants list`"),
    "55000": (UnavailableOrganizationError, ": try again later"),
    "53400": (BacklogFullError, WHEN_FULL),
    "22023": (InvalidArgumentError, ""),
    "42501": (ConfigurationError, ": GRANT docworker_producer TO the role that this program logs in as"),
    "42883": (ConfigurationError, ": this database is none of docworker's, or `docworker migrate` is to be run"),
    "3F000": (ConfigurationError, ": this database is none of docworker's, or `docworker migrate` is to be run"),
}
