"""`docworker tenants`: where organizations are, and what becomes of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from docworker.db.catalog import place_in
from docworker.db.models import Placement
from docworker.db.tenants.organizations import list_organizations, placement_called
from docworker.worker.cli.options import database_open
from docworker.worker.cli.output import json_option, print_json, print_table
from docworker.worker.cli.tenants.exports import export
from docworker.worker.cli.tenants.imports import import_
from docworker.worker.cli.tenants.moves import clean, move
from docworker.worker.cli.tenants.places import lost_option, place_options, say_left
from docworker.worker.cli.tenants.record import tenant_on_record
from docworker.worker.cli.tenants.restore import restore
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.owner import placement_of
from docworker.worker.tenants.places import Model, all_places, model_of, recorded_place
from docworker.worker.tenants.states import resume as resume_tenant
from docworker.worker.tenants.states import suspend as suspend_tenant


@click.group()
def tenants() -> None:
    """Place organizations, move them, suspend them, and drop them.

    What changes something needs DOCWORKER_OWNER_URL and DOCWORKER_MASTER_URL, and those of its cluster.
    """


tenants.add_command(export)
tenants.add_command(import_)
tenants.add_command(restore)
tenants.add_command(move)
tenants.add_command(clean)


@tenants.command(
    epilog="""\b
Examples:
  docworker tenants create acme
  docworker tenants create globex --model schema
  docworker tenants create initech --model database --cluster east
"""
)
@click.argument("slug")
@click.option("--name", help="What people call it; the slug if left out.")
@place_options
@json_option
def create(slug: str, name: str | None, model: str, cluster: str, place_name: str | None, as_json: bool) -> None:
    """Make an organization. SLUG is its name in commands: a-z, 0-9 and '-'.

    Run it again when it was interrupted: it goes on where it was.
    """
    with database_open("tenants"), tenant_on_record("created", slug, model=model, cluster=cluster) as doing:
        created = create_tenant(slug, name=name, model=Model(model), cluster=cluster, place_name=place_name)
        doing.subject_id, doing.is_worth_telling = created.organization_id, created.is_new
    if as_json:
        print_json(
            {
                "organization_id": created.organization_id,
                "slug": slug,
                "cluster": created.place.cluster,
                "database": created.place.database,
                "schema": created.place.schema,
                "created": created.is_new,
            }
        )
    else:
        verb = "created" if created.is_new else "exists already:"
        click.echo(f"{verb} {slug} ({created.organization_id})")


@tenants.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List all organizations, by the catalog, with their places and states."""
    with database_open("tenants"):
        placements = list_organizations()
    if as_json:
        print_json([_as_dict(one) for one in placements])
        return
    print_table(
        ("slug", "id", "model", "cluster", "place", "state"),
        (
            (one.slug, one.organization_id, model_of(place_in(one)), one.cluster, one.database or one.schema, one.state)
            for one in placements
        ),
    )


@tenants.command()
@click.argument("slug")
@json_option
def show(slug: str, as_json: bool) -> None:
    """Show what the catalog says of an organization."""
    with database_open("tenants"):
        shown = _as_dict(placement_called(slug))
    if as_json:
        print_json(shown)
    else:
        print_table(("", ""), ((key, "" if value is None else value) for key, value in shown.items()))


@tenants.command()
@click.argument("slug")
def suspend(slug: str) -> None:
    """Stop serving an organization: reads and writes are refused, and its jobs wait."""
    with database_open("tenants"), tenant_on_record("suspended", slug):
        suspend_tenant(slug)
    click.echo(f"suspended {slug}")


@tenants.command()
@click.argument("slug")
def resume(slug: str) -> None:
    """Serve a suspended organization again."""
    with database_open("tenants"), tenant_on_record("resumed", slug):
        resume_tenant(slug)
    click.echo(f"resumed {slug}")


@tenants.command(
    epilog="""\b
Examples:
  docworker tenants drop acme
  docworker tenants drop acme --export backup/acme.zip
"""
)
@click.argument("slug")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--export",
    "path",
    type=click.Path(path_type=Path),
    help="Export it there first, and drop it only when the export is whole.",
)
@lost_option
def drop(slug: str, yes: bool, path: Path | None, lost: str | None) -> None:
    """Delete an organization with its documents, jobs and files, for good.

    Run it again when it was interrupted. With --export nobody is served from when the export begins.
    """
    with database_open("tenants"):
        placement = placement_of(slug)
        organization_id, places = placement.organization_id, all_places(placement)
        if not yes:
            click.echo(f"This deletes all documents, versions, jobs and files of {slug} ({organization_id}).")
            if click.prompt("Type its slug to go on", default="", show_default=False) != slug:
                raise click.ClickException("nothing was deleted")
        place = place_in(placement)._asdict()
        exported_to = None if path is None else str(path)
        with tenant_on_record("dropped", slug, place=place, exported_to=exported_to, lost=lost):
            manifest = drop_tenant(slug, only=organization_id, export=path, lost=lost)
    if manifest is not None:
        click.echo(f"exported {slug} as of {manifest.exported_at} to {path}")
    click.echo(f"dropped {slug}")
    say_left(places, lost)


def _as_dict(placement: Placement) -> dict[str, object]:
    return {
        "organization_id": placement.organization_id,
        "slug": placement.slug,
        "model": model_of(place_in(placement)),
        "cluster": placement.cluster,
        "database": placement.database,
        "schema": placement.schema,
        "state": placement.state,
        "revision": placement.revision,
        "migration_error": placement.migration_error,
        "moving_to": _in_words(placement.move) if placement.move else None,
        "moving_since": placement.move["started_at"] if placement.move else None,
        "old_copy": _in_words(placement.previous) if placement.previous else None,
        "old_copy_kept_until": placement.previous["until"] if placement.previous else None,
    }


def _in_words(record: Mapping[str, Any]) -> str:
    place = recorded_place(record)
    name = place.database or place.schema
    return f"{place.cluster}, {name} ({model_of(place)})"
