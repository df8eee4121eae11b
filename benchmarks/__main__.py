"""`python -m benchmarks`: both sides in one run on the local stack, as a table that ends with `ratio N.N`.

--documents N   how many on each side (20000)
--singles N     how many one after the other on an idle system, for latency (200)
--batch N       DOCWORKER_BATCH_SIZE of our side
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import insert, text

from benchmarks.texts import texts
from db import ledger
from db.engines import close_database, open_database
from db.models import Document
from db.models.base import new_id
from db.organizations import create_organization
from db.sessions import overseeing, writing
from db.settings import settings
from worker.local.launching import children
from worker.local.stack import LocalStack

PROJECT = Path(__file__).parents[1]
DEADLINE_SECONDS = 600
SERVER_SETTINGS = {
    "track_commit_timestamp": "on",
    # As a server of its own has it: with the local stack's 128 MB both sides would wait for buffers to be written out.
    "shared_buffers": "1GB",
}
WARM_UP = 20
WARM_BYTES = 3 * 1024**3


@dataclass
class Measured:
    """One side: rates in documents a second, latencies in seconds, memory in bytes."""

    name: str
    rate: float = 0.0
    enqueue_rate: float = 0.0
    latencies: list[float] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)

    @property
    def latency_median(self) -> float:
        return statistics.median(self.latencies)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--singles", type=int, default=200)
    parser.add_argument("--batch", type=int, default=settings().batch_size)
    asked = parser.parse_args()
    os.environ["DOCWORKER_BATCH_SIZE"] = str(asked.batch)
    with running_stack() as servers:
        usual = measure_usual(servers, asked.documents, asked.singles)
        ours = measure_ours(servers, asked.documents, asked.singles)
        enqueue_rate = measure_enqueue(asked.documents)
    report(usual, ours, enqueue_rate, asked.documents)


@contextmanager
def running_stack() -> Iterator[LocalStack]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docworker-bench-")))
        directory.chmod(0o711)
        servers = LocalStack(directory / "stack", settings=SERVER_SETTINGS)
        servers.start()
        stack.callback(servers.stop)
        os.environ.update(servers.environment(), DOCWORKER_STATE_DIRECTORY=str(directory / "state"))
        os.environ.update(DOCWORKER_WORKER_METRICS_PORT="0", DOCWORKER_DISPATCHER_METRICS_PORT="0")
        settings.cache_clear()
        subprocess.run([sys.executable, "-m", "worker.cli", "migrate"], check=True, cwd=PROJECT)
        open_database(settings(), application_name="benchmark")
        stack.callback(close_database)
        # Neither side indexes while it is measured: ours leaves it to jobs of their own, the usual way has none.
        with overseeing() as session:
            ledger.pause(session, kind="index_documents", organization_id=None)
        yield servers


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of our processes, or Celery's own worker; ended at the end."""
    with tempfile.TemporaryDirectory() as extension, tempfile.TemporaryFile() as output:
        package = Path(extension) / "benchmark-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: benchmark\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text("[docworker.tasks]\nbenchmark = benchmarks.normalizing\n")
        environment = os.environ | {"PYTHONPATH": f"{PROJECT}:{extension}"}
        popen = subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=output, stderr=output)
        try:
            yield popen
        finally:
            popen.terminate()
            popen.wait()


def make_documents(count: int, salt: str) -> tuple[UUID, list[UUID]]:
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


def wait_until(done: Callable[[], bool], interval_seconds: float) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not done():
        if time.monotonic() > deadline:
            sys.exit("the benchmark did not end in time")
        time.sleep(interval_seconds)


def run(
    measured: Measured,
    servers: LocalStack,
    pid: int,
    count: int,
    singles: int,
    send: Callable[[UUID, list[UUID]], None],
) -> None:
    """The same course for both sides: warm up, singles on an idle system, then all at once."""
    organization_id, ids = make_documents(singles + WARM_UP, measured.name)
    started_at: dict[UUID, float] = {}
    for number, document_id in enumerate(ids, 1):
        started_at[document_id] = time.time()
        send(organization_id, [document_id])
        wait_until(lambda: written(organization_id) == number, 0.02)  # noqa: B023 - called at once
    committed_at = commit_times(organization_id)
    measured.latencies = [committed_at[one] - started_at[one] for one in ids[WARM_UP:]]
    servers.master.execute("CHECKPOINT")  # else the other side's writes would be checkpointed within this one's time
    organization_id, ids = make_documents(count, measured.name)
    warm_memory()
    with watching_memory(pid, measured.memory):
        started = time.time()
        send(organization_id, ids)
        measured.enqueue_rate = count / (time.time() - started)
        wait_until(lambda: written(organization_id) == count, 0.5)
        measured.rate = count / (max(commit_times(organization_id).values()) - started)


