"""`Fence`: no transaction writes where its organization has been moved away from.

1. Each transaction that writes for an organization takes a shared lock of it at the server, in the statement that sets
   its context, so it costs no exchange, and keeps it to its end.
2. With the lock held it looks whether the catalog's answer that named the place is still to be believed. That costs
   nothing within `catalog_ttl`; after that, or while a move is announced, the catalog is asked once more.
3. Who moves an organization announces that in the catalog and waits for `catalog_ttl`. From then on everybody asks each
   time, so who takes the lock exclusively then knows that nobody writes there and, once the catalog says that it is
   moving, that nobody will: also not a process that was stopped between the answer and its BEGIN.

What renews leases takes no lock: it changes running jobs only, and a move waits until there are none.
"""

import time
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from docworker.db.catalog import Answer, OpenClusters, is_still_at
from docworker.db.errors import MovingOrganizationError
from docworker.db.settings import HOME


def lock_key(organization_id: UUID) -> int:
    """The advisory lock of an organization, in the database where it is: the random half of its id."""
    return int.from_bytes(organization_id.bytes[8:], signed=True)


class Fence(NamedTuple):
    organization_id: UUID
    answer: Answer
    among: OpenClusters

    @property
    def lock(self) -> int:
        """The advisory lock that a transaction shares with others."""
        return lock_key(self.organization_id)

    def check(self, connection: Connection | None) -> None:
        """Call it with the lock held, in the transaction that holds it. Raises MovingOrganizationError."""
        if time.monotonic() < self.answer.valid_until:
            return
        place = self.answer.place
        is_at_home = place.cluster == HOME and place.database is None
        if not is_still_at(self.organization_id, place, self.among, connection if is_at_home else None):
            raise MovingOrganizationError(
                f"the organization {self.organization_id} has left its place ({', '.join(filter(None, place))}), or is "
                "about to, since this session was opened: open another one"
            )
