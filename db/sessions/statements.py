"""`Statement`: prepared once per connection, and sent along with others, with its values as text.

psycopg sends each statement by itself. These are sent with the BEGIN before them or the COMMIT behind them, in one
exchange (`db.sessions.exchanges`, `db.sessions.tenant_session`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.adapt import Transformer
from psycopg.pq.abc import PGresult
from sqlalchemy import Connection

from docworker.db.cluster import roundtrip

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Statement:
    """SQL with `:names`, each of a type of PostgreSQL. It is prepared once per connection, under a name of its own;
    behind a pooler, where nothing stays prepared, its values stand in the text."""

    name: str
    sql: str
    types: Mapping[str, str]

    @property
    def preparation(self) -> str:
        places = {name: f"${number}" for number, name in enumerate(self.types, 1)}
        types = f"({','.join(self.types.values())})" if self.types else ""
        return f"PREPARE {self.name}{types} AS {self._with(places)}"

    def executed(self, literals: Mapping[str, str]) -> str:
        values = f"({','.join(literals[name] for name in self.types)})" if self.types else ""
        return f"EXECUTE {self.name}{values}"

    def plain(self, literals: Mapping[str, str]) -> str:
        return self._with({name: f"CAST({literals[name]} AS {kind})" for name, kind in self.types.items()})

    def _with(self, places: Mapping[str, str]) -> str:
        return re.sub(r":(\w+)", lambda name: places[name[1]], self.sql)


class Call(NamedTuple):
    """A statement, its values, and the organization in whose name it runs."""

    organization_id: UUID
    statement: Statement
    values: Mapping[str, Any]


def ready(connection: Connection, call: Call) -> str:
    """The call as SQL for this connection, on which it may have to be prepared first."""
    driver: Any = connection.connection.driver_connection
    transformer = Transformer(driver)
    literals = {name: transformer.as_literal(value).decode() for name, value in call.values.items()}
    if driver.prepare_threshold is None:
        return call.statement.plain(literals)
    if call.statement.name not in driver.prepared:
        roundtrip.exchange(connection, call.statement.preparation)
        driver.prepared.add(call.statement.name)
    return call.statement.executed(literals)


def rows_of(connection: Connection, result: PGresult) -> list[Row]:
    transformer = Transformer(connection.connection.driver_connection)
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)
