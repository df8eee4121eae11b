"""`check_isolation`: what of an installation would let one organization see another's rows, or learn of them.

It asks the servers' own catalogs (`db.invariants.policies`), so it finds what was changed by hand as well.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import select

from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.invariants.policies import policy_faults
from docworker.db.models import Placement
from docworker.db.settings import settings
from docworker.worker.tenants.owner import owning


class Finding(NamedTuple):
    """`subject` is a table, an index, a constraint or a role, and `fault` what is wrong with it."""

    cluster: str
    database: str | None
    subject: str
    fault: str


def check_isolation() -> list[Finding]:
    """Look at every database of the installation, as its owner; nothing found is an empty list."""
    return [finding for place, schemas in _databases() for finding in _check_database(place, schemas)]


def _databases() -> Iterator[tuple[Place, Sequence[str]]]:
    """Each database, with the schemas of organizations in it."""
    with owning() as home:
        rows = home.execute(
            select(Placement.cluster, Placement.database, Placement.schema).where(Placement.state != "creating")
        ).all()
    schemas: dict[Place, list[str]] = {Place(name, SHARED_SCHEMA): [] for name in settings().cluster_names}
    for cluster, database, schema in rows:
        there = schemas.setdefault(Place(cluster, SHARED_SCHEMA, database), [])
        if schema != SHARED_SCHEMA:
            there.append(schema)
    yield from schemas.items()


def _check_database(place: Place, schemas: Sequence[str]) -> list[Finding]:
    with owning(place) as connection:
        return [
            Finding(place.cluster, place.database, subject, fault)
            for subject, fault in policy_faults(connection, schemas)
        ]
