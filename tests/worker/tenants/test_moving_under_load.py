"""A tenant is moved while its jobs run and a producer enqueues; the mover is killed on the way, three times."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import click
import pytest
from sqlalchemy import func, select, text

from docworker.db.models import Document, DocumentVersion, Job, PlacementState
from docworker.db.sessions import reading, writing
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.kinds.documents import process_document
from docworker.worker.tenants.owner import placement_of
from docworker.worker.tenants.places import Model
from tests.support.commands import docworker
from tests.support.database import opened_database
from tests.support.moved import MovedTenant
from tests.support.processes import Process, Processes
from tests.support.stack import InForce, OwnStack
from tests.support.waiting import eventually

_UNDONE = text("SELECT count(*) FROM ledger.jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')")


class Producer:
    """Changes documents one after the other and enqueues their processing, until it is stopped."""

    def __init__(self, tenant: MovedTenant, documents: list[UUID]) -> None:
        self.written: Counter[UUID] = Counter()
        self.slowest_seconds = 0.0
        self._tenant, self._documents = tenant, documents
        self._stopping = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            document_id = self._documents[number % len(self._documents)]
            number += 1
            began = time.monotonic()
            with writing(self._tenant.id) as session:
                document = session.get_one(Document, (self._tenant.id, document_id), with_for_update=True)
                document.content = f"change {number}"
                enqueue(session, process_document, document_id=document_id)
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            self.written[document_id] += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self.run)
            try:
                yield
            finally:
                self._stopping.set()
                running.result(30)


def move(tenant: MovedTenant, processes: Processes, arguments: list[str], kills: list[Callable[[], bool]]) -> Any:
    """Kill it at each of these, then let it run to its end; returns what it tells."""
    for is_there in kills:
        kill_when(is_there, processes.start("tenants", "move", tenant.slug, *arguments))
    answer = docworker("tenants", "move", tenant.slug, *arguments, "--json")
    assert answer.exit_code == 0, answer.err
    return answer.json


def kill_when(is_there: Callable[[], bool], command: Process) -> None:
    eventually(lambda: is_there() or not command.running, within_seconds=120)
    assert command.running, command.log
    command.kill9()


def run(
    tenant: MovedTenant, processes: Processes, count: int, arguments: list[str], *, kill: bool, many: bool = False
) -> dict[str, Any]:
    documents = tenant.add(*(f"document {number} " + "words " * (300 if many else 3) for number in range(count)))
    with writing(tenant.id) as session:
        enqueue_many(session, process_document, [{"document_id": one} for one in documents])

    def placement() -> Any:
        return placement_of(tenant.slug)

    kills: list[Callable[[], bool]] = [
        lambda: (placement().move or {}).get("begun_since") is not None,
        lambda: tenant.is_suspended(tenant.place),
        lambda: placement().state == PlacementState.LEAVING,
    ]
    worker, dispatcher = processes.start("worker"), processes.start("dispatcher")
    worker.wait_for_log("worker.ready", within_seconds=40)
    producer = Producer(tenant, documents[:50])
    with producer.running():
        eventually(lambda: len(producer.written) >= 10, within_seconds=60)
        told = move(tenant, processes, arguments, kills if kill else [])
        seen = sum(producer.written.values())
        eventually(lambda: sum(producer.written.values()) > seen + 10, within_seconds=60)
    eventually(lambda: undone(tenant) == 0, within_seconds=300)
    assert worker.running
    assert dispatcher.running
    check(tenant, producer, documents)
    worker.send(signal.SIGTERM)
    return {
        **told,
        "slowest_write_seconds": round(producer.slowest_seconds, 2),
        "written": sum(producer.written.values()),
    }


def undone(tenant: MovedTenant) -> int:
    with reading(tenant.id, source="master") as session:
        return int(session.scalar(_UNDONE) or 0)


def check(tenant: MovedTenant, producer: Producer, documents: list[UUID]) -> None:
    """Each job ended well and once, each text is there, each document's versions are 1, 2, 3, …"""
    with reading(tenant.id, source="master") as session:
        states = Counter(session.scalars(select(Job.state).where(Job.kind == process_document.kind.name)))
        assert set(states) == {"succeeded"}
        assert states["succeeded"] == len(documents) + sum(producer.written.values())
        numbers: dict[UUID, list[int]] = {}
        for document_id, number in session.execute(select(DocumentVersion.document_id, DocumentVersion.version_number)):
            numbers.setdefault(document_id, []).append(number)
        assert all(sorted(found) == [*range(1, len(found) + 1)] for found in numbers.values())
        assert set(numbers) == set(documents)
        doubled = select(DocumentVersion.job_id).group_by(DocumentVersion.job_id).having(func.count() > 1)
        assert session.scalars(doubled).all() == [], "one effect a job"
        latest = dict(session.execute(select(Document.id, Document.latest_version)).all())
        assert latest == {document_id: len(found) for document_id, found in numbers.items()}
        pending = select(func.count()).where(Document.status != "processed")
        assert session.scalar(pending) == 0


TO = pytest.mark.parametrize(
    "arguments", [["--cluster", "east"], ["--model", "schema"]], ids=["to another shard", "to a schema"]
)


@TO
@pytest.mark.usefixtures("clusters")
def test_jobs_and_producers_go_on_and_nothing_is_lost_or_doubled(processes: Processes, arguments: list[str]) -> None:
    run(MovedTenant(), processes, 300, arguments, kill=False)


@pytest.fixture
def two_masters(own_stack: OwnStack, in_force: InForce) -> Iterator[None]:
    """Two clusters on servers of their own, where `clusters` has two databases of one; the database is open."""
    in_force(own_stack(clusters=2, migrated=True))
    with opened_database():
        yield


@TO
@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("two_masters")
def test_twenty_thousand_documents_are_moved_and_the_mover_is_killed_three_times(
    processes: Processes, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tenant = MovedTenant(Model.SHARED)
    told = run(tenant, processes, 20_000, arguments, kill=True, many=True)
    with capsys.disabled():
        click.echo(f"{' '.join(arguments)}: {told}")
