"""`suspend` and `resume`: an organization is not served for a while, and its jobs wait. `refuse_older_snapshots`: nor
does another program enqueue for it that has looked before."""

from uuid import UUID

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from docworker.db.catalog import REMEDIES, SHARED_SCHEMA, Place, place_in
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Organization, Placement, PlacementState, Suspension
from docworker.worker.tenants.owner import become, only_one_for, owning, placement_of, quoted, set_placement


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


def refuse_older_snapshots(connection: Connection, place: Place, organization_id: UUID) -> None:
    """From the commit on, a transaction of another program that has an older snapshot, and so sees no suspension, has a
    serialization failure when it enqueues at this place: `ledger.enqueue_many` locks the organization's row, which is
    written anew here as it is. Call it while its lock is held alone (`db.sessions.fence`): then it waits for nobody."""
    name = f"{quoted(connection, place.schema)}.{Organization.__tablename__}"
    if connection.scalar(select(func.to_regclass(name))) is None:
        return  # half made, or half gone
    become(connection, organization_id)
    as_it_is = {"name": Organization.name, "updated_at": Organization.updated_at}
    connection.execute(
        update(Organization).where(Organization.id == organization_id).values(as_it_is),
        execution_options={"schema_translate_map": {SHARED_SCHEMA: place.schema}},
    )


def _in_state(slug: str, *states: PlacementState) -> Placement:
    placement = placement_of(slug)
    if placement.state not in states:
        raise InvalidArgumentError(f"the organization {slug!r} is {placement.state}: {REMEDIES[placement.state]}")
    return placement
