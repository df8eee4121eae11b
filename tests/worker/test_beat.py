"""Beat: one effect for each tick, whatever runs, stops or fails."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from db.engines import close_database, open_database
from db.errors import ConfigurationError
from db.models.base import SYSTEM_ORGANIZATION_ID
from db.models.job import Job, ScheduleFire
from db.sessions import overseeing
from db.settings import settings
from jobs.kinds import Kind
from jobs.task import known_kinds
from tests.conftest import OwnStack
from tests.processes import Processes
from tests.waiting import eventually
from tests.worker.trials import InForce, get, metric
from worker.app import app
from worker.beat import LONGEST_WAIT_SECONDS, Beat, states
from worker.schedule import Cron, Every, Schedule

KINDS: dict[str, Kind] = known_kinds(app)
KIND = "reconcile_documents"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
HOURLY = Schedule("hourly", Every(3600), KIND)


@pytest.fixture
def database(fresh_environment: dict[str, str]) -> Iterator[None]:
    open_database(settings())
    yield
    close_database()


def fires() -> list[ScheduleFire]:
    with overseeing() as session:
        return list(session.scalars(select(ScheduleFire).order_by(ScheduleFire.due_at)))


def jobs() -> list[Job]:
    with overseeing() as session:
        return list(session.scalars(select(Job)))


def claim_all() -> None:
    """As if workers had claimed all jobs."""
    with overseeing() as session:
        session.execute(text("UPDATE ledger.jobs SET claimed_at = clock_timestamp()"))


def pretend_last_tick(schedule: str, due_at: datetime) -> None:
    with overseeing() as session:
        session.execute(text("DELETE FROM ledger.schedule_fires"))
        session.add(ScheduleFire(schedule=schedule, due_at=due_at, job_id=SYSTEM_ORGANIZATION_ID))


@pytest.mark.usefixtures("database")
def test_a_due_schedule_enqueues_its_job_for_no_organization() -> None:
    Beat(KINDS, [HOURLY]).tick()

    (job,) = jobs()
    assert (job.kind, job.organization_id, job.state) == (KIND, SYSTEM_ORGANIZATION_ID, "queued")
    (fire,) = fires()
    assert fire.job_id == job.id
    assert fire.due_at == HOURLY.when.latest_until(fire.fired_at)


@pytest.mark.usefixtures("database")
def test_a_second_look_fires_nothing_more() -> None:
    beat = Beat(KINDS, [HOURLY])
    beat.tick()
    claim_all()

    beat.tick()
    Beat(KINDS, [HOURLY]).tick()

    assert len(jobs()) == 1
    assert len(fires()) == 1


@pytest.mark.usefixtures("database")
def test_many_beats_at_once_have_one_effect() -> None:
    start = threading.Barrier(4)
    schedules = [Schedule(f"schedule {number}", Every(3600), KIND) for number in range(5)]

    def run() -> None:
        start.wait()
        Beat(KINDS, schedules).tick()

    beats = [threading.Thread(target=run) for _ in range(4)]
    for beat in beats:
        beat.start()
    for beat in beats:
        beat.join()

    assert len(fires()) == len(jobs()) == 5
    assert {fire.job_id for fire in fires()} == {job.id for job in jobs()}


@pytest.mark.usefixtures("database")
def test_a_beat_that_comes_second_leaves_no_job_behind() -> None:
    """Both have seen that nothing fired; the first one's job is claimed before the second one fires."""
    first, second = Beat(KINDS, [HOURLY]), Beat(KINDS, [HOURLY])
    first.tick()
    claim_all()
    due_at = fires()[0].due_at

    second._fire(HOURLY, due_at)

    assert len(jobs()) == 1


@pytest.mark.usefixtures("database")
def test_ticks_missed_while_no_beat_ran_are_made_up_once() -> None:
    pretend_last_tick("hourly", LONG_AGO)

    beat = Beat(KINDS, [HOURLY])
    beat.tick()
    claim_all()
    beat.tick()

    assert len(jobs()) == 1
    (fire,) = fires()
    assert fire.fired_at - fire.due_at < timedelta(hours=1)


