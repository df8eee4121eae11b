"""Who keeps the leases of a worker's jobs: from outside of what they occupy, for as long as they live."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue
from tests.support.faults import freeze, thaw
from tests.support.metrics import get
from tests.support.processes import Process, Processes
from tests.support.stack import InForce, OwnStack
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import hold_job, obey_job, occupy
from tests.support.waiting import eventually

POOLS = ["prefork", "threads", "solo"]
LEASE_SECONDS = 3


@pytest.fixture
def files(processes: Processes, tmp_path: Path) -> Path:
    install_user_package(tmp_path / "processes")
    return tmp_path


@pytest.fixture
def start(files: Path, processes: Processes, tenant: Tenant) -> Callable[..., Process]:
    """Starts a dispatcher and a worker whose leases are short."""

    def start(**changed: str) -> Process:
        environment = {"DOCWORKER_LEASE": str(LEASE_SECONDS)}
        processes.start("dispatcher", environment=environment)
        environment |= {f"DOCWORKER_{name.upper()}": value for name, value in changed.items()}
        worker = processes.start("worker", environment=environment)
        worker.wait_for_log("worker.ready", within_seconds=30)
        return worker

    return start


def job_of(job_id: UUID) -> Job:
    with all_jobs_session() as session:
        return ledger.get(session, job_id)


def seconds_of_lease(job_id: UUID) -> float:
    with all_jobs_session() as session:
        left = "SELECT extract(epoch FROM lease_expires_at - clock_timestamp()) FROM ledger.jobs WHERE id = :id"
        return float(session.scalar(text(left), {"id": job_id}) or 0)


@pytest.mark.parametrize("pool", POOLS)
def test_a_job_that_occupies_its_interpreter_keeps_its_lease(
    tenant: Tenant, files: Path, start: Callable[..., Process], pool: str
) -> None:
    start(worker_pool=pool)
    with writing(tenant.id) as session:
        job_id = enqueue(session, occupy, path=str(files / "path"), seconds=3 * LEASE_SECONDS)
    eventually(lambda: job_of(job_id).state == "succeeded", within_seconds=40, what="the job to succeed")
    assert job_of(job_id).attempt == 1
    assert (files / "path").read_text().split() == ["begun", "finished"]


def test_a_child_that_is_stopped_loses_its_job_and_writes_nothing_when_it_goes_on(
    tenant: Tenant, files: Path, start: Callable[..., Process]
) -> None:
    worker = start(worker_processes="2")
    path = files / "path"
    with writing(tenant.id) as session:
        job_id = enqueue(session, hold_job, path=str(path), release=str(files / "release"))
    eventually(path.exists, within_seconds=20, what="the job to run")
    stopped = int(str(job_of(job_id).claimed_by).rpartition(":")[2])
    os.kill(stopped, signal.SIGSTOP)
    eventually(lambda: job_of(job_id).attempt == 2, within_seconds=30, what="the job to run again")
    (files / "release").touch()
    eventually(lambda: job_of(job_id).state == "succeeded", within_seconds=20, what="the job to succeed")
    finished = job_of(job_id).finished_at
    os.kill(stopped, signal.SIGCONT)
    eventually(lambda: path.read_text().count("finished") == 2, within_seconds=20, what="the first run to end")
    assert (job_of(job_id).attempt, job_of(job_id).finished_at) == (2, finished)
    assert worker.running


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_keeper_that_is_killed_or_stopped_is_replaced_before_a_lease_ends(
    tenant: Tenant, files: Path, start: Callable[..., Process], number: signal.Signals
) -> None:
    worker = start(lease="15")
    path = files / "path"
    with writing(tenant.id) as session:
        job_id = enqueue(session, hold_job, path=str(path), release=str(files / "release"))
    eventually(path.exists, within_seconds=20, what="the job to run")
    killed = worker.keeper
    assert killed is not None
    os.kill(killed, number)
    eventually(lambda: worker.keeper not in (None, killed), within_seconds=10, what="another keeper")
    eventually(lambda: seconds_of_lease(job_id) < 12, within_seconds=20, what="the lease to be due")
    eventually(lambda: seconds_of_lease(job_id) > 14, within_seconds=20, what="the lease to be renewed")
    (files / "release").touch()
    eventually(lambda: job_of(job_id).state == "succeeded", within_seconds=20, what="the job to succeed")
    assert job_of(job_id).attempt == 1


def test_a_keeper_dies_with_its_worker(start: Callable[..., Process]) -> None:
    worker = start()
    keeper = worker.keeper
    assert keeper is not None
    os.kill(keeper, signal.SIGTERM)
    os.kill(keeper, signal.SIGINT)
    assert worker.keeper == keeper, "what is sent to the whole group is for the worker"
    worker.kill9()
    eventually(lambda: not Path(f"/proc/{keeper}").exists(), what="the keeper to be gone")


def test_a_cancelled_job_hears_of_it_through_the_keeper(
    tenant: Tenant, files: Path, start: Callable[..., Process]
) -> None:
    start()
    path = files / "path"
    with writing(tenant.id) as session:
        job_id = enqueue(session, obey_job, path=str(path))
    eventually(path.exists, within_seconds=20, what="the job to run")
    with all_jobs_session() as session:
        ledger.cancel(session, ledger.Filter(), [job_id])
    eventually(lambda: "stopped" in path.read_text(), within_seconds=20, what="the job to notice")


@pytest.mark.parametrize("outage", ["frozen", "down"])
def test_without_its_master_a_worker_is_alive_and_not_ready(
    own_stack: OwnStack, in_force: InForce, processes: Processes, outage: str
) -> None:
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    processes.start("worker").wait_for_log("worker.ready", within_seconds=30)
    eventually(lambda: get("/readyz")[0] == 200, within_seconds=20)
    if outage == "frozen":
        freeze(stack.master)
    else:
        stack.master.kill()
    eventually(lambda: get("/readyz")[0] == 503, within_seconds=15)
    assert '"master_answers": false' in get("/readyz")[1]
    assert get("/healthz")[0] == 200
    if outage == "frozen":
        thaw(stack.master)
    else:
        stack.master.start()
    eventually(lambda: get("/readyz")[0] == 200, within_seconds=15)
