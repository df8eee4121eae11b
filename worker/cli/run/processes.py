"""`docworker dispatcher` and `docworker beat`: run these processes in the foreground."""

import click

from docworker.db.settings import settings
from docworker.jobs.task import known_kinds
from docworker.worker import logs
from docworker.worker.app import celery_app
from docworker.worker.beat import scheduler
from docworker.worker.dispatcher import clusters as dispatchers


@click.command()
def dispatcher() -> None:
    """Move due jobs from the ledgers of all clusters to the broker until told to stop.

    Connects as DOCWORKER_DISPATCHER_URL. Several may run: one plans, the others stand by.
    """
    configured = settings()
    logs.configure(configured)
    app = celery_app()
    dispatchers.main(configured, app, known_kinds(app))


@click.command()
def beat() -> None:
    """Enqueue scheduled jobs when they are due, until told to stop.

    Connects as DOCWORKER_DISPATCHER_URL. Several may run: each tick takes effect once. `docworker schedules list` shows
    what is due when. `celery -A docworker.worker.app beat` is the same.
    """
    scheduler.main(celery_app())
