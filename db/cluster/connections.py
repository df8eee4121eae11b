"""`watch`: checks a connection when it is made (role, timeline) and before it leaves the pool (ping).

Sessions check again when their transaction begins (`db.cluster.transactions`); this here is for every user of an
engine.
"""

import asyncio
import time
from typing import Any

import psycopg
import structlog
from psycopg import IsolationLevel
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.array import ListBinaryDumper
from sqlalchemy import Connection, Dialect, Engine, event, exc
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from docworker.db import metrics
from docworker.db.cluster import adapters, session_settings
from docworker.db.cluster.bounded_connection import QUESTION_SECONDS, BoundedAsyncConnection, BoundedConnection
from docworker.db.cluster.capacity import LIMITS, check_connections
from docworker.db.cluster.discovery import MasterDiscovery
from docworker.db.cluster.pool import MeasuredPool
from docworker.db.cluster.roundtrip import ask, count_full_disk, send
from docworker.db.cluster.servers import Server, examine_master
from docworker.db.cluster.transactions import IDENTIFY
from docworker.db.errors import ConfigurationError
from docworker.db.faults import Fault, classify, mark_as_read_from_replica, mark_as_read_only, sqlstate_of
from docworker.db.passwords import passwords_of
from docworker.db.settings import Settings

log = structlog.get_logger(__name__)

# A list of texts as text is quoted and escaped item by item, in Python here and in the parser there.
_ADAPTERS = psycopg.adapt.AdaptersMap(psycopg.adapters)
_ADAPTERS.register_dumper(list, ListBinaryDumper)
adapters.register(_ADAPTERS)

PING_AFTER_SECONDS = 1.0
"""A connection that was idle for longer is pinged before it is lent; sessions notice the others when they begin."""


def connect_arguments(url: str, settings: Settings, application_name: str) -> dict[str, Any]:
    """psycopg's arguments for a libpq address; what the address says itself wins, but for the encoding, and for
    `target_session_attrs=read-write`: that believes a session's default, which we do not take."""
    address = conninfo_to_dict(url)
    if address.get("target_session_attrs") == "read-write":
        address["target_session_attrs"] = "primary"
    passwords = passwords_of(settings)
    return {
        # Read when a connection is made. An address that says where its password is has none of ours.
        **({} if passwords is None or "passfile" in address else {"password": passwords}),
        "application_name": application_name,
        "connect_timeout": settings.connect_timeout,
        # A silent cut is noticed within eleven seconds, also where nothing is sent (LISTEN, a long statement).
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "prepare_threshold": 5 if settings.prepared_statements else None,
        "context": _ADAPTERS,
        **address,
        "client_encoding": session_settings.ENCODING,
    }


def discovery_of(arguments: dict[str, Any], settings: Settings, server: Server) -> MasterDiscovery:
    """Finds the master of the server's cluster at these arguments or at a replica that the settings name."""
    name = str(arguments.get("application_name", "docworker"))
    replicas = [connect_arguments(url, settings, name) for url in settings.addresses(server.cluster).replica_urls]
    return MasterDiscovery(arguments, replicas, server.timelines, role=server.role)


