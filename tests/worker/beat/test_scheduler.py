"""Celery's beat with our scheduler, and ours: the same schedules, and each due tick one effect whatever is killed."""

import random
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from docworker.db.models.ledger.job import Job
from docworker.db.models.ledger.schedule import ScheduleFire
from docworker.db.sessions import all_jobs_session
from tests.support.commands import docworker
from tests.support.database import opened_database
from tests.support.metrics import get
from tests.support.processes import Process, Processes
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually

CELERY_BEAT = [sys.executable, "-m", "celery", "-A", "docworker.worker.app", "beat", "--loglevel", "info"]
PLAIN, COUNTED = "tests.write", "reconcile_documents"


def fires(schedule: str) -> list[ScheduleFire]:
    with opened_database(), all_jobs_session() as session:
        wanted = select(ScheduleFire).where(ScheduleFire.schedule == schedule)
        return list(session.scalars(wanted.order_by(ScheduleFire.due_at)))


def jobs(kind: str) -> int:
    with opened_database(), all_jobs_session() as session:
        return session.scalar(select(func.count()).where(Job.kind == kind)) or 0


@pytest.fixture(autouse=True)
def _only_counted_here(fresh_environment: dict[str, str]) -> None:
    """Docworker's own schedule of that kind may fall due meanwhile."""
    assert docworker("schedules", "pause", COUNTED).exit_code == 0


@pytest.fixture
def scheduled(tmp_path: Path) -> Path:
    """A user's package with entries of `beat_schedule` and an entry point of the group `docworker.schedules`."""
    install_user_package(tmp_path / "processes", "tests.support.user_package.tasks", SCHEDULED)
    installed = tmp_path / "processes" / "docworker_tests-1.0.dist-info" / "entry_points.txt"
    installed.write_text(f"{installed.read_text()}[docworker.schedules]\nours = {SCHEDULED}:OURS\n")
    return tmp_path


SCHEDULED = "tests.support.user_package.scheduled"


def test_celerys_beat_and_ours_fire_the_same_schedules_once(
    fresh_environment: dict[str, str], scheduled: Path, processes: Processes
) -> None:
    of_celery = processes.start_command("beat", CELERY_BEAT)
    of_celery.wait_for_log("beat.started")
    eventually(lambda: get("/readyz", process="beat")[0] == 200)
    ours = processes.start("beat", environment={"DOCWORKER_BEAT_METRICS_PORT": "0"})
    ours.wait_for_log("beat.started")
    written = scheduled / "written"
    added = docworker(
        "schedules", "add", "often", "every 1", COUNTED, "--missed", "all", directory=scheduled / "processes"
    )
    assert added.exit_code == 0, added.err
    names = ["of_celery", "of_a_package", "often"]
    eventually(lambda: all(len(fires(name)) > 2 for name in names), within_seconds=30, what="each to fire")
    assert of_celery.stop(within_seconds=10) == 0
    ours.kill9()
    # The server may be at the last COMMIT of the one that was killed.
    eventually(lambda: jobs(COUNTED) == len(fires("often")), what="a job for each fire")
    often = [one.due_at for one in fires("often")]
    assert often == [often[0] + number * timedelta(seconds=1) for number in range(len(often))]
    processes.start("worker").wait_for_log("worker.ready", within_seconds=30)
    eventually(lambda: written.is_file() and written.read_text().count("\n") == len(fires("plain")), within_seconds=20)
    assert len(fires("plain")) > 2


def test_beats_that_are_killed_at_random_fire_each_due_tick_once_and_take_a_change_while_they_run(
    fresh_environment: dict[str, str], processes: Processes
) -> None:
    def start() -> Process:
        return processes.start("beat", environment={"DOCWORKER_BEAT_METRICS_PORT": "0"})

    beats = [start(), start()]
    beats[0].wait_for_log("beat.started")
    assert docworker("schedules", "add", "often", "every 1", COUNTED, "--missed", "all").exit_code == 0
    chance = random.Random(7)
    for _ in range(6):
        seen = len(fires("often"))
        eventually(lambda: len(fires("often")) > seen, within_seconds=20)  # noqa: B023
        number = chance.randrange(2)
        beats[number].kill9()
        beats[number] = start()
    assert docworker("schedules", "pause", "often").exit_code == 0
    found = fires("often")
    assert jobs(COUNTED) == len(found) == len({one.job_id for one in found})
    due = [one.due_at for one in found]
    assert due == [due[0] + number * timedelta(seconds=1) for number in range(len(due))]
    docworker("schedules", "resume", "often")
    eventually(lambda: len(fires("often")) > len(found), within_seconds=20, what="it goes on without a restart")
    fired = len(fires("often"))  # before the jobs: it goes on firing
    assert jobs(COUNTED) >= fired
