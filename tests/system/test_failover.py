"""The master is killed under load and a replica promoted: our processes ride it through, and no job is lost or doubled.

What must be unfinished when the master dies is made so by locks on its documents, which die with the master.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from docworker.db.cluster import close_database, open_database
from docworker.db.errors import DemotedMasterError
from docworker.db.ledger import Part
from docworker.db.models import DocumentVersion
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, reading, writing
from docworker.db.settings import HOME, settings
from docworker.jobs.enqueue import enqueue_many
from docworker.jobs.execution.message import run_message
from docworker.jobs.kinds.documents import process_document
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.places import Model
from tests.support.faults import failover, promote
from tests.support.moved import MovedTenant
from tests.support.processes import Process, Processes
from tests.support.stack import InForce, OwnStack
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(180)

TENANTS = 5
DOCUMENTS = 100
"""Of each tenant."""
HELD = 10
"""Of each tenant, its last ones: their jobs run, or wait to, until the master dies."""
OF_ANOTHER_PLACE = 40
"""Of each tenant whose place is its own."""
SETTINGS = {
    "DOCWORKER_LEASE": "2",
    "DOCWORKER_REDISPATCH_AFTER": "2",
    "DOCWORKER_BATCH_SIZE": "8",
}
LIVE = {"queued", "dispatched", "running"}
NAMES = ("dispatcher", "worker", "beat")
READY = {"dispatcher": "dispatcher.started", "worker": "worker.ready", "beat": "beat.started"}

Texts = dict[Tenant, dict[UUID, str]]


class Load:
    """A stack with jobs in its ledger and our processes at work on them."""

    def __init__(self, stack: LocalStack, processes: Processes) -> None:
        self.stack = stack
        open_database(settings(), application_name="tests")
        self.texts: Texts = {tenant: enqueue_documents(tenant) for tenant in [Tenant() for _ in range(TENANTS)]}
        stack.wait_for_replicas()
        self._processes = processes
        self.running: list[Process] = []

    def start(self) -> None:
        self.running = [self._processes.start(name, environment=SETTINGS) for name in NAMES]
        for process in self.running:
            process.wait_for_log(READY[process.name], within_seconds=30)

    def pids(self) -> list[int]:
        """Of all our processes that live, the worker's children included."""
        return [pid for process in self.running if process.running for pid in (process.pid, *sorted(process.children))]

    @contextmanager
    def hold(self, chosen: slice) -> Iterator[None]:
        """Lock these documents of every tenant: a job can then not write its result."""
        ids = [one for documents in self.texts.values() for one in list(documents)[chosen]]
        with closing(self.stack.master.connect("docworker", autocommit=False)) as connection:
            connection.execute("SELECT FROM app.documents WHERE id = ANY(%s) FOR UPDATE", [ids])
            yield

    def waits_for_locks(self) -> bool:
        """Whether every process of the worker stands at a lock, a job half done."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'docworker_worker'"
        return bool(self.stack.master.execute(query)[0][0] >= settings().worker_processes)

    def fail_over(self, record: Callable[[str, object], None]) -> None:
        """Kill and promote; wait for the first job that succeeds afterwards, and tell how long that took."""
        self.stack.master.kill()
        killed_at = datetime.now(UTC)
        failover(self.stack)
        promoted_at = datetime.now(UTC)
        query = (
            "SELECT finished_at FROM ledger.jobs WHERE finished_at > %s AND state = 'succeeded'"
            " ORDER BY finished_at LIMIT 1"
        )
        ((first,),) = eventually(
            lambda: self.stack.master.execute(query, [killed_at], database="docworker"),
            within_seconds=25,
            what="a job to succeed after the promotion",
        )
        since_death, since_promotion = ((first - at).total_seconds() for at in (killed_at, promoted_at))
        record("seconds_from_death_to_first_success", since_death)
        record("seconds_from_promotion_to_first_success", since_promotion)
        print(  # noqa: T201
            f"first success {since_promotion:.2f} s after the promotion returned, {since_death:.2f} s after the kill"
        )

    def wait_for_all(self) -> None:
        def ended() -> bool:
            return not states().keys() & LIVE

        try:
            eventually(ended, within_seconds=30, what="all jobs to end")
        except AssertionError as error:
            logs = "\n".join(f"{process.name}:\n{process.log[-2000:]}" for process in self.running)
            raise AssertionError(f"{error}; jobs: {states()}\n{logs}") from None

    def assert_each_done_once(self) -> None:
        assert states() == {"succeeded": TENANTS * DOCUMENTS}
        for tenant, documents in self.texts.items():
            assert tenant.versions_and_jobs() == {one: [(1, content, str(one))] for one, content in documents.items()}


def enqueue_documents(tenant: Tenant, count: int = DOCUMENTS) -> dict[UUID, str]:
    texts = [f"document {number} of {tenant.slug}, {new_id()}" for number in range(count)]
    ids = tenant.add(*texts)
    with writing(tenant.id) as session:
        enqueue_many(session, process_document, [{"document_id": one} for one in ids])
    return dict(zip(ids, texts, strict=True))


def jobs() -> Sequence[tuple[UUID, str, datetime | None]]:
    """Id, state and end of the documents' jobs, as soon as there is a master."""

    def attempt() -> Sequence[tuple[UUID, str, datetime | None]]:
        try:
            with all_jobs_session() as session:
                query = text("SELECT id, state, finished_at FROM ledger.jobs WHERE kind = 'process_document'")
                return [(row.id, row.state, row.finished_at) for row in session.execute(query)]
        except (DBAPIError, DemotedMasterError) as error:
            raise AssertionError(str(error)) from error

    return eventually(attempt, within_seconds=20)


