"""`docworker audit`: who did what to what."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from sqlalchemy.orm import Session

from docworker.db.documents.reading import find_document
from docworker.db.editing.audit import FAILED, Entry, list_entries, list_installation_entries
from docworker.db.errors import InvalidArgumentError
from docworker.worker.cli.options import organization_open
from docworker.worker.cli.output import json_option, print_json, print_table, quiet_logs
from docworker.worker.tenants.owner import owning


@click.group()
def audit() -> None:
    """Who did what to what. The log is only added to."""


@audit.command(
    "list",
    epilog="""\b
Examples:
  docworker audit list                              what was done to organizations, and to jobs of several
  docworker audit list -o acme --since 2026-11-01
  docworker audit list -o acme --subject /reports/q3.pdf
  docworker audit list -o acme --subject user --actor cli:ada --json
""",
)
@click.option("--subject", metavar="WHAT", help="A path, an id, a noun (document, folder, user, job), or a slug.")
@click.option("--actor", metavar="WHO", help="Only what this one did, such as cli:ada.")
@click.option("--since", metavar="TIME", help="Only since then: 2026-11-01, or 2026-11-01T12:00+01:00.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@click.option("-o", "--organization", "slug", metavar="SLUG", help="Of this organization; else of the installation.")
@json_option
def list_(
    subject: str | None, actor: str | None, since: str | None, limit: int, slug: str | None, as_json: bool
) -> None:
    """List the newest entries first. Without an organization, as DOCWORKER_OWNER_URL, those of the installation."""
    begin = None if since is None else _time(since)
    if slug is None:
        entries = _of_installation(subject, actor, begin, limit)
    else:
        with organization_open("audit", slug) as organization_id:
            noun, subject_id = _subject(organization_id, subject)
            entries = list_entries(
                organization_id, subject=noun, subject_id=subject_id, actor=actor, since=begin, most=limit
            )
    if as_json:
        print_json(entries)
    else:
        print_table(
            ("time", "actor", "action", "subject", "details"),
            ((one.created_at, one.actor, one.action, one.subject_id, _details(one)) for one in entries),
        )


def _of_installation(subject: str | None, actor: str | None, since: datetime | None, limit: int) -> Sequence[Entry]:
    quiet_logs()
    subject_id = None if subject is None else _id(subject)
    noun = subject if subject in ("organization", "job") else None
    slug = None if noun is not None or subject_id is not None else subject
    with owning() as connection, Session(connection) as session:
        return list_installation_entries(
            session, subject=noun, subject_id=subject_id, slug=slug, actor=actor, since=since, most=limit
        )


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _subject(organization_id: UUID, subject: str | None) -> tuple[str | None, UUID | None]:
    if subject is None:
        return None, None
    if subject.startswith("/"):
        return "document", find_document(organization_id, subject).id
    subject_id = _id(subject)
    return (subject if subject_id is None else None), subject_id


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"{text!r} is not a time: write 2026-11-01, or 2026-11-01T12:00+01:00") from error


def _details(entry: Entry) -> str:
    rest: dict[str, Any] = dict(entry.details)
    failure = rest.pop(FAILED, None)
    shown = ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in rest.items()
    )
    return f"FAILED: {failure} ({shown})" if failure else shown
