"""`owning`: connections as the owner of the databases, who alone makes and drops what tenants have of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select, text, update
from sqlalchemy.orm import Session

from docworker.db.catalog import Place
from docworker.db.cluster.engines import owner_engine
from docworker.db.errors import NotFoundError
from docworker.db.models import Placement
from docworker.db.settings import HOME, settings

_LOCK = text("SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtext('docworker tenant'), pg_catalog.hashtext(:slug))")
_SET_ORGANIZATION = text("SELECT pg_catalog.set_config('docworker.organization_id', :id, true)")


@contextmanager
def owning(place: Place | None = None, *, autocommit: bool = False) -> Iterator[Connection]:
    """A connection as the owner to the database of a place, or to the home cluster's: a transaction, committed at the
    end of the block, unless each statement shall be one of its own."""
    cluster, database = (HOME, None) if place is None else (place.cluster, place.database)
    engine = owner_engine(settings(), cluster, database)
    try:
        if autocommit:
            with engine.connect() as connection:
                yield connection.execution_options(isolation_level="AUTOCOMMIT")
        else:
            with engine.begin() as connection:
                yield connection
    finally:
        engine.dispose()


@contextmanager
def only_one_for(slug: str) -> Iterator[None]:
    """Two commands for one organization come one after the other; waits for the other one to end."""
    with owning(autocommit=True) as connection:
        connection.execute(_LOCK, {"slug": slug})
        yield


def become(connection: Connection, organization_id: UUID) -> None:
    """The owner is under row-level security as well: for this transaction it is of this organization."""
    connection.execute(_SET_ORGANIZATION, {"id": str(organization_id)})


def quoted(connection: Connection, name: str) -> str:
    """A name as an identifier in SQL."""
    return connection.dialect.identifier_preparer.quote_identifier(name)


def find_placement(slug: str) -> Placement | None:
    with owning() as connection, Session(connection, expire_on_commit=False) as session:
        return session.scalar(select(Placement).where(Placement.slug == slug))


def find_organization(organization_id: UUID) -> Placement | None:
    with owning() as connection, Session(connection, expire_on_commit=False) as session:
        return session.get(Placement, organization_id)


def placement_of(slug: str) -> Placement:
    """Raises NotFoundError for an unknown slug."""
    placement = find_placement(slug)
    if placement is None:
        raise NotFoundError(f"no organization has the slug {slug!r}: see `docworker tenants list`")
    return placement


def set_placement(organization_id: UUID, **values: Any) -> None:
    """Change what the catalog says of an organization."""
    with owning() as connection:
        connection.execute(update(Placement).where(Placement.organization_id == organization_id).values(values))
