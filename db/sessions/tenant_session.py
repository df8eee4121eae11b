"""`TenantSession`: sets the tenant for row-level security and checks the server's role when a transaction begins.

Not how one is opened: that is `db.sessions.opening`.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction

from docworker.db.catalog import SHARED_SCHEMA, TENANT_SCHEMAS
from docworker.db.cluster import transactions
from docworker.db.cluster.balancer import Choice
from docworker.db.cluster.pool import MeasuredPool, OpenSession, OpenSessions
from docworker.db.cluster.positions import WalPosition
from docworker.db.cluster.replica_status import ReplicaStatus
from docworker.db.cluster.session_settings import Context
from docworker.db.errors import ConfigurationError, InvalidArgumentError
from docworker.db.sessions.fence import Fence
from docworker.db.sessions.remembered import remembered
from docworker.db.sessions.statement_watch import RepeatedStatements, StatementCounts
from docworker.db.sessions.statements import Call, Row, ready, rows_of
from docworker.db.settings import Settings

log = structlog.get_logger(__name__)

_NOT_THE_OPENER = frozenset(
    {
        "contextlib",
        "docworker.db.sessions.tenant_session",
        "docworker.db.sessions.opening",
        "docworker.db.sessions.aio",
        "docworker.db.sessions.routing",
    }
)


class TenantSession(Session):
    """A Session that belongs to one organization, or to none and then sees no tenant's rows.

    `choice` says where a reading session reads, and why; `behind_seconds`, how old what it reads may be. `first_rows`
    are what each of the statements returned that were sent with the first BEGIN.
    """

    choice: Choice | None = None
    behind_seconds = 0.0

    def __init__(
        self,
        bind: Engine,
        organization_id: UUID | None,
        settings: Settings,
        *,
        schema: str = SHARED_SCHEMA,
        read_only: bool = False,
        master: Engine | None = None,
        answer_seconds: float | None = None,
        open_session: OpenSession | None = None,
        first: Sequence[Call] = (),
        fence: Fence | None = None,
        **options: Any,
    ) -> None:
        if schema != SHARED_SCHEMA:
            bind = bind.execution_options(schema_translate_map=dict.fromkeys(TENANT_SCHEMAS, schema))
        super().__init__(bind=bind, expire_on_commit=False, **options)
        self.organization_id = organization_id
        self.settings = settings
        self.schema = schema
        self.master = bind if master is None else master
        self.read_only = read_only
        self.status: ReplicaStatus | None = None
        self._answer_seconds = answer_seconds
        self._fence = fence
        self._context = context_of(organization_id, settings, fence)
        self.open_session = open_session or OpenSession.of(opener())
        self._held: list[OpenSessions] = []
        self._connection: Connection | None = None
        most = settings.repeated_statements
        self._watches: list[StatementCounts] = []
        if most:
            self._watches.append(RepeatedStatements(most, opened_at=self.open_session.place))
        self._first = first
        self.first_rows: list[list[Row]] = []

    def begin_now(self) -> None:
        """Begin the transaction at once, on a pooled connection that turns out to be dead once more on a new one."""
        started = time.monotonic()
        try:
            self.connection()
        except DBAPIError as error:
            self.rollback()
            slow = self._answer_seconds is not None and time.monotonic() - started >= self._answer_seconds
            if slow or not error.connection_invalidated:
                raise
            self.connection()

    def begun(self, connection: Connection) -> None:
        """A transaction begins on `connection`: tell it the organization, and see what the server is, and whether the
        organization is still there."""
        self._hold(connection.engine)
        self._connection = connection
        for watch in self._watches:
            watch.listen(connection)
        self.status, answers = transactions.begin(
            connection,
            self._context,
            first=[ready(connection, call) for call in self._first],
            read_only=self.read_only,
            timeout_seconds=self._answer_seconds,
        )
        self._first = ()
        if self._fence is not None:
            self._fence.check(connection)
        self.first_rows = [rows_of(connection, answer) for answer in answers]

    def watch_statements(self, counts: StatementCounts) -> None:
        """Have the statements counted that this session sends from now on."""
        self._watches.append(counts)
        if self._connection is not None and self.in_transaction():
            counts.listen(self._connection)

    def limit_statements(self, seconds: float) -> None:
        """Give each statement of this transaction so long instead of `statement_timeout`; 0: as long as it takes."""
        connection = self.connection()
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_milliseconds(seconds)}")
        transactions.limit_statements(connection.connection.driver_connection, seconds)

    def hold_snapshot(self) -> None:
        """Have all further statements of a reading session see one snapshot. It is meant to last, and not reported."""
        transactions.begin_snapshot(self.connection(), self._context)
        self.open_session.reported = True

    def commit(self) -> None:
        """As SQLAlchemy's; in a request whose user is to see his writes, how far they are is remembered."""
        seen = remembered.get()
        if seen is None or self.read_only:
            super().commit()
            return
        self.flush()  # which may begin the transaction
        connection = self._connection
        if connection is None or connection.closed or not connection.in_transaction():
            super().commit()
        elif self.in_nested_transaction():
            super().commit()
            seen.note(transactions.ask_position(self.master))
        else:
            self.commit_with_position()

    def commit_with_position(self) -> WalPosition:
        """Commit, and say how much a reader must see to see it; costs no round trip beyond the COMMIT.

        Raises InvalidArgumentError inside a savepoint, and when a statement has failed and nothing was rolled back.
        """
        if self.in_nested_transaction():
            raise InvalidArgumentError("a savepoint is open: leave it before the commit")
        self.flush()
        position = transactions.commit(self.connection())
        super().commit()
        seen = remembered.get()
        if seen is not None:
            seen.note(position)
        return position

    def remember_read(self) -> None:
        """Have who asks now see nothing older the next time than this reading session has seen. On the master its
        transaction ends with that."""
        seen, status = remembered.get(), self.status
        if seen is None:
            return
        if status is None:
            self.commit_with_position()
        elif status.timeline is not None and status.replayed is not None:
            seen.note(WalPosition(status.system_identifier, status.timeline, status.replayed))

    def position_at(self, lsn: int) -> WalPosition:
        """A place in the log of the master that this session's transaction writes to."""
        return transactions.position_at(self.connection(), lsn)

    def _hold(self, engine: Engine) -> None:
        """Be known to the engine's pool as one that holds a connection."""
        pool = engine.pool
        if isinstance(pool, MeasuredPool) and pool.open_sessions not in self._held:
            pool.open_sessions.add(self, self.open_session)
            self._held.append(pool.open_sessions)

    def close(self) -> None:
        if self.read_only and self._connection is not None:
            self._give_up(partial(transactions.end_reading, self._connection))
        self._give_up(super().close)
        if self.open_session.open_seconds() > self.settings.long_session:
            self.open_session.report()
        for open_sessions in self._held:
            open_sessions.remove(self)
        self._held.clear()

    def _give_up(self, end: Callable[[], None]) -> None:
        """What was not committed is given up either way, and an error of it must not take the place of what the block
        raised."""
        try:
            end()
        except DBAPIError as error:
            log.debug("session.not_rolled_back", error=str(error))
            # It may be amid a statement that a time limit broke off, and hold locks; the session has forgotten it.
            if self._connection is not None and not self._connection.closed:
                self._connection.invalidate()


