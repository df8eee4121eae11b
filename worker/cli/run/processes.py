"""`docworker dispatcher` and `docworker beat`: run these processes in the foreground."""

import click

from docworker.db.settings import settings
from docworker.jobs.task import known_kinds
from docworker.worker import logs
from docworker.worker.app import celery_app
from docworker.worker.beat import loop as beat_loop
from docworker.worker.dispatcher import loop as dispatcher_loop


@click.command()
def dispatcher() -> None:
    """Move due jobs from the ledger to the broker until told to stop.

    Connects as DOCWORKER_DISPATCHER_URL. Several may run: one plans, the others stand by.
    """
    configured = settings()
    logs.configure(configured)
    app = celery_app()
    dispatcher_loop.main(configured, app, known_kinds(app))


@click.command()
def beat() -> None:
    """Enqueue scheduled jobs when they are due, until told to stop.

    Connects as DOCWORKER_DISPATCHER_URL. Several may run: each tick takes effect once. `docworker schedule` shows what
    is due when.
    """
    configured = settings()
    logs.configure(configured)
    beat_loop.main(configured, known_kinds(celery_app()))
