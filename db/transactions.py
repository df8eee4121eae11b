"""How a transaction begins, and the few other exchanges that must cost one round trip.

psycopg sends BEGIN as a statement of its own, and a ping, the tenant's context and the server's role would be three
more. Here they travel together, and the server's answer is checked before anything is read or written.
"""

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar

import psycopg
from psycopg import generators
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from sqlalchemy import Connection, Engine, exc
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from db import asking
from db.answering import GRACE_SECONDS
from db.errors import ConfigurationError, DemotedMasterError, InvalidArgumentError, StaleMasterError
from db.faults import Fault, classify, mark_as_read_from_replica, sqlstate_of
from db.replication import Server, Standing, Timelines, WalPosition, parse_lsn, timeline_of

T = TypeVar("T")

_CLOCK_ANSWER_SECONDS = 5.0

SERVER = "docworker_server"
"""Execution option of our engines: which `Server` they talk to."""

_UNKNOWN_SERVER = Server("unknown", "master", Timelines())

# What is replayed is read before the timeline: a replica that changes timelines between the two is then taken for one
# that has replayed less than it has, never more.
_STANDING = (
    "pg_catalog.pg_is_in_recovery(),pg_catalog.pg_last_wal_replay_lsn(),"
    "(SELECT received_tli FROM pg_catalog.pg_stat_get_wal_receiver())"
)
_MASTER = (
    "pg_catalog.pg_is_in_recovery(),CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN"
    " pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END,"
    "CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END"
)
IDENTIFY = f"SELECT system_identifier,{_MASTER} FROM pg_catalog.pg_control_system()"  # noqa: S608

_CLOCK = f"SELECT {_MASTER},extract(epoch FROM pg_catalog.clock_timestamp())"  # noqa: S608


def server_of(connection: Connection) -> Server:
    server: Server = connection.get_execution_options().get(SERVER, _UNKNOWN_SERVER)
    return server


def begin(
    connection: Connection,
    context: str,
    *,
    read_only: bool,
    first: str | None = None,
    timeout_seconds: float | None = None,
    statement_seconds: float | None = None,
) -> tuple[Standing | None, list[PGresult]]:
    """Begin a transaction, with `context` (a list of SQL expressions) evaluated in it, and see whom we talk to.

    `context` begins with what every transaction asks for (`db.asking`). Returns a replica's standing, or None for a
    master; and the answer to `first`, a statement that is sent along, if there is one.

    Raises:
        DemotedMasterError: the master is a replica now; StaleMasterError: an old master that came back.
        sqlalchemy.exc.DBAPIError: as SQLAlchemy would. The connection is thrown away when it was lost, or when the
            answer took longer than `timeout_seconds`. `statement_seconds` is the server's limit for what follows.
    """
    server = server_of(connection)
    driver: Any = connection.connection.driver_connection
    connection.info["read_only"] = read_only
    if first is not None:
        limit_statements(driver, statement_seconds)  # it may have to wait for a lock
    sent = opening(connection, context, read_only=read_only) + ("" if first is None else f";{first}")
    _, last, *answers = exchange(connection, sent, timeout_seconds)
    limit_statements(driver, statement_seconds)
    if server.is_replica:
        return _standing(connection, last), answers
    connection.info["timeline"] = check_master(connection, server, last, 0)
    return None, answers


def opening(connection: Connection, context: str, *, read_only: bool = False) -> str:
    """What `begin` sends, two statements: for who sends more along with them, and checks the second one's answer."""
    begin = asking.BEGIN_READING if read_only else asking.BEGIN_WRITING
    question = _STANDING if server_of(connection).is_replica else _MASTER
    return f"{begin};SELECT {question},{context}{asking.for_newer_servers(connection.connection.driver_connection)}"


def limit_statements(driver: Any, seconds: float | None) -> None:
    """How long we wait for a server that answers others, where it gives a statement so long; None or 0: for ever."""
    driver.limit_seconds = seconds + GRACE_SECONDS if seconds else None


def position_at(connection: Connection, lsn: int) -> WalPosition:
    """A place in the log of the master that this transaction began on."""
    return WalPosition(system_identifier_of(connection), connection.info["timeline"], lsn)


def ask_standing(connection: Connection, *, timeout_seconds: float | None = None) -> Standing:
    """A replica's standing now, in a transaction that has begun."""
    *_, last = exchange(connection, f"SELECT {_STANDING}", timeout_seconds)
    return _standing(connection, last)


def commit(connection: Connection) -> WalPosition:
    """Commit, and say how much a reader must see to see it: COMMIT and the question travel together."""
    committed, _, last, _ = exchange(connection, "COMMIT;" + asking.question(f"SELECT {_MASTER}"))
    if committed.command_status != b"COMMIT":
        raise InvalidArgumentError("a transaction that has failed cannot be committed: roll it back")
    return _position(connection, last)


def end_reading(connection: Connection) -> None:
    """COMMIT what has only read. After a ROLLBACK psycopg would forget every statement it has prepared."""
    if connection.closed or connection.invalidated:
        return
    driver: Any = connection.connection.driver_connection
    if driver.pgconn.transaction_status == TransactionStatus.INTRANS:
        exchange(connection, "COMMIT")


def ask_position(engine: Engine) -> WalPosition:
    """How far the master has flushed. One statement in autocommit; on a pooled connection that was lost, once more."""
    return _ask(engine, f"SELECT {_MASTER}", _position)


