"""`docworker demo`: start everything on servers of its own, process the samples, and show what came of them.

What each sample must end as is in expected.json beside them (see samples/README.md).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen
from uuid import UUID

import click

import docworker
from docworker.db.documents.reading import load_statuses
from docworker.db.documents.search import search_documents
from docworker.db.errors import DocworkerError, InvalidArgumentError
from docworker.db.ledger.progress import has_live_jobs
from docworker.db.sessions import reading
from docworker.db.settings import HOME
from docworker.jobs.imports.importing import FileResult, import_tree
from docworker.jobs.progress import JobWatch, failures
from docworker.worker.cli.documents.documents import list_ as show_documents
from docworker.worker.cli.documents.search import search
from docworker.worker.cli.documents.versions import history
from docworker.worker.cli.local_settings import apply_settings
from docworker.worker.cli.options import organization_open
from docworker.worker.cli.output import console, print_table, quiet_logs
from docworker.worker.cli.tenants.organizations import add
from docworker.worker.cli.tenants.tenants import create
from docworker.worker.cli.tenants.tenants import list_ as list_tenants
from docworker.worker.local.home import PROCESSES, metrics_port_setting
from docworker.worker.local.servers.server import free_port
from docworker.worker.local.stack import LocalStack
from docworker.worker.local.supervisor import BackgroundProcess, Interrupted, StopSignals, background, dead
from docworker.worker.local.up import COMMANDS, migrate, process_environment, temporary_stack

SAMPLES = Path(docworker.__file__).parents[1] / "samples"
ORGANIZATION = "northlight"
WORDS = "lighthouse"
EDITED = "handbook/onboarding.md"
NEIGHBOUR, PART = "southport", "handbook"
"""An organization with a schema of its own, and what it imports."""
ADDITION = "\n## News\n\nThe lamp has a new lens.\n"
PATIENCE_SECONDS = 120.0
POLL_SECONDS = 0.05
SHOWN_METRICS: Mapping[str, tuple[str, ...]] = {
    "worker": (
        'docworker_jobs_total{kind="process_document"',
        'docworker_jobs_total{kind="index_documents"',
        "docworker_reads_total",
        "docworker_pool_checkout_seconds_count",
        "docworker_replica_healthy",
    ),
    "dispatcher": (
        "docworker_dispatcher_planning",
        'docworker_dispatched_jobs_total{kind="process_document"',
        'docworker_dispatched_jobs_total{kind="index_documents"',
    ),
    "beat": ("docworker_schedule_fires_total",),
}
"""How the lines begin that are shown."""


@dataclass(frozen=True)
class Expected:
    status: str
    reason: str | None


@dataclass(frozen=True)
class Ended:
    """What became of a sample, and whether that is what it should be."""

    name: str
    status: str
    reason: str | None
    is_right: bool


@click.command(
    epilog="""\b
Its servers and data are in a temporary directory that is deleted at the end, also after Ctrl-C. No setting from
outside reaches it, and a stack that runs is not touched.

