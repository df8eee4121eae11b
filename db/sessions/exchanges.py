"""`transact`: a whole transaction in one exchange, BEGIN and what a transaction asks for, a few statements, COMMIT.

For the ledger's own steps of a single job, which cost more in exchanges than in work. Everything else has a session
(`db.sessions.opening`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.pq.abc import PGresult
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from docworker.db.catalog import SERVED
from docworker.db.cluster import roundtrip, transactions
from docworker.db.cluster.positions import WalPosition
from docworker.db.cluster.prepared import Statement
from docworker.db.errors import ApartError, InvalidArgumentError, NotFoundError, UnavailableOrganizationError
from docworker.db.sessions.opening import Placed, once_arrived, placed
from docworker.db.sessions.statements import Call, Row, prepared, ready, rows_of
from docworker.db.sessions.tenant_session import context_of, turn_to

# To a planner a queue that was empty a moment ago is one page, which it would read from end to end for ever.
_BY_INDEX = Statement("docworker_by_index", "SELECT pg_catalog.set_config('enable_seqscan','off',true)", {})


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
    a server that turns out to be no master, or an old one, is refused, and so is one of a place that an organization
    has left since this process asked for it: what was claimed there, nobody runs.

    Calls of several organizations wait for none of them to arrive: raises ApartError, and nothing was sent.
    """
    is_joint = len({call.organization_id for call in calls}) > 1
    places = _places_together(calls) if is_joint else once_arrived(lambda: _places(calls))
    committed = _transact(calls, places)
    for where in places.values():
        if where.fence is not None:
            where.fence.check(None)
    return committed


def _places(calls: Sequence[Call]) -> dict[UUID, Placed]:
    return {call.organization_id: placed(call.organization_id, states=SERVED) for call in calls}


def _places_together(calls: Sequence[Call]) -> dict[UUID, Placed]:
    """The calls are one transaction, so all of them are in one database."""
    try:
        places = _places(calls)
    except (UnavailableOrganizationError, NotFoundError) as error:
        raise ApartError(f"not all of the organizations of a transaction are served: {error}") from error
    if len({where.cluster for where in places.values()}) > 1:
        raise ApartError(
            f"the organizations {', '.join(map(str, places))} are no longer in one database: a transaction for each"
        )
    return places


def _transact(calls: Sequence[Call], places_of: Mapping[UUID, Placed]) -> Committed:
    organization_id = calls[0].organization_id
    cluster, _, settings, fence = places_of[organization_id]
    with cluster.master.connect() as connection:
        driver: Any = connection.connection.driver_connection
        transactions.limit_statements(driver, settings.statement_timeout)
        connection.info["read_only"] = False
        opening = transactions.opening(connection, context_of(organization_id, settings, fence))
        sent, places = _joined(connection, calls, places_of)
        by_index = prepared(connection, _BY_INDEX, {})
        asked, (_, *answers, committed) = opening.exchanged(connection, [by_index, *sent, "COMMIT"])
        timeline = transactions.check_master(connection, roundtrip.server_of(connection), asked, 0)
        _check_committed(committed)
        return Committed(
            [rows_of(connection, answers[place]) for place in places],
            (transactions.system_identifier_of(connection), timeline),
        )


def commit_with(session: Session, calls: Sequence[Call]) -> Committed:
    """Make the last calls of a session's transaction, all of its organization, and commit it. Raises as the session
    would."""
    session.flush()
    connection = session.connection()
    sent = [prepared(connection, _BY_INDEX, {}), *(ready(connection, call) for call in calls), "COMMIT"]
    _, *answers, committed = roundtrip.exchange(connection, ";".join(sent))
    _check_committed(committed)
    return Committed(
        [rows_of(connection, answered) for answered in answers],
        (transactions.system_identifier_of(connection), connection.info["timeline"]),
    )


def _joined(
    connection: Connection, calls: Sequence[Call], places_of: Mapping[UUID, Placed]
) -> tuple[list[str], list[int]]:
    """What is to be sent, and the places of the calls in it."""
    organization_id = calls[0].organization_id
    sent: list[str] = []
    places: list[int] = []
    for call in calls:
        if call.organization_id != organization_id:
            organization_id = call.organization_id
            where = places_of[organization_id]
            sent.append(f"SELECT {turn_to(organization_id, where.settings, where.fence)}")
        places.append(len(sent))
        sent.append(ready(connection, call))
    return sent, places


def _check_committed(result: PGresult) -> None:
    if result.command_status != b"COMMIT":
        raise InvalidArgumentError("a transaction that has failed cannot be committed: roll it back")