def connect_plainly(arguments: dict[str, Any], settings: Settings) -> BoundedConnection:
    """A connection of one's own, in autocommit, for who needs no pool and no session. Raises psycopg's errors.

    It means what we mean until it ends, and no exchange on it waits for a server that does not answer.
    """
    connection = BoundedConnection.connect(**arguments, autocommit=True)
    connection.answer_seconds = settings.answer_timeout
    connection.limit_seconds = QUESTION_SECONDS
    try:
        ask_for_session(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def ask_for_session(connection: Any) -> None:
    """Have a psycopg connection that is nobody else's mean what we mean, until it ends (`db.cluster.session_settings`).

    Raises ConfigurationError when the database's encoding cannot keep every text.
    """
    session_settings.check_encoding(connection)
    autocommit, connection.autocommit = connection.autocommit, True
    connection.execute(session_settings.for_session(connection))
    connection.autocommit = autocommit


def watch(engine: Engine, server: Server, settings: Settings) -> None:
    """Check every connection of `engine` when it is made and when it is lent, and judge the errors on it.

    The first one to the master also shows whether the settings' pools fit. Behind a pooler, where prepared statements
    are off, the server's limit says nothing.
    """
    metrics.DISK_FULL.labels(server.cluster, server.disk)  # there with 0, so that the first one is an increase
    capacity = settings if server.role == "master" and settings.prepared_statements else None

    discovery: MasterDiscovery | None = None

    def connect(dialect: Dialect, record: ConnectionPoolEntry | None, arguments: Any, keywords: dict[str, Any]) -> Any:
        nonlocal capacity, discovery
        if server.role in ("master", "lease"):
            settings.master_database_url(server.cluster)  # or it would be libpq's own default
        if not server.is_replica:
            discovery = discovery or discovery_of(keywords, settings, server)
            keywords = _find(dialect, discovery)
        connection = _connect_to(dialect, record, server, arguments, keywords)
        dialect.get_driver_connection(connection).answer_seconds = settings.answer_timeout
        if capacity is not None:
            _check_capacity(dialect, connection, capacity, server)
            capacity = None
        return connection

    def checkout(_connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        if discovery is not None:
            discovery.look_again()
        _look(server, record)

    def checkin(_: Any, record: ConnectionPoolEntry) -> None:
        record.info["returned_at"] = time.monotonic()
        driver: Any = record.driver_connection
        if driver is not None:
            driver.limit_seconds = QUESTION_SECONDS

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkout", checkout)
    event.listen(engine, "checkin", checkin)
    event.listen(engine, "handle_error", lambda context: _judge(server, context))
    _measure(engine, server)


def _find(dialect: Dialect, discovery: MasterDiscovery) -> dict[str, Any]:
    """The arguments that lead to the master, without stopping an event loop meanwhile."""
    if dialect.is_async:
        return await_only(asyncio.to_thread(discovery.master))
    return discovery.master()


def _connect_to(
    dialect: Dialect, record: ConnectionPoolEntry | None, server: Server, arguments: Any, keywords: dict[str, Any]
) -> Any:
    connection = bounded(dialect, arguments, keywords)
    driver = dialect.get_driver_connection(connection)
    driver.limit_seconds = QUESTION_SECONDS
    try:
        session_settings.check_encoding(driver)
        # For who begins without us: SQLAlchemy, when it looks at an engine's first connection.
        connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
        system_identifier, timeline = examine(driver, server)
    except BaseException:
        connection.close()
        raise
    if record is not None:
        record.info["system_identifier"] = system_identifier
        record.info["timeline"] = timeline
        # Of a master that was asked, and is one: what it says unasked means nothing then.
        record.info["stood_by"] = _says_it_stands_by(driver)
    return connection


def bounded(dialect: Dialect, arguments: Any, keywords: dict[str, Any]) -> Any:
    """What the dialect would connect, waiting with a bound."""
    if dialect.is_async:
        return dialect.connect(*arguments, **keywords, async_creator_fn=BoundedAsyncConnection.connect)
    return BoundedConnection.connect(*arguments, **keywords)


def examine(driver: Any, server: Server) -> tuple[int, int | None]:
    """The system identifier, and the timeline of a master; raises what `examine_master` does."""
    system_identifier, in_recovery, walfile_name, _ = ask(driver, IDENTIFY)
    system = int(system_identifier or 0)
    return system, None if server.is_replica else examine_master(server, system, in_recovery == "t", walfile_name)


def _check_capacity(dialect: Dialect, connection: Any, settings: Settings, server: Server) -> None:
    max_connections, superuser_reserved, reserved, tenant_databases = (
        int(limit or 0) for limit in ask(dialect.get_driver_connection(connection), LIMITS)
    )
    try:
        check_connections(
            settings,
            max_connections=max_connections,
            superuser_reserved=superuser_reserved,
            reserved=reserved,
            tenant_databases=tenant_databases,
            cluster=server.cluster,
        )
    except ConfigurationError:
        connection.close()
        raise


def _look(server: Server, record: ConnectionPoolEntry) -> None:
    """Before a connection is lent: what can be known without asking, and a ping if it was idle for long."""
    driver: Any = record.driver_connection
    idle_seconds = time.monotonic() - record.info.get("returned_at", time.monotonic())
    if idle_seconds > PING_AFTER_SECONDS:
        try:
            send(driver, "")
        except psycopg.Error as error:
            raise exc.InvalidatePoolError from error
    if server.is_replica:
        return
    if (record.info.get("timeline") or 0) < server.timelines.highest:
        raise exc.InvalidatePoolError(f"the server is on an older timeline than {server.timelines.highest}")
    if not record.info.get("stood_by") and _says_it_stands_by(driver):
        raise exc.InvalidatePoolError("the server is a replica now")


def _says_it_stands_by(driver: Any) -> bool:
    """What the server tells unasked. PgBouncer repeats what it was told when it first connected: `on` for good, of a
    replica that was promoted since."""
    return bool(driver.info.parameter_status("in_hot_standby") == "on")


def _judge(server: Server, context: ExceptionContext) -> None:
    """Say what SQLAlchemy cannot know of an error: a demoted master is a lost connection, and one connection that a
    replica's replay cuts is not a lost server."""
    error = context.original_exception
    if server.is_replica:
        mark_as_read_from_replica(error)
    if _is_read_only(context.connection):
        mark_as_read_only(error)
    fault = classify(error)
    if fault is Fault.DEMOTED and sqlstate_of(error):
        context.is_disconnect = True
    count_full_disk(server, error)
    if fault is Fault.RECOVERY_CONFLICT:
        metrics.RECOVERY_CONFLICTS.labels(server.cluster, server.role).inc()
    if server.is_replica:
        context.invalidate_pool_on_disconnect = False


def _is_read_only(connection: Connection | None) -> bool:
    if connection is None:
        return False
    try:
        return bool(connection.info.get("read_only"))
    except NotImplementedError:
        # An engine's first connection, while SQLAlchemy asks who the server is: it has no `info` yet. Raised from here,
        # this would take the error's place, and be taken for a feature that the server lacks.
        return False


def _measure(engine: Engine, server: Server) -> None:
    def publish(*_: Any) -> None:
        pool = engine.pool
        assert isinstance(pool, MeasuredPool)
        pool.publish()

    def invalidated(*_: Any) -> None:
        metrics.POOL_INVALIDATIONS.labels(server.cluster, server.role).inc()
        publish()

    for name in ("checkout", "close", "close_detached"):
        event.listen(engine, name, publish)
    event.listen(engine, "invalidate", invalidated)
    publish()
