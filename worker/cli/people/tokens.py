"""`docworker tokens`: with what callers of the HTTP API say who they are."""

from uuid import UUID

import click

from docworker.db import tokens as editing
from docworker.db.editing.audit import carried_out
from docworker.db.sessions import reading
from docworker.worker.cli.options import actor, organization_open, organization_option
from docworker.worker.cli.output import json_option, print_json, print_table


@click.group()
def tokens() -> None:
    """With what callers of the HTTP API say who they are: each token is of one organization."""


@tokens.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice([one.value for one in editing.Scope]),
    help="What it lets its holder do; may be given several times.",
)
@click.option("--days", type=float, help="How long it is good; until it is revoked unless given.")
@organization_option
@json_option
def create(name: str, scopes: tuple[str, ...], days: float | None, slug: str, as_json: bool) -> None:
    """Make a token, NAME says for whom; it is shown this once."""
    with organization_open("tokens", slug) as organization_id:
        token_id, token = carried_out(
            organization_id,
            lambda session: editing.create_token(session, name, scopes, days=days, actor=actor()),
        )
    if as_json:
        print_json({"id": token_id, "token": token})
    else:
        click.echo(f"created {token_id}\ntoken, shown this once: {token}")


@tokens.command("list")
@organization_option
@json_option
def list_(slug: str, as_json: bool) -> None:
    """List the tokens, also those that are good no more."""
    with organization_open("tokens", slug) as organization_id, reading(organization_id, source="master") as session:
        found = editing.list_tokens(session)
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "name", "scopes", "created", "expires", "revoked", "last used"),
        (
            [
                one.id,
                one.name,
                " ".join(one.scopes),
                one.created_at,
                one.expires_at or "",
                one.revoked_at or "",
                one.last_used_at or "",
            ]
            for one in found
        ),
    )


@tokens.command(epilog="TOKEN is a token's id, as `docworker tokens list` shows it.")
@click.argument("token", type=click.UUID)
@organization_option
def revoke(token: UUID, slug: str) -> None:
    """Let nobody in with a token any more."""
    with organization_open("tokens", slug) as organization_id:
        changed = carried_out(organization_id, lambda session: editing.revoke_token(session, token, actor=actor()))
    click.echo(f"{token} is revoked {'now' if changed else 'already'}")
