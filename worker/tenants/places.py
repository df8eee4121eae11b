"""`Model` and `new_place`: the ways to keep an organization apart, and what its schema or database is called."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from uuid import UUID

from docworker.db.catalog import SHARED_SCHEMA, Place, place_in
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Placement
from docworker.db.settings import settings

_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_RESERVED = re.compile(r"pg_.*|app|auth|ledger|catalog|public|information_schema|postgres|template[01]|docworker")
_LONGEST_SLUG = 40


class Model(StrEnum):
    """How an organization is kept apart from those on its cluster."""

    SHARED = "shared"
    SCHEMA = "schema"
    DATABASE = "database"


def new_place(model: Model, cluster: str, organization_id: UUID, slug: str, *, name: str | None = None) -> Place:
    """Where an organization will be; its schema or database is called after the slug unless it is given a name.

    Raises InvalidArgumentError for a name that cannot be one.
    """
    if model is Model.SHARED:
        if name is not None:
            raise InvalidArgumentError(f"organizations that share their tables have no place to call {name!r}")
        return Place(cluster, SHARED_SCHEMA)
    named = name if name is not None else f"tenant_{slug[:_LONGEST_SLUG].replace('-', '_')}_{organization_id.hex[-8:]}"
    if not _IDENTIFIER.fullmatch(named) or _RESERVED.fullmatch(named):
        raise InvalidArgumentError(
            f"{named!r} cannot be the name of a {model}: use 1 to 63 of a-z, 0-9 and '_', beginning with a letter, "
            "and none that PostgreSQL or docworker uses itself"
        )
    return Place(cluster, named) if model is Model.SCHEMA else Place(cluster, SHARED_SCHEMA, named)


def recorded_place(record: Mapping[str, Any]) -> Place:
    """Of `Placement.previous` or `Placement.move`, where `Place._asdict` has put it."""
    return Place(record["cluster"], record["schema"], record["database"])


def other_places(placement: Placement) -> list[Place]:
    """Where something of it is or may be besides its own place: on its way, or where it was."""
    recorded = [recorded_place(one) for one in (placement.move, placement.previous) if one is not None]
    return [one for one in recorded if one != place_in(placement)]


def all_places(placement: Placement) -> list[Place]:
    """Its own at the end: that one is the last to go."""
    return [*other_places(placement), place_in(placement)]


def check_lost(cluster: str | None, placement: Placement) -> None:
    """Raises InvalidArgumentError for a cluster that is still in the settings, or has nothing of the organization."""
    if cluster in settings().cluster_names:
        raise InvalidArgumentError(
            f"the cluster {cluster!r} is in the settings, so nothing on it is lost: if it will not come back, take it "
            "out of DOCWORKER_CLUSTERS first"
        )
    clusters = {one.cluster for one in all_places(placement)}
    if cluster is not None and cluster not in clusters:
        raise InvalidArgumentError(
            f"nothing of the organization {placement.slug!r} is on a cluster {cluster!r}, only on "
            f"{', '.join(sorted(clusters))}"
        )


def share_ledger(one: Place, other: Place) -> bool:
    """Each database has one."""
    return (one.cluster, one.database) == (other.cluster, other.database)


def model_of(place: Place) -> Model:
    if place.database is not None:
        return Model.DATABASE
    return Model.SHARED if place.schema == SHARED_SCHEMA else Model.SCHEMA
