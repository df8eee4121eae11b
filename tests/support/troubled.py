"""One organization at home with which something is wrong, while the server and all others are well; and databases of
single organizations, to be shut."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import UUID

from sqlalchemy import delete, text

from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.cluster import database
from docworker.db.ledger.waiting.backlogs import count_backlogs, remove_backlog, set_backlog
from docworker.db.models import Placement
from docworker.db.sessions import all_jobs_session
from docworker.db.sessions.fence import lock_key
from docworker.db.settings import HOME
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.owner import owning
from tests.support.database import reopened_database
from tests.support.ledger import LedgerSteps
from tests.support.refusals import refusing_jobs
from tests.support.stack import fresh_database, unique_name
from tests.support.tenants import entered


@contextmanager
def own_database(stack: LocalStack, template: str) -> Iterator[str]:
    """Of a single organization; the block enters it."""
    with fresh_database(stack, unique_name("own"), template=template) as name:
        try:
            yield name
        finally:
            with owning() as owner:
                owner.execute(delete(Placement).where(Placement.database == name))
            database().cluster(HOME, name).dispose_engines()


@contextmanager
def shut(stack: LocalStack, name: str) -> Iterator[None]:
    """Within the block nobody reaches that database."""
    stack.master.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    stack.master.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        yield
    finally:
        stack.master.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


@contextmanager
def lost_database() -> Iterator[UUID]:
    lost = entered(at=Place(HOME, SHARED_SCHEMA, "lost"))
    try:
        yield lost
    finally:
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
    try:
        yield full.organization_id
    finally:
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
