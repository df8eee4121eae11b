"""`begin` and `commit`: a transaction begins and ends in one round trip each, and the server says whether it is the
right one.

psycopg sends BEGIN as a statement of its own, and a ping, the tenant's context and the server's role would be three
more. Here they travel together, and the server's answer is checked before anything is read or written.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from sqlalchemy import Connection, Engine, exc
from sqlalchemy.orm import Session

from docworker.db.cluster import roundtrip, session_settings
from docworker.db.cluster.bounded_connection import GRACE_SECONDS
from docworker.db.cluster.positions import WalPosition, parse_lsn
from docworker.db.cluster.prepared import stays_prepared
from docworker.db.cluster.replica_status import ReplicaStatus
from docworker.db.cluster.roundtrip import bool_of, dismissed, server_of, text_of
from docworker.db.cluster.servers import Server, examine_master
from docworker.db.cluster.session_settings import Context
from docworker.db.errors import ConfigurationError, DemotedMasterError, InvalidArgumentError

T = TypeVar("T")

_CLOCK_ANSWER_SECONDS = 5.0

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
_MASTER_COLUMNS = 3
_OPENINGS = {
    (is_replica, newer): session_settings.opening(name, question, newer=newer)
    for is_replica, name, question in ((True, "standby", _STANDING), (False, "master", _MASTER))
    for newer in (True, False)
}
IDENTIFY = f"SELECT system_identifier,{_MASTER} FROM pg_catalog.pg_control_system()"  # noqa: S608

_CLOCK = f"SELECT {_MASTER},extract(epoch FROM pg_catalog.clock_timestamp())"  # noqa: S608


class Opening(NamedTuple):
    """What begins a transaction, as SQL, and the name of the statement that it prepares on the way, if it does."""

    sql: str
    prepares: str | None = None

    def exchanged(
        self, connection: Connection, behind: Sequence[str] = (), timeout_seconds: float | None = None
    ) -> tuple[PGresult, list[PGresult]]:
        """Send it, with what comes behind it. Returns the server's answer, which is the first of the results with a
        row, and those of what was sent behind. Raises as `roundtrip.exchange`."""
        try:
            results = roundtrip.exchange(connection, ";".join([self.sql, *behind]), timeout_seconds)
        except BaseException:
            if self.prepares is not None and not connection.invalidated:
                connection.invalidate()  # it may stay prepared there, and could not be prepared again
            raise
        if self.prepares is not None:
            driver: Any = connection.connection.driver_connection
            driver.prepared.add(self.prepares)
        place = next(place for place, result in enumerate(results) if result.status == ExecStatus.TUPLES_OK)
        return results[place], list(results[place + 1 :])


def begin(
    connection: Connection,
    context: Context,
    *,
    read_only: bool,
    first: Sequence[str] = (),
    timeout_seconds: float | None = None,
) -> tuple[ReplicaStatus | None, list[PGresult]]:
    """Begin a transaction with what it asks for, and see whom we talk to.

    Returns a replica's status, or None for a master; and the answers to `first`, statements that are sent along.

    Raises:
        DemotedMasterError: the master is a replica now; StaleMasterError: an old master that came back.
        sqlalchemy.exc.DBAPIError: as SQLAlchemy would. The connection is thrown away when it was lost, or when the
            answer took longer than `timeout_seconds`.
    """
    server = server_of(connection)
    driver: Any = connection.connection.driver_connection
    connection.info["read_only"] = read_only
    seconds = context.statement_timeout / 1000
    if not read_only:
        limit_statements(driver, seconds)  # it may have to wait for a lock
    opened = opening(connection, context, read_only=read_only)
    answer, others = opened.exchanged(connection, first, timeout_seconds)
    limit_statements(driver, seconds)
    if server.is_replica:
        return _status(connection, answer), others
    connection.info["timeline"] = check_master(connection, server, answer, 0)
    return None, others


def opening(connection: Connection, context: Context, *, read_only: bool = False) -> Opening:
    """What `begin` sends: for who sends more along with it, and checks the answer."""
    begin = session_settings.BEGIN_READING if read_only else session_settings.BEGIN_WRITING
    return _opening(connection, begin, context)


def begin_snapshot(connection: Connection, context: Context) -> None:
    """End what has only read, and begin a transaction all of whose statements see one snapshot."""
    _opening(connection, f"COMMIT;{session_settings.BEGIN_SNAPSHOT}", context).exchanged(connection)


def _opening(connection: Connection, begin: str, context: Context) -> Opening:
    driver: Any = connection.connection.driver_connection
    statement = _OPENINGS[server_of(connection).is_replica, session_settings.is_newer(driver)]
    if not stays_prepared(driver):
        return Opening(f"{begin};{statement.plain(context.literals)}")
    executed = statement.executed(context.literals)
    if statement.name in driver.prepared:
        return Opening(f"{begin};{executed}")
    return Opening(f"{begin};{statement.preparation};{executed}", prepares=statement.name)


def limit_statements(driver: Any, seconds: float | None) -> None:
    """How long we wait for a server that answers others, where it gives a statement so long; None or 0: for ever."""
    driver.limit_seconds = seconds + GRACE_SECONDS if seconds else None


def position_at(connection: Connection, lsn: int) -> WalPosition:
    """A place in the log of the master that this transaction began on."""
    return WalPosition(system_identifier_of(connection), connection.info["timeline"], lsn)


def ask_replica_status(connection: Connection, *, timeout_seconds: float | None = None) -> ReplicaStatus:
    """A replica's status now, in a transaction that has begun."""
    *_, last = roundtrip.exchange(connection, f"SELECT {_STANDING}", timeout_seconds)
    return _status(connection, last)


