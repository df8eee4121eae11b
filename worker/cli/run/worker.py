"""`docworker worker`: run jobs in the foreground."""

import os
import shutil
from multiprocessing.util import get_temp_dir

import click

from docworker.db.settings import settings
from docworker.worker import process_directory
from docworker.worker.http import child_metrics


@click.command()
def worker() -> None:
    """Run jobs until told to stop.

    SIGTERM or Ctrl-C: nothing new is taken, running jobs have DOCWORKER_SHUTDOWN_TIMEOUT to finish, the rest is given
    back; a second Ctrl-C gives them back at once. Exit code 70: it had gone deaf and should be restarted.
    """
    configured = settings()
    directory = process_directory.claim(configured.state_directory, "worker")
    try:
        configured.master_database_url()
        child_metrics.prepare(directory.metrics)
        # Here, because it defines metrics, and they are shared with the children only when defined after that.
        from docworker.worker.consumer.worker import run  # noqa: PLC0415

        exit_code = run(directory)
    finally:
        directory.remove()
    # Everything is closed. An ordinary exit would have the pool look for its children again, for most of a second,
    # and remove this.
    shutil.rmtree(get_temp_dir(), ignore_errors=True)
    os._exit(exit_code)
