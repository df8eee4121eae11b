"""`ledgers`, `ledgers_of`, `is_being_made`: where jobs lie, by cluster and by databases of single organizations."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select

from docworker.db.catalog import place_of
from docworker.db.cluster import database
from docworker.db.models import Placement, PlacementState
from docworker.db.sessions import reading


class LedgerPlace(NamedTuple):
    """A ledger: a cluster's own (`database` is None), or that of a database of one organization."""

    cluster: str
    database: str | None = None


def ledgers() -> Sequence[LedgerPlace]:
    """Of all clusters in the settings, home first, then of all databases in the catalog."""
    with reading(None, source="master") as session:
        of_databases = session.execute(
            select(Placement.cluster, Placement.database)
            .where(Placement.database.is_not(None))
            .order_by(Placement.cluster, Placement.database)
        ).all()
    own = [LedgerPlace(cluster) for cluster in database().settings.cluster_names]
    return [*own, *(LedgerPlace(row.cluster, row.database) for row in of_databases)]


def is_being_made(place: LedgerPlace) -> bool:
    """Whether the database of a single organization is not known to be finished, or is on its way out."""
    with reading(None, source="master") as session:
        states = session.scalars(
            select(Placement.state).where(Placement.cluster == place.cluster, Placement.database == place.database)
        )
        return bool({PlacementState.CREATING, PlacementState.IMPORTING, PlacementState.DROPPING} & set(states))


def ledgers_of(organization_id: UUID | None) -> Sequence[LedgerPlace]:
    """The ledger of the organization's jobs; without one all there are. Raises as `place_of`."""
    if organization_id is None:
        return ledgers()
    place = place_of(organization_id, database())
    return [LedgerPlace(place.cluster, place.database)]
