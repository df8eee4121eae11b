"""`Wanted`: where an organization is to go; `target_of` says whether it may. What it took is told as `Moved`."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from docworker.db.catalog import Place, place_in
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Placement, PlacementState
from docworker.db.settings import settings
from docworker.db.tenants.copying import Round
from docworker.worker.tenants.places import Model, model_of, new_place, recorded_place

COPYING, ARRIVED = "copying", "arrived"
"""Phases of `Placement.move`."""


@dataclass
class Moved:
    """What it took: sums over all rounds, and for how long nobody could write."""

    slug: str
    source: Place
    target: Place
    rows: int = 0
    deleted: int = 0
    size_bytes: int = 0
    rounds: int = 0
    write_stop_seconds: float = 0.0
    seconds: float = 0.0
    kept_until: datetime | None = None

    def add(self, done: Round) -> None:
        self.rows += done.rows
        self.deleted += done.deleted
        self.size_bytes += done.size_bytes
        self.rounds += 1


@dataclass
class Progress:
    """Called with what is done now, and in the first round with how many rows there are to copy, and have been."""

    say: Callable[[str], None] = lambda _: None
    found: Callable[[int], None] = lambda _: None
    copied: Callable[[int], None] = lambda _: None


@dataclass(frozen=True)
class Wanted:
    """What is not given stays as it is; `wait_seconds` is how long running jobs are waited for."""

    model: Model | None = None
    cluster: str | None = None
    place_name: str | None = None
    keep_seconds: float = 86400.0
    wait_seconds: float = 600.0

    def place(self, placement: Placement) -> Place:
        model = self.model or model_of(place_in(placement))
        cluster = self.cluster or placement.cluster
        settings().addresses(cluster)
        if (move := placement.move) is not None and self.place_name is None:
            going = recorded_place(move)
            if (self.model or model_of(going), self.cluster or going.cluster) == (model_of(going), going.cluster):
                return going
        return new_place(model, cluster, placement.organization_id, placement.slug, name=self.place_name)


def check_movable(placement: Placement) -> None:
    if placement.state not in (PlacementState.ACTIVE, PlacementState.LEAVING, PlacementState.MOVING):
        raise InvalidArgumentError(
            f"the organization {placement.slug!r} is {placement.state}: only an active one can be moved"
        )


def target_of(placement: Placement, wanted: Wanted) -> Place:
    target = wanted.place(placement)
    if target == place_in(placement):
        raise InvalidArgumentError(
            f"the organization {placement.slug!r} is there already: on {target.cluster} in the model {model_of(target)}"
        )
    if placement.move is not None and recorded_place(placement.move) != target:
        raise under_way(placement)
    if placement.previous is not None:
        if recorded_place(placement.previous) != target:
            raise InvalidArgumentError(
                f"what is left of the last move of {placement.slug!r} is still kept: remove it first with "
                f"`docworker tenants clean {placement.slug} --yes`, or go back with --undo"
            )
        if placement.previous.get("is_going"):
            raise InvalidArgumentError(
                f"what is left of the last move of {placement.slug!r} is being removed: finish that first with "
                f"`docworker tenants clean {placement.slug} --yes`"
            )
    return target


def under_way(placement: Placement) -> InvalidArgumentError:
    going = recorded_place(placement.move or {})
    return InvalidArgumentError(
        f"the organization {placement.slug!r} is on its way to {going.cluster}, in the model {model_of(going)}: run "
        f"`docworker tenants move {placement.slug}` to the end, or take that back with --abort"
    )
