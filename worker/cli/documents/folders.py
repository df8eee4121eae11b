"""`docworker folders`: make, rename, move and delete folders."""

import click

from docworker.db.documents.reading import parse_path, path_text
from docworker.db.editing import folders as editing
from docworker.db.editing.audit import carried_out
from docworker.worker.cli.options import actor, organization_open, organization_option
from docworker.worker.printable import printable


@click.group()
def folders() -> None:
    """Make, rename, move and delete folders; `docworker documents` shows the tree."""


@folders.command()
@click.argument("path")
@organization_option
def create(path: str, slug: str) -> None:
    """Make the folder at PATH, and those on the way there."""
    with organization_open("folders", slug) as organization_id:
        carried_out(organization_id, lambda session: editing.create_folder(session, parse_path(path), actor=actor()))
    click.echo(f"created {_shown(path)}")


@folders.command()
@click.argument("path")
@click.argument("name")
@organization_option
def rename(path: str, name: str, slug: str) -> None:
    """Call the folder at PATH otherwise."""
    with organization_open("folders", slug) as organization_id:
        carried_out(
            organization_id, lambda session: editing.rename_folder(session, parse_path(path), name, actor=actor())
        )
    click.echo(f"renamed {_shown(path)}")


@folders.command()
@click.argument("path")
@click.option("--to", required=True, metavar="FOLDER", help="The folder it goes into; / is the root.")
@organization_option
def move(path: str, to: str, slug: str) -> None:
    """Move the folder at PATH with all that is in it."""
    with organization_open("folders", slug) as organization_id:
        carried_out(
            organization_id,
            lambda session: editing.move_folder(session, parse_path(path), parse_path(to), actor=actor()),
        )
    click.echo(f"moved {_shown(path)} to {_shown(to)}")


@folders.command()
@click.argument("path")
@click.option("--recursive", is_flag=True, help="Also with all that is in it.")
@organization_option
def delete(path: str, recursive: bool, slug: str) -> None:
    """Delete the folder at PATH."""
    with organization_open("folders", slug) as organization_id:
        gone = carried_out(
            organization_id,
            lambda session: editing.delete_folder(session, parse_path(path), recursive=recursive, actor=actor()),
        )
    click.echo(f"deleted {_shown(path)}: {gone.folders} folders, {gone.documents} documents")


def _shown(path: str) -> str:
    return printable(path_text(parse_path(path)))
