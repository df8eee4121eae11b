"""`docworker documents move|rename|delete|undelete|assign|tag|untag`: one document, or many at once."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

import click

from docworker.db.documents.reading import Filters, find_document, folder_at, parse_path
from docworker.db.editing import documents as editing
from docworker.db.editing.documents import Change, Changed
from docworker.db.editing.users import list_users
from docworker.db.errors import DocworkerError, InvalidArgumentError
from docworker.db.models import DocumentStatus
from docworker.worker.cli.options import DOCUMENT_HELP, actor, organization_open, organization_option
from docworker.worker.cli.output import error_console, json_option, print_json, print_table

_SHOWN_FAILURES = 100


@dataclass(frozen=True)
class Which:
    """What `which_documents` was given: documents by name, or what they have in common."""

    docs: tuple[str, ...]
    under: str | None = None
    state: str | None = None
    tag: str | None = None
    owner: str | None = None
    yes: bool = False
    dry_run: bool = False

    @property
    def is_by_filter(self) -> bool:
        return any(one is not None for one in (self.under, self.state, self.tag, self.owner))

    def filters(self, organization_id: UUID, *, deleted: bool) -> Filters:
        return Filters(
            folder_at(organization_id, parse_path(self.under or "/")),
            self.state,
            tag=self.tag,
            owner_id=None if self.owner is None else list_users(organization_id, email_or_id=self.owner)[0].id,
            deleted=deleted,
        )


def which_documents(function: Callable[..., None]) -> Callable[..., None]:
    """The arguments and options that choose documents to change, as one argument `which`."""

    @functools.wraps(function)
    def chosen(**options: Any) -> None:
        function(Which(*(options.pop(one.name) for one in fields(Which))), **options)

    wrapped: Callable[..., None] = chosen
    for option in (
        json_option,
        organization_option,
        click.option("--dry-run", is_flag=True, help="Only say how many it would be."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--owner-is", "owner", metavar="USER", help="All of this user, by address or id."),
        click.option("--tag-is", "tag", metavar="TAG", help="All with this tag."),
        click.option("--state", type=click.Choice([*map(str, DocumentStatus)]), help="All in this state."),
        click.option("--under", metavar="FOLDER", help="All below this folder; / is the whole tree."),
        click.argument("docs", nargs=-1, metavar="[DOC]..."),
    ):
        wrapped = option(wrapped)
    return wrapped


def change(
    which: Which,
    action: str,
    make: Callable[[UUID], Change],
    *,
    slug: str,
    as_json: bool,
    version: int | None = None,
) -> None:
    """Change the documents that were chosen; exit code 1 where some could not be."""
    if bool(which.docs) == which.is_by_filter:
        raise click.UsageError("name documents, or choose them by --under, --state, --tag-is or --owner-is")
    with organization_open("documents", slug) as organization_id:
        wanted = make(organization_id)
        missing: list[Changed] = []
        if which.is_by_filter:
            filters = which.filters(organization_id, deleted=action == "undeleted")
            ids = [*editing.chosen(organization_id, filters)]
        else:
            ids, missing = _named(organization_id, which.docs, action)
        if which.dry_run or (which.is_by_filter and not which.yes and not _is_sure(action, len(ids))):
            click.echo(f"{len(ids)} documents would be {action}; nothing was changed", err=True)
            return
        outcomes = [
            *missing,
            *editing.change_documents(organization_id, ids, action, wanted, actor=actor(), version=version),
        ]
    _report(action, outcomes, as_json=as_json)


def _is_sure(action: str, count: int) -> bool:
    return count == 0 or click.confirm(f"{count} documents will be {action}. Go on?", err=True)


def _named(organization_id: UUID, docs: Sequence[str], action: str) -> tuple[list[UUID], list[Changed]]:
    """The ids of the documents that are named, and what is wrong with the other names."""
    ids, missing = [], []
    for doc in dict.fromkeys(docs):
        try:
            ids.append(_deleted_id(doc) if action == "undeleted" else find_document(organization_id, doc).id)
        except DocworkerError as error:
            missing.append(Changed(UUID(int=0), doc, False, str(error)))
    return ids, missing


def _deleted_id(doc: str) -> UUID:
    try:
        return UUID(doc)
    except ValueError as error:
        raise InvalidArgumentError(
            f"{doc!r} is no id: a deleted document is named by its id, which `docworker documents list --deleted` shows"
        ) from error


def _report(action: str, outcomes: Sequence[Changed], *, as_json: bool) -> None:
    failures = [one for one in outcomes if one.error is not None]
    if as_json:
        print_json(outcomes)
    else:
        changed = sum(one.changed for one in outcomes)
        same = len(outcomes) - changed - len(failures)
        unchanged = f", {same} were so already" if same else ""
        click.echo(f"{changed} documents {action}{unchanged}")
        if failures:
            print_table(
                ("document", "why not"),
                ((one.path or one.document_id, one.error) for one in failures[:_SHOWN_FAILURES]),
            )
            error_console().print(f"docworker: {len(failures)} documents could not be {action}")
    if failures:
        raise click.exceptions.Exit(1)


@click.command(
    epilog=f"""{DOCUMENT_HELP}

