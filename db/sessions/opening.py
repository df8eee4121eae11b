"""`reading()`, `writing()` and `read()`: the only ways to get a Session for an organization.

Each opens one short session for one phase of a job, sets the organization for every transaction in it, and closes.
`all_jobs_session()` is the dispatcher's own: it sees the jobs of all organizations and no documents; `read_all_jobs()`
reads as it does, on replicas as well.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db import catalog, metrics
from docworker.db.catalog import OpenClusters, Place
from docworker.db.cluster import Cluster, database, transactions
from docworker.db.cluster.balancer import Choice, ReadFrom, choose
from docworker.db.cluster.pool import OpenSession
from docworker.db.cluster.positions import WalPosition
from docworker.db.cluster.replica_status import ReplicaStatus
from docworker.db.errors import MovingOrganizationError, UnavailableOrganizationError
from docworker.db.faults import Fault, classify
from docworker.db.models import PlacementState
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions.fence import Fence
from docworker.db.sessions.remembered import remembered
from docworker.db.sessions.statements import Call
from docworker.db.sessions.tenant_session import TenantSession, opener
from docworker.db.settings import HOME, Settings

T = TypeVar("T")

_ANSWER_SECONDS = 1.0
"""A replica that does not begin a transaction within this is passed over."""
_ARRIVAL_SECONDS, _ARRIVAL_POLL_SECONDS = 5.0, 0.02
"""Who wants to write waits for so long while an organization arrives at another place."""


@contextmanager
def reading(
    organization_id: UUID | None,
    *,
    position: WalPosition | None = None,
    source: ReadFrom = "replica",
    avoid: Collection[int] = (),
) -> Iterator[TenantSession]:
    """A READ ONLY session that sees everything up to `position`; what was loaded stays usable after it is closed.

    Without a position: on any healthy replica no further behind than `replica_max_lag`. With one: on a replica that
    has replayed it, if need be after a wait of `replica_wait`. Else, or with source="master", on the master.
    `None` as organization sees the catalog only; whoever has the dispatcher's address instead of the worker's reads it
    as that role. `avoid` are numbers of replicas not to use.
    """
    known = database().settings
    if organization_id is None and known.master_url is None and known.dispatcher_url is not None:
        with all_jobs_session() as session:
            yield session
        return
    where = placed(organization_id)
    with open_reading(where, organization_id, position, source, avoid, pause=database().pause) as session:
        yield session


def read(
    organization_id: UUID | None,
    load: Callable[[TenantSession], T],
    *,
    position: WalPosition | None = None,
    source: ReadFrom = "replica",
) -> T:
    """Run `load` in a reading session; when the replica cancels or drops it, once more elsewhere, then on the master.

    `load` may run up to three times, so it only loads.
    """
    return _read_somewhere(partial(reading, organization_id, position=position), load, source)


def _read_somewhere(
    opened: Callable[..., AbstractContextManager[TenantSession]], load: Callable[[TenantSession], T], source: ReadFrom
) -> T:
    avoid: list[int] = []
    while True:
        with opened(source=source, avoid=avoid) as session:
            try:
                return load(session)
            except Exception as error:
                again = next_source(session, error, avoid)
                if again is None:
                    raise
                source = again


def next_source(session: TenantSession, error: Exception, avoid: list[int]) -> ReadFrom | None:
    """Where to read again after `error`: once on another replica than those in `avoid`, then on the master; None when
    it is not the replica's fault."""
    number = session.choice.number if session.choice else None
    if number is None or classify(error) not in (Fault.RECOVERY_CONFLICT, Fault.CONNECTION):
        return None
    avoid.append(number)
    return "replica" if len(avoid) == 1 else "master"


@contextmanager
def writing(organization_id: UUID | None, *, first: Sequence[Call] = ()) -> Iterator[TenantSession]:
    """A session on the master: commits at the end of the block, rolls back when the block raises.

    `first` are statements that travel with the BEGIN; the session has what each returned as `first_rows`.
    """
    with open_writing(organization_id, first=first) as session:
        yield session
        session.commit()


@contextmanager
def settling(organization_id: UUID) -> Iterator[TenantSession]:
    """As `writing`, and also while the organization is suspended: for the ends of jobs that had begun by then."""
    try:
        opened = open_writing(organization_id)
    except MovingOrganizationError:
        raise
    except UnavailableOrganizationError:
        place = catalog.place_of(organization_id, database(), states=(PlacementState.SUSPENDED,))
        with writing_at(place, organization_id) as session:
            yield session
        return
    with opened as session:
        yield session
        session.commit()


