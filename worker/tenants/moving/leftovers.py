"""What a move leaves: the old copy, kept for a while without jobs, and what a run that was killed has not done."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.dialects.postgresql import insert

from docworker.db.catalog import Place, place_in
from docworker.db.models import Placement, PlacementState, Suspension
from docworker.db.tenants.copying import ledger_tables
from docworker.worker.tenants.making import clear_place, steer_as_home
from docworker.worker.tenants.moving.wanted import Moved
from docworker.worker.tenants.owner import become, owning
from docworker.worker.tenants.places import recorded_place, share_ledger


def finish_arrived(placement: Placement, *, lost: str | None = None) -> Moved:
    """What is to be done after the switch, for what a killed run has left as well; nothing on a cluster that is
    `lost`."""
    assert placement.move is not None
    assert placement.previous is not None
    source, target = recorded_place(placement.previous), place_in(placement)
    if target.database is not None:
        steer_as_home(target)  # what was said while it was copied, and its ledger was not one of all
    resume(placement, target)
    if not share_ledger(source, target) and source.cluster != lost:
        forget_jobs(placement, source)
    with owning() as home:
        home.execute(update_of(placement).values(move=None))
    moved = Moved(placement.slug, source, target, kept_until=datetime.fromisoformat(placement.previous["until"]))
    if placement.move["keep_seconds"] == 0:
        clean(placement, lost=lost)
        moved.kept_until = None
    return moved


def clean(placement: Placement, *, lost: str | None = None) -> None:
    previous = {**(placement.previous or {}), "is_going": True}  # nobody goes back to what is not whole
    with owning() as home:
        home.execute(update_of(placement).values(previous=previous))
    if recorded_place(previous).cluster != lost:
        clear(placement, recorded_place(previous))
    with owning() as home:
        home.execute(update_of(placement).values(previous=None))


def clear(placement: Placement, place: Place) -> None:
    """What is of it at another place than its own."""
    clear_place(place, placement.organization_id, with_jobs=not share_ledger(place, place_in(placement)))


def update_of(placement: Placement) -> Any:
    return update(Placement).where(Placement.organization_id == placement.organization_id)


def suspend(placement: Placement, place: Place) -> None:
    with owning(place) as there:
        row = insert(Suspension).values(organization_id=placement.organization_id)
        there.execute(row.on_conflict_do_nothing())


def resume(placement: Placement, place: Place) -> None:
    with owning(place) as there:
        there.execute(delete(Suspension).where(Suspension.organization_id == placement.organization_id))


def serve_where_it_was(placement: Placement) -> None:
    with owning() as home:
        home.execute(update_of(placement).values(state=PlacementState.ACTIVE))
    resume(placement, place_in(placement))


def forget_jobs(placement: Placement, place: Place) -> None:
    """At an old copy. It stays suspended, so that nobody else enqueues any there."""
    with owning(place) as there:
        become(there, placement.organization_id)
        for table in ledger_tables():
            there.execute(delete(table).where(table.c.organization_id == placement.organization_id))
