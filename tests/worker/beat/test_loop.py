"""Beat: one effect for each tick, whatever runs, stops or fails."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from docworker.db.cluster import close_database, open_database
from docworker.db.errors import ConfigurationError
from docworker.db.ledger.schedules import master_time, remember_rule
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.models.ledger.job import Job
from docworker.db.models.ledger.schedule import KeptSchedule, ScheduleFire
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import settings
from docworker.jobs.kind import Kind
from docworker.jobs.schedules.schedule import SCHEDULES, Cron, Every, Schedule
from docworker.jobs.schedules.sources import look, rule_text
from docworker.jobs.schedules.states import schedule_states
from docworker.jobs.task import known_kinds
from docworker.worker.app import celery_app
from docworker.worker.beat.loop import LONGEST_WAIT_SECONDS, Beat
from tests.support.commands import docworker
from tests.support.database import opened_database
from tests.support.metrics import get, metric
from tests.support.processes import Processes
from tests.support.stack import InForce, OwnStack
from tests.support.waiting import eventually

KINDS: dict[str, Kind] = known_kinds(celery_app())
KIND = "reconcile_documents"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
HOURLY = Schedule("hourly", Every(3600), KIND)


@pytest.fixture
def database(fresh_environment: dict[str, str]) -> Iterator[None]:
    with opened_database():
        promised_long_ago(HOURLY)
        yield


def promised_long_ago(*schedules: Schedule) -> None:
    """As if a beat had known these for years, and none had run since."""
    with all_jobs_session() as session:
        for one in schedules:
            remember_rule(session, one.name, rule_text(one))
        session.execute(update(KeptSchedule).values(since=LONG_AGO, updated_at=LONG_AGO))


def fires() -> list[ScheduleFire]:
    with all_jobs_session() as session:
        return list(session.scalars(select(ScheduleFire).order_by(ScheduleFire.due_at)))


def jobs() -> list[Job]:
    with all_jobs_session() as session:
        return list(session.scalars(select(Job)))


def claim_all() -> None:
    """As if workers had claimed all jobs."""
    with all_jobs_session() as session:
        session.execute(text("UPDATE ledger.jobs SET claimed_at = clock_timestamp()"))


def fire(beat: Beat, schedule: Schedule, due_at: datetime) -> None:
    """As a beat that has just seen that nobody has fired it."""
    with all_jobs_session() as session:
        _, (known,) = look(session, [schedule])
    beat._fire(known, schedule, due_at)


def pretend_last_tick(schedule: str, due_at: datetime) -> None:
    with all_jobs_session() as session:
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
    promised_long_ago(*schedules)

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

    fire(second, HOURLY, due_at)

    assert len(jobs()) == 1


@pytest.mark.usefixtures("database")
def test_ticks_missed_while_no_beat_ran_are_made_up_once() -> None:
    pretend_last_tick("hourly", LONG_AGO)

    beat = Beat(KINDS, [HOURLY])
    beat.tick()
    claim_all()
    beat.tick()

    assert len(jobs()) == 1
    _, fire = fires()
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
    promised_long_ago(HOURLY)
    beat = Beat(KINDS, [HOURLY])

    with all_jobs_session() as session:
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


class Raising:
    """A rule that raises, or gives what is no due time."""

    def __init__(self, given: object) -> None:
        self._given = given

    def next_after(self, _moment: datetime) -> Any:
        if isinstance(self._given, Exception):
            raise self._given
        return self._given

    latest_until = next_after


BAD_SCHEDULES = [
    Schedule("bad", Every(60), "no_such_kind"),
    Schedule("bad", Every(60), KIND, {"unheard_of": 1}),
    Schedule("bad", Raising(ZeroDivisionError()), KIND),
    Schedule("bad", Raising(None), KIND),
    Schedule("bad", Raising(LONG_AGO), KIND),
    Schedule("bad", Raising(LONG_AGO.replace(tzinfo=None)), KIND),
    Schedule("bad", Raising("tomorrow"), KIND),
]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("bad", BAD_SCHEDULES, ids=range(len(BAD_SCHEDULES)))
def test_a_schedule_that_cannot_be_fired_is_set_aside_and_the_others_go_on(bad: Schedule) -> None:
    beat = Beat(KINDS, [bad, HOURLY])
    with capture_logs() as logs:
        assert 0 < beat.tick() <= LONGEST_WAIT_SECONDS
        beat.tick()
    assert [fire.schedule for fire in fires()] == ["hourly"]
    assert [one["schedule"] for one in logs if one["event"] == "schedule.set_aside"] == ["bad"]
    assert REGISTRY.get_sample_value("docworker_schedules_set_aside", {"schedule": "bad"}) == 1
    assert REGISTRY.get_sample_value("docworker_schedules_set_aside", {"schedule": "hourly"}) == 0
    with all_jobs_session() as session:
        shown = {one.name: one for one in schedule_states(session, KINDS, [bad, HOURLY])}
    assert shown["bad"].problem
    assert (shown["hourly"].problem, shown["hourly"].last_job_id) == (None, jobs()[0].id)


@pytest.mark.usefixtures("database")
def test_a_schedule_goes_on_when_its_kind_is_known_again() -> None:
    kinds: dict[str, Kind] = {}
    beat = Beat(kinds, [HOURLY])
    beat.tick()
    assert jobs() == []
    kinds.update(KINDS)
    beat.tick()
    assert len(jobs()) == 1
    assert REGISTRY.get_sample_value("docworker_schedules_set_aside", {"schedule": "hourly"}) == 0


def test_two_schedules_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two schedules are called 'hourly'"):
        Beat(KINDS, [HOURLY, Schedule("hourly", Every(60), KIND)])


@pytest.mark.usefixtures("fresh_environment")
def test_a_schedule_whose_job_somebody_holds_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCWORKER_LOCK_TIMEOUT", "0.2")
    settings.cache_clear()
    open_database(settings())
    daily = Schedule("daily", Every(86_400), KIND)
    promised_long_ago(HOURLY, daily)
    Beat(KINDS, [HOURLY]).tick()
    pretend_last_tick("hourly", LONG_AGO)
    with all_jobs_session() as session:
        session.execute(text("SELECT FROM ledger.jobs FOR UPDATE"))
        with pytest.raises(OperationalError, match="lock timeout"):
            Beat(KINDS, [HOURLY, daily]).tick()
        assert [one.schedule for one in fires() if one.due_at > LONG_AGO] == ["daily"]
    close_database()


AHEAD = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=365)


@pytest.mark.usefixtures("database")
def test_a_tick_far_ahead_of_the_clock_holds_up_nothing_and_is_told() -> None:
    pretend_last_tick("hourly", AHEAD)
    beat = Beat(KINDS, [HOURLY])
    with capture_logs() as logs:
        beat.tick()
        claim_all()
        beat.tick()
    assert len(jobs()) == 1
    assert [one["last"] for one in logs if one["event"] == "schedule.ticks_ahead"] == [AHEAD.isoformat()]
    assert REGISTRY.get_sample_value("docworker_schedule_ticks_ahead", {"schedule": "hourly"}) == 1
    with all_jobs_session() as session:
        (shown,) = schedule_states(session, KINDS, [HOURLY])
        now = master_time(session)
    assert shown.last_due_at == HOURLY.when.latest_until(now)
    assert (shown.next_due_at, shown.ahead_due_at) == (HOURLY.when.next_after(now), AHEAD)


@pytest.mark.usefixtures("database")
def test_a_clock_that_steps_forwards_and_back_doubles_no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """For an hour the master's clock is two days ahead; then the true ticks come, and those that had fired early."""
    true_now = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
    beat = Beat(KINDS, [HOURLY])

    def look(now: datetime) -> None:
        monkeypatch.setattr("docworker.jobs.schedules.sources.master_time", lambda _: now)
        beat.tick()
        claim_all()

    ahead = timedelta(days=2)
    hours = [timedelta(hours=number) for number in range(60)]
    for now in [true_now, true_now + ahead, true_now + ahead + hours[1], *(true_now + hour for hour in hours)]:
        look(now)
    due = [one.due_at for one in fires()]
    assert len(due) == len(set(due)) == len(jobs()) == 60
    assert max(due) - min(due) == timedelta(hours=59)


