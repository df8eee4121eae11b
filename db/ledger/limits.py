"""`set_limit`, `remove_limit`, `find_limits`: what operators do to limits. What comes of them:
`db.ledger.dispatching.limiting`."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger.values import check_kind
from docworker.db.ledger.waiting.rates import Rate, limit_values
from docworker.db.models import Limit, RateSpent
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID


def set_limit(
    session: Session,
    *,
    kind: str | None = None,
    organization_id: UUID | None = None,
    is_each: bool = False,
    max_running: int | None = None,
    rate: Rate | None = None,
) -> None:
    """Limit the jobs of a kind, of an organization, or of one kind of it, in place of the limit that is there; with
    `is_each` those of each organization that has no limit of its own. It is in force from the next look of
    the dispatcher on; what is dispatched goes on. For the dispatcher's session.

    Raises InvalidArgumentError for a limit of nothing, to nothing, or of what cannot be.
    """
    values = limit_values(max_running, rate)
    place = _place(kind, organization_id, is_each=is_each)
    statement = insert(Limit).values(place | values)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Limit.organization_id, Limit.kind, Limit.is_each],
            set_=values | {"updated_at": func.clock_timestamp()},
        )
    )
    if rate is not None:
        _spend_no_more_than(session, place, rate)


def _spend_no_more_than(session: Session, place: Mapping[str, object], rate: Rate) -> None:
    """What a slower rate has spent in advance would keep this one from beginning."""
    empty_until = func.clock_timestamp() + timedelta(seconds=rate.burst * rate.interval)
    spent = update(RateSpent).where(RateSpent.kind == place["kind"])
    if not place["is_each"]:
        spent = spent.where(RateSpent.organization_id == place["organization_id"])
    session.execute(spent.values(spent_until=func.least(RateSpent.spent_until, empty_until)))


def remove_limit(
    session: Session,
    *,
    kind: str | None = None,
    organization_id: UUID | None = None,
    is_each: bool = False,
) -> bool:
    """Take a limit back; False when there was none."""
    place = _place(kind, organization_id, is_each=is_each)
    conditions = [getattr(Limit, name) == one for name, one in place.items()]
    return session.execute(delete(Limit).where(*conditions).returning(Limit.kind)).first() is not None


def find_limits(session: Session) -> Sequence[Limit]:
    """All of them, in the order of organization and kind."""
    return session.scalars(select(Limit).order_by(Limit.organization_id, Limit.kind, Limit.is_each)).all()


def _place(kind: str | None, organization_id: UUID | None, *, is_each: bool) -> dict[str, object]:
    if is_each and organization_id is not None:
        raise InvalidArgumentError("a limit of each organization is not of one: leave it out")
    return {
        "organization_id": organization_id or SYSTEM_ORGANIZATION_ID,
        "kind": "" if kind is None else check_kind(kind),
        "is_each": is_each,
    }
