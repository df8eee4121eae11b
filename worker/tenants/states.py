"""`suspend` and `resume`: an organization is not served for a while, and its jobs wait."""

from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert

from docworker.db.catalog import REMEDIES, Place
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Placement, PlacementState, Suspension
from docworker.worker.tenants.owner import only_one_for, owning, placement_of, set_placement
from docworker.worker.tenants.places import place_in


def suspend(slug: str) -> Placement:
    """Refuse sessions from now on (within `catalog_ttl`), and dispatch no jobs. Doing it again finishes what a killed
    one has left. Raises NotFoundError, and InvalidArgumentError while it is being made, moved or dropped."""
    with only_one_for(slug):
        placement = _in_state(slug, PlacementState.ACTIVE, PlacementState.SUSPENDED)
        set_placement(placement.organization_id, state=PlacementState.SUSPENDED)
        let_jobs_wait(place_in(placement), placement.organization_id)
    return placement


def resume(slug: str) -> Placement:
    """Serve it again. Raises as `suspend`."""
    with only_one_for(slug):
        placement = _in_state(slug, PlacementState.ACTIVE, PlacementState.SUSPENDED)
        set_placement(placement.organization_id, state=PlacementState.ACTIVE)
        let_jobs_run(place_in(placement), placement.organization_id)
    return placement


def let_jobs_wait(place: Place, organization_id: UUID) -> None:
    """Dispatch none of the organization's jobs in the ledger of this place."""
    with owning(place) as connection:
        connection.execute(insert(Suspension).values(organization_id=organization_id).on_conflict_do_nothing())


def let_jobs_run(place: Place, organization_id: UUID) -> None:
    with owning(place) as connection:
        connection.execute(delete(Suspension).where(Suspension.organization_id == organization_id))


def _in_state(slug: str, *states: PlacementState) -> Placement:
    placement = placement_of(slug)
    if placement.state not in states:
        raise InvalidArgumentError(f"the organization {slug!r} is {placement.state}: {REMEDIES[placement.state]}")
    return placement
