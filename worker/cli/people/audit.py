"""`docworker audit`: who did what to what."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.documents.reading import find_document
from docworker.db.editing.audit import FAILED, Entry, list_entries, list_installation_entries
from docworker.db.errors import DocworkerError, InvalidArgumentError
from docworker.db.models import Placement
from docworker.db.settings import HOME, settings
from docworker.worker.cli.options import organization_open
from docworker.worker.cli.output import json_option, print_json, print_table, quiet_logs
from docworker.worker.logs import first_line
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
    """List the newest entries first. Without an organization, as DOCWORKER_OWNER_URL, those of the installation,
    from the ledgers of all clusters and databases."""
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
        return
    headings: tuple[str, ...] = ("time", "actor", "action", "subject", "details")
    rows = [_row(one) for one in entries]
    if slug is None:
        headings, rows = (*headings, "ledger"), [(*row, one.ledger) for row, one in zip(rows, entries, strict=True)]
    print_table(headings, rows)


def _row(entry: Entry) -> tuple[Any, ...]:
    return entry.created_at, entry.actor, entry.action, entry.subject_id, _details(entry)


def _of_installation(subject: str | None, actor: str | None, since: datetime | None, limit: int) -> Sequence[Entry]:
    quiet_logs()
    subject_id = None if subject is None else _id(subject)
    noun = subject if subject in ("organization", "job") else None
    slug = None if noun is not None or subject_id is not None else subject
    found: list[Entry] = []
    for place in _logs():
        ledger = "/".join(filter(None, (place.cluster, place.database)))
        try:
            with owning(place) as connection, Session(connection) as session:
                entries = list_installation_entries(
                    session, subject=noun, subject_id=subject_id, slug=slug, actor=actor, since=since, most=limit
                )
        except (DBAPIError, DocworkerError) as error:  # one that is away, or being made, hides no other
            if ledger == HOME:
                raise
            click.echo(f"docworker: left out is what stands in {ledger}: {first_line(error)}", err=True)
        else:
            found += [replace(one, ledger=ledger) for one in entries]
    return sorted(found, key=lambda one: one.created_at, reverse=True)[:limit]


def _logs() -> list[Place]:
    """Where the installation has one: on each cluster, and in the databases of single organizations."""
    of_databases = select(Placement.cluster, Placement.schema, Placement.database).distinct()
    with owning() as connection:
        rows = connection.execute(of_databases.where(Placement.database.is_not(None))).all()
    own = [Place(cluster, SHARED_SCHEMA) for cluster in settings().cluster_names]
    return [*own, *(Place(*row) for row in sorted(rows))]


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
