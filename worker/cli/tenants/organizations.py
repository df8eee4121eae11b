"""`docworker organizations add`: a tenant in the shared tables of home, made without the owner's rights."""

import click

from docworker.db.editing.audit import on_record
from docworker.db.settings import HOME
from docworker.db.tenants.organizations import create_organization
from docworker.worker.cli.options import actor, database_open
from docworker.worker.cli.output import json_option, print_json


class _BesideTenants(click.Group):
    """Knows that the other commands about organizations are those of `docworker tenants`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            # Only for who has misspelt one: it imports all that moves and copies organizations.
            from docworker.worker.cli.tenants.tenants import tenants  # noqa: PLC0415

            if error.command_name not in tenants.commands:
                raise
            raise click.UsageError(
                f"No such command {error.command_name!r}. Did you mean `docworker tenants {error.command_name}`?", ctx
            ) from None


@click.group(cls=_BesideTenants)
def organizations() -> None:
    """Add organizations to the shared tables of the home cluster.

    `docworker tenants` lists them, and makes them anywhere.
    """


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
    with (
        database_open("organizations"),
        on_record("created", actor=actor(), subject="organization", slug=slug, model="shared", cluster=HOME) as doing,
    ):
        doing.subject_id = organization_id = create_organization(slug, name)
    if as_json:
        print_json({"organization_id": organization_id, "slug": slug, "name": name or slug})
    else:
        click.echo(f"added {slug} ({organization_id})")