@pytest.mark.usefixtures("database")
def test_old_ticks_are_forgotten_but_never_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docworker.worker.beat.loop.KEEP_TICKS", 2)
    with all_jobs_session() as session:
        for days in (50, 45, 40, 35, 34):
            due_at = datetime.now(UTC) - timedelta(days=days)
            session.add(ScheduleFire(schedule="hourly", due_at=due_at, job_id=SYSTEM_ORGANIZATION_ID))
    yearly = Schedule("yearly", Cron("0 0 1 1 *"), KIND)
    promised_long_ago(yearly)
    Beat(KINDS, [HOURLY, yearly]).tick()
    assert len([one for one in fires() if one.schedule == "hourly"]) == 3
    assert len([one for one in fires() if one.schedule == "yearly"]) == 1


@pytest.mark.usefixtures("database")
def test_the_true_ticks_outlive_one_that_a_wrong_clock_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    beat = Beat(KINDS, [HOURLY])
    beat.tick()
    claim_all()
    fire(beat, HOURLY, AHEAD)
    claim_all()
    beat.tick()
    assert len(fires()) == len(jobs()) == 2


def test_beat_runs_as_a_process_and_shows_its_schedule(fresh_environment: dict[str, str], processes: Processes) -> None:
    with opened_database():
        promised_long_ago(*SCHEDULES)
    beat = processes.start("beat")
    beat.wait_for_log("schedule.fired", times=len(SCHEDULES))

    assert get("/healthz", process="beat")[0] == 200
    eventually(lambda: get("/readyz", process="beat")[0] == 200)
    assert metric("docworker_schedule_fires_total", process="beat") == len(SCHEDULES)
    listed = {one["schedule"]: one for one in docworker("schedules", "list", "--json").json}
    assert listed["prune_jobs"]["last_due_at"] < listed["prune_jobs"]["next_due_at"]
    assert beat.stop(within_seconds=5) == 0


def test_beat_outlives_the_master(own_stack: OwnStack, in_force: InForce, processes: Processes) -> None:
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    with opened_database():
        promised_long_ago(*SCHEDULES)
    stack.master.kill()
    beat = processes.start("beat")
    beat.wait_for_log("beat.waiting")
    assert get("/healthz", process="beat")[0] == 200
    assert get("/readyz", process="beat")[0] == 503

    stack.master.start()

    beat.wait_for_log("schedule.fired", times=len(SCHEDULES), within_seconds=30)
    with opened_database(), all_jobs_session() as session:
        assert all(one.last_due_at for one in schedule_states(session, KINDS))


def test_beat_needs_no_broker(fresh_environment: dict[str, str], processes: Processes) -> None:
    with opened_database():
        promised_long_ago(*SCHEDULES)
    beat = processes.start("beat", environment={"DOCWORKER_BROKER_URL": "redis://127.0.0.1:1/0"})
    beat.wait_for_log("schedule.fired", times=len(SCHEDULES))
