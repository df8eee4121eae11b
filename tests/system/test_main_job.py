"""The main job through real processes: enqueue, dispatcher, broker, worker, master and replica."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.kinds.documents import process_document
from tests.support.processes import Process, Processes
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import die_once, hold_job, leave, obey_job, overrun, poison
from tests.support.waiting import eventually


def states(tenant: Tenant) -> dict[str, int]:
    with all_jobs_session() as session:
        rows = ledger.count_by_state(session, ledger.Filter(organization_id=tenant.id, kind="process_document"))
    return {row.state: row.jobs for row in rows}


def all_succeeded(tenant: Tenant, count: int) -> Callable[[], bool]:
    return lambda: states(tenant) == {"succeeded": count}


@pytest.fixture
def dispatcher(processes: Processes) -> Process:
    started = processes.start("dispatcher")
    started.wait_for_log("dispatcher.started")
    return started


SHORT_LEASE = {"DOCWORKER_LEASE": "2"}


@pytest.fixture
def worker(processes: Processes) -> Process:
    return start_worker(processes)


@pytest.fixture
def impatient_worker(processes: Processes) -> Process:
    """Its leases are short, so that what is lost with it is soon rescued."""
    return start_worker(processes, SHORT_LEASE)


def start_worker(processes: Processes, environment: dict[str, str] | None = None) -> Process:
    started = processes.start("worker", environment=environment)
    started.wait_for_log("worker.ready", within_seconds=60)
    return started


def enqueue_all(tenant: Tenant, ids: list[UUID]) -> list[UUID]:
    with writing(tenant.id) as session:
        return enqueue_many(session, process_document, [{"document_id": one} for one in ids])


def test_documents_go_through_all_processes(tenant: Tenant, dispatcher: Process, worker: Process) -> None:
    ids = tenant.add(*(f"text {number}" for number in range(250)))
    enqueue_all(tenant, ids)
    eventually(all_succeeded(tenant, 250), within_seconds=60, what="all jobs to succeed")
    assert [len(tenant.versions(one)) for one in ids] == [1] * 250


def test_a_producers_commit_is_enough(tenant: Tenant, dispatcher: Process, worker: Process) -> None:
    """Nothing is sent by the producer: it may die right after its commit."""
    (document_id,) = tenant.add("text")
    with writing(tenant.id) as session:
        enqueue(session, process_document, document_id=document_id)
    eventually(all_succeeded(tenant, 1), within_seconds=60, what="the job to succeed")


def test_jobs_of_a_killed_worker_run_again(
    tenant: Tenant, dispatcher: Process, impatient_worker: Process, processes: Processes
) -> None:
    ids = tenant.add(*(f"text {number}" for number in range(50)))
    # Hold the documents, so that the worker is caught between its claim and its commit.
    with writing(tenant.id) as holder:
        holder.execute(text("SELECT id FROM app.documents FOR UPDATE"))
        enqueue_all(tenant, ids)
        eventually(lambda: states(tenant).get("running", 0) > 0, within_seconds=60, what="jobs to run")
        impatient_worker.kill9()
    start_worker(processes)
    eventually(all_succeeded(tenant, 50), within_seconds=60, what="all jobs to succeed")
    assert [len(tenant.versions(one)) for one in ids] == [1] * 50


@pytest.fixture
def files(processes: Processes, tmp_path: Path) -> Path:
    """Makes dispatcher and worker know the kinds of the user package; ask for it before them."""
    install_user_package(tmp_path / "processes")
    return tmp_path


def job_of(job_id: UUID) -> Job:
    with all_jobs_session() as session:
        return ledger.get(session, job_id)


def cancel(job_id: UUID) -> None:
    """So that it takes no worker's place in the tests that follow."""
    with all_jobs_session() as session:
        ledger.cancel(session, ledger.Filter(), [job_id])


def test_at_the_end_of_a_stop_a_job_that_never_looked_goes_back_and_has_used_an_attempt(
    tenant: Tenant, files: Path, dispatcher: Process, processes: Processes
) -> None:
    worker = start_worker(processes, {"DOCWORKER_SHUTDOWN_TIMEOUT": "3"})
    begun = files / "begun"
    with writing(tenant.id) as session:
        job_id = enqueue(session, hold_job, path=str(begun), release=str(files / "never"))
    eventually(begun.exists, within_seconds=60, what="the job to run")
    dispatcher.kill9()
    assert worker.stop(within_seconds=60) == 0
    job = job_of(job_id)
    assert (job.state, job.attempt, job.error_class) == ("queued", 1, "WorkerStopped")
    cancel(job_id)


def test_a_job_that_stops_when_asked_goes_back_and_has_used_no_attempt(
    tenant: Tenant, files: Path, dispatcher: Process, worker: Process
) -> None:
    path = files / "path"
    with writing(tenant.id) as session:
        job_id = enqueue(session, obey_job, path=str(path))
    eventually(path.exists, within_seconds=60, what="the job to run")
    dispatcher.kill9()
    assert worker.stop(within_seconds=60) == 0
    job = job_of(job_id)
    assert (job.state, job.attempt, job.given_back) == ("queued", 0, 1)
    cancel(job_id)


