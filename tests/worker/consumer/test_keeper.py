"""Who keeps the leases of a worker's jobs: from outside of what they occupy, for as long as they live."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.ledger.telling.processes import processes as ledger_processes
from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import HOME
from docworker.jobs.enqueue import enqueue
from docworker.jobs.task import LedgerTask
from docworker.worker.consumer.shutdown import GIVE_BACK_SECONDS
from tests.support.clusters import EAST, addresses_of, with_east
from tests.support.database import opened_database
from tests.support.faults import freeze, thaw
from tests.support.metrics import get
from tests.support.processes import Process, Processes
from tests.support.refusals import refusing_ends
from tests.support.stack import InForce, OwnStack
from tests.support.tenants import Tenant, entered
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import fail, fail_late, hold_job, obey_job, occupy, settle
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


def seconds_since_claim(job_id: UUID) -> float:
    with all_jobs_session() as session:
        since = "SELECT extract(epoch FROM clock_timestamp() - claimed_at) FROM ledger.jobs WHERE id = :id"
        return float(session.scalar(text(since), {"id": job_id}) or 0)


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


@pytest.mark.parametrize(
    ("pool", "task"), [("prefork", fail_late), ("prefork", settle), ("threads", fail), ("solo", fail)]
)
def test_who_waits_to_write_an_end_is_not_struck_by_the_limits_of_its_job_nor_charged(
    tenant: Tenant, start: Callable[..., Process], pool: str, task: LedgerTask
) -> None:
    worker = start(worker_pool=pool, worker_processes="1")
    with refusing_ends():
        with writing(tenant.id) as session:
            job_id = enqueue(session, task)
        worker.wait_for_log("attempts.end_refused", within_seconds=20)
        past = task.kind.hard_limit_seconds + task.kind.turn_seconds + 2 * LEASE_SECONDS
        eventually(lambda: seconds_since_claim(job_id) > past, within_seconds=60, what="its limit to be over")
        assert job_of(job_id).state == "running"
        waiting = job_of(job_id).claimed_by
    eventually(lambda: job_of(job_id).state == "failed", within_seconds=20, what="the end to be written")
    ended = job_of(job_id)
    assert (ended.claimed_by, ended.attempt, ended.error_class) == (waiting, 1, "ValueError")
    with writing(tenant.id) as session:
        next_id = enqueue(session, fail)
    eventually(lambda: job_of(next_id).state == "failed", within_seconds=20, what="the next one to run")
    assert (job_of(next_id).claimed_by, job_of(next_id).error_class) == (waiting, "ValueError")


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_cannot_write_an_end_stops_in_its_time(
    tenant: Tenant, start: Callable[..., Process], pool: str
) -> None:
    worker = start(worker_pool=pool, worker_processes="1", shutdown_timeout="4")
    with refusing_ends():
        with writing(tenant.id) as session:
            enqueue(session, fail)
        worker.wait_for_log("attempts.end_refused", within_seconds=20)
        began = time.monotonic()
        worker.stop()
        assert time.monotonic() - began < 4 + GIVE_BACK_SECONDS + 8


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


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_ends_in_order_leaves_no_sign_of_life(
    fresh_environment: dict[str, str], processes: Processes, pool: str
) -> None:
    worker = processes.start("worker", environment={"DOCWORKER_WORKER_POOL": pool})
    with opened_database():
        eventually(lambda: living() == ["worker"], within_seconds=40, what="it tells that it lives")
        assert worker.stop() == 0
        assert living() == []
    assert "keeper.ended" not in worker.log


def living() -> list[str]:
    with all_jobs_session() as session:
        return [one.role for one in ledger_processes(session)]


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


@pytest.mark.parametrize("frozen", [HOME, EAST])
def test_a_cluster_that_does_not_answer_lets_no_lease_on_another_one_end(
    own_stack: OwnStack, in_force: InForce, files: Path, processes: Processes, frozen: str
) -> None:
    stacks = {name: own_stack(replicas=0, migrated=True) for name in (HOME, EAST)}
    there = addresses_of(stacks[EAST].environment())
    with with_east(in_force(stacks[HOME]), there), opened_database():
        environment = {"DOCWORKER_LEASE": str(LEASE_SECONDS)}
        processes.start("dispatcher", environment=environment)
        worker = processes.start("worker", environment=environment)
        worker.wait_for_log("worker.ready", within_seconds=30)
        paths = {name: files / f"path-{name}" for name in stacks}
        jobs = {name: held_at(name, paths[name], files / "release") for name in stacks}
        for path in paths.values():
            eventually(path.exists, within_seconds=30, what="both jobs to run")
        freeze(stacks[frozen].master)
        (other,) = stacks.keys() - {frozen}
        ends = time.monotonic() + 3 * LEASE_SECONDS
        while time.monotonic() < ends:
            assert left_at(other, jobs[other]) > 0, "its lease has ended"
            time.sleep(0.1)
        thaw(stacks[frozen].master)
        (files / "release").touch()
        for name, job_id in jobs.items():
            eventually(lambda: state_at(name, job_id) == ("succeeded", 1), within_seconds=40, what=name)  # noqa: B023


def held_at(cluster: str, path: Path, release: Path) -> UUID:
    organization_id = entered(at=Place(cluster, SHARED_SCHEMA))
    with writing(organization_id) as session:
        return enqueue(session, hold_job, path=str(path), release=str(release))


def left_at(cluster: str, job_id: UUID) -> float:
    with all_jobs_session(cluster) as session:
        left = "SELECT extract(epoch FROM lease_expires_at - clock_timestamp()) FROM ledger.jobs WHERE id = :id"
        return float(session.scalar(text(left), {"id": job_id}) or 0)


def state_at(cluster: str, job_id: UUID) -> tuple[str, int]:
    with all_jobs_session(cluster) as session:
        job = ledger.get(session, job_id)
        return job.state, job.attempt
