"""`docworker users`: the people of an organization."""

import click

from docworker.db.editing import users as editing
from docworker.db.editing.audit import carried_out
from docworker.worker.cli.options import actor, organization_open, organization_option
from docworker.worker.cli.output import json_option, print_json, print_table
from docworker.worker.printable import printable

USER_HELP = "USER is an email address or an id."


@click.group()
def users() -> None:
    """The people of an organization, who may own documents."""


@users.command()
@click.argument("email")
@click.option("--name", default="", help="What others call them; the address if left out.")
@organization_option
def add(email: str, name: str, slug: str) -> None:
    """Add somebody."""
    with organization_open("users", slug) as organization_id:
        user_id = carried_out(organization_id, lambda session: editing.add_user(session, email, name, actor=actor()))
    click.echo(f"added {printable(email)} ({user_id})")


@users.command("list")
@organization_option
@json_option
def list_(slug: str, as_json: bool) -> None:
    """List everybody, with how many documents are theirs."""
    with organization_open("users", slug) as organization_id:
        found = editing.list_users(organization_id)
    if as_json:
        print_json(found)
    else:
        print_table(
            ("user", "name", "id", "active", "#documents"),
            ((one.email, one.display_name, one.id, "yes" if one.is_active else "no", one.documents) for one in found),
        )


@users.command(epilog=USER_HELP)
@click.argument("user")
@organization_option
@json_option
def show(user: str, slug: str, as_json: bool) -> None:
    """Show one of them."""
    with organization_open("users", slug) as organization_id:
        (found,) = editing.list_users(organization_id, email_or_id=user)
    if as_json:
        print_json(found)
    else:
        active = "active" if found.is_active else "deactivated"
        name = f" ({found.display_name})" if found.display_name != found.email else ""
        click.echo(printable(f"{found.email}{name}: {active}, {found.documents} documents, id {found.id}"))


@users.command(epilog=USER_HELP)
@click.argument("user")
@organization_option
def deactivate(user: str, slug: str) -> None:
    """Mark somebody as no longer there. Their documents stay theirs."""
    _set_active(user, slug, is_active=False)


@users.command(epilog=USER_HELP)
@click.argument("user")
@organization_option
def activate(user: str, slug: str) -> None:
    """Mark somebody as there again."""
    _set_active(user, slug, is_active=True)


def _set_active(user: str, slug: str, *, is_active: bool) -> None:
    with organization_open("users", slug) as organization_id:
        changed = carried_out(
            organization_id, lambda session: editing.set_active(session, user, is_active, actor=actor())
        )
    state = "active" if is_active else "deactivated"
    click.echo(f"{printable(user)} is {state} {'now' if changed else 'already'}")


@users.command(epilog=USER_HELP)
@click.argument("user")
@click.option("--reassign-to", metavar="USER", help="Who gets their documents.")
@organization_option
def delete(user: str, reassign_to: str | None, slug: str) -> None:
    """Delete somebody for good. Refused while documents are theirs, unless somebody else gets these."""
    with organization_open("users", slug) as organization_id:
        given = carried_out(
            organization_id,
            lambda session: editing.delete_user(session, user, reassign_to=reassign_to, actor=actor()),
        )
    to = f"; {given} documents are {printable(reassign_to)}'s now" if reassign_to else ""
    click.echo(f"deleted {printable(user)}{to}")