def test_a_job_that_returns_during_a_stop_has_succeeded(
    tenant: Tenant, files: Path, dispatcher: Process, worker: Process
) -> None:
    begun, release = files / "begun", files / "release"
    with writing(tenant.id) as session:
        job_id = enqueue(session, hold_job, path=str(begun), release=str(release))
    eventually(begun.exists, within_seconds=60, what="the job to run")
    worker.send(signal.SIGTERM)
    worker.wait_for_log("worker.stopping")
    release.touch()
    assert worker.wait(within_seconds=60) == 0
    assert (job_of(job_id).state, job_of(job_id).attempt) == ("succeeded", 1)
    assert begun.read_text().count("finished") == 1


def test_a_child_survives_a_job_that_exits_and_the_job_fails_in_the_end(
    tenant: Tenant, files: Path, dispatcher: Process, processes: Processes
) -> None:
    environment = {"DOCWORKER_WORKER_PROCESSES": "1", "DOCWORKER_BACKOFF_BASE": "0.1"}
    worker = start_worker(processes, environment)
    children = worker.children
    path = files / "path"
    with writing(tenant.id) as session:
        job_id = enqueue(session, leave, path=str(path))
    eventually(lambda: job_of(job_id).state == "failed", within_seconds=60, what="the job to fail")
    job = job_of(job_id)
    assert (job.attempt, job.error_class, job.error_message) == (2, "SystemExit", "3")
    assert path.read_text().splitlines() == [f"begun {pid}" for pid in children * 2]
    assert worker.children == children


def test_a_job_that_kills_its_worker_fails_in_the_end_and_takes_nobody_with_it(
    tenant: Tenant, files: Path, dispatcher: Process, impatient_worker: Process
) -> None:
    with writing(tenant.id) as session:
        job_id = enqueue(session, poison)
    ids = tenant.add(*(f"text {number}" for number in range(30)))
    enqueue_all(tenant, ids)
    eventually(lambda: job_of(job_id).state == "failed", within_seconds=60, what="the poison job to fail")
    job = job_of(job_id)
    assert (job.attempt, job.error_class) == (2, "LeaseExpired")
    eventually(all_succeeded(tenant, 30), within_seconds=60, what="the others to succeed")


def test_of_a_message_whose_worker_is_killed_only_the_job_that_had_started_is_charged(
    tenant: Tenant, files: Path, processes: Processes, impatient_worker: Process
) -> None:
    tenants = [tenant, Tenant(), Tenant()]
    path = files / "path"
    ids = []
    for number in range(12):
        with writing(tenants[number % 3].id) as session:
            ids.append(enqueue(session, die_once, path=str(path), dies=number == 5))
    processes.start("dispatcher", environment={"DOCWORKER_DISPATCH_WINDOW": "1"})
    eventually(lambda: {job_of(one).state for one in ids} == {"succeeded"}, within_seconds=60, what="all to succeed")
    assert [job_of(one).attempt for one in ids] == [2 if number == 5 else 1 for number in range(12)]
    assert sorted(path.read_text().split()) == sorted(str(one) for one in [*ids, ids[5]])


def test_an_orphan_runs_again_within_fifteen_seconds_and_not_before_its_lease_ended(
    tenant: Tenant, files: Path, dispatcher: Process, worker: Process
) -> None:
    begun, release = files / "begun", files / "release"
    with writing(tenant.id) as session:
        job_id = enqueue(session, hold_job, path=str(begun), release=str(release))
    eventually(begun.exists, within_seconds=60, what="the job to run")
    claimed = job_of(job_id)
    assert claimed.claimed_by is not None
    assert claimed.lease_expires_at is not None
    killed_at = time.monotonic()
    os.kill(int(claimed.claimed_by.rpartition(":")[2]), signal.SIGKILL)
    eventually(lambda: job_of(job_id).attempt == 2, within_seconds=60, what="the job to run again")
    again = job_of(job_id)
    assert again.claimed_at is not None
    assert again.claimed_at >= claimed.lease_expires_at
    assert time.monotonic() - killed_at < 15
    release.touch()
    eventually(lambda: job_of(job_id).state == "succeeded", within_seconds=60, what="the job to succeed")


def test_cancel_reaches_a_running_job_at_its_next_safe_point(
    tenant: Tenant, files: Path, dispatcher: Process, worker: Process
) -> None:
    path = files / "path"
    with writing(tenant.id) as session:
        job_id = enqueue(session, obey_job, path=str(path))
    eventually(path.exists, within_seconds=60, what="the job to run")
    with all_jobs_session() as session:
        ledger.cancel(session, ledger.Filter(), [job_id])
    eventually(lambda: "stopped" in path.read_text(), within_seconds=60, what="the job to notice")
    assert job_of(job_id).state == "cancelled"


def test_a_job_over_its_soft_limit_is_ended_with_that_reason(
    tenant: Tenant, files: Path, dispatcher: Process, worker: Process
) -> None:
    with writing(tenant.id) as session:
        job_id = enqueue(session, overrun, path=str(files / "path"))
    eventually(lambda: job_of(job_id).state == "failed", within_seconds=60, what="the job to fail")
    assert job_of(job_id).error_class == "SoftTimeLimitExceeded"
