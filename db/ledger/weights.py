"""`set_weight`, `remove_weight`, `weights`: how much of the workers' time organizations have when all wait."""

from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from docworker.db.errors import InvalidArgumentError
from docworker.db.models.ledger.job import Weight

LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0


def set_weight(session: Session, organization_id: UUID, weight: float) -> None:
    """From the next look of the dispatcher on; others have 1. Raises InvalidArgumentError for a weight that is not from
    0.01 to 100. Wants a session of the dispatcher's role on the organization's ledger."""
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise InvalidArgumentError(f"a weight is from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}, not {weight:g}")
    row = insert(Weight).values(organization_id=organization_id, weight=weight)
    session.execute(row.on_conflict_do_update(index_elements=[Weight.organization_id], set_={"weight": weight}))


def remove_weight(session: Session, organization_id: UUID) -> bool:
    """It has 1 again, like all; whether it had another."""
    statement = delete(Weight).where(Weight.organization_id == organization_id)
    return session.execute(statement.returning(Weight.organization_id)).first() is not None


def weights(session: Session) -> dict[UUID, float]:
    """Of the organizations of a ledger that have one of their own."""
    rows = session.execute(select(Weight.organization_id, Weight.weight).order_by(Weight.organization_id))
    return {row.organization_id: row.weight for row in rows}
