"""`enqueue_scheduled`: a tick of a schedule of one organization, or of each, becomes jobs where those are.

A tick itself is committed at home, and an organization's ledger may be in another database. So the tick enqueues this
job, and this one enqueues the others under ids that follow from the tick: repeated, it adds nothing.
"""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import NAMESPACE_OID, UUID, uuid5

from celery import current_app
from sqlalchemy import select
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.catalog import Place
from docworker.db.errors import (
    InvalidArgumentError,
    MovingOrganizationError,
    NotFoundError,
    UnavailableOrganizationError,
)
from docworker.db.faults import classify
from docworker.db.models import Job, Placement, PlacementState
from docworker.db.sessions import writing
from docworker.db.tenants.passed import Passed
from docworker.jobs.kind import Kind
from docworker.jobs.task import Attempt, job, known_kinds


class _Tick(NamedTuple):
    schedule: str
    due_at: datetime
    kind: Kind
    arguments: dict[str, Any]
    priority: int
    folds: bool

    def job_of(self, organization_id: UUID) -> UUID:
        return uuid5(NAMESPACE_OID, f"{self.schedule}\n{self.due_at.isoformat()}\n{organization_id}")


@job(soft_limit_seconds=1500, hard_limit_seconds=1800)
def enqueue_scheduled(
    attempt: Attempt,
    schedule: str,
    due_at: datetime,
    kind: str,
    given: dict[str, Any],
    tenant: UUID | None = None,
    kind_priority: int | None = None,
    folds: bool = True,
) -> None:
    """Enqueue one job of `kind` for `tenant`, or for every organization that is active."""
    kinds = known_kinds(current_app)
    if kind not in kinds:
        raise LookupError(f"no kind is called {kind!r} here: run the release that the beat runs")
    priority = kinds[kind].priority if kind_priority is None else kind_priority
    tick = _Tick(schedule, due_at, kinds[kind], kinds[kind].serialize(given), priority, folds)
    enqueued = 0
    passed = Passed()
    reasons: list[Exception] = []
    for organization_id, place in _every_organization(attempt) if tenant is None else [(tenant, None)]:
        if attempt.should_stop:
            return
        if place is not None and passed.has(place):
            continue
        try:
            enqueued += _enqueue(tick, organization_id)
        except InvalidArgumentError:
            raise
        except MovingOrganizationError as error:
            reasons.append(LookupError(str(error)))  # it would be taken for one of this job's own organization
        except (UnavailableOrganizationError, NotFoundError):
            continue  # of one that is suspended or dropped a tick has no effect
        except Exception as error:
            if place is None:
                raise
            passed.add(place, error)  # the others have their turn
            reasons.append(error)
    if reasons:  # those that have their job get no second one at the next try, if one is worth it for any
        raise max(reasons, key=lambda error: classify(error).retryable)
    attempt.finish(lambda _: {"enqueued": enqueued})


def _every_organization(attempt: Attempt) -> list[tuple[UUID, Place | None]]:
    """Those that are served, and where they are; one that is being moved is served in a moment."""
    served = (PlacementState.ACTIVE, PlacementState.LEAVING, PlacementState.MOVING)
    columns = (Placement.organization_id, Placement.cluster, Placement.schema, Placement.database)
    query = select(*columns).where(Placement.state.in_(served))
    rows = attempt.read(lambda session: session.execute(query.order_by(Placement.organization_id)).all())
    return [(one.organization_id, Place(one.cluster, one.schema, one.database)) for one in rows]


def _enqueue(tick: _Tick, organization_id: UUID) -> bool:
    """Whether there is one more job: not when this was done before, or an earlier tick's still waits unclaimed."""
    job_id = tick.job_of(organization_id)
    with writing(organization_id) as session:
        if _is_there(session, organization_id, job_id):
            return False
        (entered,) = ledger.insert_jobs(
            session,
            organization_id,
            tick.kind.name,
            [tick.arguments],
            max_attempts=tick.kind.max_attempts,
            priority=tick.priority,
            unique_keys=[f"schedule:{tick.schedule}"] if tick.folds else None,
            ids=[job_id],
        )
    return entered == job_id


def _is_there(session: Session, organization_id: UUID, job_id: UUID) -> bool:
    found = session.scalar(select(Job.id).where(Job.organization_id == organization_id, Job.id == job_id))
    return found is not None
