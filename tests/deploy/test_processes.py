"""Each process runs with the addresses that docs/operations.md names for it, and no others."""

from collections.abc import Iterator

import pytest

from docworker.db.sessions import writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from tests.support.commands import docworker
from tests.support.database import opened_database
from tests.support.processes import Process, Processes
from tests.support.stack import applied
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

ADDRESSES = {
    "migrate": {"OWNER_URL"},
    "worker": {"MASTER_URL", "REPLICA_URLS", "BROKER_URL", "STORE"},
    "dispatcher": {"DISPATCHER_URL", "BROKER_URL"},
    "beat": {"DISPATCHER_URL"},
}
OF_EVERY_TEST = {
    "BROKER_KEY_PREFIX",
    "STATE_DIRECTORY",
    "WORKER_METRICS_PORT",
    "DISPATCHER_METRICS_PORT",
    "BEAT_METRICS_PORT",
}


@pytest.fixture
def tenant(fresh_environment: dict[str, str]) -> Iterator[Tenant]:
    with opened_database():
        yield Tenant()


def start(name: str, environment: dict[str, str], processes: Processes) -> Process:
    given = {f"DOCWORKER_{one}" for one in ADDRESSES[name] | OF_EVERY_TEST}
    with applied({name: value for name, value in environment.items() if name in given}):
        return processes.start_anew(name)


def test_processes_share_the_work_with_the_addresses_each_needs(
    tenant: Tenant, fresh_environment: dict[str, str], processes: Processes
) -> None:
    assert start("migrate", fresh_environment, processes).wait() == 0
    started = [start(name, fresh_environment, processes) for name in ("worker", "dispatcher", "beat")]
    docworker("schedules", "add", "often", "every 1", "reconcile_documents")
    started[-1].wait_for_log("schedule.fired")
    (document_id,) = tenant.add("text")
    with writing(tenant.id) as session:
        enqueue(session, process_document, document_id=document_id)
    eventually(
        lambda: tenant.get(document_id).status == "processed", within_seconds=30, what="the document to be processed"
    )
    assert all(process.running for process in started)
