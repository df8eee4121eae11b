"""The only file that speaks libpq: statements that travel together in one exchange, and their answers.

psycopg's own `execute("BEGIN; SELECT …")` with `nextset()` would do the same by public means. It costs about 0.08 ms
more each, a quarter of an exchange, and has no time limit of ours.
"""

from collections.abc import Awaitable
from inspect import isawaitable
from typing import Any

import psycopg
from psycopg import AsyncConnection, generators
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult
from sqlalchemy import Connection, exc
from sqlalchemy.util import await_only

from docworker.db import metrics
from docworker.db.cluster import session_settings
from docworker.db.cluster.servers import Server, Timelines, demoted
from docworker.db.errors import DemotedMasterError
from docworker.db.faults import DISK_FULL, Fault, classify, mark_as_read_from_replica, sqlstate_of

Row = list[str | None]

SERVER = "docworker_server"
"""Execution option of our engines: which `Server` they talk to."""

_UNKNOWN_SERVER = Server("unknown", "master", Timelines())


def server_of(connection: Connection) -> Server:
    server: Server = connection.get_execution_options().get(SERVER, _UNKNOWN_SERVER)
    return server


def exchange(connection: Connection, statements: str, timeout_seconds: float | None = None) -> list[PGresult]:
    """Send statements in one go and return their results. Values are the caller's to quote.

    Raises what SQLAlchemy would raise for the first one that fails; DemotedMasterError where that is a replica's answer
    to who begins to write.
    """
    driver: Any = connection.connection.driver_connection
    try:
        results = send(driver, statements, timeout_seconds)
    except psycopg.Error as error:
        raise _lost(connection, statements, error) from error
    except BaseException as error:
        connection.invalidate(error)  # interrupted half way: nobody knows what it would answer next
        raise
    for result in results:
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            refusal = _refused(connection, statements, result, driver)
            if (
                result is results[0]
                and sqlstate_of(refusal) == "0A000"
                and statements.startswith(session_settings.BEGIN_WRITING)
            ):
                # A replica refuses READ WRITE before it is asked who it is.
                raise dismissed(connection, demoted(server_of(connection))) from refusal
            raise refusal
    return results


def count_full_disk(server: Server, error: BaseException) -> None:
    """Where that is what the server has refused for."""
    if sqlstate_of(error) == DISK_FULL:
        metrics.DISK_FULL.labels(server.cluster, server.disk).inc()


def send(driver: Any, statements: str, timeout_seconds: float | None = None) -> list[PGresult]:
    """As `exchange`, on a psycopg connection, and without a look at the results. Raises psycopg's errors."""
    driver.pgconn.send_query(statements.encode())
    waiting = driver.wait(generators.execute(driver.pgconn), timeout=timeout_seconds)
    return await_only(_awaited(waiting)) if isawaitable(waiting) else waiting


def ask(driver: Any, statement: str) -> Row:
    """The one row that a SELECT gives, on a psycopg connection that is in no transaction."""
    _, result, _ = send(driver, session_settings.question(statement))
    return _row(result, driver)


async def _awaited(waiting: Awaitable[list[PGresult]]) -> list[PGresult]:
    return await waiting


def _refused(connection: Connection, statements: str, result: PGresult, driver: Any) -> Exception:
    error = psycopg.errors.error_from_result(result, driver.info.encoding)
    if driver.closed or driver.broken:
        return _lost(connection, statements, error)
    return _as_sqlalchemy_error(connection, statements, error, lost=False)


def _lost(connection: Connection, statements: str, error: psycopg.Error) -> Exception:
    """Throw the connection away, and those that idle in its pool, which likely are as dead."""
    wrapped = _as_sqlalchemy_error(connection, statements, error, lost=True)
    if not connection.invalidated:
        connection.invalidate(error)
    if classify(error) is not Fault.RECOVERY_CONFLICT:
        connection.engine.dispose()
    return wrapped


def _as_sqlalchemy_error(connection: Connection, statements: str, error: psycopg.Error, *, lost: bool) -> Exception:
    if server_of(connection).is_replica:
        mark_as_read_from_replica(error)
    count_full_disk(server_of(connection), error)
    wrapped = exc.DBAPIError.instance(statements, None, error, psycopg.Error, connection_invalidated=lost)
    assert isinstance(wrapped, Exception)
    return wrapped


def dismissed(connection: Connection, error: DemotedMasterError) -> DemotedMasterError:
    """Throw away what is connected to a server that is no master."""
    connection.invalidate(error)
    connection.engine.dispose()
    return error


def text_of(result: PGresult, column: int) -> str | None:
    value = result.get_value(0, column)
    return None if value is None else value.decode()


def bool_of(result: PGresult, column: int) -> bool:
    return result.get_value(0, column) == b"t"


async def ask_async(connection: AsyncConnection, statement: str, *, timeout_seconds: float) -> Row:
    """As `ask`, in an event loop. Unlike a cancelled `execute`, to give up does not wait for the server once more."""
    connection.pgconn.send_query(session_settings.question(statement).encode())
    results = await connection.wait(generators.execute(connection.pgconn), timeout=timeout_seconds)
    return _row(results[1] if len(results) > 1 else results[0], connection)


def _row(result: PGresult, driver: Any) -> Row:
    if result.status != ExecStatus.TUPLES_OK:
        raise psycopg.errors.error_from_result(result, driver.info.encoding)
    return [text_of(result, column) for column in range(result.nfields)]
