"""`After`, `wait_for`, `awaited`: jobs that wait for the end of others.

The ledger's functions and triggers (`ledger.await_jobs`, `ledger.tell_gates`) do it, whatever ends a job; nothing here
opens a gate. The last end lets the waiting job go, in its own transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger.values import check_id, shortened
from docworker.db.models.ledger.gate import Gate, GateMember
from docworker.db.models.ledger.job import Job
from docworker.db.sessions import organization_of

When = Literal["succeeded", "failed", "any"]
"""How the others are to have ended: all with success, at least one without, or in any way."""


@dataclass(frozen=True)
class After:
    """What jobs wait for: the end of `jobs`, and of `trees`, which are jobs with their children and what these enqueue
    as children in turn."""

    jobs: tuple[UUID, ...]
    trees: tuple[UUID, ...]
    when: When

    @property
    def parameters(self) -> dict[str, Any]:
        return {"after": list(self.jobs), "trees": list(self.trees), "opens_when": self.when}


def checked_after(jobs: Sequence[UUID], tree: UUID | None, when: str) -> After:
    """Raises InvalidArgumentError."""
    if when not in get_args(When):
        raise InvalidArgumentError(f"when is one of {', '.join(get_args(When))}; got {shortened(when)}")
    return After(
        tuple(check_id("after", one) for one in jobs),
        () if tree is None else (check_id("after_children_of", tree),),
        when,  # type: ignore[arg-type]  # it is one of them
    )


_AWAIT = text("""
SELECT ledger.await_jobs(CAST(:organization_id AS uuid), CAST(:jobs AS uuid[]), CAST(:after AS uuid[]),
                         CAST(:trees AS uuid[]), :opens_when)
""")
_INVALID = "22023"


def wait_for(session: Session, organization_id: UUID, job_ids: Sequence[UUID], after: After) -> None:
    """Let jobs that this transaction has enqueued wait: `queued -> waiting`. Raises InvalidArgumentError for a job to
    wait for that is not there; the transaction is to be rolled back then.

    It locks the jobs that are waited for, until the end of this transaction: their ends wait so long.
    """
    parameters = {"organization_id": organization_id, "jobs": list(job_ids), **after.parameters}
    try:
        session.execute(_AWAIT, parameters)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _INVALID:
            raise
        raise InvalidArgumentError(str(error.orig).partition("\n")[0]) from error


class Awaited(NamedTuple):
    """How the jobs have ended that a job waited for; `pending` ones have not."""

    pending: int
    succeeded: int
    failed: int
    cancelled: int


class AwaitedJob(NamedTuple):
    """One of them, as it is now."""

    id: UUID
    kind: str
    state: str
    result: dict[str, Any] | None
    error_class: str | None
    error_message: str | None


def awaited(session: Session, job_id: UUID) -> Awaited:
    """How the jobs have ended that this one waits for, or has waited for; all 0 for a job that waits for none."""
    gate = session.get(Gate, (organization_of(session), job_id), populate_existing=True)
    return Awaited(0, 0, 0, 0) if gate is None else Awaited(gate.pending, gate.succeeded, gate.failed, gate.cancelled)


def awaited_jobs(session: Session, job_id: UUID, *, behind: UUID | None = None, most: int = 1000) -> list[AwaitedJob]:
    """Those jobs in the order of their ids, as many as asked for, from behind an id on; pruned ones are left out."""
    statement = (
        select(*(Job.__table__.c[name] for name in AwaitedJob._fields))
        .join(
            GateMember,
            (GateMember.organization_id == Job.organization_id) & (GateMember.job_id == Job.id),
        )
        .where(GateMember.organization_id == organization_of(session), GateMember.gate_id == job_id)
        .order_by(Job.id)
        .limit(most)
    )
    if behind is not None:
        statement = statement.where(GateMember.job_id > behind)
    return [AwaitedJob(*row) for row in session.execute(statement)]
