"""`docworker history`, `show` and `diff`: list, print and compare the versions of one document."""

import sys
from dataclasses import asdict
from difflib import unified_diff
from functools import partial
from typing import Any
from uuid import UUID

import click

from docworker.db.documents.attachments import Attachments, find_attachments
from docworker.db.documents.reading import (
    DocumentDetails,
    DocumentEntry,
    find_document,
    list_versions,
    load_details,
    load_version,
)
from docworker.db.documents.search import Indexed, how_indexed
from docworker.db.errors import NotFoundError
from docworker.db.models import DocumentVersion
from docworker.db.sessions import read
from docworker.worker.cli.options import DOCUMENT_HELP, VERSION_NUMBER, organization_open, organization_option
from docworker.worker.cli.output import console, json_option, print_json, print_table
from docworker.worker.printable import printable, printable_lines

FACTS = ("language", "words", "pages")


@click.command(epilog=DOCUMENT_HELP)
@click.argument("doc")
@organization_option
@json_option
def history(doc: str, slug: str, as_json: bool) -> None:
    """List the versions of a document, newest first."""
    with organization_open("history", slug) as organization_id:
        entry = find_document(organization_id, doc)
        versions = list_versions(organization_id, entry.id)
    if as_json:
        print_json(versions)
    elif versions:
        print_table(
            ("#version", "written", "title", "language", "#words", "#pages", "made by", "job"),
            (
                (one.version_number, one.created_at, one.title, *map(one.facts.get, FACTS), one.pipeline, one.job_id)
                for one in versions
            ),
        )
    else:
        click.echo(_why_no_text(entry), err=True)


@click.command(
    epilog=f"""{DOCUMENT_HELP}

\b
Examples:
  docworker show /reports/q3.pdf -o acme
  docworker show /reports/q3.pdf --version 1 -o acme > q3.txt
"""
)
@click.argument("doc")
@click.option("--version", "number", type=VERSION_NUMBER, help="This version instead of the latest.")
@organization_option
@json_option
def show(doc: str, number: int | None, slug: str, as_json: bool) -> None:
    """Print the text of a document, or all that is known of it with --json. What was wrong beside the text when it was
    read goes to standard error, and so does what is attached to a mail, and to which mail a document was attached."""
    with organization_open("show", slug) as organization_id:
        entry, version = _load(organization_id, doc, number)
        attached = read(organization_id, partial(find_attachments, document_id=entry.id))
        if as_json:
            details = load_details(organization_id, entry.id)
            searched = read(organization_id, partial(how_indexed, document_id=entry.id))
    if as_json:
        print_json(_as_json(entry, version, details, attached, searched))
    else:
        _print_text(version.content)
        for warning in version.facts.get("warnings", ()):
            click.echo(f"warning: {printable(warning['message'])} ({printable(warning['code'])})", err=True)
        _tell_attachments(attached)


@click.command(
    epilog=f"""{DOCUMENT_HELP}

\b
Examples:
  docworker diff /reports/q3.pdf 1 -o acme           what has changed since version 1
  docworker diff /reports/q3.pdf 2 3 -o acme

\b
Prints a unified diff, and nothing when the texts are equal; the exit code is 0 either way.
"""
)
@click.argument("doc")
@click.argument("a", type=VERSION_NUMBER)
@click.argument("b", type=VERSION_NUMBER, required=False)
@organization_option
@json_option
def diff(doc: str, a: int, b: int | None, slug: str, as_json: bool) -> None:
    """Compare versions A and B of a document; B is the latest if left out."""
    with organization_open("diff", slug) as organization_id:
        entry, old = _load(organization_id, doc, a)
        _, new = _load(organization_id, str(entry.id), b)
    lines = _unified(entry.path, old, new)
    if as_json:
        print_json({"document_id": entry.id, "path": entry.path, "from": a, "to": new.version_number, "diff": lines})
        return
    for line in lines:
        _print_diff_line(line)


def _load(organization_id: UUID, doc: str, number: int | None) -> tuple[DocumentEntry, DocumentVersion]:
    entry = find_document(organization_id, doc)
    if not entry.latest_version:
        raise NotFoundError(_why_no_text(entry))
    return entry, load_version(organization_id, entry.id, number or entry.latest_version)


def _why_no_text(entry: DocumentEntry) -> str:
    reason = f" ({printable(entry.status_reason)})" if entry.status_reason else ""
    return f"{printable(entry.path)} has no text: {entry.status}{reason}"


def _as_json(
    entry: DocumentEntry,
    version: DocumentVersion,
    details: DocumentDetails,
    attached: Attachments,
    searched: Indexed,
) -> dict[str, Any]:
    return {
        "document_id": entry.id,
        "path": entry.path,
        "media_type": entry.media_type,
        **asdict(details),
        **asdict(attached),
        "status": entry.status,
        "status_reason": entry.status_reason,
        "latest_version": entry.latest_version,
        "version_number": version.version_number,
        "title": version.title,
        "content_sha256": version.content_sha256,
        "facts": version.facts,
        "indexed": searched,
        "pipeline": version.pipeline,
        "job_id": version.job_id,
        "created_at": version.created_at,
        "content": version.content,
    }


def _tell_attachments(attached: Attachments) -> None:
    if attached.attached_to is not None:
        click.echo(f"attached to: {printable(attached.attached_to)}", err=True)
    for one in attached.attachments:
        left = "" if one.in_mail else " (not in the mail any more)"
        click.echo(f"attachment: {printable(one.path or f'{one.name} (deleted)')}{left}", err=True)


def _print_text(content: str) -> None:
    """As it is into a pipe or file; on a terminal without what would drive it."""
    click.echo(printable_lines(content) if sys.stdout.isatty() else content)


def _unified(path: str, old: DocumentVersion, new: DocumentVersion) -> list[str]:
    names = (f"{path} v{old.version_number}", f"{path} v{new.version_number}")
    return list(unified_diff(old.content.split("\n"), new.content.split("\n"), *names, lineterm=""))


def _print_diff_line(line: str) -> None:
    styles = {"+++": "bold", "---": "bold", "@@": "cyan", "+": "green", "-": "red"}
    style = next((style for start, style in styles.items() if line.startswith(start)), None)
    console().print(printable_lines(line), style=style, soft_wrap=True)
