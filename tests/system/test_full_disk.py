"""The master's disk is full: what was accepted waits, nothing is lost, and with room all is done without a hand."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from docworker.db.faults import sqlstate_of
from docworker.db.models import Document, Job
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.migrations.runner import upgrade
from docworker.worker.dispatcher.judge import Judge
from docworker.worker.local.stack import LocalStack
from tests.support.commands import docworker
from tests.support.database import opened_database
from tests.support.disks import fill, make_room, mounted
from tests.support.ledger import LedgerSteps
from tests.support.metrics import metric
from tests.support.moved import MovedTenant
from tests.support.processes import Processes
from tests.support.stack import InForce, applied, temporary_directory
from tests.support.waiting import eventually

SIZE = "400m"
LOG = {"min_wal_size": "32MB", "max_wal_size": "64MB"}
LARGE_BYTES = 30_000
SHORT_LEASE = 3.0
MOST = 2000


@pytest.fixture
def disk() -> Iterator[Path]:
    with temporary_directory() as directory, mounted(directory / "disk", size=SIZE) as place:
        place.chmod(0o711)  # for the servers' user
        yield place


@pytest.fixture
def stack(disk: Path) -> Iterator[LocalStack]:
    stack = LocalStack(disk / "stack", replicas=0, durable=False, settings=LOG)
    try:
        stack.start()
        with applied(stack.environment()):
            upgrade()
        yield stack
    finally:
        stack.remove()


def add(tenant: MovedTenant) -> UUID:
    """A document with a text that fills pages, to be processed."""
    document_id = new_id()
    with writing(tenant.id) as session:
        content = os.urandom(LARGE_BYTES).hex()
        session.add(Document(organization_id=tenant.id, id=document_id, filename=f"{document_id}.txt", content=content))
        session.flush()
        enqueue(session, process_document, document_id=document_id)
    return document_id


def add_until_refused(tenant: MovedTenant) -> list[UUID]:
    """What was accepted before the disk was full."""
    accepted: list[UUID] = []
    while len(accepted) < MOST:
        try:
            accepted.append(add(tenant))
        except OperationalError as error:
            if sqlstate_of(error) == "53100":
                return accepted
            raise
    raise AssertionError(f"{MOST} documents and still room")


def states(tenant: MovedTenant) -> dict[str, int]:
    """How many of the jobs of its documents are in which."""
    number = func.count().label("number")
    counted = select(Job.state, number).where(Job.organization_id == tenant.id, Job.kind == process_document.name)
    with all_jobs_session() as session:
        return {row.state: row.number for row in session.execute(counted.group_by(Job.state))}


def most_attempts(tenant: MovedTenant) -> int:
    """Of one of the jobs of its documents."""
    most = select(func.max(Job.attempt)).where(Job.organization_id == tenant.id, Job.kind == process_document.name)
    with all_jobs_session() as session:
        return session.scalar(most) or 0


def refusals() -> float:
    labels = {"cluster": "home", "role": "master"}
    return REGISTRY.get_sample_value("docworker_disk_full_total", labels) or 0.0


def test_nobody_is_taken_for_lost_while_there_is_no_room(disk: Path, stack: LocalStack, in_force: InForce) -> None:
    in_force(stack)
    with opened_database():
        steps, judge = LedgerSteps(), Judge(SHORT_LEASE)
        (dead,) = steps.run(max_attempts=1)
        judge.look()
        fill(disk)

        def is_refused() -> bool:
            try:
                judge.look()
            except OperationalError as error:
                return sqlstate_of(error) == "53100"
            return False

        eventually(is_refused, within_seconds=60, what="the judge to find no room")
        ends = time.monotonic() + 3 * SHORT_LEASE
        while time.monotonic() < ends:
            is_refused()
            time.sleep(0.1)
        assert steps.job(dead.id).state == "running"
        make_room(disk)
        made = time.monotonic()
        eventually(judge.look, within_seconds=60, what="the lost one to be taken")
        assert time.monotonic() - made > SHORT_LEASE / 2, "who lives had no time to renew"
        assert steps.job(dead.id).state == "failed"


def test_jobs_wait_for_room_on_the_masters_disk(
    disk: Path, stack: LocalStack, in_force: InForce, processes: Processes
) -> None:
    Path(in_force(stack)["DOCWORKER_STORE"]).mkdir()
    with opened_database():
        tenant = MovedTenant()
        environment = {"DOCWORKER_LEASE": str(SHORT_LEASE)}
        processes.start("dispatcher", environment=environment)
        worker = processes.start("worker", environment=environment)
        worker.wait_for_log("worker.ready", within_seconds=60)
        accepted = [add(tenant) for _ in range(20)]
        with stack.master.connect() as connection:
            connection.execute("SELECT pg_switch_wal()")  # the log has 16 MB of its own that are reserved
        accepted.append(add(tenant))
        fill(disk)
        before = refusals()
        accepted += add_until_refused(tenant)
        assert refusals() == before + 1
        examined = docworker("doctor", "--json")
        assert "refuses writes: could not extend file" in examined.out, examined

        eventually(lambda: metric("docworker_disk_full_total") > 0, within_seconds=60, what="the worker tells")
        assert metric("docworker_store_disk_bytes", part="size") > 0
        ends = time.monotonic() + 5 * SHORT_LEASE
        while time.monotonic() < ends:
            assert "failed" not in states(tenant)
            time.sleep(0.5)
        assert states(tenant).get("succeeded", 0) < len(accepted)
        assert stack.dead_server() is None

        make_room(disk)
        accepted.append(add(tenant))

        def all_done() -> None:
            assert states(tenant) == {"succeeded": len(accepted)}, worker.log[-2000:]

        eventually(all_done, within_seconds=180, what="all to be done")
        assert most_attempts(tenant) == 1, "a refusal was charged"
