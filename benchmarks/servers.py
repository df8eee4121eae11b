"""The servers, processes and documents that every benchmark runs with, and waiting for their end."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import insert, text

from benchmarks.texts import texts
from docworker.db.cluster import close_database, open_database
from docworker.db.models import Document
from docworker.db.models.base import new_id
from docworker.db.sessions import writing
from docworker.db.settings import settings
from docworker.db.tenants.organizations import create_organization
from docworker.worker.local.servers.roles import create_database
from docworker.worker.local.servers.server import free_port
from docworker.worker.local.stack import LocalStack

PROJECT = Path(__file__).parents[1]
DEADLINE_SECONDS = 300
QUEUES = "queues"
"""The database of the queues that keep their jobs in PostgreSQL, on the master."""
SERVER_SETTINGS = {
    "track_commit_timestamp": "on",
    # As a server of its own has it: with the local stack's 128 MB both sides would wait for buffers to be written out.
    "shared_buffers": "1GB",
}


class BenchmarkError(Exception):
    """A system is not there, or did not get through its jobs; the message then carries the end of its log."""


@dataclass(frozen=True)
class Running:
    """A process of a benchmark, what it is for, and the file it writes its output to."""

    role: str
    popen: subprocess.Popen[bytes]
    output: IO[bytes]

    @property
    def pid(self) -> int:
        return self.popen.pid

    def ending(self) -> str:
        """The last of its output."""
        self.output.seek(0)
        return self.output.read()[-4000:].decode(errors="replace")


@contextmanager
def running_stack(kept: Path | None = None) -> Iterator[LocalStack]:
    """A local stack whose settings are in force, migrated; libpq's PG* variables point to the database `queues`. It is
    gone afterwards, but for one in a directory that is `kept`, which is there for the next run."""
    with ExitStack() as stack:
        directory = kept or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docworker-bench-")))
        directory.mkdir(exist_ok=True)
        directory.chmod(0o711)
        servers = LocalStack(directory / "stack", settings=SERVER_SETTINGS)
        servers.start()
        stack.callback(servers.stop)
        os.environ.update(servers.environment(), DOCWORKER_STATE_DIRECTORY=str(directory / "state"))
        os.environ.update(DOCWORKER_WORKER_METRICS_PORT=str(free_port()), DOCWORKER_DISPATCHER_METRICS_PORT="0")
        os.environ.update(BENCHMARK_TALLY=stack.enter_context(tempfile.TemporaryDirectory()))
        settings.cache_clear()
        docworker("migrate")
        # Neither side indexes while it is measured: ours leaves it to jobs of their own, the usual way has none.
        docworker("jobs", "pause", "--kind", "index_documents")
        if not servers.master.execute("SELECT 1 FROM pg_database WHERE datname = %s", [QUEUES]):
            create_database(servers.master, QUEUES)
        os.environ.update(libpq_variables(servers.environment(database=QUEUES)["DOCWORKER_OWNER_URL"]))
        open_database(settings(), application_name="benchmark")
        stack.callback(close_database)
        yield servers


def docworker(*command: str) -> None:
    """Run a command to its end; what it says is no part of the table."""
    subprocess.run([sys.executable, "-m", "docworker.worker.cli", *command], check=True, cwd=PROJECT, stdout=sys.stderr)


def libpq_variables(url: str) -> dict[str, str]:
    """An address as the variables that libpq, asyncpg and the command lines of most queues read."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    return {names[key]: str(value) for key, value in conninfo_to_dict(url).items() if key in names}


@contextmanager
def process(*command: str) -> Iterator[Running]:
    """`python -m COMMAND…`, one of our processes or another queue's; ended at the end."""
    with tempfile.TemporaryDirectory() as extension, tempfile.TemporaryFile() as output:
        package = Path(extension) / "benchmark-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: benchmark\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text("[docworker.tasks]\nbenchmark = benchmarks.kinds\n")
        environment = os.environ | {"PYTHONPATH": f"{PROJECT}:{extension}"}
        popen = subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=output, stderr=output)
        try:
            yield Running("dispatcher" if command[-1] == "dispatcher" else "parent", popen, output)
        finally:
            popen.terminate()
            try:
                popen.wait(timeout=30)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()


def wait_until(done: Callable[[], bool], interval_seconds: float, processes: Sequence[Running] = ()) -> None:
    """Poll `done`. Raises BenchmarkError when it is not true in time, or when one of the processes has ended."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not done():
        check_running(processes)
        if time.monotonic() > deadline:
            endings = "\n".join(running.ending() for running in processes)
            raise BenchmarkError(f"not done within {DEADLINE_SECONDS} s; the processes' logs end with:\n{endings}")
        time.sleep(interval_seconds)


def check_running(processes: Iterable[Running]) -> None:
    """Raises BenchmarkError when one of the processes has ended."""
    for running in processes:
        if running.popen.poll() is not None:
            raise BenchmarkError(f"{running.popen.args!r} ended with {running.popen.returncode}:\n{running.ending()}")


def make_documents(count: int, salt: str) -> tuple[UUID, list[UUID]]:
    """A new organization with so many documents; returns its id and theirs."""
    organization_id = create_organization(f"{salt}-{new_id().hex}")
    rows: list[dict[str, Any]] = [
        {"organization_id": organization_id, "id": new_id(), "filename": str(number), "content": content}
        for number, content in enumerate(texts(count))
    ]
    for start in range(0, count, 1000):
        with writing(organization_id) as session:
            session.execute(insert(Document).values(version=1), rows[start : start + 1000])
    return organization_id, [row["id"] for row in rows]


def written(organization_id: UUID) -> int:
    """How many versions an organization has."""
    with writing(organization_id) as session:
        return int(session.scalar(text("SELECT count(*) FROM app.document_versions")) or 0)


def commit_times(organization_id: UUID) -> dict[UUID, float]:
    """When each document's version was committed, by the server, which has the same clock: nobody needs to look for it
    all the time."""
    statement = text(
        "SELECT document_id, CAST(extract(epoch FROM pg_xact_commit_timestamp(xmin)) AS double precision) AS seconds"
        " FROM app.document_versions"
    )
    with writing(organization_id) as session:
        return {row.document_id: row.seconds for row in session.execute(statement)}