def states() -> Counter[str]:
    return Counter(state for _, state, _ in jobs())


def ends() -> dict[UUID, datetime | None]:
    """When each job that has succeeded did."""
    return {job_id: finished_at for job_id, state, finished_at in jobs() if state == "succeeded"}


@pytest.fixture
def load(own_stack: OwnStack, in_force: InForce, processes: Processes) -> Iterator[Load]:
    stack = own_stack(replicas=2, migrated=True)
    in_force(stack)
    yield Load(stack, processes)
    close_database()


def test_what_was_committed_to_a_replica_as_well_survives_and_the_rest_is_done(
    load: Load, record_property: Callable[[str, object], None]
) -> None:
    """The master dies amid claims and commits."""
    load.stack.master.configure(synchronous_standby_names=f"FIRST 1 ({load.stack.replicas[0].name})")
    with load.hold(slice(-HELD, None)):
        load.start()
        pids = load.pids()
        eventually(lambda: states()["succeeded"] >= 100, within_seconds=20, what="100 jobs to succeed")
        before = ends()
        load.fail_over(record_property)
    assert 100 <= len(before) <= TENANTS * (DOCUMENTS - HELD)

    load.wait_for_all()
    load.assert_each_done_once()
    assert before.items() <= ends().items(), "what had been told as succeeded was not lost, nor done again"
    assert load.pids() == pids, "nobody was restarted"


