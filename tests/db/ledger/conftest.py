"""A ledger of one's own, an organization in it, short words for the steps of a job's life, and a way to catch one of
them waiting."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster import Database, database
from docworker.db.cluster.engines import owner_engine
from docworker.db.ledger import Claimed
from docworker.db.models import Job
from docworker.db.models.base import new_id
from docworker.db.sessions import TenantSession, all_jobs_session, writing
from docworker.db.settings import HOME, settings
from tests.support.waiting import eventually


def dispatched(
    session: Session,
    *,
    capacity: int,
    size: ledger.Size,
    turns: ledger.Turns | None = None,
    under_way: ledger.Load | None = None,
    redispatch_after_seconds: float = 10,
    **limits: Any,
) -> ledger.Dispatched:
    """One look of a dispatcher that knows every kind; a new one, unless its turns are given."""
    while ledger.promote(session):
        pass
    turns = turns or ledger.Turns()
    look = ledger.dispatch_due(
        session,
        turns,
        under_way or ledger.load(session),
        ledger.Limits(lambda _: size, largest=size.room, largest_single=size.room, **limits),
        capacity=capacity,
        redispatch_after_seconds=redispatch_after_seconds,
    )
    turns.take(look.walk)
    return look


class Steps:
    """The steps of a job's life for one organization, each committed at once."""

    kind = "test_kind"

    def __init__(self, organization_id: UUID | None = None) -> None:
        self.organization_id = organization_id or new_id()

    def enqueue(self, count: int = 1, *, kind: str = kind, **options: Any) -> list[UUID]:
        options.setdefault("max_attempts", 3)
        arguments = options.pop("arguments", [{"number": number} for number in range(count)])
        with writing(self.organization_id) as session:
            return ledger.insert_jobs(session, self.organization_id, kind, arguments, **options)

    def dispatch(self, *, capacity: int = 100, batch_size: int = 100, **options: Any) -> list[ledger.Message]:
        with all_jobs_session() as session:
            size = ledger.Size(batch_size, batch_size)
            return dispatched(session, capacity=capacity, size=size, **options).messages

    def claim(self, ids: Sequence[UUID], *, message_id: UUID | None = None, lease: float = 10) -> list[Claimed]:
        return self.take(ids, message_id=message_id, lease=lease).jobs

    def take(self, ids: Sequence[UUID], *, message_id: UUID | None = None, lease: float = 10) -> ledger.Claim:
        with writing(self.organization_id) as session:
            return ledger.claim(
                session,
                self.kind,
                ids,
                message_id=message_id,
                worker="tests",
                lease_seconds=lease,
                max_run_seconds=60,
            )

    def hand_back(self, ids: Sequence[UUID], *, message_id: UUID) -> None:
        with writing(self.organization_id) as session:
            ledger.hand_back(session, ids, message_id=message_id)

    def run(self, count: int = 1, **options: Any) -> list[Claimed]:
        """Enqueue, dispatch and claim that many jobs."""
        ids = self.enqueue(count, **options)
        self.dispatch()
        return self.claim(ids)

    def finish(self, claimed: Sequence[Claimed]) -> set[UUID]:
        with writing(self.organization_id) as session:
            owned = ledger.lock_owned(session, claimed)
            return ledger.succeed(session, [(one, None) for one in claimed if one.id in owned])

    def expire(self, ids: Sequence[UUID]) -> None:
        """Let the leases of running jobs end now."""
        with all_jobs_session() as session:
            session.execute(
                text(
                    "UPDATE ledger.jobs SET lease_expires_at = clock_timestamp() - interval '1 second'"
                    " WHERE id = ANY(:ids) AND state = 'running'"
                ),
                {"ids": list(ids)},
            )

    def rescue(self) -> Sequence[ledger.Rescued]:
        with all_jobs_session() as session:
            return ledger.rescue_expired(session)

    def job(self, job_id: UUID) -> Job:
        with all_jobs_session() as session:
            return ledger.get(session, job_id)

    def states(self) -> dict[str, int]:
        with all_jobs_session() as session:
            rows = ledger.count_by_state(session, ledger.Filter(organization_id=self.organization_id))
        return {row.state: row.jobs for row in rows}


_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@contextmanager
def held_back(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Run `work` in a thread; the block begins once it waits for a lock, and its end waits for `work`."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        eventually(lambda: future.done() or somebody_waits(), within_seconds=10, what="the other one to wait")
        assert not future.done(), f"it did not wait: {future.result()}"
        yield future


def somebody_waits() -> bool:
    with TenantSession(database().cluster(HOME).lease, None, database().settings) as session:
        return bool(session.scalar(_WAITING))


_CONSTRAINTS = text("""
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'ledger.jobs'::regclass AND contype = 'c'
""")


@contextmanager
def without_constraints() -> Iterator[None]:
    """The table of jobs takes whatever an operator's hand or another program writes; it is empty afterwards."""
    owner = owner_engine(settings())
    with owner.begin() as connection:
        constraints = connection.execute(_CONSTRAINTS).all()
        for name, _ in constraints:
            connection.execute(text(f"ALTER TABLE ledger.jobs DROP CONSTRAINT {name}"))
    yield
    with owner.begin() as connection:
        connection.execute(text("TRUNCATE ledger.jobs"))
        for name, definition in constraints:
            connection.execute(text(f"ALTER TABLE ledger.jobs ADD CONSTRAINT {name} {definition}"))


@pytest.fixture
def steps(opened: Database) -> Steps:
    """An organization of its own in an empty ledger."""
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.jobs"))
        session.execute(text("DELETE FROM ledger.pauses"))
    return Steps()
