"""`docworker restore`: make an old version of a document the newest one again."""

import click

from docworker.db.documents.reading import find_document
from docworker.jobs.kinds import restoring
from docworker.worker.cli.options import DOCUMENT_HELP, VERSION_NUMBER, organization_open, organization_option
from docworker.worker.cli.output import json_option, print_json
from docworker.worker.cli.printable import printable


@click.command(
    epilog=f"""{DOCUMENT_HELP}

\b
Examples:
  docworker history /reports/q3.pdf -o acme          which versions there are
  docworker restore /reports/q3.pdf 2 -o acme        the text of version 2 becomes the newest

\b
Nothing is lost: the versions in between stay. The file that was imported stays as well, so the document's next
processing makes a version of it again.
"""
)
@click.argument("doc")
@click.argument("number", metavar="VERSION", type=VERSION_NUMBER)
@organization_option
@json_option
def restore(doc: str, number: int, slug: str, as_json: bool) -> None:
    """Make an old version the newest again, as a new version with its text."""
    with organization_open("restore", slug) as organization_id:
        entry = find_document(organization_id, doc)
        outcome = restoring.restore(organization_id, entry.id, number)
    if as_json:
        print_json(
            {
                "document_id": entry.id,
                "path": entry.path,
                "restored": number,
                "written": outcome.written,
                "version_number": outcome.version_number,
            }
        )
    elif outcome.written == "version":
        click.echo(f"{printable(entry.path)}: the text of version {number} is version {outcome.version_number} now")
    else:
        click.echo(f"{printable(entry.path)}: nothing to do, version {outcome.version_number} has that text already")