\b
Exit codes: 0 every good sample was processed and every broken one failed for the right reason; 1 not so.
"""
)
@click.option(
    "--samples",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=SAMPLES,
    metavar="DIRECTORY",
    help="Has documents/ and expected.json.  [default: the samples/ of this checkout]",
)
@click.option("--keep", is_flag=True, help="Leave it running until Ctrl-C, with a console to look at.")
@click.pass_context
def demo(ctx: click.Context, samples: Path, keep: bool) -> None:
    """Start everything, process the samples, show the result, stop everything."""
    started_at = time.monotonic()
    expected = _load_expected(samples)
    for name in [name for name in os.environ if name.startswith("DOCWORKER_")]:
        del os.environ[name]
    quiet_logs()
    try:
        exit_code = _run(ctx, samples / "documents", expected, _Console() if keep else None)
    finally:
        click.echo(f"\neverything is stopped again, after {time.monotonic() - started_at:.1f} seconds")
    sys.exit(exit_code)


def _load_expected(samples: Path) -> dict[str, Expected]:
    path = samples / "expected.json"
    try:
        return {name: Expected(**one) for name, one in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        raise InvalidArgumentError(f"no {path}: give the samples/ of a checkout with --samples") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidArgumentError(f"{path} does not say status and reason for each file") from error


class _Console:
    """Where the console of this run is, and who gets in."""

    def __init__(self) -> None:
        self.port = free_port()
        self.token = secrets.token_urlsafe(24)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "DOCWORKER_CONSOLE_PORT": str(self.port),
            "DOCWORKER_CONSOLE_METRICS_PORT": "0",
            "DOCWORKER_CONSOLE_OPERATOR_TOKEN": self.token,
        }

    def show(self, processes: list[BackgroundProcess]) -> None:
        """Until Ctrl-C, or until one of the processes ends."""
        _say(f"The console: http://127.0.0.1:{self.port}/ — log in with the token {self.token}")
        click.echo("Ctrl-C stops everything")
        while dead(processes) is None:
            time.sleep(POLL_SECONDS)
        raise DocworkerError(str(dead(processes)))


def _run(ctx: click.Context, documents: Path, expected: Mapping[str, Expected], kept: _Console | None) -> int:
    commands = {name: COMMANDS[name] for name in PROCESSES}
    if kept is not None:
        commands["console"] = "docworker console"
    exit_code = None
    with StopSignals() as signals:
        try:
            with temporary_stack() as stack:
                _say(f"Starting PostgreSQL (a master and a replica), the broker, {', '.join(commands)}")
                directory = stack.directory.parent
                with signals.interrupting():
                    stack.start()
                    environment = process_environment(stack.environment()) | ({} if kept is None else kept.settings)
                    migrate(environment)
                with background(commands, environment=environment, directory=directory) as processes:
                    apply_settings(stack.environment())
                    with signals.interrupting():
                        shutil.copytree(documents, directory / "documents")
                        exit_code = _show(ctx, _Demo(stack, processes), directory / "documents", expected)
                        if kept is not None:
                            kept.show(processes)
            # A signal may have come while everything was stopping.
            return 128 + signals.last if signals.count else exit_code
        except Interrupted:
            if kept is not None and exit_code is not None:  # what it was kept for is over
                return exit_code
            return 128 + signals.last


def _show(ctx: click.Context, demo: _Demo, documents: Path, expected: Mapping[str, Expected]) -> int:
    _say(f"$ docworker organizations add {ORGANIZATION}")
    ctx.invoke(add, slug=ORGANIZATION, name=None, as_json=False)

    _say(f"$ docworker import samples/documents -o {ORGANIZATION}")
    ended = demo.judge(demo.process(documents), expected)
    print_table(
        ("file", "outcome", "as expected", "reason"),
        ((one.name, one.status, "yes" if one.is_right else "NO", one.reason) for one in ended),
    )

    _say(f"$ docworker search {WORDS} -o {ORGANIZATION}")
    found = demo.find(WORDS)
    ctx.invoke(search, words=(WORDS,), limit=20, slug=ORGANIZATION, as_json=False)

    if (documents / EDITED).exists():
        with (documents / EDITED).open("a") as file:
            file.write(ADDITION)
        _say(f"{EDITED} edited, all of them imported again:")
        counts = Counter(result.imported for result in demo.process(documents))
        click.echo(", ".join(f"{count} {imported}" for imported, count in sorted(counts.items())))
        _say(f"$ docworker history /{EDITED} -o {ORGANIZATION}")
        demo.catch_up()
        ctx.invoke(history, doc=f"/{EDITED}", slug=ORGANIZATION, as_json=False)

    if (documents / PART).is_dir():
        _show_second_tenant(ctx, demo, documents / PART)

    demo.show_metrics()
    wrong = [one.name for one in ended if not one.is_right]
    _say(f"{len(ended) - len(wrong)} of {len(ended)} samples ended as they should")
    if wrong:
        click.echo(f"not as expected: {', '.join(wrong)}")
    if not found:
        click.echo(f"not as expected: no document with {WORDS!r} was found")
    return 1 if wrong or not found else 0


def _show_second_tenant(ctx: click.Context, demo: _Demo, documents: Path) -> None:
    _say(f"$ docworker tenants create {NEIGHBOUR} --model schema")
    ctx.invoke(create, slug=NEIGHBOUR, name=None, model="schema", cluster=HOME, place_name=None, as_json=False)
    _say(f"$ docworker import samples/documents/{PART} -o {NEIGHBOUR}")
    counts = Counter(result.imported for result in demo.process(documents, NEIGHBOUR))
    click.echo(", ".join(f"{count} {imported}" for imported, count in sorted(counts.items())))
    demo.catch_up()
    _say(f"$ docworker documents -o {NEIGHBOUR}")
    ctx.invoke(show_documents, slug=NEIGHBOUR)
    _say("$ docworker tenants list")
    ctx.invoke(list_tenants, as_json=False)


class _Demo:
    """The running stack and processes: work is given to them and waited for."""

    def __init__(self, stack: LocalStack, processes: list[BackgroundProcess]) -> None:
        self._stack = stack
        self._processes = processes

    def process(self, documents: Path, slug: str = ORGANIZATION) -> list[FileResult]:
        """Import the documents and wait until their jobs have ended."""
        with organization_open("demo", slug) as organization_id:
            results = list(import_tree(organization_id, documents))
            watch = JobWatch(organization_id, [result.job_id for result in results if result.job_id])
            self._wait_until(lambda: not watch.look().live, what="the documents are processed")
        return results

    def judge(self, results: Sequence[FileResult], expected: Mapping[str, Expected]) -> list[Ended]:
        """What became of each file, and of those that should be there and are not."""
        with organization_open("demo", ORGANIZATION) as organization_id:
            statuses = load_statuses(organization_id, [one.document_id for one in results if one.document_id])
            failed_jobs = failures(organization_id, [one.job_id for one in results if one.job_id])
        ended = {}
        for result in results:
            status, reason = str(result.imported), result.reason
            if result.document_id is not None:
                status, reason = statuses[result.document_id]
            if result.job_id is not None and reason is None:
                reason = failed_jobs.get(result.job_id)
            name = result.path.removeprefix("/")
            ended[name] = Ended(name, status, reason, expected.get(name) == Expected(status, _code(status, reason)))
        missing = {name: Ended(name, "missing", None, is_right=False) for name in expected.keys() - ended.keys()}
        return sorted((ended | missing).values(), key=lambda one: (one.status != "processed", one.name))

    def find(self, words: str) -> bool:
        """Whether any document has the words, once all are indexed."""
        with organization_open("demo", ORGANIZATION) as organization_id:
            self._wait_until(lambda: not _live_jobs(organization_id), what="the documents are indexed")
            self.catch_up()
            return bool(search_documents(organization_id, words))

    def catch_up(self) -> None:
        """Let the replica have all that is written."""
        self._stack.wait_for_replicas()

    def show_metrics(self) -> None:
        """Where the metrics of each process are, and some of them."""
        for process in PROCESSES:
            port = self._stack.environment()[metrics_port_setting(process)]
            url = f"http://127.0.0.1:{port}/metrics"
            _say(f"$ curl {url}    # {process}")
            for line in self._metrics(url):
                if line.startswith(SHOWN_METRICS[process]) and not line.endswith(" 0.0"):
                    click.echo(line)

    def _metrics(self, url: str) -> list[str]:
        with urlopen(url, timeout=10) as response:  # noqa: S310 - an address of our own process
            return list(response.read().decode().splitlines())

    def _wait_until(self, condition: Callable[[], bool], *, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            gone = dead(self._processes)
            if gone is not None:
                raise DocworkerError(gone)
            if time.monotonic() > deadline:
                logs = "\n".join(f"{one.name} says: {one.log_tail()}" for one in self._processes)
                raise DocworkerError(f"{what}: not within {PATIENCE_SECONDS:g} s\n{logs}")
            time.sleep(POLL_SECONDS)


def _code(status: str, reason: str | None) -> str | None:
    """The one word that a reason begins with; documents of no known format have none and need none."""
    return "unsupported" if status == "unsupported" else reason and reason.partition(":")[0]


def _live_jobs(organization_id: UUID) -> bool:
    with reading(organization_id, source="master") as session:
        return has_live_jobs(session)


def _say(text: str) -> None:
    click.echo()
    console().print(text, style="bold", soft_wrap=True)
