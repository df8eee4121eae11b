"""Everything is killed, flushed and delivered twice while documents are processed: nothing is lost, doubled or crossed.

The moments are drawn from a seed and come when that many jobs are done, so that they fall into the work on any machine.
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import pytest
from sqlalchemy import text

from db.engines import open_database
from db.models.base import new_id
from db.sessions import overseeing, reading, writing
from db.settings import settings
from jobs.documents import process_document
from jobs.enqueue import enqueue_many
from tests.conftest import OwnStack
from tests.processes import Process, Processes
from tests.tenants import Tenant
from tests.waiting import eventually
from tests.worker.trials import InForce
from worker.app import build_app
from worker.local.stack import LocalStack

SEEDS = (4,)
TENANTS = 5
DOCUMENTS = 400
"""Of each tenant."""
WORKERS = 2
IMPATIENT = {
    "DOCWORKER_LEASE": "2",
    "DOCWORKER_REDISPATCH_AFTER": "2",
    "DOCWORKER_BATCH_SIZE": "8",
}
MOST_SECONDS = 60


class World:
    """The processes with a supervisor that restarts them, and all that happens to them."""

    def __init__(self, stack: LocalStack, processes: Processes, seed: int) -> None:
        self.random = random.Random(seed)
        self.stack = stack
        self.happened: Counter[str] = Counter()
        self._processes = processes
        self._running = [self._start("dispatcher")] + [self._start("worker") for _ in range(WORKERS)]
        self._app = build_app(settings())
        self._plan = self._draw_moments()

    def _draw_moments(self) -> list[tuple[int, Callable[[], None]]]:
        """What happens once that many jobs are done, the next one last."""
        events = [
            *[self.kill_a_child] * 6,
            *[self.kill_a_worker] * 3,
            *[self.kill_the_dispatcher] * 3,
            *[self.flush_the_broker] * 2,
            self.restart_the_broker,
            *[self.deliver_twice] * 20,
        ]
        moments = [self.random.randrange(TENANTS * DOCUMENTS * 9 // 10) for _ in events]
        return sorted(zip(moments, events, strict=True), key=lambda one: -one[0])

    def turn(self) -> bool:
        """Let happen what is due and restart what has died; True when all is over and all jobs have ended."""
        states = states_of_jobs()
        while self._plan and states["succeeded"] >= self._plan[-1][0]:
            _, event = self._plan.pop()
            event()
            self.happened[event.__name__] += 1
        for number, process in enumerate(self._running):
            if not process.running:
                self._running[number] = self._start(process.name)
        return not self._plan and not states.keys() & {"queued", "dispatched", "running"}

    def _start(self, name: str) -> Process:
        return self._processes.start(name, environment=IMPATIENT)

    def kill_a_child(self) -> None:
        children = [child for worker in self._workers for child in worker.children]
        if children:
            with suppress(ProcessLookupError):
                os.kill(self.random.choice(children), signal.SIGKILL)

    def kill_a_worker(self) -> None:
        self.random.choice(self._workers).kill9()

    def kill_the_dispatcher(self) -> None:
        self._running[0].kill9()

    def flush_the_broker(self) -> None:
        self.stack.broker.flush()

    def restart_the_broker(self) -> None:
        self.stack.broker.kill()
        self.stack.broker.start()

    def deliver_twice(self) -> None:
        """Messages that were sent, once more; and one that names a tenant's jobs as another's."""
        with overseeing() as session:
            sent = session.execute(
                text(
                    "SELECT organization_id, kind, message_id, array_agg(id) FROM ledger.jobs"
                    " WHERE message_id IS NOT NULL GROUP BY organization_id, kind, message_id"
                )
            ).all()
        chosen = self.random.sample(sorted(sent), min(5, len(sent)))
        for organization_id, kind, message_id, job_ids in chosen:
            self._send(organization_id, kind, message_id, job_ids)
        for _, kind, message_id, job_ids in chosen[:1]:
            self._send(self.random.choice(sent).organization_id, kind, message_id, job_ids)

    def _send(self, organization_id: UUID, kind: str, message_id: UUID, job_ids: list[UUID]) -> None:
        named = {"organization_id": str(organization_id), "job_ids": [str(one) for one in job_ids]}
        self._app.send_task(kind, kwargs=named, task_id=str(message_id), queue=settings().queue)

    @property
    def _workers(self) -> list[Process]:
        return self._running[1:]


def states_of_jobs() -> Counter[str]:
    with overseeing() as session:
        return Counter(dict(session.execute(text("SELECT state, count(*) FROM ledger.jobs GROUP BY state")).all()))


def enqueue_documents(tenant: Tenant) -> dict[UUID, str]:
    """Documents with texts of their own and a job for each; returns the texts by document."""
    texts = [f"document {number} of {tenant.slug}, {new_id()}" for number in range(DOCUMENTS)]
    ids = tenant.add(*texts)
    with writing(tenant.id) as session:
        enqueue_many(session, process_document, [{"document_id": one} for one in ids], max_attempts=20)
    return dict(zip(ids, texts, strict=True))


def versions_of(tenant: Tenant) -> dict[UUID, list[tuple[int, str, str]]]:
    """Number, text, and the job that wrote it as the ledger knows it, of each version by document."""
    query = text(
        "SELECT version.document_id, version.version_number, version.content, job.arguments ->> 'document_id' AS meant"
        " FROM app.document_versions AS version"
        " JOIN ledger.jobs AS job ON job.organization_id = version.organization_id AND job.id = version.job_id"
    )
    found: dict[UUID, list[tuple[int, str, str]]] = {}
    with reading(tenant.id, source="master") as session:
        for document_id, number, content, meant in session.execute(query):
            found.setdefault(document_id, []).append((number, content.strip(), meant))
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_killed_every_document_is_processed_exactly_once(
    own_stack: OwnStack, in_force: InForce, processes: Processes, seed: int
) -> None:
    stack = own_stack(replicas=1, migrated=True)
    in_force(stack)
    open_database(settings(), application_name="tests")
    texts = {tenant: enqueue_documents(tenant) for tenant in [Tenant() for _ in range(TENANTS)]}

    world = World(stack, processes, seed)
    try:
        eventually(world.turn, within_seconds=MOST_SECONDS, what=f"all jobs to end (seed {seed})")
    except AssertionError as error:
        raise AssertionError(f"{error}; jobs: {states_of_jobs()}; happened: {world.happened}") from None

    with overseeing() as session:
        rows = session.execute(text("SELECT kind, state, attempt FROM ledger.jobs")).all()
    assert {row.state for row in rows} == {"succeeded"}
    assert sum(row.kind == "process_document" for row in rows) == TENANTS * DOCUMENTS
    assert any(row.attempt > 1 for row in rows), "somebody was hit"
    for tenant, expected in texts.items():
        assert versions_of(tenant) == {one: [(1, content, str(one))] for one, content in expected.items()}