def ask_clock(engine: Engine) -> float:
    """The master's clock, in seconds since 1970; asked as `ask_position`, and not waited for for long."""

    def seconds(connection: Connection, result: PGresult) -> float:
        check_master(connection, server_of(connection), result, 0)
        return float(_text(result, 3) or 0)

    return _ask(engine, _CLOCK, seconds, _CLOCK_ANSWER_SECONDS)


def _ask(
    engine: Engine,
    statement: str,
    read: Callable[[Connection, PGresult], T],
    timeout_seconds: float | None = None,
) -> T:
    for retries_left in (1, 0):
        with engine.connect() as connection:
            try:
                _, last, _ = exchange(connection, asking.question(statement), timeout_seconds)
            except exc.DBAPIError as error:
                if not (retries_left and error.connection_invalidated):
                    raise
            else:
                return read(connection, last)
    raise AssertionError("unreachable")


def master_of(session_or_cluster: Any) -> Engine:
    """The master's engine of a session that is not in a transaction, or of a cluster."""
    if isinstance(session_or_cluster, Session):
        if session_or_cluster.in_transaction():
            raise InvalidArgumentError("the session is in a transaction that nobody sees yet: commit it first")
        engine = getattr(session_or_cluster, "master", None) or session_or_cluster.get_bind()
        return engine if isinstance(engine, Engine) else engine.engine
    engine = getattr(session_or_cluster, "master", None)
    engine = getattr(engine, "sync_engine", engine)
    if not isinstance(engine, Engine):
        raise ConfigurationError(f"neither a session nor a cluster: {session_or_cluster!r}")
    return engine


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
            if result is results[0] and sqlstate_of(refusal) == "0A000" and statements.startswith(asking.BEGIN_WRITING):
                # A replica refuses READ WRITE before it is asked who it is.
                raise _dismissed(connection, demoted(server_of(connection))) from refusal
            raise refusal
    return results


def send(driver: Any, statements: str, timeout_seconds: float | None = None) -> list[PGresult]:
    """As `exchange`, on a psycopg connection, and without a look at the results. Raises psycopg's errors."""
    driver.pgconn.send_query(statements.encode())
    waiting = driver.wait(generators.execute(driver.pgconn), timeout=timeout_seconds)
    return await_only(_awaited(waiting)) if isawaitable(waiting) else waiting


def ask(driver: Any, statement: str) -> list[str | None]:
    """The one row that a SELECT gives, on a psycopg connection that is in no transaction."""
    _, result, _ = send(driver, asking.question(statement))
    if result.status != ExecStatus.TUPLES_OK:
        raise psycopg.errors.error_from_result(result, driver.info.encoding)
    return [_text(result, column) for column in range(result.nfields)]


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
    wrapped = exc.DBAPIError.instance(statements, None, error, psycopg.Error, connection_invalidated=lost)
    assert isinstance(wrapped, Exception)
    return wrapped


def check_master(connection: Connection, server: Server, result: PGresult, first: int) -> int:
    """Whether this is a master, and the latest; returns its timeline."""
    try:
        return examine_master(server, system_identifier_of(connection), _bool(result, first), _text(result, first + 1))
    except DemotedMasterError as error:
        raise _dismissed(connection, error) from None


def _dismissed(connection: Connection, error: DemotedMasterError) -> DemotedMasterError:
    """Throw away what is connected to a server that is no master."""
    connection.invalidate(error)
    connection.engine.dispose()
    return error


def demoted(server: Server) -> DemotedMasterError:
    return DemotedMasterError(
        f"the server given as {server.cluster} {server.role} is a replica: name every server that may become the "
        "master in its address, with target_session_attrs=read-write"
    )


def examine_master(server: Server, system_identifier: int, in_recovery: bool, walfile_name: str | None) -> int:
    """The timeline of a server that is used as a master; raises DemotedMasterError, StaleMasterError, or
    ConfigurationError when it is of another system than before."""
    if in_recovery or walfile_name is None:
        raise demoted(server)
    timeline = timeline_of(walfile_name)
    server.timelines.identify(system_identifier)
    if timeline < server.timelines.highest:
        raise StaleMasterError(
            f"the server that answers as {server.cluster} {server.role} is on timeline {timeline}, but timeline "
            f"{server.timelines.highest} was seen: it is an old master that came back; stop it or make it a replica"
        )
    server.timelines.note(system_identifier, timeline)
    return timeline


def _position(connection: Connection, result: PGresult) -> WalPosition:
    timeline = check_master(connection, server_of(connection), result, 0)
    return WalPosition(system_identifier_of(connection), timeline, parse_lsn(_text(result, 2) or "0/0"))


def _standing(connection: Connection, result: PGresult) -> Standing:
    replayed, timeline = _text(result, 1), _text(result, 2)
    return Standing(
        system_identifier=system_identifier_of(connection),
        in_recovery=_bool(result, 0),
        timeline=None if timeline is None else int(timeline),
        replayed=None if replayed is None else parse_lsn(replayed),
    )


def system_identifier_of(connection: Connection) -> int:
    """As the server said when this connection was made; see `db.engines`."""
    known = connection.info.get("system_identifier")
    if known is None:
        (result,) = exchange(connection, "SELECT system_identifier FROM pg_catalog.pg_control_system()")
        known = connection.info["system_identifier"] = int(_text(result, 0) or 0)
    return int(known)


def _text(result: PGresult, column: int) -> str | None:
    value = result.get_value(0, column)
    return None if value is None else value.decode()


def _bool(result: PGresult, column: int) -> bool:
    return result.get_value(0, column) == b"t"
