"""`organization_option`, `database_open` and what else many commands share: whom they are about, and the database."""

from collections.abc import Iterator
from contextlib import contextmanager
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
def organization_open(command: str, slug: str) -> Iterator[UUID]:
    """The database, and the id of the organization with this slug; raises NotFoundError when there is none."""
    with database_open(command):
        yield organization_id_of(slug)
