"""`docworker documents`: the tree of an organization's documents with their state, and what people do with them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from docworker.db.documents.folders import FolderPath
from docworker.db.documents.listing import Listing
from docworker.db.documents.reading import DocumentEntry, Filters, folder_at, parse_path
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import DocumentStatus
from docworker.jobs.pipeline.media_types import NAMES
from docworker.jobs.pipeline.registry import installed_signature
from docworker.worker.cli.documents import editing
from docworker.worker.cli.options import organization_open, organization_option
from docworker.worker.cli.output import json_option, print_json_list, print_table, size_text
from docworker.worker.printable import shell_word

SHOWN = 1000
"""Documents of a table unless another number is asked for."""


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
  docworker documents -o acme --all | less
  docworker documents -o acme --json | jq -r '.[] | select(.status == "pending") | .path'

\b
A table has the first 1,000 unless --limit or --all says otherwise, and where there are more, it is said how to go on.
In JSON they are all there, one a line.
""",
)
@click.argument("folder", default="/")
@click.option("--state", type=click.Choice([*map(str, DocumentStatus)]), help="Only documents in this state.")
@click.option("--stale", is_flag=True, help="Only documents whose text other processors made than are installed.")
@click.option("--tag", help="Only documents with this tag.")
@click.option("--deleted", is_flag=True, help="Deleted documents instead, with their ids.")
@click.option("--after", metavar="PATH", help="Only what comes behind this path in the list.")
@click.option("--limit", type=click.IntRange(1, 2**31 - 1), help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="However many there are.")
@organization_option
@json_option
def list_(
    folder: str,
    state: str | None,
    stale: bool,
    tag: str | None,
    deleted: bool,
    after: str | None,
    limit: int | None,
    everything: bool,
    slug: str,
    as_json: bool,
) -> None:
    """Show the tree of documents with their state and latest version, below FOLDER or from the root."""
    if everything and limit is not None:
        raise click.UsageError("--limit and --all exclude each other")
    most = limit if limit is not None or everything or as_json else SHOWN
    with organization_open("documents", slug) as organization_id:
        filters = Filters(
            folder_at(organization_id, parse_path(folder)),
            state,
            installed_signature() if stale else None,
            tag,
            deleted=deleted,
        )
        part = _Part(Listing(organization_id, filters, after=_parsed(after)), most)
        if as_json:
            print_json_list(part)
        elif deleted:
            print_table(("id", "document", "changed"), ((one.id, one.path, one.updated_at) for one in part))
        else:
            print_table(("document", "state", "#version", "#size", "format", "reason"), _tree(part))
    if part.left:
        goes_on = f"--after {shell_word(part.last)}, or --all"
        click.echo(f"\N{HORIZONTAL ELLIPSIS} {part.left:,} more: {goes_on}", err=True)


def _parsed(after: str | None) -> FolderPath | None:
    path = None if after is None else parse_path(after)
    if path == ():
        raise InvalidArgumentError(f"{after!r} names no document: give the path of one, such as /reports/q3.pdf")
    return path


class _Part:
    """The first documents of a listing, `most` of them, or a few more where several were deleted at one path."""

    def __init__(self, listing: Listing, most: int | None) -> None:
        self._listing = listing
        self._most = most
        self._shown = 0
        self.last = ""
        self.left = 0

    def __iter__(self) -> Iterator[DocumentEntry]:
        for entry in self._listing:
            if self._most is not None and self._shown >= self._most and entry.path != self.last:
                self.left = max(1, self._listing.documents - self._shown)
                return
            self._shown += 1
            self.last = entry.path
            yield entry


def _tree(entries: Iterable[DocumentEntry]) -> Iterator[Sequence[Any]]:
    """A row for each document and one above for each folder on the way to it."""
    above: list[str] = []
    for entry in entries:
        *folders, filename = parse_path(entry.path)
        for depth, folder in enumerate(folders):
            if above[: depth + 1] != folders[: depth + 1]:
                yield f"{'  ' * depth}{folder}/", None, None, None, None, None
        above = folders
        yield (
            "  " * len(folders) + filename,
            entry.status,
            entry.latest_version or None,
            size_text(entry.source_bytes),
            _format(entry.media_type),
            entry.status_reason,
        )


def _format(media_type: str | None) -> str | None:
    return NAMES.get(media_type, media_type) if media_type else None
