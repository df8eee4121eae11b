"""The steps of a job's life, one by one, and a ledger that takes whatever a hand or another program writes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.cluster.engines import owner_engine
from docworker.db.ledger import Claimed
from docworker.db.ledger.waiting.gates import When, checked_after, wait_for
from docworker.db.ledger.waiting.keys import under_key
from docworker.db.ledger.waiting.order import OnFailure, checked_order, in_order
from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import HOME, settings
from tests.support.tenants import entered


def in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


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


class LedgerSteps:
    """The steps of a job's life for one organization, each committed at once."""

    kind = "test_kind"

    def __init__(self, organization_id: UUID | None = None, cluster: str = HOME, database: str | None = None) -> None:
        self.organization_id = entered(organization_id, at=Place(cluster, SHARED_SCHEMA, database))
        self.where = (cluster, database)

    def enqueue(self, count: int = 1, *, kind: str = kind, **options: Any) -> list[UUID]:
        options.setdefault("max_attempts", 3)
        arguments = options.pop("arguments", [{"number": number} for number in range(count)])
        with writing(self.organization_id) as session:
            return ledger.insert_jobs(session, self.organization_id, kind, arguments, **options)

    def enqueue_after(
        self, jobs: Sequence[UUID] = (), *, tree: UUID | None = None, when: When = "succeeded", **options: Any
    ) -> UUID:
        """A job that waits for the end of others."""
        with writing(self.organization_id) as session:
            options.setdefault("max_attempts", 3)
            (one,) = ledger.insert_jobs(session, self.organization_id, self.kind, [{}], **options)
            wait_for(session, self.organization_id, [one], checked_after(jobs, tree, when))
        return one

    def enqueue_in_order(self, *keys: str, on_failure: OnFailure = "block", **options: Any) -> list[UUID]:
        """A job for each of these keys."""
        with writing(self.organization_id) as session:
            options.setdefault("max_attempts", 3)
            arguments = [{"key": key} for key in keys]
            ids = ledger.insert_jobs(session, self.organization_id, self.kind, arguments, **options)
            in_order(session, self.organization_id, ids, checked_order(keys, on_failure, jobs=len(keys)))
        return ids

    def enqueue_under_key(self, key: str, count: int, **options: Any) -> list[UUID]:
        """So many jobs of this limit key, in the order in which they go."""
        with writing(self.organization_id) as session:
            options.setdefault("max_attempts", 3)
            arguments = [{"number": number} for number in range(count)]
            ids = ledger.insert_jobs(session, self.organization_id, self.kind, arguments, **options)
            under_key(session, self.organization_id, ids, key)
        return ids

    def awaited(self, job_id: UUID) -> tuple[int, ...]:
        """How many it waits for that are pending, have succeeded, failed, were cancelled."""
        with writing(self.organization_id) as session:
            return tuple(ledger.awaited(session, job_id))

    def dispatch(self, *, capacity: int = 100, batch_size: int = 100, **options: Any) -> list[ledger.Message]:
        with all_jobs_session(*self.where) as session:
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

    def expire(self, ids: Sequence[UUID], *, seconds_ago: float = 1) -> None:
        """Let the leases of running jobs have ended."""
        with all_jobs_session(*self.where) as session:
            session.execute(
                text(
                    "UPDATE ledger.jobs SET lease_expires_at = clock_timestamp() - :ago * interval '1 second'"
                    " WHERE id = ANY(:ids) AND state = 'running'"
                ),
                {"ids": list(ids), "ago": seconds_ago},
            )

    def rescue(self) -> Sequence[ledger.Rescued]:
        with all_jobs_session(*self.where) as session:
            return ledger.rescue_expired(session)

    def job(self, job_id: UUID) -> Job:
        with all_jobs_session(*self.where) as session:
            return ledger.get(session, job_id)

    def states(self) -> dict[str, int]:
        with all_jobs_session(*self.where) as session:
            rows = ledger.count_by_state(session, ledger.Filter(organization_id=self.organization_id))
        return {row.state: row.jobs for row in rows}


_CONSTRAINTS = text("""
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'ledger.jobs'::regclass AND contype = 'c'
""")
_CHECKING_TRIGGERS = text("""
SELECT tgname FROM pg_trigger WHERE tgrelid = 'ledger.jobs'::regclass AND tgfoid = 'ledger.refuse_row'::regproc
""")


@contextmanager
def without_constraints() -> Iterator[None]:
    """The table of jobs takes whatever an operator's hand or another program writes; it is empty afterwards."""
    owner = owner_engine(settings())
    with owner.begin() as connection:
        constraints = connection.execute(_CONSTRAINTS).all()
        triggers = connection.execute(_CHECKING_TRIGGERS).scalars().all()
        for name, _ in constraints:
            connection.execute(text(f"ALTER TABLE ledger.jobs DROP CONSTRAINT {name}"))
        for name in triggers:
            connection.execute(text(f"ALTER TABLE ledger.jobs DISABLE TRIGGER {name}"))
    yield
    with owner.begin() as connection:
        connection.execute(text("TRUNCATE ledger.jobs"))
        for name, definition in constraints:
            connection.execute(text(f"ALTER TABLE ledger.jobs ADD CONSTRAINT {name} {definition}"))
        for name in triggers:
            connection.execute(text(f"ALTER TABLE ledger.jobs ENABLE TRIGGER {name}"))