def commit(connection: Connection) -> WalPosition:
    """Commit, and say how much a reader must see to see it: COMMIT and the question travel together."""
    committed, _, last, _ = roundtrip.exchange(connection, "COMMIT;" + session_settings.question(f"SELECT {_MASTER}"))
    if committed.command_status != b"COMMIT":
        raise InvalidArgumentError("a transaction that has failed cannot be committed: roll it back")
    return _position(connection, last)


def end_reading(connection: Connection) -> None:
    """COMMIT what has only read. After a ROLLBACK psycopg would forget every statement it has prepared."""
    if connection.closed or connection.invalidated:
        return
    driver: Any = connection.connection.driver_connection
    if driver.pgconn.transaction_status == TransactionStatus.INTRANS:
        roundtrip.exchange(connection, "COMMIT")


def ask_position(engine: Engine) -> WalPosition:
    """How far the master has flushed. One statement in autocommit; on a pooled connection that was lost, once more."""
    return _ask(engine, f"SELECT {_MASTER}", _position)


def ask_clock(engine: Engine) -> float:
    """The master's clock, in seconds since 1970; asked as `ask_position`, and not waited for for long."""

    def seconds(connection: Connection, result: PGresult) -> float:
        check_master(connection, server_of(connection), result, 0)
        return float(text_of(result, 3) or 0)

    return _ask(engine, _CLOCK, seconds, _CLOCK_ANSWER_SECONDS)


def ask_rows(
    engine: Engine, columns: str, source: str, *, timeout_seconds: float | None = None
) -> list[list[str | None]]:
    """A SELECT of these columns, as texts, which gives at least one row; asked as `ask_position`. Raises
    DemotedMasterError where it was answered by a server that is not the master."""

    def read(connection: Connection, result: PGresult) -> list[list[str | None]]:
        check_master(connection, server_of(connection), result, 0)
        return _texts(result, _MASTER_COLUMNS)

    return _ask(engine, f"SELECT {_MASTER},{columns} FROM {source}", read, timeout_seconds)  # noqa: S608


def ask_rows_within(connection: Connection, columns: str, source: str) -> list[list[str | None]]:
    """As `ask_rows`, in a transaction that has begun on a master."""
    (result,) = roundtrip.exchange(connection, f"SELECT {columns} FROM {source}")  # noqa: S608
    return _texts(result, 0)


def _texts(result: PGresult, first: int) -> list[list[str | None]]:
    return [
        [_decoded(result.get_value(row, column)) for column in range(first, result.nfields)]
        for row in range(result.ntuples)
    ]


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _ask(
    engine: Engine,
    statement: str,
    read: Callable[[Connection, PGresult], T],
    timeout_seconds: float | None = None,
) -> T:
    for retries_left in (1, 0):
        with engine.connect() as connection:
            try:
                _, last, _ = roundtrip.exchange(connection, session_settings.question(statement), timeout_seconds)
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


def check_master(connection: Connection, server: Server, result: PGresult, first: int) -> int:
    """Whether this is a master, and the latest; returns its timeline."""
    try:
        return examine_master(
            server, system_identifier_of(connection), bool_of(result, first), text_of(result, first + 1)
        )
    except DemotedMasterError as error:
        raise dismissed(connection, error) from None


def _position(connection: Connection, result: PGresult) -> WalPosition:
    timeline = check_master(connection, server_of(connection), result, 0)
    return WalPosition(system_identifier_of(connection), timeline, parse_lsn(text_of(result, 2) or "0/0"))


def _status(connection: Connection, result: PGresult) -> ReplicaStatus:
    replayed, timeline = text_of(result, 1), text_of(result, 2)
    return ReplicaStatus(
        system_identifier=system_identifier_of(connection),
        in_recovery=bool_of(result, 0),
        timeline=None if timeline is None else int(timeline),
        replayed=None if replayed is None else parse_lsn(replayed),
    )


def system_identifier_of(connection: Connection) -> int:
    """As the server said when this connection was made; see `db.cluster.engines`."""
    known = connection.info.get("system_identifier")
    if known is None:
        (result,) = roundtrip.exchange(connection, "SELECT system_identifier FROM pg_catalog.pg_control_system()")
        known = connection.info["system_identifier"] = int(text_of(result, 0) or 0)
    return int(known)
