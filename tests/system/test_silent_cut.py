"""The network swallows every packet, without an error: noticed by default settings, and over when it is over."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from docworker.db import ledger
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from tests.support.database import opened_database
from tests.support.network import Namespace, namespace, proxy_to, through
from tests.support.processes import Process, Processes
from tests.support.stack import InForce, OwnStack
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def network() -> Iterator[Namespace]:
    with namespace() as one:
        yield one


@pytest.fixture
def dispatcher(network: Namespace, own_stack: OwnStack, in_force: InForce, processes: Processes) -> Iterator[Process]:
    """It reaches master and broker through the network that can be cut."""
    stack = own_stack(replicas=0, migrated=True)
    values = in_force(stack)
    with ExitStack() as links:
        proxies = [links.enter_context(proxy_to(server, host=network.host)) for server in (stack.master, stack.broker)]
        process = processes.start_command(
            "dispatcher",
            network.command([sys.executable, "-m", "docworker.worker.cli", "dispatcher"]),
            environment=through(values, *proxies),
        )
        process.wait_for_log("dispatcher.started", within_seconds=30)
        with opened_database():
            yield process


def is_dispatched(tenant: Tenant) -> bool:
    with all_jobs_session() as session:
        jobs = ledger.count_by_state(session, ledger.Filter(states=["dispatched"], organization_id=tenant.id))
    return bool(jobs)


def enqueue_one() -> Tenant:
    tenant = Tenant()
    (document_id,) = tenant.add("a text")
    with writing(tenant.id) as session:
        enqueue(session, process_document, document_id=document_id)
    return tenant


def test_dispatcher_notices_a_cut_and_goes_on_when_it_is_over(network: Namespace, dispatcher: Process) -> None:
    first = enqueue_one()
    eventually(lambda: is_dispatched(first), within_seconds=20)
    network.cut()
    dispatcher.wait_for_log("dispatcher.waiting", within_seconds=45)
    second = enqueue_one()
    network.resume()
    eventually(lambda: is_dispatched(second), within_seconds=45)
    assert dispatcher.running
