"""`docworker migrate`, `worker`, `dispatcher`, `beat` and `health`: the processes, each in the foreground."""

import os
import shutil
import sys
from multiprocessing.util import get_temp_dir

import click

from docworker.db.errors import DocworkerError
from docworker.db.settings import settings


@click.command()
@click.option("--revision", default="head", show_default=True, help="Upgrade to this revision.")
@click.option("--contract", is_flag=True, help="Then remove what only processes of the release before need.")
def migrate(revision: str, contract: bool) -> None:
    """Bring the database's schema up to date.

    Connects as DOCWORKER_OWNER_URL. Several may run at the same time: one migrates, the others wait and find it done.
    """
    from docworker.migrations import contract as contraction
    from docworker.migrations.runner import let_dispatcher_see_snapshots, upgrade

    upgrade(revision)
    if not let_dispatcher_see_snapshots():
        click.echo(
            "the dispatcher cannot tell which sessions and standbys keep dead rows from being removed: "
            "as a superuser, GRANT pg_read_all_stats TO docworker_dispatcher",
            err=True,
        )
    if contract:
        contraction.contract()
    elif contraction.keeps_copies():
        click.echo(
            "texts are stored twice, for processes of the release before: "
            "when none of them runs any more, run `docworker migrate --contract`",
            err=True,
        )


@click.command()
def worker() -> None:
    """Run jobs until told to stop.

    SIGTERM or Ctrl-C: nothing new is taken, running jobs have DOCWORKER_SHUTDOWN_TIMEOUT to finish, the rest is given
    back; a second Ctrl-C gives them back at once. Exit code 70: it had gone deaf and should be restarted.
    """
    from docworker.worker import process_directory

    configured = settings()
    directory = process_directory.claim(configured.state_directory, "worker")
    try:
        # Shared metrics must be chosen before the first one is defined, so what defines them is imported after.
        from docworker.worker.http import child_metrics

        child_metrics.prepare(directory.metrics)
        from docworker.worker.consumer import worker

        exit_code = worker.run(directory)
    finally:
        directory.remove()
    # Everything is closed. An ordinary exit would have the pool look for its children again, for most of a second,
    # and remove this.
    shutil.rmtree(get_temp_dir(), ignore_errors=True)
    os._exit(exit_code)


@click.command()
def dispatcher() -> None:
    """Move due jobs from the ledger to the broker until told to stop.

    Connects as DOCWORKER_DISPATCHER_URL. Several may run: one plans, the others stand by.
    """
    from docworker.jobs.task import known_kinds
    from docworker.worker import logs
    from docworker.worker.app import app
    from docworker.worker.dispatcher.loop import main

    configured = settings()
    logs.configure(configured)
    main(configured, app, known_kinds(app))


@click.command()
def beat() -> None:
    """Enqueue scheduled jobs when they are due, until told to stop.

    Connects as DOCWORKER_DISPATCHER_URL. Several may run: each tick takes effect once. `docworker schedule` shows what
    is due when.
    """
    from docworker.jobs.task import known_kinds
    from docworker.worker import logs
    from docworker.worker.app import app
    from docworker.worker.beat.loop import main

    configured = settings()
    logs.configure(configured)
    main(configured, known_kinds(app))


@click.command()
@click.argument("process", type=click.Choice(["worker", "dispatcher", "beat"]), default="worker")
@click.option("--ready", is_flag=True, help="Ask whether it can do its work now, not only whether it lives.")
def health(process: str, ready: bool) -> None:
    """Ask the process of this kind on this machine whether it is well; exit code 1 when it is not.

    For a container's health check.
    """
    from docworker.worker import process_directory
    from docworker.worker.http.health import ask

    configured = settings()
    ports = process_directory.ports(configured.state_directory, process)
    if not ports:
        raise DocworkerError(f"no {process} runs here with its state in {configured.state_directory.resolve()}")
    host = "127.0.0.1" if configured.metrics_host in {"", "0.0.0.0", "::"} else configured.metrics_host  # noqa: S104
    reports = {port: ask(host, port, "/readyz" if ready else "/healthz") for port in ports}
    for port, report in reports.items():
        click.echo(f"{process} on port {port}: {'ok' if report.well else 'not ok'} {report.details}")
    sys.exit(0 if all(report.well for report in reports.values()) else 1)