@event.listens_for(TenantSession, "after_begin")
def _begun(session: TenantSession, transaction: SessionTransaction, connection: Connection) -> None:
    if not transaction.nested:
        session.begun(connection)


def organization_of(session: Any) -> UUID:
    """The organization a Session or AsyncSession was opened for; raises ConfigurationError for a foreign session."""
    session = getattr(session, "sync_session", session)
    organization_id = getattr(session, "organization_id", None)
    if organization_id is None:
        raise ConfigurationError(
            "this session belongs to no organization: open it with docworker.writing(organization_id)"
        )
    return UUID(str(organization_id))


def turn_to(organization_id: UUID, settings: Settings, fence: Fence | None = None) -> str:
    """What makes a transaction that has begun another organization's, as a list of SQL expressions. It does not wait
    for the lock of that one: whoever it was begun for would wait with it."""
    context = f"pg_catalog.set_config('docworker.organization_id','{UUID(str(organization_id))}',true)"
    if fence is None:
        return context
    at_once, usual = (
        f"pg_catalog.set_config('lock_timeout','{milliseconds}',true)"
        for milliseconds in (1, _milliseconds(settings.lock_timeout))
    )
    return f"{context},{at_once},pg_catalog.pg_advisory_xact_lock_shared({fence.lock}),{usual}"


def context_of(organization_id: UUID | None, settings: Settings, fence: Fence | None = None) -> Context:
    """What a transaction of this organization asks for."""
    return Context(
        organization_id=None if organization_id is None else UUID(str(organization_id)),
        statement_timeout=_milliseconds(settings.statement_timeout),
        lock_timeout=_milliseconds(settings.lock_timeout),
        idle_in_transaction_session_timeout=_milliseconds(settings.idle_in_transaction_timeout),
        lock=None if fence is None else fence.lock,
    )


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def opener() -> FrameType:
    """The nearest caller that is not part of opening a session."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in _NOT_THE_OPENER:
        frame = frame.f_back
    return frame
