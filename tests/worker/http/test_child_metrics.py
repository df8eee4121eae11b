"""A disk without room for metrics costs metrics, and neither jobs nor children."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docworker.db import ledger
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue
from tests.support.disks import fill, mounted
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import record
from tests.support.waiting import eventually


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for half a megabyte."""
    with mounted(tmp_path / "disk", size="512k") as place:
        yield place


COUNT = """
import sys
from pathlib import Path
from docworker.worker.http import child_metrics
child_metrics.prepare(Path(sys.argv[1]))
from prometheus_client import Counter
counter = Counter("many", "Many.", ["number"])
for number in range(10_000):
    counter.labels(number).inc()
assert counter.labels(9_999)._value.get() == 1
"""


@pytest.mark.parametrize("full", ["before", "meanwhile"])
def test_a_process_counts_on_where_there_is_no_room_for_what_it_counts(small_disk: Path, full: str) -> None:
    if full == "before":
        fill(small_disk)
    done = subprocess.run([sys.executable, "-c", COUNT, str(small_disk)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "metrics.not_kept" in done.stdout + done.stderr


def test_jobs_run_on_while_the_disk_of_the_metrics_is_full(
    small_disk: Path, tenant: Tenant, processes: Processes, tmp_path: Path
) -> None:
    install_user_package(tmp_path / "processes")
    processes.start("dispatcher")
    worker = processes.start("worker", environment={"DOCWORKER_STATE_DIRECTORY": str(small_disk)})
    worker.wait_for_log("worker.ready", within_seconds=30)
    children = worker.children
    fill(small_disk)
    with writing(tenant.id) as session:
        job_ids = [enqueue(session, record) for _ in range(8)]

    def states() -> set[str]:
        with all_jobs_session() as session:
            return {ledger.get(session, one).state for one in job_ids}

    eventually(lambda: states() == {"succeeded"}, within_seconds=30, what="the jobs to succeed")
    assert worker.children == children, "no child died of it"
    assert "metrics.not_kept" in worker.log
