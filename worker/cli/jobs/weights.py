"""`docworker weights`: whose jobs have how much of the workers' time."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import click

from docworker.db.catalog import place_of
from docworker.db.cluster import database
from docworker.db.editing.audit import on_record
from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger.weights import remove_weight, set_weight
from docworker.db.ledger.weights import weights as all_weights
from docworker.db.sessions import TenantSession, all_jobs_session
from docworker.db.settings import settings
from docworker.db.tenants.organizations import organization_id_of, slugs_of
from docworker.worker.cli.options import actor, database_open
from docworker.worker.cli.output import json_option, print_json, print_table


@click.group()
def weights() -> None:
    """Weigh organizations against each other.

    When the jobs of several organizations on a cluster wait, each gets its share of the workers' time by its weight;
    all have 1 unless it is set here. A change takes effect with the dispatcher's next look.
    """


@weights.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the organizations that have a weight of their own."""
    with database_open("jobs"):
        found: dict[UUID, float] = {}
        for cluster in settings().cluster_names:
            with all_jobs_session(cluster) as session:
                found |= all_weights(session)
        slugs = slugs_of(found)
    rows = sorted((slugs.get(one, str(one)), weight) for one, weight in found.items())
    if as_json:
        print_json([{"organization": slug, "weight": weight} for slug, weight in rows])
        return
    print_table(("organization", "weight"), ((slug, f"{weight:g}") for slug, weight in rows))


@weights.command("set")
@click.argument("slug", metavar="ORGANIZATION")
@click.argument("weight", type=float)
def set_(slug: str, weight: float) -> None:
    """Give an organization a weight, from 0.01 to 100."""
    with _changing("weighed", slug, weight) as (session, organization_id):
        set_weight(session, organization_id, weight)
    click.echo(f"{slug} has the weight {weight:g}")


@weights.command()
@click.argument("slug", metavar="ORGANIZATION")
def remove(slug: str) -> None:
    """Let an organization have the weight 1 again, like all."""
    with _changing("weighed", slug, None) as (session, organization_id):
        if not remove_weight(session, organization_id):
            raise InvalidArgumentError(f"{slug} has no weight of its own")
    click.echo(f"{slug} has the weight 1, like all")


@contextmanager
def _changing(action: str, slug: str, weight: float | None) -> Iterator[tuple[TenantSession, UUID]]:
    """A session on the organization's ledger; what is done goes on record."""
    with database_open("jobs"):
        organization_id = organization_id_of(slug)
        place = place_of(organization_id, database())
        if place.database is not None:
            raise InvalidArgumentError(f"{slug} has a database of its own, where its jobs are not among others'")
        with (
            on_record(action, actor=actor(), subject="organization", organization_id=organization_id, weight=weight),
            all_jobs_session(place.cluster) as session,
        ):
            yield session, organization_id
