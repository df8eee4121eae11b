"""`create_tenant`: an organization, placed on a cluster, in the model that is asked for.

Its place is recorded before anything is made there, so that a second run finds what a killed one has left and goes on.
"""

from typing import NamedTuple
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert

from docworker.db.catalog import TENANT_SCHEMAS, Place, place_in
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Organization, Placement, PlacementState
from docworker.db.models.base import new_id
from docworker.db.settings import HOME, settings
from docworker.db.tenants.organizations import check_slug
from docworker.worker.tenants.making import make_place
from docworker.worker.tenants.owner import become, find_placement, only_one_for, owning, set_placement
from docworker.worker.tenants.places import Model, model_of, new_place


class Created(NamedTuple):
    """`is_new` is false where a run before this one had finished it."""

    organization_id: UUID
    place: Place
    is_new: bool


def create_tenant(
    slug: str,
    *,
    name: str | None = None,
    model: Model = Model.SHARED,
    cluster: str = HOME,
    place_name: str | None = None,
    organization_id: UUID | None = None,
) -> Created:
    """Make an organization, or finish making it, and return where it is.

    Raises InvalidArgumentError for a slug or a name that cannot be one, for a slug that is taken by an organization
    that is placed in another way, and for a schema or database that exists and is not the organization's;
    ConfigurationError for an unknown cluster, and for an owner who may make no databases.
    """
    check_slug(slug)
    settings().addresses(cluster)
    with only_one_for(slug):
        placement = find_placement(slug) or _recorded(slug, model, cluster, place_name, organization_id)
        place = place_in(placement)
        if placement.state == PlacementState.IMPORTING:
            raise InvalidArgumentError(
                f"an import of an organization as {slug!r} was not finished: finish it with `docworker tenants "
                f"import`, or remove it with `docworker tenants drop {slug}`"
            )
        check_same(placement, model, cluster, place_name)
        if placement.state == PlacementState.DROPPING:
            raise InvalidArgumentError(
                f"the organization {slug!r} is being dropped: run `docworker tenants drop {slug}` to the end first"
            )
        if placement.state != PlacementState.CREATING:
            return Created(placement.organization_id, place, is_new=False)
        revision = make_place(place, placement.organization_id)
        _add_organization(placement.organization_id, place, slug, name or slug)
        set_placement(placement.organization_id, state=PlacementState.ACTIVE, revision=revision)
        return Created(placement.organization_id, place, is_new=True)


def _recorded(slug: str, model: Model, cluster: str, place_name: str | None, organization_id: UUID | None) -> Placement:
    organization_id = organization_id or new_id()
    placement = record(organization_id, slug, new_place(model, cluster, organization_id, slug, name=place_name))
    if placement is None:
        taken = f"the {model} {place_name!r}" if place_name else f"the organization {organization_id}"
        raise InvalidArgumentError(f"{taken} is another organization's: see `docworker tenants list`")
    return placement


def record(
    organization_id: UUID, slug: str, place: Place, state: PlacementState = PlacementState.CREATING
) -> Placement | None:
    """Enter an organization that is to be made, unless its slug, its id or its place is in the catalog already; returns
    what is there under this slug now."""
    row = {
        "organization_id": organization_id,
        "slug": slug,
        "cluster": place.cluster,
        "database_name": place.database,
        "schema_name": place.schema,
        "state": state,
    }
    with owning() as connection:
        connection.execute(insert(Placement).values(row).on_conflict_do_nothing())
    return find_placement(slug)


def check_same(placement: Placement, model: Model, cluster: str, place_name: str | None) -> None:
    """Raises InvalidArgumentError for an organization that is placed in another way than is asked for."""
    place = place_in(placement)
    is_same = model_of(place) is model and place.cluster == cluster
    if is_same and place_name in (None, place.database, place.schema):
        return
    where = f"{placement.state} on {place.cluster} in the model {model_of(place)}"
    if placement.state in (PlacementState.CREATING, PlacementState.IMPORTING):
        raise InvalidArgumentError(
            f"the organization {placement.slug!r} is {where} ({place.database or place.schema}), and that was not "
            f"finished: finish it as it was begun, or remove it first with `docworker tenants drop {placement.slug}`"
        )
    raise InvalidArgumentError(
        f"the slug {placement.slug!r} is taken, by an organization that is {where}: choose another slug"
    )


def _add_organization(organization_id: UUID, place: Place, slug: str, name: str) -> None:
    with owning(place) as connection:
        become(connection, organization_id)
        translated = connection.execution_options(schema_translate_map=dict.fromkeys(TENANT_SCHEMAS, place.schema))
        row = insert(Organization).values(id=organization_id, slug=slug, name=name).on_conflict_do_nothing()
        (translated if model_of(place) is Model.SCHEMA else connection).execute(row)
