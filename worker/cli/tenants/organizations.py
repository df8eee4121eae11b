"""`docworker organizations`: add and list the tenants."""

import click

from docworker.db.tenants.organizations import create_organization, list_organizations
from docworker.worker.cli.options import database_open
from docworker.worker.cli.output import json_option, print_json, print_table


@click.group()
def organizations() -> None:
    """Add and list organizations, the tenants whose documents are kept apart."""


@organizations.command(
    epilog="""\b
Example:
  docworker organizations add acme --name "Acme Ltd."
"""
)
@click.argument("slug")
@click.option("--name", help="What people call it; the slug if left out.")
@json_option
def add(slug: str, name: str | None, as_json: bool) -> None:
    """Make an organization. SLUG is its name in commands: a-z, 0-9 and '-'."""
    with database_open("organizations"):
        organization_id = create_organization(slug, name)
    if as_json:
        print_json({"organization_id": organization_id, "slug": slug, "name": name or slug})
    else:
        click.echo(f"added {slug} ({organization_id})")


@organizations.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List all organizations, from the catalog."""
    with database_open("organizations"):
        placements = list_organizations()
    if as_json:
        print_json(
            [
                {
                    "organization_id": placement.organization_id,
                    "slug": placement.slug,
                    "cluster": placement.cluster,
                    "schema": placement.schema,
                    "state": placement.state,
                }
                for placement in placements
            ]
        )
        return
    print_table(
        ("slug", "id", "cluster", "schema", "state"),
        ((one.slug, one.organization_id, one.cluster, one.schema, one.state) for one in placements),
    )
