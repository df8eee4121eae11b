"""`docworker api`: answer callers of the HTTP API."""

import click

from docworker.db.errors import ConfigurationError
from docworker.db.settings import settings
from docworker.jobs.task import known_kinds
from docworker.worker import logs
from docworker.worker.api import server
from docworker.worker.app import celery_app


@click.command()
def api() -> None:
    """Answer callers of the HTTP API, until told to stop: documents in, texts and states out, search.

    Listens at DOCWORKER_API_HOST and DOCWORKER_API_PORT. Who may ask has a token of `docworker tokens create`.
    """
    configured = settings()
    logs.configure(configured)
    app = celery_app()
    kinds = known_kinds(app)
    unknown = sorted(set(configured.api_kinds) - kinds.keys())
    if unknown:
        raise ConfigurationError(
            f"DOCWORKER_API_KINDS: no kind is called {', '.join(unknown)}: see `docworker jobs kinds`"
        )
    server.main(configured, [app.tasks[kinds[name].name] for name in configured.api_kinds])
