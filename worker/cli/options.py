"""What many commands share: the organization they are about, and the database they open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import click

organization_option = click.option(
    "-o", "--organization", "slug", metavar="SLUG", required=True, help="The organization whose documents these are."
)

VERSION_NUMBER = click.IntRange(1, 2**31 - 1)
DOCUMENT_HELP = "DOC is a document's id, or its path in the tree: /reports/q3.pdf."


def quiet_logs() -> None:
    """Log what is amiss, and more only when a setting asks for it: a command has words of its own."""
    from docworker.db.settings import settings
    from docworker.worker import logs

    configured = settings()
    logs.configure(
        configured.model_copy(update={"log_level": "warning"}) if configured.log_level == "info" else configured
    )


@contextmanager
def database_open(command: str) -> Iterator[None]:
    """The database, as the settings say, for the time of one command, whose own words are not mixed with events."""
    from docworker.db.cluster import close_database, open_database
    from docworker.db.settings import settings

    quiet_logs()
    open_database(settings(), application_name=f"docworker {command}")
    try:
        yield
    finally:
        close_database()


@contextmanager
def organization_open(command: str, slug: str) -> Iterator[UUID]:
    """The database, and the id of the organization with this slug; raises NotFoundError when there is none."""
    from docworker.db.tenants.organizations import organization_id_of

    with database_open(command):
        yield organization_id_of(slug)
