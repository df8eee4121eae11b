"""`docworker up` and `docworker stack`: run PostgreSQL, its replicas and a broker on this machine, for development."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import psycopg
import redis

from docworker.db.settings import HOME, settings
from docworker.worker import process_directory
from docworker.worker.cli.local_settings import apply_settings
from docworker.worker.cli.output import json_option, print_json, print_table, quiet_logs
from docworker.worker.http.health import ask
from docworker.worker.local.home import DEFAULT_DIRECTORY, PROCESSES, environment_of
from docworker.worker.local.stack import CLUSTERS
from docworker.worker.local.up import run_up, run_with_stack

F = TypeVar("F", bound=Callable[..., Any])

replicas_option = click.option(
    "--replicas", type=click.IntRange(0, 8), default=1, show_default=True, help="How many replicas follow each master."
)

clusters_option = click.option(
    "--clusters",
    type=click.IntRange(1, len(CLUSTERS)),
    default=1,
    show_default=True,
    help=f"How many masters, each with its replicas: {', '.join(CLUSTERS)}. Those of earlier starts start as well.",
)


def directory_option(help: str) -> Callable[[F], F]:
    """`--directory` of a stack that stays."""
    return click.option(
        "--directory",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_DIRECTORY,
        show_default=True,
        help=help,
    )


@click.command(
    epilog="""\b
Examples:
  docworker up                                in one shell, until Ctrl-C
  docworker organizations add acme            in another one, in the same directory
  docworker up --clusters 2                   a second master with its replica, the cluster called east
  docworker tenants create globex --cluster east

\b
Servers and processes take free ports, which are logged and stay the same from one start to the next. Data stays in
the directory; delete it to start afresh. Elsewhere than beside .docworker, `. DIRECTORY/environment` puts the
settings in force. The processes are those of ./Procfile, or docworker's own when there is none; other settings, such
as DOCWORKER_WORKER_PROCESSES=4, reach them. DOCWORKER_STORE and DOCWORKER_STATE_DIRECTORY say where source files and
the processes' state are, instead of in the directory; addresses of servers elsewhere are not used, which is said.

\b
Exit codes: 0 ended by a signal; 1 a server or process ended by itself, which is logged.
"""
)
@directory_option("Where the servers keep their data.")
@replicas_option
@clusters_option
def up(directory: Path, replicas: int, clusters: int) -> None:
    """Start PostgreSQL, a replica and a broker, migrate, and run every process in the foreground, until Ctrl-C."""
    quiet_logs()
    sys.exit(run_up(directory, replicas=replicas, clusters=clusters))


@click.group()
def stack() -> None:
    """Look at the local servers, or run one command against them."""


@stack.command(
    name="exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""\b
Examples:
  docworker stack exec -- alembic check
  docworker stack exec --directory .docworker -- sh -c 'psql "$DOCWORKER_OWNER_URL"'

\b
The exit code is the command's.
""",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Use the stack of this directory, and start it for the while if it is not up.  [default: a temporary one]",
)
@replicas_option
@clusters_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
def exec_(directory: Path | None, replicas: int, clusters: int, command: tuple[str, ...]) -> None:
    """Run COMMAND with the DOCWORKER_* settings of a local stack whose schema is up to date."""
    quiet_logs()
    sys.exit(run_with_stack(directory, command, replicas=replicas, clusters=clusters))


@stack.command()
@directory_option("The directory it was started with.")
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show where the servers and processes of `docworker up` are, and whether they answer; exit code 1 if one does not.

    Processes started beside it, in other shells, are shown as well.
    """
    environment = environment_of(directory)
    apply_settings(environment)
    rows = [*_servers(environment), *_processes(environment)]
    if as_json:
        print_json([dict(zip(("name", "port", "state"), row, strict=True)) for row in rows])
    else:
        print_table(("name", "#port", "state"), rows)
    if any(state != "ok" for _, _, state in rows):
        sys.exit(1)


def _servers(environment: Mapping[str, str]) -> Iterator[tuple[str, int | None, str]]:
    for cluster in settings().cluster_names:
        addresses = settings().addresses(cluster)
        of = "" if cluster == HOME else f" of {cluster}"
        for name, urls in (("master", [settings().master_database_url(cluster)]), ("replica", addresses.replica_urls)):
            for url in urls:
                yield f"{name}{of}", urlsplit(url).port, _postgres_state(url)
    broker = environment["DOCWORKER_BROKER_URL"]
    yield "broker", urlsplit(broker).port, _broker_state(broker)


def _postgres_state(url: str) -> str:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        return " ".join(str(error).split())
    return "ok"


def _broker_state(url: str) -> str:
    try:
        redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5).ping()
    except redis.RedisError as error:
        return str(error)
    return "ok"


def _processes(environment: Mapping[str, str]) -> Iterator[tuple[str, int | None, str]]:
    for name in PROCESSES:
        ports = process_directory.ports(Path(environment["DOCWORKER_STATE_DIRECTORY"]), name)
        if not ports:
            yield name, None, "does not run"
        for port in ports:
            report = ask("127.0.0.1", port, "/healthz")
            yield name, port, "ok" if report.well else f"not well: {report.details}"
