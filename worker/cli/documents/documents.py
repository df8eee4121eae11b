"""`docworker documents`: the tree of an organization's documents with their state, and what people do with them."""

from collections.abc import Iterator, Sequence
from typing import Any

import click

from docworker.db.documents.reading import DocumentEntry, list_documents
from docworker.db.models import DocumentStatus
from docworker.jobs.pipeline.media_types import DOCX, HTML, MARKDOWN, MHTML, PDF, TEXT
from docworker.jobs.pipeline.registry import installed_processors, signature_of
from docworker.worker.cli.documents import editing
from docworker.worker.cli.options import organization_open, organization_option
from docworker.worker.cli.output import json_option, print_json, print_table, size_text

FORMATS = {PDF: "PDF", DOCX: "DOCX", HTML: "HTML", MHTML: "web archive", MARKDOWN: "Markdown", TEXT: "text"}


class _ListUnlessNamed(click.Group):
    """Lists where no command of the group is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ListUnlessNamed)
def documents() -> None:
    """Show the tree of documents, and change documents: one, or many at once.

    Without a command it lists: `docworker documents /reports -o acme`. A folder that is called like a command is named
    with a slash.
    """


for command in editing.COMMANDS:
    documents.add_command(command)


@documents.command(
    "list",
    epilog="""\b
Examples:
  docworker documents -o acme
  docworker documents /reports --state failed -o acme
  docworker documents --stale -o acme               made by processors of another version
  docworker documents list --deleted -o acme        what can still be brought back
  docworker documents -o acme --json | jq -r '.[] | select(.status == "pending") | .path'
""",
)
@click.argument("folder", default="/")
@click.option("--state", type=click.Choice([*map(str, DocumentStatus)]), help="Only documents in this state.")
@click.option("--stale", is_flag=True, help="Only documents whose text other processors made than are installed.")
@click.option("--tag", help="Only documents with this tag.")
@click.option("--deleted", is_flag=True, help="Deleted documents instead, with their ids.")
@organization_option
@json_option
def list_(
    folder: str, state: str | None, stale: bool, tag: str | None, deleted: bool, slug: str, as_json: bool
) -> None:
    """Show the tree of documents with their state and latest version, below FOLDER or from the root."""
    with organization_open("documents", slug) as organization_id:
        status = DocumentStatus(state) if state else None
        stale_to = signature_of(installed_processors()) if stale else None
        entries = list_documents(
            organization_id, under=folder, status=status, stale_to=stale_to, tag=tag, deleted=deleted
        )
    if as_json:
        print_json(entries)
    elif deleted:
        print_table(("id", "document", "changed"), ((one.id, one.path, one.updated_at) for one in entries))
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