\b
Examples:
  docworker documents move /in/q3.pdf /in/q4.pdf --to /reports/2026 -o acme
  docworker documents move --under /in --state processed --to /archive -o acme

\b
Folders on the way are made where they are missing. What cannot be moved is listed, and costs no other document.
"""
)
@which_documents
@click.option("--to", required=True, metavar="FOLDER", help="The folder they go to; / is the root.")
def move(which: Which, *, to: str, slug: str, as_json: bool) -> None:
    """Move documents into another folder."""
    change(which, "moved", lambda _: editing.moved_to(parse_path(to)), slug=slug, as_json=as_json)


@click.command(epilog=DOCUMENT_HELP)
@click.argument("doc")
@click.argument("name")
@click.option(
    "--if-version", "version", type=int, metavar="N", help="Only if nobody has changed it since: see show --json."
)
@organization_option
@json_option
def rename(doc: str, name: str, version: int | None, slug: str, as_json: bool) -> None:
    """Give a document another file name."""
    change(Which((doc,)), "renamed", lambda _: editing.renamed_to(name), slug=slug, as_json=as_json, version=version)


@click.command(
    epilog=f"""{DOCUMENT_HELP}

\b
Examples:
  docworker documents delete /reports/q3.pdf -o acme
  docworker documents delete --under /in --state unsupported -o acme

\b
They can be brought back by `docworker documents undelete` until DOCWORKER_DELETED_RETENTION_DAYS have passed.
"""
)
@which_documents
def delete(which: Which, *, slug: str, as_json: bool) -> None:
    """Delete documents."""
    change(which, "deleted", lambda _: editing.deleted(), slug=slug, as_json=as_json)


@click.command(
    epilog="""\b
Examples:
  docworker documents list --deleted -o acme         which there are, with their ids
  docworker documents undelete 0190e7a2-7c1f-7d3e-9d1b-1f8f5c0d2a11 -o acme
  docworker documents undelete --under / -o acme

\b
DOC is the id of a deleted document. It comes back where it was; folders that are gone are made again.
"""
)
@which_documents
def undelete(which: Which, *, slug: str, as_json: bool) -> None:
    """Bring deleted documents back."""
    change(which, "undeleted", lambda _: editing.undeleted(), slug=slug, as_json=as_json)


@click.command(epilog=DOCUMENT_HELP)
@which_documents
@click.option("--to", metavar="USER", help="The new owner, by address or id.")
@click.option("--to-nobody", is_flag=True, help="Nobody owns them then.")
def assign(which: Which, *, to: str | None, to_nobody: bool, slug: str, as_json: bool) -> None:
    """Give documents to a user."""
    if (to is None) is not to_nobody:
        raise click.UsageError("say who gets them: --to USER, or --to-nobody")

    def make(organization_id: UUID) -> Change:
        return editing.assigned_to(None if to is None else list_users(organization_id, email_or_id=to)[0].id)

    change(which, "assigned", make, slug=slug, as_json=as_json)


@click.command(
    epilog=f"""{DOCUMENT_HELP}

\b
Examples:
  docworker documents tag /reports/q3.pdf -t urgent -t board -o acme
  docworker documents untag --tag-is urgent -t urgent -o acme
"""
)
@which_documents
@click.option("-t", "--tag", "tags", multiple=True, required=True, metavar="TAG", help="A tag; may be repeated.")
def tag(which: Which, *, tags: tuple[str, ...], slug: str, as_json: bool) -> None:
    """Mark documents with tags."""
    change(which, "tagged", lambda _: editing.tagged(tags), slug=slug, as_json=as_json)


@click.command(epilog=DOCUMENT_HELP)
@which_documents
@click.option("-t", "--tag", "tags", multiple=True, required=True, metavar="TAG", help="A tag; may be repeated.")
def untag(which: Which, *, tags: tuple[str, ...], slug: str, as_json: bool) -> None:
    """Take tags off documents."""
    change(which, "untagged", lambda _: editing.untagged(tags), slug=slug, as_json=as_json)


COMMANDS = (move, rename, delete, undelete, assign, tag, untag)
