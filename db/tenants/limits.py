"""`ledgers_of`: where a limit has to be written, for whoever sets one."""

from collections.abc import Sequence
from uuid import UUID

from docworker.db.catalog import place_of
from docworker.db.cluster import database
from docworker.db.tenants.ledgers import LedgerPlace, ledgers


def ledgers_of(organization_id: UUID | None) -> Sequence[LedgerPlace]:
    """The ledger of the organization's jobs; without one all there are, since each is planned by its own limits."""
    if organization_id is None:
        return ledgers()
    place = place_of(organization_id, database())
    return [LedgerPlace(place.cluster, place.database)]
