"""A process that a job forks ends where the job does: it is not a second worker that eats the first one's messages."""

from pathlib import Path

import pytest

from docworker.db import ledger
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import fork
from tests.support.waiting import eventually


def succeeded(tenant: Tenant) -> int:
    with all_jobs_session() as session:
        rows = ledger.count_by_state(session, ledger.Filter(organization_id=tenant.id, kind="tests.fork"))
    return sum(row.jobs for row in rows if row.state == "succeeded")


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_process_that_a_job_forks_ends_where_the_job_does(
    tenant: Tenant, processes: Processes, tmp_path: Path, pool: str
) -> None:
    install_user_package(tmp_path / "processes")
    processes.start("dispatcher").wait_for_log("dispatcher.started")
    worker = processes.start("worker", environment={"DOCWORKER_WORKER_POOL": pool, "DOCWORKER_WORKER_PROCESSES": "1"})
    worker.wait_for_log("worker.ready", within_seconds=30)
    out = tmp_path / "out"
    codes = {"returns": 0, "raises": 1, "exits": 3}

    for number, (how, code) in enumerate(codes.items(), 1):
        with writing(tenant.id) as session:
            enqueue(session, fork, path=str(out), how=how)
        eventually(lambda: succeeded(tenant) == number, within_seconds=20, what=f"the job whose fork {how}")  # noqa: B023
        assert out.read_text().splitlines()[2 * number - 1] == f"ended {code}"

    assert len(out.read_text().splitlines()) == 2 * len(codes)
    assert worker.log.count("fork.ended") == len(codes)
