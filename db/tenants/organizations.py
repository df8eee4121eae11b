"""`create_organization`, `organization_id_of`, `list_organizations`: organizations, and where they are placed.

The catalog answers; what an organization owns is seen only by a session opened for it.
"""

import re
from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from docworker.db.catalog import AT_HOME
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models import Organization, Placement
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id
from docworker.db.sessions import look_up, reading
from docworker.db.sessions.opening import writing_at

SYSTEM_SLUG = "system"
"""Stands for no organization but for the jobs that serve them all."""
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def check_slug(slug: str) -> None:
    """Raises InvalidArgumentError when it is malformed or reserved."""
    if not _SLUG.fullmatch(slug):
        raise InvalidArgumentError(
            f"{slug!r} cannot be a slug: use 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"
        )
    if slug == SYSTEM_SLUG:
        raise InvalidArgumentError(f"{slug!r} is what commands call the jobs of the installation: choose another slug")


def create_organization(slug: str, name: str | None = None) -> UUID:
    """A new organization, placed in the home cluster's shared schema; `name` defaults to the slug.

    Raises InvalidArgumentError when the slug is malformed, taken or reserved.
    """
    check_slug(slug)
    organization_id = new_id()
    place = (
        insert(Placement)
        .values(organization_id=organization_id, slug=slug, cluster="home", schema="app", state="active")
        .on_conflict_do_nothing()
        .returning(Placement.organization_id)
    )
    with writing_at(AT_HOME, organization_id) as session:
        if session.scalar(place) is None:
            raise InvalidArgumentError(f"an organization with the slug {slug!r} exists already: choose another slug")
        session.add(Organization(id=organization_id, slug=slug, name=name or slug))
    return organization_id


def organization_id_of(slug: str) -> UUID:
    """The organization a slug stands for; raises as `placement_called`."""
    return placement_called(slug).organization_id


def placement_called(slug: str) -> Placement:
    """What the catalog says of an organization; raises NotFoundError. A replica's "no" is checked on the master."""
    placement = look_up(None, lambda session: session.scalar(select(Placement).where(Placement.slug == slug)))
    if placement is not None:
        return placement
    raise NotFoundError(
        f"no organization has the slug {slug!r}: see `docworker tenants list`, "
        f"or make it with `docworker organizations add {slug}`"
    )


def owner_of(slug: str) -> UUID:
    """As `organization_id_of`, of jobs, which may be the installation's own."""
    return SYSTEM_ORGANIZATION_ID if slug == SYSTEM_SLUG else organization_id_of(slug)


def list_organizations() -> Sequence[Placement]:
    """The placements of all organizations, by slug."""
    with reading(None) as session:
        return session.scalars(select(Placement).order_by(Placement.slug)).all()


def slugs_of(ids: Collection[UUID]) -> dict[UUID, str]:
    """The slugs of these organizations, by id; unknown ids are left out."""
    if not ids:
        return {}
    with reading(None) as session:
        rows = session.execute(
            select(Placement.organization_id, Placement.slug).where(Placement.organization_id.in_(ids))
        )
        return {row.organization_id: row.slug for row in rows}


def owners_of(ids: Collection[UUID]) -> dict[UUID, str]:
    """What those are called whose jobs these are, the installation's own among them; unknown ids are left out."""
    return {**slugs_of(ids), SYSTEM_ORGANIZATION_ID: SYSTEM_SLUG}
