"""`docworker api`: answer callers of the HTTP API."""

import click

from docworker.db.errors import ConfigurationError, InvalidArgumentError
from docworker.db.settings import settings
from docworker.worker import logs
from docworker.worker.api import server
from docworker.worker.app import celery_app
from docworker.worker.kinds import known_kind


@click.command()
def api() -> None:
    """Answer callers of the HTTP API, until told to stop: documents in, texts and states out, search.

    Listens at DOCWORKER_API_HOST and DOCWORKER_API_PORT. Who may ask has a token of `docworker tokens create`.
    """
    configured = settings()
    configured.master_database_url()
    logs.configure(configured)
    try:
        kinds = [known_kind(name) for name in configured.api_kinds]
    except InvalidArgumentError as error:
        raise ConfigurationError(f"DOCWORKER_API_KINDS: {error}") from None
    server.main(configured, [celery_app().tasks[kind.name] for kind in kinds])
