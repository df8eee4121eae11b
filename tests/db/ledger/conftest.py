"""A ledger of one's own, an organization in it, and short words for the steps of a job's life."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from db import ledger
from db.engines import Database
from db.ledger import Claimed
from db.models import Job
from db.models.base import new_id
from db.sessions import overseeing, writing


class Steps:
    """The steps of a job's life for one organization, each committed at once."""

    kind = "test_kind"

    def __init__(self, organization_id: UUID | None = None) -> None:
        self.organization_id = organization_id or new_id()

    def enqueue(self, count: int = 1, *, kind: str = kind, **options: Any) -> list[UUID]:
        options.setdefault("max_attempts", 3)
        arguments = options.pop("arguments", [{"number": number} for number in range(count)])
        entered = ledger.enqueue_statement(self.organization_id, kind, arguments, **options)
        with writing(self.organization_id) as session:
            return entered.ids(session.execute(entered.statement, entered.parameters).all())

    def dispatch(self, *, capacity: int = 100, batch_size: int = 100, **options: Any) -> list[ledger.Message]:
        with overseeing() as session:
            planned = ledger.plan(
                ledger.lanes(session, most=capacity * batch_size),
                ledger.load(session),
                capacity=capacity,
                batch_size=lambda _: batch_size,
                **options,
            )
            return [ledger.dispatch(session, message, redispatch_after_seconds=10) for message in planned]

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
        with overseeing() as session:
            session.execute(
                text(
                    "UPDATE ledger.jobs SET lease_expires_at = clock_timestamp() - interval '1 second'"
                    " WHERE id = ANY(:ids) AND state = 'running'"
                ),
                {"ids": list(ids)},
            )

    def rescue(self) -> Sequence[ledger.Rescued]:
        with overseeing() as session:
            return ledger.rescue_expired(session)

    def job(self, job_id: UUID) -> Job:
        with overseeing() as session:
            return ledger.get(session, job_id)

    def states(self) -> dict[str, int]:
        with overseeing() as session:
            rows = ledger.count_by_state(session, ledger.Filter(organization_id=self.organization_id))
        return {row.state: row.jobs for row in rows}


@pytest.fixture
def steps(opened: Database) -> Steps:
    """An organization of its own in an empty ledger."""
    with overseeing() as session:
        session.execute(text("DELETE FROM ledger.jobs"))
        session.execute(text("DELETE FROM ledger.pauses"))
    return Steps()
