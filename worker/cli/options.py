"""`organization_option`, `database_open` and what else many commands share: whom they are about, and the database."""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

import click

from docworker.db.cluster import close_database, open_database
from docworker.db.settings import settings
from docworker.db.tenants.organizations import organization_id_of
from docworker.worker.cli.output import quiet_logs

organization_option = click.option(
    "-o", "--organization", "slug", metavar="SLUG", required=True, help="The organization whose documents these are."
)

VERSION_NUMBER = click.IntRange(1, 2**31 - 1)
DOCUMENT_HELP = "DOC is a document's id, or its path in the tree: /reports/q3.pdf."


class Moment(click.ParamType[datetime]):
    """A time with its offset from UTC, as ISO 8601 writes it."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(
                f"{value!r} is no time as ISO 8601 writes it: give one such as 2026-11-27T14:05:00+01:00", param, ctx
            )
        if moment.tzinfo is None:
            self.fail(
                f"{value!r} does not say in which time zone: give the offset from UTC as well, such as "
                f"{moment.isoformat()}+01:00, or Z for UTC itself",
                param,
                ctx,
            )
        return moment


def actor() -> str:
    """Who the audit log says has run this command: whoever is logged in, also behind sudo."""
    try:
        return f"cli:{os.environ.get('SUDO_USER') or getpass.getuser()}"
    except (KeyError, OSError):
        return f"cli:{os.getuid()}"


@contextmanager
def database_open(command: str) -> Iterator[None]:
    """The database, as the settings say, for the time of one command, whose own words are not mixed with events."""
    quiet_logs()
    open_database(settings(), application_name=f"docworker {command}")
    try:
        yield
    finally:
        close_database()


@contextmanager
def ledger_open(command: str) -> Iterator[None]:
    """As `database_open`, for what asks the ledgers as the dispatcher: or raises ConfigurationError."""
    settings().dispatcher_database_url()
    with database_open(command):
        yield


@contextmanager
def organization_open(command: str, slug: str) -> Iterator[UUID]:
    """The database, and the id of the organization with this slug; raises NotFoundError when there is none."""
    with database_open(command):
        yield organization_id_of(slug)
