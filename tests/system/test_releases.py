"""A rolling deploy with real workers: one of the old release and one of the new, each with its own code of a kind.

`max_attempts` is 1, so an attempt that is used up on the wrong release would fail the job.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from docworker.db import ledger
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kind import Arguments, Kind
from tests.support.metrics import metric
from tests.support.processes import Process, Processes
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually

KIND = "tests.release"
MOST_FAULTS = 6
SOON = {
    "DOCWORKER_BACKOFF_BASE": "0.1",
    "DOCWORKER_BACKOFF_MAX": "0.5",
    "DOCWORKER_MAX_FAULTS": "1000",
    "DOCWORKER_WORKER_PROCESSES": "1",
}


class Old(Arguments):
    path: str
    number: int


class New(Old):
    colour: str


class Deploy:
    """Workers of both releases, and a producer that may be of either."""

    def __init__(self, tenant: Tenant, directory: Path) -> None:
        self.tenant = tenant
        self.out = directory / "out"
        self._releases = {name: Processes({}, directory / name) for name in ("old", "new")}
        for name in self._releases:
            install_user_package(directory / name, f"tests.support.user_package.{name}_release")

    def start(self, release: str, name: str, **changed: str) -> Process:
        return self._releases[release].start(name, environment=SOON | changed)

    def start_worker(self, release: str, **changed: str) -> Process:
        worker = self.start(release, "worker", **changed)
        worker.wait_for_log("worker.ready", within_seconds=30)
        return worker

    def enqueue(self, number: int, **more: Any) -> UUID:
        """A job of the old release, or with a colour, of the new one."""
        arguments = New if more else Old
        task = SimpleNamespace(kind=Kind(KIND, arguments, lambda _: None, max_attempts=1))
        with writing(self.tenant.id) as session:
            return enqueue(session, task, path=str(self.out), number=number, **more)

    def states(self) -> dict[str, int]:
        with all_jobs_session() as session:
            rows = ledger.count_by_state(session, ledger.Filter(organization_id=self.tenant.id))
        return {row.state: row.jobs for row in rows}

    def all_ended(self) -> bool:
        return self.states().keys() <= {"succeeded", "failed"}

    def ran(self) -> set[str]:
        return set(self.out.read_text().splitlines()) if self.out.exists() else set()

    def close(self) -> None:
        for processes in self._releases.values():
            processes.close()


@pytest.fixture
def deploy(tenant: Tenant, tmp_path: Path) -> Iterator[Deploy]:
    deploy = Deploy(tenant, tmp_path)
    deploy.start("old", "dispatcher").wait_for_log("dispatcher.started")
    yield deploy
    deploy.close()


def unaccepted() -> float:
    return metric("docworker_unaccepted_jobs_total", kind=KIND)


def test_each_job_is_run_by_a_worker_of_the_release_that_takes_it(deploy: Deploy) -> None:
    deploy.start_worker("old")
    news = [deploy.enqueue(number, colour="red") for number in range(5)]
    eventually(lambda: unaccepted() >= 2 * len(news), within_seconds=30, what="the old release to have met them all")
    assert deploy.states().keys() <= {"queued", "dispatched", "running"}
    assert deploy.ran() == set()

    deploy.start_worker("new")
    olds = [deploy.enqueue(number) for number in range(5)]
    eventually(deploy.all_ended, within_seconds=60, what="all jobs to end")
    assert deploy.states() == {"succeeded": len(news) + len(olds)}
    assert deploy.ran() == {f"{release} {number}" for release in ("old", "new") for number in range(5)}


def test_a_job_that_no_worker_accepts_ends_with_the_reason(deploy: Deploy) -> None:
    deploy.start_worker("old", DOCWORKER_MAX_FAULTS=str(MOST_FAULTS))
    job_id = deploy.enqueue(1, colour="red")
    eventually(lambda: deploy.states() == {"failed": 1}, within_seconds=60, what="the wait to end")
    with all_jobs_session() as session:
        job = ledger.get(session, job_id)
    assert (job.faults, job.error_class) == (MOST_FAULTS, "UnacceptedArgumentsError")
    assert "colour: Extra inputs are not permitted" in str(job.error_message)
    assert unaccepted() == MOST_FAULTS
    assert deploy.ran() == set()