def test_what_the_new_master_never_got_is_done_again(
    load: Load, record_property: Callable[[str, object], None]
) -> None:
    with load.hold(slice(-HELD, None)):
        with load.hold(slice(DOCUMENTS // 2, -HELD)):
            load.start()
            pids = load.pids()
            eventually(load.waits_for_locks, within_seconds=20, what="the first half to be done")
            load.stack.wait_for_replicas()
            kept = ends()
            for replica in load.stack.replicas:
                replica.stop()
        late = Tenant()
        enqueue_documents(late, 10)
        eventually(lambda: len(ends()) >= len(kept) + 50, within_seconds=20, what="jobs that will be lost")
        eventually(load.waits_for_locks, within_seconds=20, what="the rest to be held")
        lost = ends().keys() - kept.keys()
        load.stack.master.kill()
        for replica in load.stack.replicas:
            replica.start()
        load.fail_over(record_property)

    load.wait_for_all()
    load.assert_each_done_once()
    after = ends()
    assert kept.items() <= after.items(), "what the new master had was not done again"
    assert len(lost & after.keys()) >= 50, "what was lost and had been enqueued was done again"
    assert late.versions_and_jobs() == {}, "of what was enqueued too late there is neither job nor effect"
    assert load.pids() == pids, "nobody was restarted"


def test_organizations_with_a_schema_or_a_database_of_their_own_go_on_at_the_new_master(
    load: Load, record_property: Callable[[str, object], None]
) -> None:
    texts: Texts = {
        tenant: enqueue_documents(tenant, OF_ANOTHER_PLACE)
        for tenant in (MovedTenant(Model.SCHEMA), MovedTenant(Model.DATABASE))
    }
    load.stack.wait_for_replicas()
    load.stack.master.configure(synchronous_standby_names=f"FIRST 1 ({load.stack.replicas[0].name})")
    load.start()
    pids = load.pids()
    eventually(lambda: all(map(has_a_version, texts)), within_seconds=30, what="a version in each place")
    load.fail_over(record_property)

    load.wait_for_all()
    for tenant, documents in texts.items():
        for document_id, content in documents.items():
            eventually(lambda: contents(tenant, document_id) == [content], within_seconds=30)  # noqa: B023
    assert states() == {"succeeded": TENANTS * DOCUMENTS + OF_ANOTHER_PLACE}, "those of a schema are in the same ledger"
    assert load.pids() == pids, "nobody was restarted"


def contents(tenant: Tenant, document_id: UUID) -> list[str]:
    return [version.content for version in tenant.versions(document_id)]


def has_a_version(tenant: Tenant) -> bool:
    with reading(tenant.id, source="master") as session:
        return session.scalar(select(DocumentVersion.version_number).limit(1)) is not None


def test_old_master_that_comes_back_writable_gets_no_work(load: Load) -> None:
    """It stands first in every address, on its old timeline, when a child, a beat and a dispatcher start."""
    with load.hold(slice(-HELD, None)):
        load.start()
        eventually(lambda: states()["succeeded"] >= 100, within_seconds=20, what="100 jobs to succeed")
        worker = next(process for process in load.running if process.name == "worker")
        load.stack.wait_for_replicas()
        former = failover(load.stack)
        former.start()
        assert not former.is_in_recovery()
    for child in worker.children:
        os.kill(child, signal.SIGKILL)
    for process in load.running:
        if process is not worker:
            process.kill9()
    load.running = [worker, *(load._processes.start(name, environment=SETTINGS) for name in ("dispatcher", "beat"))]

    load.wait_for_all()
    load.assert_each_done_once()
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'docworker%' AND application_name <> 'tests'"
    assert former.execute(query) == [(0,)], "nobody stays there"


def test_message_that_the_ledger_does_not_know_has_the_servers_asked(load: Load) -> None:
    """A producer of messages knows of a master that the worker has not heard of: the old one never went away."""
    database = open_database(settings(), application_name="tests")
    tenant, documents = next(iter(load.texts.items()))
    with writing(tenant.id):
        pass
    assert database.cluster(HOME).timelines.highest == 1
    promote(load.stack.replicas[0])
    message = new_id()
    promoted = load.stack.replicas[0]
    query = (
        "UPDATE ledger.jobs SET state = 'dispatched', message_id = %s, dispatched_at = now(), redispatch_at = now()"
        " WHERE organization_id = %s RETURNING id"
    )
    ids = [one for (one,) in promoted.execute(query, [message, tenant.id], database="docworker")]
    assert len(ids) == len(documents)
    with capture_logs() as logs:
        assert run_message(process_document.kind, [Part(tenant.id, tuple(ids[:8]))], message) == 8
    (entry,) = [log for log in logs if log["event"] == "message.unfounded"]
    assert (entry["missing"], entry["queued"], entry["old_master"]) == (0, 8, True)
