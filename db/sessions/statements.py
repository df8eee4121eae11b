"""`Call`: a statement of the ledger with its values, made ready for a connection, and the rows that it returned.

`ask` makes one in a session's transaction.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.adapt import Transformer
from psycopg.pq.abc import PGresult
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from docworker.db.cluster import roundtrip
from docworker.db.cluster.prepared import Statement, stays_prepared

Row = tuple[Any, ...]


class Call(NamedTuple):
    """A statement, its values, and the organization in whose name it runs."""

    organization_id: UUID
    statement: Statement
    values: Mapping[str, Any]


def ready(connection: Connection, call: Call) -> str:
    """The call as SQL for this connection, on which it may have to be prepared first."""
    transformer = Transformer(connection.connection.driver_connection)
    literals = {name: transformer.as_literal(value).decode() for name, value in call.values.items()}
    return prepared(connection, call.statement, literals)


def prepared(connection: Connection, statement: Statement, literals: Mapping[str, str]) -> str:
    """As `ready`, for values that are SQL already."""
    driver: Any = connection.connection.driver_connection
    if not stays_prepared(driver):
        return statement.plain(literals)
    if statement.name not in driver.prepared:
        roundtrip.exchange(connection, statement.preparation)
        driver.prepared.add(statement.name)
    return statement.executed(literals)


def ask(session: Session, call: Call) -> list[Row]:
    """Make the call in the session's transaction, for half of what `Session.execute` costs. Raises as that would."""
    connection = session.connection()
    (*_, result) = roundtrip.exchange(connection, ready(connection, call))
    return rows_of(connection, result)


def rows_of(connection: Connection, result: PGresult) -> list[Row]:
    transformer = Transformer(connection.connection.driver_connection)
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)