def warm_memory() -> None:
    """Have the machine's free memory at hand, as on one that has been up for a while.

    A virtual machine may get a page from its host only when it is first touched, and that costs ten times as much as
    filling it: the first gigabyte that servers write would be measured, not what writes it.
    """
    touch = f"import mmap; memory = mmap.mmap(-1, {WARM_BYTES}); memory[::4096] = bytes({WARM_BYTES} // 4096)"
    subprocess.run([sys.executable, "-c", touch], check=True)


@contextmanager
def watching_memory(pid: int, samples: list[tuple[int, int]]) -> Iterator[None]:
    """Resident bytes of a worker's parent, and of its children together, every second."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            samples.append((resident_bytes(pid), sum(resident_bytes(child) for child in children(pid))))

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    ended.set()
    thread.join()


def resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def measure_usual(servers: LocalStack, count: int, singles: int) -> Measured:
    from benchmarks.usual import process_document

    def send(organization_id: UUID, ids: list[UUID]) -> None:
        for document_id in ids:
            process_document.delay(str(organization_id), str(document_id))

    measured = Measured("usual")
    with process("celery", "-A", "benchmarks.usual", "worker", "-c", "2", "-Q", "usual", "-l", "WARNING") as worker:
        run(measured, servers, worker.pid, count, singles, send)
    return measured


def measure_ours(servers: LocalStack, count: int, singles: int) -> Measured:
    from benchmarks.normalizing import normalize_document
    from jobs.enqueue import enqueue_many

    def send(organization_id: UUID, ids: list[UUID]) -> None:
        for start in range(0, len(ids), 1000):
            with writing(organization_id) as session:
                enqueue_many(session, normalize_document, [{"document_id": one} for one in ids[start : start + 1000]])

    measured = Measured("ours")
    with process("worker.cli", "dispatcher"), process("worker.cli", "worker") as worker:
        run(measured, servers, worker.pid, count, singles, send)
    return measured


def measure_enqueue(count: int) -> float:
    """Jobs a second that one producer enters, 1,000 a transaction, with nobody dispatching."""
    from benchmarks.normalizing import normalize_document
    from jobs.enqueue import enqueue_many

    organization_id = create_organization(f"enqueue-{new_id().hex}")
    rows = [{"document_id": new_id()} for _ in range(count)]
    started = time.perf_counter()
    for start in range(0, count, 1000):
        with writing(organization_id) as session:
            enqueue_many(session, normalize_document, rows[start : start + 1000])
    return count / (time.perf_counter() - started)


def report(usual: Measured, ours: Measured, enqueue_rate: float, count: int) -> None:
    print(f"{count} documents of 4 KB, 2 worker processes, {os.cpu_count()} cores")
    print(f"{'':34}{'usual':>12}{'docworker':>12}{'ratio':>9}")
    row("documents per second", usual.rate, ours.rate, ours.rate / usual.rate)
    row("enqueued per second", usual.enqueue_rate, ours.enqueue_rate, ours.enqueue_rate / usual.enqueue_rate)
    ratio = ours.latency_median / usual.latency_median
    row("one document, median ms", usual.latency_median * 1e3, ours.latency_median * 1e3, ratio)
    for name, index in (("parent", 0), ("children", 1)):
        row(f"{name}, MB at the start", megabytes(usual, 0, index), megabytes(ours, 0, index))
        row(f"{name}, MB at the end", megabytes(usual, -1, index), megabytes(ours, -1, index))
    print(f"{'enqueue_many alone, per second':34}{'':>12}{enqueue_rate:>12,.0f}")
    print(f"ratio {ours.rate / usual.rate:.1f}")


def row(name: str, usual: float, ours: float, ratio: float | None = None) -> None:
    print(f"{name:34}{usual:>12,.1f}{ours:>12,.1f}" + ("" if ratio is None else f"{ratio:>9.2f}"))


def megabytes(measured: Measured, sample: int, index: int) -> float:
    return measured.memory[sample][index] / 1e6 if measured.memory else float("nan")


if __name__ == "__main__":
    main()