@pytest.mark.usefixtures("database")
def test_while_an_earlier_job_waits_a_tick_adds_no_second_one() -> None:
    beat = Beat(KINDS, [HOURLY])
    beat.tick()
    pretend_last_tick("hourly", LONG_AGO)

    beat.tick()

    (job,) = jobs()
    assert fires()[-1].job_id == job.id


@pytest.mark.usefixtures("fresh_environment")
def test_a_tick_that_could_not_be_recorded_has_no_effect_and_is_fired_by_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCWORKER_LOCK_TIMEOUT", "0.2")
    settings.cache_clear()
    open_database(settings())
    beat = Beat(KINDS, [HOURLY])

    with overseeing() as session:
        session.execute(text("LOCK TABLE ledger.schedule_fires IN EXCLUSIVE MODE"))
        with pytest.raises(OperationalError, match="lock timeout"):
            beat.tick()
    assert jobs() == []

    beat.tick()
    assert len(jobs()) == len(fires()) == 1
    close_database()


@pytest.mark.usefixtures("database")
def test_the_wait_ends_when_the_next_schedule_is_due() -> None:
    assert 0 < Beat(KINDS, [Schedule("soon", Every(2), KIND)]).tick() <= 2
    assert Beat(KINDS, [Schedule("yearly", Cron("0 0 1 1 *"), KIND)]).tick() == LONGEST_WAIT_SECONDS


def test_a_schedule_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no_such_kind"):
        Beat(KINDS, [Schedule("wrong", Every(60), "no_such_kind")])


@pytest.mark.usefixtures("database")
def test_old_ticks_are_forgotten_but_never_the_last_one() -> None:
    with overseeing() as session:
        for days in (40, 35, 1):
            due_at = datetime.now(UTC) - timedelta(days=days)
            session.add(ScheduleFire(schedule="hourly", due_at=due_at, job_id=SYSTEM_ORGANIZATION_ID))
    yearly = Schedule("yearly", Cron("0 0 1 1 *"), KIND)
    pretended = Beat(KINDS, [HOURLY, yearly])

    pretended.tick()

    assert len([one for one in fires() if one.schedule == "hourly"]) == 2
    assert len([one for one in fires() if one.schedule == "yearly"]) == 1


def test_beat_runs_as_a_process_and_shows_its_schedule(fresh_environment: dict[str, str], processes: Processes) -> None:
    beat = processes.start("beat")
    beat.wait_for_log("schedule.fired", times=4)

    assert get("/healthz", process="beat")[0] == 200
    eventually(lambda: get("/readyz", process="beat")[0] == 200)
    assert metric("docworker_schedule_fires_total", process="beat") == 4
    shown = subprocess.run(
        [sys.executable, "-m", "worker.cli", "schedule", "--json"], capture_output=True, text=True, check=True
    )
    listed = {one["schedule"]: one for one in json.loads(shown.stdout)}
    assert listed["prune_jobs"]["last_due_at"] < listed["prune_jobs"]["next_due_at"]
    assert beat.stop(within_seconds=5) == 0


def test_beat_outlives_the_master(own_stack: OwnStack, in_force: InForce, processes: Processes) -> None:
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    stack.master.kill()
    beat = processes.start("beat")
    beat.wait_for_log("beat.waiting")
    assert get("/healthz", process="beat")[0] == 200
    assert get("/readyz", process="beat")[0] == 503

    stack.master.start()

    beat.wait_for_log("schedule.fired", times=4, within_seconds=30)
    open_database(settings())
    with overseeing() as session:
        assert all(one.last_due_at for one in states(session))
    close_database()


def test_beat_needs_no_broker(fresh_environment: dict[str, str], processes: Processes) -> None:
    beat = processes.start("beat", environment={"DOCWORKER_BROKER_URL": "redis://127.0.0.1:1/0"})
    beat.wait_for_log("schedule.fired", times=4)
