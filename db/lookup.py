"""Looking for one thing: a replica may answer "here it is", but only the master is believed when it says "no"."""

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from db.sessions import reading

T = TypeVar("T")


def look_up(organization_id: UUID | None, query: Callable[[Session], T | None]) -> T | None:
    """What `query` finds on a replica, else what it finds on the master, else None."""
    with reading(organization_id) as session:
        found = query(session)
    if found is not None:
        return found
    with reading(organization_id, source="master") as session:
        return query(session)
