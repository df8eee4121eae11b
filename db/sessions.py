"""`reading()`, `writing()` and `read()`: the only ways to get a Session for an organization.

Each opens one short session for one phase of a job, sets the organization for every transaction in it, and closes.
`overseeing()` is the dispatcher's own: it sees the jobs of all organizations and no documents.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from db import metrics, transactions
from db.choosing import Choice, Source, choose
from db.engines import Cluster, database
from db.errors import ConfigurationError
from db.faults import Fault, classify
from db.pool import Holder
from db.replication import Standing, WalPosition
from db.settings import Settings
from db.statements import Call
from db.tenancy import TenantSession as TenantSession
from db.tenancy import opener
from db.tenancy import organization_of as organization_of

T = TypeVar("T")

_ANSWER_SECONDS = 1.0
"""A replica that does not begin a transaction within this is passed over."""


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
def writing(organization_id: UUID | None, *, first: Call | None = None) -> Iterator[TenantSession]:
    """A session on the master: commits at the end of the block, rolls back when the block raises.

    `first` is a statement that travels with the BEGIN; the session has what it returned as `first_rows`.
    """
    current = database()
    with TenantSession(current.cluster().master, organization_id, current.settings, first=first) as session:
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
