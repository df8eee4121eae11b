"""`place_of`: on which cluster, and in which schema there, an organization's documents are.

Sessions ask here before they are opened. For now everybody is at home; the table of placements is `catalog.placements`.
"""

from typing import NamedTuple
from uuid import UUID

from docworker.db.settings import HOME

SHARED_SCHEMA = "app"
"""The schema of organizations that share their tables; the name that the models give theirs."""


class Place(NamedTuple):
    """`cluster` is a name of `Settings.addresses`."""

    cluster: str
    schema: str


AT_HOME = Place(HOME, SHARED_SCHEMA)


def place_of(organization_id: UUID | None) -> Place:  # noqa: ARG001 - what decides, once there are other places
    """None is for what belongs to no organization, such as the catalog itself."""
    return AT_HOME
