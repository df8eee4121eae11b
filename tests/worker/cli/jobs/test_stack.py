"""`docworker jobs stack`: where in its code a running job is, told by the worker it runs on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from docworker.db import ledger
from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue
from tests.support.commands import docworker
from tests.support.processes import Process, Processes
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import hold_job, occupy
from tests.support.waiting import eventually


@pytest.fixture
def start(processes: Processes, tenant: Tenant, tmp_path: Path) -> Callable[..., Process]:
    """Starts a dispatcher and a worker with the kinds of the user's package."""
    install_user_package(tmp_path / "processes")

    def start(**changed: str) -> Process:
        processes.start("dispatcher")
        environment = {f"DOCWORKER_{name.upper()}": value for name, value in changed.items()}
        return processes.start("worker", environment=environment)

    return start


def job_of(job_id: UUID) -> Job:
    with all_jobs_session() as session:
        return ledger.get(session, job_id)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_running_job_shows_where_it_is_and_goes_on(
    tenant: Tenant, tmp_path: Path, start: Callable[..., Process], pool: str
) -> None:
    start(worker_pool=pool)
    path, release = tmp_path / "path", tmp_path / "release"
    with writing(tenant.id) as session:
        job_id = enqueue(session, hold_job, path=str(path), release=str(release))
    eventually(path.exists, within_seconds=40, what="the job runs")
    answer = docworker("jobs", "stack", job_id)
    assert answer.exit_code == 0, answer.err
    assert f"tests.hold_job, attempt 1, on {job_of(job_id).claimed_by}" in answer.out
    assert "in hold_job" in answer.out
    assert "in hold_job" in "".join(docworker("jobs", "stack", job_id, "--json").json["stack"])

    release.touch()
    eventually(lambda: job_of(job_id).state == "succeeded", within_seconds=30, what="it goes on")
    ended = docworker("jobs", "stack", job_id)
    assert (ended.exit_code, ended.out) == (1, "")
    assert "does not run: it is succeeded" in ended.err


def test_job_that_occupies_its_interpreter_tells_as_well(
    tenant: Tenant, tmp_path: Path, start: Callable[..., Process]
) -> None:
    start()
    with writing(tenant.id) as session:
        job_id = enqueue(session, occupy, path=str(tmp_path / "path"), seconds=50)
    eventually((tmp_path / "path").exists, within_seconds=40, what="the job runs")
    answer = docworker("jobs", "stack", job_id)
    assert answer.exit_code == 0, answer.err
    assert "in occupy" in answer.out


def test_worker_that_does_not_answer_is_told(tenant: Tenant, tmp_path: Path, start: Callable[..., Process]) -> None:
    worker = start()
    path = tmp_path / "path"
    with writing(tenant.id) as session:
        job_id = enqueue(session, hold_job, path=str(path), release=str(tmp_path / "release"))
    eventually(path.exists, within_seconds=40, what="the job runs")
    os.kill(worker.pid, signal.SIGSTOP)
    answer = docworker("jobs", "stack", job_id)
    assert (answer.exit_code, answer.out) == (1, "")
    assert f"{job_of(job_id).claimed_by} has not answered within 10 s" in answer.err
