"""`move_tenant`, and what belongs to it: go back, take it back, remove what is kept; one at a time for a tenant."""

from datetime import UTC, datetime

from sqlalchemy import select

from docworker.db.catalog import Place, place_in
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Placement, PlacementState
from docworker.worker.tenants.moving.leftovers import (
    clean,
    clear,
    finish_arrived,
    forget_jobs,
    resume,
    serve_where_it_was,
    update_of,
)
from docworker.worker.tenants.moving.move import Move
from docworker.worker.tenants.moving.wanted import (
    ARRIVED,
    Moved,
    Progress,
    Wanted,
    check_movable,
    target_of,
    under_way,
)
from docworker.worker.tenants.owner import only_one_for, owning, placement_of
from docworker.worker.tenants.places import Model, check_lost, model_of, recorded_place, share_ledger


def move_tenant(slug: str, wanted: Wanted, progress: Progress | None = None) -> Moved:
    """Move it, or go on with a move that was cut off; the database is open.

    Raises NotFoundError for an unknown slug; InvalidArgumentError for a place where it is already or that is not its
    own, and for an organization that is not active; ConfigurationError for an unknown cluster; CopiesDifferError; and
    DocworkerError where running jobs or open transactions do not end in time. Then it is served where it was.
    """
    with only_one_for(slug):
        placement = placement_of(slug)
        check_movable(placement)
        if placement.move is not None and placement.move["phase"] == ARRIVED:
            return finish_arrived(placement)
        return Move(placement, target_of(placement, wanted), wanted, progress or Progress()).run()


def undo_move(slug: str, wanted: Wanted, progress: Progress | None = None) -> Moved:
    """Go back to where it was moved from, with what was written since. Raises as `move_tenant`."""
    with only_one_for(slug):
        placement = placement_of(slug)
        check_movable(placement)
        if placement.move is not None and placement.move["phase"] == ARRIVED:
            finish_arrived(placement)
            placement = placement_of(slug)
        if placement.previous is None or placement.previous.get("is_going"):
            raise InvalidArgumentError(
                f"nothing is kept of where the organization {slug!r} was before: move it there as to any other place"
            )
        target = recorded_place(placement.previous)
        if placement.move is not None and recorded_place(placement.move) != target:
            raise under_way(placement)
        return Move(placement, target, wanted, progress or Progress()).run()


def abort_move(slug: str, *, lost: str | None = None) -> Place:
    """Take a move back that has not arrived, with what it has copied; returns where the organization is and stays. One
    that was suspended stays so. `lost` is a cluster that will not come back: what was copied there stays. Raises
    NotFoundError, and InvalidArgumentError where there is nothing to take back, or the lost cluster is in
    the settings or has nothing of it."""
    with only_one_for(slug):
        placement = placement_of(slug)
        check_lost(lost, placement)
        if placement.state == PlacementState.DROPPING:
            raise InvalidArgumentError(
                f"the organization {slug!r} is being dropped: run `docworker tenants drop {slug}` to the end"
            )
        if placement.move is None:
            raise InvalidArgumentError(f"no move of the organization {slug!r} is under way")
        if placement.move["phase"] == ARRIVED:
            raise InvalidArgumentError(f"the organization {slug!r} has arrived already: go back with --undo")
        if placement.state != PlacementState.SUSPENDED:
            serve_where_it_was(placement)
        target = recorded_place(placement.move)
        if target.cluster != lost:
            _remove_copy(placement, target, is_new=placement.move["is_new"])
        with owning() as home:
            home.execute(update_of(placement).values(move=None))
        return place_in(placement)


def _remove_copy(placement: Placement, target: Place, *, is_new: bool) -> None:
    """At the target of a move that has not arrived."""
    if is_new and model_of(target) is Model.SHARED:
        if not share_ledger(target, place_in(placement)):
            resume(placement, target)  # nothing is copied yet: what is there is not of this move
    elif placement.previous is None or recorded_place(placement.previous) != target:
        clear(placement, target)
    elif not share_ledger(target, place_in(placement)):
        forget_jobs(placement, target)


def clean_tenant(slug: str, *, now: bool = False, lost: str | None = None) -> Place:
    """Remove what is kept where it was moved from; before its time only `now`. On a cluster that is `lost` it stays and
    is forgotten, also where that was lost when it had just arrived. Raises InvalidArgumentError."""
    with only_one_for(slug):
        placement = placement_of(slug)
        check_lost(lost, placement)
        previous = placement.previous
        if previous is None:
            raise InvalidArgumentError(f"nothing is kept of where the organization {slug!r} was before")
        place = recorded_place(previous)
        if placement.move is not None:
            if placement.move["phase"] != ARRIVED or place.cluster != lost:
                raise under_way(placement)
            finish_arrived(placement, lost=lost)
        if not now and datetime.fromisoformat(previous["until"]) > datetime.now(UTC):
            raise InvalidArgumentError(
                f"what is kept of where the organization {slug!r} was before is kept until {previous['until']}: "
                "remove it sooner with --yes"
            )
        clean(placement, lost=lost)
        return place


def those_to_clean() -> list[str]:
    """The slugs of those of which something is kept whose time is over."""
    with owning() as home:
        kept = home.execute(
            select(Placement.slug, Placement.previous["until"].astext)
            .where(Placement.previous.is_not(None), Placement.move.is_(None))
            .order_by(Placement.slug)
        ).all()
    return [slug for slug, until in kept if datetime.fromisoformat(until) <= datetime.now(UTC)]
