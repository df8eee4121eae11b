"""`reading()` and `writing()`: the only ways to get a Session for an organization.

Each opens one short session for one phase of a job, sets the organization for every transaction in it, and closes.
`overseeing()` is the dispatcher's own: it sees the jobs of all organizations and no documents.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, SessionTransaction

from db import metrics
from db.engines import Database, database
from db.errors import ConfigurationError
from db.settings import Settings

Target = Literal["replica", "master"]

_SET_CONTEXT = text(
    "SELECT set_config('docworker.organization_id', :organization_id, true),"
    " set_config('statement_timeout', :statement_timeout, true),"
    " set_config('lock_timeout', :lock_timeout, true),"
    " set_config('idle_in_transaction_session_timeout', :idle_timeout, true)"
)


class TenantSession(Session):
    """A Session that belongs to one organization, or to none and then sees no tenant's rows."""

    def __init__(self, bind: Engine, organization_id: UUID | None, settings: Settings) -> None:
        super().__init__(bind=bind, expire_on_commit=False)
        self.organization_id = organization_id
        self.context = {
            "organization_id": "" if organization_id is None else str(organization_id),
            "statement_timeout": _milliseconds(settings.statement_timeout),
            "lock_timeout": _milliseconds(settings.lock_timeout),
            "idle_timeout": _milliseconds(settings.idle_in_transaction_timeout),
        }


@event.listens_for(TenantSession, "after_begin")
def _set_context(session: TenantSession, transaction: SessionTransaction, connection: Connection) -> None:
    if not transaction.nested:
        connection.execute(_SET_CONTEXT, session.context)


@contextmanager
def reading(organization_id: UUID | None, *, source: Target = "replica") -> Iterator[TenantSession]:
    """A READ ONLY session, on a replica where one answers, else on the master.

    `None` sees the catalog only. What was loaded stays usable after the session is closed.
    """
    current = database()
    with _connected(current, organization_id, source) as session:
        yield session


@contextmanager
def writing(organization_id: UUID | None) -> Iterator[TenantSession]:
    """A session on the master: commits at the end of the block, rolls back when the block raises."""
    current = database()
    with TenantSession(current.cluster().master, organization_id, current.settings) as session:
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
        yield session
        session.commit()


@contextmanager
def _connected(current: Database, organization_id: UUID | None, source: Target) -> Iterator[TenantSession]:
    for engine, target, reason in _read_targets(current, source):
        session = TenantSession(engine, organization_id, current.settings)
        try:
            session.connection(execution_options={"postgresql_readonly": True})
        except OperationalError:
            session.close()
            if target == "master":
                raise
            continue
        metrics.READS.labels(target, reason).inc()
        with session:
            yield session
        return


def _read_targets(current: Database, source: Target) -> Iterator[tuple[Engine, Target, str]]:
    cluster = current.cluster()
    if source == "replica":
        for engine in cluster.replicas:
            yield engine, "replica", "healthy"
    yield cluster.master, "master", "asked" if source == "master" else "no_replica"


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def organization_of(session: Any) -> UUID:
    """The organization a Session or AsyncSession was opened for; raises ConfigurationError for a foreign session."""
    session = getattr(session, "sync_session", session)
    organization_id = getattr(session, "organization_id", None)
    if organization_id is None:
        raise ConfigurationError(
            "this session belongs to no organization: open it with db.sessions.writing(organization_id)"
        )
    return UUID(str(organization_id))
