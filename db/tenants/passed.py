"""`Passed`: whom a loop over all organizations passes over, so that what is wrong with one keeps no others from their
turn."""

from collections import Counter
from uuid import UUID

import structlog

from docworker.db import ledger
from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.cluster import database
from docworker.db.cluster.health import answers
from docworker.db.errors import BacklogFullError
from docworker.db.faults import Fault, classify, sqlstate_of
from docworker.db.settings import HOME

log = structlog.get_logger(__name__)

_MOST_WAITED_FOR = 3
"""So many organizations of a cluster's own database are waited for in vain, each until its time is over; then it is one
of all."""
_TIME_IS_OVER = "57014"


class Passed:
    """The clusters that have not answered in this loop."""

    def __init__(self) -> None:
        self._clusters: set[str] = set()
        self._waited_for: Counter[str] = Counter()

    def has(self, place: Place) -> bool:
        return place.cluster in self._clusters

    def add(self, place: Place, error: Exception) -> bool:
        """Note what went wrong with the organization that is there; whether all of its cluster are passed over from now
        on. Raises the error where no database is to blame, as the time limit of the loop's own job."""
        if classify(error) is Fault.UNKNOWN and sqlstate_of(error) is None:
            raise error
        if self._is_of_one(place, error):
            return False
        self._clusters.add(place.cluster)
        return True

    def skip(self, organization_id: UUID, place: Place, error: Exception, *, kind: str) -> bool:
        """`add`, for the loop of a job of this kind, and say so in the log. Raises the error also where home does not
        answer: that is for the job to fail of."""
        are_all = self.add(place, error)
        if are_all and place.cluster == HOME:
            raise error
        log.warning(
            "cluster.skipped" if are_all else "organization.skipped",
            cluster=place.cluster,
            organization=str(organization_id),
            kind=kind,
            error=str(error),
        )
        return are_all

    def _is_of_one(self, place: Place, error: Exception) -> bool:
        sqlstate = sqlstate_of(error)
        if isinstance(error, BacklogFullError) or (sqlstate is not None and ledger.is_refused(error)):
            return True
        if place.database is None and (classify(error) is Fault.SERIALIZATION or sqlstate == _TIME_IS_OVER):
            self._waited_for[place.cluster] += 1
            return self._waited_for[place.cluster] < _MOST_WAITED_FOR
        is_apart = place.database is not None or place.schema != SHARED_SCHEMA
        return is_apart and answers(database().cluster(place.cluster))
