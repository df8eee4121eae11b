"""Three hundred organizations with databases of their own on one server, served over few connections."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import click
import pytest
from sqlalchemy import text

from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.models import Document, Organization
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, reading, writing
from docworker.db.settings import HOME
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.servers.roles import DATABASE, create_database
from docworker.worker.local.stack import LocalStack
from tests.support.database import opened_database
from tests.support.processes import Processes
from tests.support.stack import TEMPLATE, InForce, OwnStack
from tests.support.tenants import entered
from tests.support.waiting import eventually

COUNT = 300
DOCUMENTS = 5
MOST_CONNECTIONS = 60


class Connections:
    """How many the processes of docworker have had at once."""

    def __init__(self) -> None:
        self.most = 0
        self.looks = 0

    @contextmanager
    def counting(self, server: PostgresServer) -> Iterator[None]:
        ended = threading.Event()

        def count() -> None:
            with server.connect() as connection:
                while not ended.wait(0.02):
                    ((found,),) = connection.execute(_OURS).fetchall()
                    self.most = max(self.most, found)
                    self.looks += 1

        thread = threading.Thread(target=count)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


_OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'docworker%'"


def make(stack: LocalStack, name: str) -> UUID:
    """An organization with a database of its own, a copy of the migrated one."""
    create_database(stack.master, name, template=TEMPLATE)
    organization_id = entered(at=Place(HOME, SHARED_SCHEMA, name))
    with writing(organization_id) as session:
        session.add(Organization(id=organization_id, slug=name.replace("_", "-"), name=name))
    return organization_id


def add(organization_id: UUID) -> None:
    documents = [
        Document(organization_id=organization_id, id=new_id(), filename=f"{number}.txt", content=f"Text {number}.")
        for number in range(DOCUMENTS)
    ]
    with writing(organization_id) as session:
        session.add_all(documents)
        for one in documents:
            enqueue(session, process_document, document_id=one.id)


def all_done(organization_id: UUID, name: str) -> bool:
    with reading(organization_id, source="master") as session:
        processed = session.scalar(text("SELECT count(*) FROM app.documents WHERE status = 'processed'"))
    with all_jobs_session(HOME, name) as session:
        states = set(session.scalars(text("SELECT DISTINCT state FROM ledger.jobs")))
    return processed == DOCUMENTS and states == {"succeeded"}


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_three_hundred_databases_are_served_with_few_connections(
    own_stack: OwnStack, in_force: InForce, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    create_database(stack.master, TEMPLATE, template=DATABASE)
    names = [f"tenant_{number:03}" for number in range(COUNT)]
    connections = Connections()
    with opened_database():
        begun = time.monotonic()
        tenants = {name: make(stack, name) for name in names}
        made = time.monotonic()
        with connections.counting(stack.master):
            worker = processes.start("worker", environment={"DOCWORKER_WORKER_PROCESSES": "2"})
            dispatcher = processes.start("dispatcher")
            worker.wait_for_log("worker.ready", within_seconds=30)
            dispatcher.wait_for_log("dispatcher.started")
            started = time.monotonic()
            for organization_id in tenants.values():
                add(organization_id)
            added = time.monotonic()
            for name, organization_id in tenants.items():
                eventually(lambda: all_done(organization_id, name), within_seconds=300, what=f"the jobs of {name}")  # noqa: B023
            ended = time.monotonic()
        assert connections.looks > 100
        assert connections.most < MOST_CONNECTIONS
        assert (worker.stop(), dispatcher.stop()) == (0, 0)
    with capsys.disabled():
        click.echo(
            f"{COUNT} databases made in {made - begun:.1f} s, {COUNT * DOCUMENTS} documents added in "
            f"{added - started:.1f} s and done {ended - added:.1f} s later, over at most {connections.most} connections"
        )
