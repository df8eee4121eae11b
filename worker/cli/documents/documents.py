"""`docworker documents`: show the tree of an organization's documents with their state."""

from collections.abc import Iterator, Sequence
from typing import Any

import click

from docworker.db.documents.reading import DocumentEntry, list_documents
from docworker.db.models import DocumentStatus
from docworker.jobs.pipeline.media_types import DOCX, HTML, MARKDOWN, PDF, TEXT
from docworker.worker.cli.options import organization_open, organization_option
from docworker.worker.cli.output import json_option, print_json, print_table, size_text

FORMATS = {PDF: "PDF", DOCX: "DOCX", HTML: "HTML", MARKDOWN: "Markdown", TEXT: "text"}


@click.command(
    epilog="""\b
Examples:
  docworker documents -o acme
  docworker documents /reports --state failed -o acme
  docworker documents -o acme --json | jq -r '.[] | select(.status == "pending") | .path'
"""
)
@click.argument("folder", default="/")
@click.option("--state", type=click.Choice([*map(str, DocumentStatus)]), help="Only documents in this state.")
@organization_option
@json_option
def documents(folder: str, state: str | None, slug: str, as_json: bool) -> None:
    """Show the tree of documents with their state and latest version, below FOLDER or from the root."""
    with organization_open("documents", slug) as organization_id:
        status = DocumentStatus(state) if state else None
        entries = list_documents(organization_id, under=folder, status=status)
    if as_json:
        print_json(entries)
    else:
        print_table(("document", "state", "#version", "#size", "format", "reason"), _tree(entries))


def _tree(entries: Sequence[DocumentEntry]) -> Iterator[Sequence[Any]]:
    """A row for each document and one above for each folder on the way to it; folders come after documents."""
    shown: set[tuple[str, ...]] = set()
    for entry in sorted(entries, key=lambda entry: _files_before_folders(entry.path)):
        *folders, filename = entry.path.strip("/").split("/")
        for depth in range(1, len(folders) + 1):
            folder = tuple(folders[:depth])
            if folder not in shown:
                shown.add(folder)
                yield f"{'  ' * (depth - 1)}{folder[-1]}/", None, None, None, None, None
        yield (
            "  " * len(folders) + filename,
            entry.status,
            entry.latest_version or None,
            size_text(entry.source_bytes),
            _format(entry.media_type),
            entry.status_reason,
        )


def _format(media_type: str | None) -> str | None:
    return FORMATS.get(media_type, media_type) if media_type else None


def _files_before_folders(path: str) -> list[tuple[bool, str]]:
    *folders, filename = path.strip("/").split("/")
    return [*((True, folder) for folder in folders), (False, filename)]
