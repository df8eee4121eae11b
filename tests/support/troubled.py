"""One organization at home with which something is wrong, while the server and all others are well."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import UUID

from sqlalchemy import delete, text

from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.ledger.waiting.backlogs import count_backlogs, remove_backlog, set_backlog
from docworker.db.models import Placement
from docworker.db.sessions import all_jobs_session
from docworker.db.sessions.fence import lock_key
from docworker.db.settings import HOME
from docworker.worker.tenants.owner import owning
from tests.support.database import reopened_database
from tests.support.ledger import LedgerSteps
from tests.support.refusals import refusing_jobs
from tests.support.tenants import entered


@contextmanager
def lost_database() -> Iterator[UUID]:
    lost = entered(at=Place(HOME, SHARED_SCHEMA, "lost"))
    yield lost
    with owning() as owner:
        owner.execute(delete(Placement).where(Placement.organization_id == lost))


@contextmanager
def full_backlog() -> Iterator[UUID]:
    full = LedgerSteps()
    with all_jobs_session() as session:
        set_backlog(session, full.organization_id, 1)
    full.enqueue()
    with all_jobs_session() as session:
        count_backlogs(session)
    yield full.organization_id
    with all_jobs_session() as session:
        remove_backlog(session, full.organization_id)


@contextmanager
def held_locks(count: int) -> Iterator[list[UUID]]:
    held = [entered() for _ in range(count)]
    with reopened_database(lock_timeout=0.2), all_jobs_session() as session:
        for one in held:
            session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(one)})
        yield held


@contextmanager
def held_lock() -> Iterator[UUID]:
    with held_locks(1) as (held,):
        yield held


@contextmanager
def refused_jobs() -> Iterator[UUID]:
    refused = entered()
    with refusing_jobs(but=f"organization_id <> '{refused}'"):
        yield refused


TROUBLES: list[Callable[[], AbstractContextManager[UUID]]] = [lost_database, full_backlog, held_lock, refused_jobs]