@contextmanager
def writing_at(place: Place, organization_id: UUID) -> Iterator[TenantSession]:
    """As `writing`, at a place whatever the catalog says: for who makes, moves or drops the organization there."""
    current = database()
    engine = current.cluster(place.cluster, place.database).master
    with TenantSession(engine, organization_id, current.settings, schema=place.schema) as session:
        session.begin_now()
        yield session
        session.commit()


@contextmanager
def reading_at(place: Place, organization_id: UUID) -> Iterator[TenantSession]:
    """A READ ONLY session on the master, at a place whatever the catalog says."""
    current = database()
    engine = current.cluster(place.cluster, place.database).master
    with TenantSession(engine, organization_id, current.settings, schema=place.schema, read_only=True) as session:
        session.begin_now()
        yield session


@contextmanager
def lease_session(organization_id: UUID, place: Place) -> Iterator[TenantSession]:
    """As `writing`, on the one connection that renews leases and waits for no other session of this process; at a place
    that is known, so that nobody is asked for it."""
    current = database()
    engine = current.cluster(place.cluster, place.database).lease
    with TenantSession(engine, organization_id, current.settings, schema=place.schema) as session:
        yield session
        session.commit()


def look_up(organization_id: UUID | None, query: Callable[[Session], T | None]) -> T | None:
    """What `query` finds on a replica, else what it finds on the master, else None."""
    with reading(organization_id) as session:
        found = query(session)
    if found is not None:
        return found
    with reading(organization_id, source="master") as session:
        return query(session)


@contextmanager
def all_jobs_session(
    cluster: str = HOME, database_name: str | None = None, *, first: Sequence[Call] = (), fence: Fence | None = None
) -> Iterator[TenantSession]:
    """A session on a cluster's master as the dispatcher's role: the jobs of all organizations in that database, its own
    unless another one is named, and nothing else of theirs. `first` as in `writing`; behind the `fence` of an
    organization it writes only while that one is there."""
    current = database()
    engine = _of_dispatcher(current, cluster, database_name).master
    with TenantSession(engine, None, current.settings, first=first, fence=fence) as session:
        session.begin_now()
        yield session
        session.commit()


def read_all_jobs(
    load: Callable[[TenantSession], T],
    cluster: str = HOME,
    database_name: str | None = None,
    *,
    position: WalPosition | None = None,
    source: ReadFrom = "replica",
) -> T:
    """As `read`, of what `all_jobs_session` sees; the replicas are asked as the dispatcher's role too."""
    return _read_somewhere(partial(_reading_all_jobs, cluster, database_name, position), load, source)


@contextmanager
def _reading_all_jobs(
    cluster: str, database_name: str | None, position: WalPosition | None, *, source: ReadFrom, avoid: Collection[int]
) -> Iterator[TenantSession]:
    current = database()
    found = _of_dispatcher(current, cluster, database_name)
    where = Placed(found, catalog.SHARED_SCHEMA, current.settings, None)
    with open_reading(where, None, position, source, avoid, pause=current.pause) as session:
        yield session


def _of_dispatcher(current: OpenClusters, cluster: str, database_name: str | None) -> Cluster:
    """The same servers, as the dispatcher's role."""
    current.settings.dispatcher_database_url(cluster)  # which has to be set
    found = current.cluster(cluster, database_name)
    assert found.dispatcher is not None
    return replace(found, master=found.dispatcher, replicas=found.dispatcher_replicas)


def position_after(session_or_cluster: Session | Cluster) -> WalPosition:
    """How much a reader must see to see everything committed on the master so far, one's own commits included.

    One statement in autocommit on the master. Call it after the commit: while the session is in a transaction this
    raises InvalidArgumentError, because nobody sees that transaction yet. `TenantSession.commit_with_position()` gives
    the same without a round trip of its own. Covers commits with synchronous_commit on (or stricter) only.
    """
    return transactions.ask_position(transactions.master_of(session_or_cluster))


class Placed(NamedTuple):
    """Where an organization's sessions go, in this process; those that write, behind the fence."""

    cluster: Cluster
    schema: str
    settings: Settings
    fence: Fence | None


