"""`reading()`, `writing()` and `read()`: the only ways to get a Session for an organization.

Each opens one short session for one phase of a job, sets the organization for every transaction in it, and closes.
`overseeing()` is the dispatcher's own: it sees the jobs of all organizations and no documents.
"""

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction

from db import metrics, transactions
from db.choosing import Choice, Source, choose
from db.engines import Cluster, database
from db.errors import ConfigurationError
from db.faults import Fault, classify
from db.pool import Holder, Holders, MeasuredPool
from db.replication import Standing, WalPosition
from db.settings import Settings

T = TypeVar("T")

_NOT_THE_OPENER = frozenset({"contextlib", "db.sessions", "db.aio", "db.routing"})
_ANSWER_SECONDS = 1.0
"""A replica that does not begin a transaction within this is passed over."""


class TenantSession(Session):
    """A Session that belongs to one organization, or to none and then sees no tenant's rows.

    `choice` says where a reading session reads, and why.
    """

    choice: Choice | None = None

    def __init__(
        self,
        bind: Engine,
        organization_id: UUID | None,
        settings: Settings,
        *,
        read_only: bool = False,
        master: Engine | None = None,
        answer_seconds: float | None = None,
        holder: Holder | None = None,
        **options: Any,
    ) -> None:
        super().__init__(bind=bind, expire_on_commit=False, **options)
        self.organization_id = organization_id
        self.settings = settings
        self.master = bind if master is None else master
        self.read_only = read_only
        self.standing: Standing | None = None
        self._answer_seconds = answer_seconds
        self._context = _context_of(organization_id, settings)
        self.holder = holder or Holder.of(opener())
        self._held: list[Holders] = []

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
        """A transaction begins on `connection`: tell it the organization, and see what the server is."""
        self._hold(connection.engine)
        self.standing = transactions.begin(
            connection, self._context, read_only=self.read_only, timeout_seconds=self._answer_seconds
        )

    def commit_with_position(self) -> WalPosition:
        """Commit, and say how much a reader must see to see it; costs no round trip beyond the COMMIT."""
        self.flush()
        position = transactions.commit(self.connection())
        self.commit()
        return position

    def _hold(self, engine: Engine) -> None:
        """Be known to the engine's pool as one that holds a connection."""
        pool = engine.pool
        if isinstance(pool, MeasuredPool) and pool.holders not in self._held:
            pool.holders.add(self, self.holder)
            self._held.append(pool.holders)

    def close(self) -> None:
        super().close()
        if self.holder.open_seconds() > self.settings.long_session:
            self.holder.report()
        for holders in self._held:
            holders.remove(self)
        self._held.clear()


@event.listens_for(TenantSession, "after_begin")
def _begun(session: TenantSession, transaction: SessionTransaction, connection: Connection) -> None:
    if not transaction.nested:
        session.begun(connection)


@contextmanager
def reading(
    organization_id: UUID | None,
    *,
    position: WalPosition | None = None,
    source: Source = "replica",
    avoid: Collection[int] = (),
) -> Iterator[TenantSession]:
    """A READ ONLY session that sees everything up to `position`; what was loaded stays usable after it is closed.

    Without a position: on any healthy replica no further behind than `replica_max_lag`. With one: on a replica that
    has replayed it, if need be after a wait of `replica_wait`. Else, or with source="master", on the master.
    `None` as organization sees the catalog only; `avoid` are numbers of replicas not to use.
    """
    current = database()
    with open_reading(current.cluster(), organization_id, current.settings, position, source, avoid) as session:
        yield session


def read(
    organization_id: UUID | None,
    load: Callable[[TenantSession], T],
    *,
    position: WalPosition | None = None,
    source: Source = "replica",
) -> T:
    """Run `load` in a reading session; when the replica cancels or drops it, once more elsewhere, then on the master.

    `load` may run up to three times, so it only loads.
    """
    avoid: list[int] = []
    while True:
        with reading(organization_id, position=position, source=source, avoid=avoid) as session:
            try:
                return load(session)
            except Exception as error:
                again = next_source(session, error, avoid)
                if again is None:
                    raise
                source = again


def next_source(session: TenantSession, error: Exception, avoid: list[int]) -> Source | None:
    """Where to read again after `error`: once on another replica than those in `avoid`, then on the master; None when
    it is not the replica's fault."""
    number = session.choice.number if session.choice else None
    if number is None or classify(error) not in (Fault.RECOVERY_CONFLICT, Fault.CONNECTION):
        return None
    avoid.append(number)
    return "replica" if len(avoid) == 1 else "master"


