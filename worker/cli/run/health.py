"""`docworker health`: ask the processes of one kind on this machine whether they are well."""

import sys

import click

from docworker.db.errors import DocworkerError
from docworker.db.settings import settings
from docworker.worker import process_directory
from docworker.worker.http.health import ask
from docworker.worker.local.home import PROCESSES


@click.command()
@click.argument("process", type=click.Choice([*PROCESSES, "api", "console"]), default="worker")
@click.option("--ready", is_flag=True, help="Ask whether it can do its work now, not only whether it lives.")
def health(process: str, ready: bool) -> None:
    """Ask the process of this kind on this machine whether it is well; exit code 1 when it is not.

    For a container's health check.
    """
    configured = settings()
    ports = process_directory.ports(configured.state_directory, process)
    if not ports:
        raise DocworkerError(f"no {process} runs here with its state in {configured.state_directory.resolve()}")
    host = "127.0.0.1" if configured.metrics_host in {"", "0.0.0.0", "::"} else configured.metrics_host  # noqa: S104
    reports = {port: ask(host, port, "/readyz" if ready else "/healthz") for port in ports}
    for port, report in reports.items():
        click.echo(f"{process} on port {port}: {'ok' if report.well else 'not ok'} {report.details}")
    sys.exit(0 if all(report.well for report in reports.values()) else 1)