def placed(
    organization_id: UUID | None, among: OpenClusters | None = None, *, states: Collection[str] = catalog.READABLE
) -> Placed:
    """Raises ConfigurationError when no database is open, or the organization's cluster is unknown here; and what
    `catalog.answer_of` does."""
    among = among or database()
    answer = catalog.answer_of(organization_id, among, states=states)
    place = answer.place
    fence = None if organization_id in (None, SYSTEM_ORGANIZATION_ID) else Fence(organization_id, answer, among)
    return Placed(among.cluster(place.cluster, place.database), place.schema, among.settings, fence)


def once_arrived(attempt: Callable[[], T], pause: Callable[[float], None] = time.sleep) -> T:
    """Try again while the organization arrives somewhere else, for a few seconds. Raises MovingOrganizationError after
    that."""
    deadline = time.monotonic() + _ARRIVAL_SECONDS
    while True:
        try:
            return attempt()
        except MovingOrganizationError:
            if time.monotonic() > deadline:
                raise
        pause(_ARRIVAL_POLL_SECONDS)


def open_writing(
    organization_id: UUID | None,
    among: OpenClusters | None = None,
    *,
    first: Sequence[Call] = (),
    pause: Callable[[float], None] = time.sleep,
    open_session: OpenSession | None = None,
) -> TenantSession:
    """What `writing` opens, in a transaction; the caller commits and closes it. Otherwise as `open_reading`."""
    opened_by = open_session or OpenSession.of(opener())

    def attempt() -> TenantSession:
        cluster, schema, settings, fence = placed(organization_id, among, states=catalog.SERVED)
        session = TenantSession(
            cluster.master,
            organization_id,
            settings,
            schema=schema,
            open_session=opened_by,
            first=first,
            fence=fence,
        )
        try:
            session.begin_now()
        except BaseException:
            session.close()
            raise
        return session

    return once_arrived(attempt, pause)


def open_reading(
    where: Placed,
    organization_id: UUID | None,
    position: WalPosition | None,
    source: ReadFrom,
    avoid: Collection[int] = (),
    *,
    pause: Callable[[float], None] = time.sleep,
    open_session: OpenSession | None = None,
) -> TenantSession:
    """What `reading` opens; the caller closes it. `pause` is how to wait in this kind of program; `open_session` says
    where it was opened, where that cannot be seen from here."""
    candidates = _Candidates(where, organization_id, pause, open_session or OpenSession.of(opener()))
    cluster, settings = where.cluster, where.settings
    try:
        if source == "master":
            choice = Choice(None, "asked" if not avoid else "avoided")
        else:
            cluster.monitor.start()
            is_asked = position is not None
            position = position or _remembered_of(cluster)
            choice = choose(candidates, cluster.monitor, settings, position, avoid=avoid, may_be_old=is_asked)
        session = candidates.session_for(choice)
        if choice.number is not None:
            session.behind_seconds = cluster.monitor.behind_seconds(choice.number)
    except BaseException:
        candidates.close()
        raise
    metrics.READS.labels(choice.target, choice.reason).inc()
    return session


def _remembered_of(cluster: Cluster) -> WalPosition | None:
    """How far the last write of this request's user was on this cluster, if there is a request."""
    seen = remembered.get()
    return None if seen is None else seen.of(cluster.monitor.timelines.system_identifier)


class _Candidates:
    """The replicas' side of `choose`: at most one session is open."""

    def __init__(
        self,
        where: Placed,
        organization_id: UUID | None,
        pause: Callable[[float], None],
        open_session: OpenSession,
    ) -> None:
        self._where = where
        self._organization_id = organization_id
        self._session: TenantSession | None = None
        self._number: int | None = None
        self._open_session = open_session
        self.pause = pause

    def ask(self, number: int) -> ReplicaStatus | None:
        try:
            if self._session is not None and self._number == number:
                return transactions.ask_replica_status(self._session.connection(), timeout_seconds=_ANSWER_SECONDS)
            self._number = number
            return self._begin(self._where.cluster.replicas[number], _ANSWER_SECONDS).status
        except DBAPIError as error:
            self.close()
            if classify(error).is_infrastructure:
                return None
            raise

    def session_for(self, choice: Choice) -> TenantSession:
        session = self._session
        if choice.number is None or session is None or choice.number != self._number:
            session = self._begin(self._where.cluster.master)
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
            self._where.settings,
            schema=self._where.schema,
            read_only=True,
            master=self._where.cluster.master,
            answer_seconds=answer_seconds,
            open_session=self._open_session,
        )
        self._session.begin_now()
        return self._session