@contextmanager
def writing(organization_id: UUID | None) -> Iterator[TenantSession]:
    """A session on the master: commits at the end of the block, rolls back when the block raises."""
    current = database()
    with TenantSession(current.cluster().master, organization_id, current.settings) as session:
        session.begin_now()
        yield session
        session.commit()


@contextmanager
def overseeing() -> Iterator[TenantSession]:
    """A session on the master as the dispatcher's role: the jobs of all organizations, and nothing else of theirs."""
    current = database()
    engine = current.cluster().dispatcher
    if engine is None:
        raise ConfigurationError(
            "DOCWORKER_DISPATCHER_URL is not set: give the master's address as the role docworker_dispatcher"
        )
    with TenantSession(engine, None, current.settings) as session:
        session.begin_now()
        yield session
        session.commit()


def open_reading(
    cluster: Cluster,
    organization_id: UUID | None,
    settings: Settings,
    position: WalPosition | None,
    source: Source,
    avoid: Collection[int] = (),
    *,
    pause: Callable[[float], None] = time.sleep,
    holder: Holder | None = None,
) -> TenantSession:
    """What `reading` opens; the caller closes it. `pause` is how to wait in this kind of program; `holder` says where
    it was opened, where that cannot be seen from here."""
    attempt = _Attempt(cluster, organization_id, settings, pause, holder or Holder.of(opener()))
    try:
        if source == "master":
            choice = Choice(None, "asked" if not avoid else "avoided")
        else:
            cluster.sampler.start()
            choice = choose(attempt, cluster.sampler, settings, position, avoid=avoid)
        session = attempt.session_for(choice)
    except BaseException:
        attempt.close()
        raise
    metrics.READS.labels(choice.target, choice.reason).inc()
    return session


class _Attempt:
    """The replicas' side of `choose`: at most one session is open."""

    def __init__(
        self,
        cluster: Cluster,
        organization_id: UUID | None,
        settings: Settings,
        pause: Callable[[float], None],
        holder: Holder,
    ) -> None:
        self._cluster = cluster
        self._organization_id = organization_id
        self._settings = settings
        self._session: TenantSession | None = None
        self._number: int | None = None
        self._holder = holder
        self.pause = pause

    def ask(self, number: int) -> Standing | None:
        try:
            if self._session is not None and self._number == number:
                return transactions.ask_standing(self._session.connection(), timeout_seconds=_ANSWER_SECONDS)
            self._number = number
            return self._begin(self._cluster.replicas[number], _ANSWER_SECONDS).standing
        except DBAPIError as error:
            self.close()
            if classify(error).is_infrastructure:
                return None
            raise

    def session_for(self, choice: Choice) -> TenantSession:
        session = self._session
        if choice.number is None or session is None or choice.number != self._number:
            session = self._begin(self._cluster.master)
        session.choice = choice
        return session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _begin(self, engine: Engine, answer_seconds: float | None = None) -> TenantSession:
        self.close()
        self._session = TenantSession(
            engine,
            self._organization_id,
            self._settings,
            read_only=True,
            master=self._cluster.master,
            answer_seconds=answer_seconds,
            holder=self._holder,
        )
        self._session.begin_now()
        return self._session


def _context_of(organization_id: UUID | None, settings: Settings) -> str:
    """The settings of a transaction as SQL; nothing in it needs quoting."""
    values = {
        "docworker.organization_id": "" if organization_id is None else str(UUID(str(organization_id))),
        "statement_timeout": _milliseconds(settings.statement_timeout),
        "lock_timeout": _milliseconds(settings.lock_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(settings.idle_in_transaction_timeout),
    }
    return ",".join(f"set_config('{name}','{value}',true)" for name, value in values.items())


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def opener() -> FrameType:
    """The nearest caller that is not part of opening a session."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in _NOT_THE_OPENER:
        frame = frame.f_back
    return frame


def organization_of(session: Any) -> UUID:
    """The organization a Session or AsyncSession was opened for; raises ConfigurationError for a foreign session."""
    session = getattr(session, "sync_session", session)
    organization_id = getattr(session, "organization_id", None)
    if organization_id is None:
        raise ConfigurationError(
            "this session belongs to no organization: open it with db.sessions.writing(organization_id)"
        )
    return UUID(str(organization_id))
