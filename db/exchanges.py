"""Whole transactions in one exchange: BEGIN and what a transaction asks for, a few statements, COMMIT.

For the ledger's own steps of a single job, which cost more in exchanges than in work. Everything else has a session
(`db.sessions`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.adapt import Transformer
from psycopg.pq.abc import PGresult
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from db import asking, transactions
from db.engines import database
from db.errors import InvalidArgumentError
from db.replication import WalPosition
from db.tenancy import context_of, turn_to

Row = tuple[Any, ...]

# To a planner a queue that was empty a moment ago is one page, which it would read from end to end for ever.
_BY_INDEX = "SELECT pg_catalog.set_config('enable_seqscan','off',true)"


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


class Committed(NamedTuple):
    """What each call returned. `server` tells where the transaction was."""

    rows: list[list[Row]]
    server: tuple[int, int]
    """System identifier and timeline."""

    def position_at(self, lsn: int) -> WalPosition:
        return WalPosition(*self.server, lsn)


def transact(calls: Sequence[Call]) -> Committed:
    """Make these calls on the master, one after the other, and commit them together.

    Raises what a session would: then nothing was written, or, if the connection was lost, nobody knows. The answer of
    a server that turns out to be no master, or an old one, is refused.
    """
    current = database()
    organization_id = calls[0].organization_id
    with current.cluster().master.connect() as connection:
        driver: Any = connection.connection.driver_connection
        transactions.limit_statements(driver, current.settings.statement_timeout)
        connection.info["read_only"] = False
        opening = [
            asking.BEGIN_WRITING,
            f"SELECT {transactions.MASTER},{context_of(organization_id, current.settings)}"
            + asking.for_newer_servers(driver),
            _BY_INDEX,
        ]
        sent, places = _joined(connection, calls, organization_id)
        *results, committed = transactions.exchange(connection, ";".join([*opening, *sent, "COMMIT"]))
        timeline = transactions.check_master(connection, transactions.server_of(connection), results[1], 0)
        _check_committed(committed)
        return Committed(
            [_rows(driver, results[len(opening) + place]) for place in places],
            (transactions.system_identifier_of(connection), timeline),
        )


def commit_with(session: Session, call: Call) -> list[Row]:
    """Make the last call of a session's transaction, and commit it. Raises as the session would."""
    session.flush()
    connection = session.connection()
    sent, _ = _joined(connection, [call], call.organization_id)
    *results, committed = transactions.exchange(connection, ";".join([_BY_INDEX, *sent, "COMMIT"]))
    _check_committed(committed)
    return _rows(connection.connection.driver_connection, results[-1])


def _joined(connection: Connection, calls: Sequence[Call], organization_id: UUID) -> tuple[list[str], list[int]]:
    """What is to be sent, and the places of the calls in it."""
    driver: Any = connection.connection.driver_connection
    is_prepared = driver.prepare_threshold is not None
    transformer = Transformer(driver)
    sent: list[str] = []
    places: list[int] = []
    for call in calls:
        if call.organization_id != organization_id:
            organization_id = call.organization_id
            sent.append(f"SELECT {turn_to(organization_id)}")
        literals = {name: transformer.as_literal(value).decode() for name, value in call.values.items()}
        if is_prepared:
            _prepare(connection, call.statement)
        places.append(len(sent))
        sent.append(call.statement.executed(literals) if is_prepared else call.statement.plain(literals))
    return sent, places


def _prepare(connection: Connection, statement: Statement) -> None:
    driver: Any = connection.connection.driver_connection
    if statement.name not in driver.prepared:
        transactions.exchange(connection, statement.preparation)
        driver.prepared.add(statement.name)


def _check_committed(result: PGresult) -> None:
    if result.command_status != b"COMMIT":
        raise InvalidArgumentError("a transaction that has failed cannot be committed: roll it back")


def _rows(driver: Any, result: PGresult) -> list[Row]:
    transformer = Transformer(driver)
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)
