"""`docworker restore`: make an old version of a document the newest one again."""

import click

from docworker.db.documents.reading import find_document
from docworker.jobs.kinds import restoring
from docworker.worker.cli.options import DOCUMENT_HELP, VERSION_NUMBER, organization_open, organization_option
from docworker.worker.cli.output import json_option, print_json
from docworker.worker.printable import printable


@click.command(
    epilog=f"""{DOCUMENT_HELP}

\b
Examples:
  docworker history /reports/q3.pdf -o acme          which versions there are
  docworker restore /reports/q3.pdf 2 -o acme        the text of version 2 becomes the newest
  docworker restore /reports/q3.pdf --from-source -o acme    and that of its file again

\b
Nothing is lost: the versions in between stay. When the document is processed again, the text that was brought back
stays, until another file is imported for it or --from-source asks for the text of its own.
"""
)
@click.argument("doc")
@click.argument("number", metavar="[VERSION]", type=VERSION_NUMBER, required=False)
@click.option("--from-source", is_flag=True, help="Process the document's file again instead.")
@organization_option
@json_option
def restore(doc: str, number: int | None, from_source: bool, slug: str, as_json: bool) -> None:
    """Make an old version the newest again, as a new version with its text."""
    if (number is None) is not from_source:
        raise click.UsageError("say which VERSION is to be the newest, or --from-source")
    with organization_open("restore", slug) as organization_id:
        entry = find_document(organization_id, doc)
        if number is None:
            job_id = restoring.process_from_source(organization_id, entry.id)
            if as_json:
                print_json({"document_id": entry.id, "path": entry.path, "job_id": job_id})
            else:
                click.echo(f"{printable(entry.path)}: job {job_id} makes its text anew")
            return
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
