"""What people do with schedules while beats run: what is promised, and what is on record."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update

from docworker.db.editing.audit import list_entries
from docworker.db.errors import ConfigurationError, InvalidArgumentError, NotFoundError
from docworker.db.ledger.schedules import master_time
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id
from docworker.db.models.ledger.job import Job
from docworker.db.models.ledger.schedule import KeptSchedule, ScheduleFire
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import settings
from docworker.jobs.kind import Kind
from docworker.jobs.schedules.cron import Cron
from docworker.jobs.schedules.editing import (
    add_schedule,
    delete_schedule,
    edit_schedule,
    pause_schedule,
    resume_schedule,
    run_schedule,
)
from docworker.jobs.schedules.rules import Every, Solar
from docworker.jobs.schedules.schedule import Schedule
from docworker.jobs.schedules.states import schedule_states
from docworker.jobs.schedules.tasks import TaskSchedule
from docworker.jobs.task import known_kinds
from docworker.worker.app import build_app, celery_app
from docworker.worker.beat.loop import Beat
from tests.support.tenants import Tenant

KINDS: dict[str, Kind] = known_kinds(celery_app())
KIND = "reconcile_documents"
ACTOR = "tests"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
YEARLY = "0 0 1 1 *"


@pytest.fixture(autouse=True)
def _no_schedules(opened: Any) -> None:
    with all_jobs_session() as session:
        for table in (KeptSchedule, ScheduleFire, Job):
            session.execute(delete(table))


def add(name: str = "nightly", when: Any = YEARLY, kind: str = KIND, **options: Any) -> None:
    add_schedule(Schedule(name, when, kind, **options), actor=ACTOR, kinds=KINDS, in_code=[])


def promised_long_ago(name: str = "nightly") -> None:
    """As if nobody had changed it since."""
    with all_jobs_session() as session:
        session.execute(update(KeptSchedule).where(KeptSchedule.name == name).values(since=LONG_AGO))


def fires() -> list[str]:
    with all_jobs_session() as session:
        return list(session.scalars(select(ScheduleFire.schedule)))


def jobs(kind: str = KIND) -> list[Job]:
    with all_jobs_session() as session:
        return list(session.scalars(select(Job).where(Job.kind == kind)))


def problem_of(name: str, in_code: Any = ()) -> str | None:
    with all_jobs_session() as session:
        return next(one.problem for one in schedule_states(session, KINDS, in_code) if one.name == name)


def test_a_schedule_is_fired_by_a_beat_that_ran_before_it_was_added() -> None:
    beat = Beat(KINDS, [])
    beat.tick()
    add(when=Every(1), missed="all")
    promised_long_ago()
    beat.tick()
    assert fires()
    assert set(fires()) == {"nightly"}
    assert len(jobs()) == len(fires())


def test_what_was_due_before_a_schedule_was_added_is_not_made_up() -> None:
    add()
    Beat(KINDS, []).tick()
    assert fires() == []
    promised_long_ago()
    Beat(KINDS, []).tick()
    assert fires() == ["nightly"]


@pytest.mark.parametrize(
    "changes", [{"when": "0 0 2 1 *"}, {"zone": "Europe/Berlin"}, {"missed": "all"}, {"priority": 1}]
)
def test_what_was_due_before_a_schedule_was_edited_is_not_made_up(changes: dict[str, Any]) -> None:
    add()
    promised_long_ago()
    edit_schedule("nightly", actor=ACTOR, kinds=KINDS, **changes)
    Beat(KINDS, []).tick()
    assert fires() == []


def test_what_is_due_while_a_schedule_is_paused_is_not_fired_and_not_made_up() -> None:
    add()
    promised_long_ago()
    assert pause_schedule("nightly", actor=ACTOR, in_code=[])
    promised_long_ago()
    Beat(KINDS, []).tick()
    assert resume_schedule("nightly", actor=ACTOR, in_code=[])
    assert not resume_schedule("nightly", actor=ACTOR, in_code=[])
    Beat(KINDS, []).tick()
    assert fires() == []


def test_a_beat_that_has_read_a_schedule_does_not_fire_it_after_it_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    add()
    promised_long_ago()
    beat = Beat(KINDS, [])
    look_at = beat._look_at

    def pause_first(*arguments: Any) -> float:
        pause_schedule("nightly", actor=ACTOR, in_code=[])
        return look_at(*arguments)

    monkeypatch.setattr(beat, "_look_at", pause_first)
    beat.tick()
    assert fires() == []


def test_a_rule_that_is_another_one_in_code_is_promised_from_when_a_beat_sees_it() -> None:
    before, after = Schedule("coded", YEARLY, KIND), Schedule("coded", "0 0 2 1 *", KIND)
    Beat(KINDS, [before]).tick()
    promised_long_ago("coded")
    Beat(KINDS, [after]).tick()
    assert fires() == []
    promised_long_ago("coded")
    Beat(KINDS, [after]).tick()
    assert fires() == ["coded"]


def test_what_a_release_without_the_table_has_left_undone_is_made_up() -> None:
    with all_jobs_session() as session:
        session.add(ScheduleFire(schedule="coded", due_at=LONG_AGO, job_id=SYSTEM_ORGANIZATION_ID))
    Beat(KINDS, [Schedule("coded", YEARLY, KIND)]).tick()
    assert len(fires()) == 2


def test_a_schedule_that_was_changed_while_the_clock_was_ahead_is_not_silent_until_then() -> None:
    add(when=Every(1))
    with all_jobs_session() as session:
        session.execute(update(KeptSchedule).values(since=text("clock_timestamp() + interval '1 year'")))
    Beat(KINDS, []).tick()
    with all_jobs_session() as session:
        assert session.scalars(select(KeptSchedule.since)).one() <= master_time(session)


def test_a_schedule_in_code_can_be_paused_resumed_and_run_and_no_more() -> None:
    coded = Schedule("coded", YEARLY, KIND)
    pause_schedule("coded", actor=ACTOR, in_code=[coded])
    promised_long_ago("coded")
    Beat(KINDS, [coded]).tick()
    assert fires() == []
    assert run_schedule("coded", actor=ACTOR, kinds=KINDS, in_code=[coded]) == jobs()[0].id
    for change in (
        lambda: edit_schedule("coded", actor=ACTOR, kinds=KINDS, priority=1),
        lambda: delete_("coded", coded),
    ):
        with pytest.raises(InvalidArgumentError, match="is defined in code"):
            change()


def delete_(name: str, *in_code: Schedule) -> None:
    delete_schedule(name, actor=ACTOR, in_code=in_code)


def test_run_now_enqueues_a_job_and_takes_no_tick_away() -> None:
    add()
    promised_long_ago()
    job_id = run_schedule("nightly", actor=ACTOR, kinds=KINDS, in_code=[])
    assert [one.id for one in jobs()] == [job_id]
    assert fires() == []
    Beat(KINDS, []).tick()
    assert fires() == ["nightly"]


def test_run_now_sends_a_plain_task() -> None:
    app = build_app(settings())
    plain = TaskSchedule(
        "plain", Every(60), "celery.backend_cleanup", positional=(), named={}, options={}, missed="latest", place="here"
    )
    task_id = run_schedule("plain", actor=ACTOR, kinds=KINDS, in_code=[plain])
    with app.connection_for_write() as connection:
        message = connection.SimpleQueue(app.conf.task_default_queue).get(timeout=10)
    celery_app().set_current()
    assert (message.headers["task"], message.headers["id"]) == ("celery.backend_cleanup", str(task_id))
    assert jobs() == []


def test_a_deleted_schedule_leaves_nothing_to_one_of_its_name() -> None:
    add()
    promised_long_ago()
    Beat(KINDS, []).tick()
    delete_("nightly")
    assert fires() == []
    with pytest.raises(NotFoundError, match="no schedule is called 'nightly'"):
        delete_("nightly")
    add()
    Beat(KINDS, []).tick()
    assert fires() == []


def test_a_name_that_is_taken_is_refused_wherever_it_is_taken() -> None:
    add()
    with pytest.raises(InvalidArgumentError, match="is called 'nightly' already"):
        add()
    coded = Schedule("coded", YEARLY, KIND)
    with pytest.raises(InvalidArgumentError, match=r"'coded', defined at .*test_editing\.py"):
        add_schedule(Schedule("coded", YEARLY, KIND), actor=ACTOR, kinds=KINDS, in_code=[coded])
    Beat(KINDS, [Schedule("elsewhere", YEARLY, KIND)]).tick()
    with pytest.raises(InvalidArgumentError, match="is called 'elsewhere' already"):
        add("elsewhere")


def test_a_schedule_in_code_whose_name_is_taken_in_the_table_is_set_aside_and_that_one_goes_on() -> None:
    add("both")
    promised_long_ago("both")
    coded = Schedule("both", "0 0 2 1 *", KIND)
    beat = Beat(KINDS, [coded])
    beat.tick()
    assert fires() == ["both"]
    with all_jobs_session() as session:
        shown = {one.source: one.problem for one in schedule_states(session, KINDS, [coded])}
    assert shown["table"] is None
    assert "somebody has added another one of this name" in str(shown["code"])


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"kind": "no_such_kind"}, ConfigurationError, "unknown kind 'no_such_kind'"),
        ({"arguments": {"unheard_of": 1}}, InvalidArgumentError, "unheard_of"),
        ({"organization_id": new_id()}, NotFoundError, "the catalog knows no organization"),
        ({"when": Cron("0 0 1 * 1", both_days=True)}, InvalidArgumentError, "cannot be kept as a text"),
    ],
)
def test_what_no_beat_could_fire_is_not_added(options: dict[str, Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        add(**options)
    with all_jobs_session() as session:
        assert session.scalars(select(KeptSchedule)).all() == []


@pytest.mark.parametrize("when", [Every(90), Cron("30 2 * * mon", "Europe/Berlin"), Solar("sunset", 52.5, -13.4)])
def test_a_rule_comes_back_from_the_table_as_it_was(when: Any) -> None:
    add(when=when)
    with all_jobs_session() as session:
        (state,) = schedule_states(session, KINDS, [])
    assert state.schedule is not None
    assert state.schedule.when == when


@pytest.mark.parametrize(
    "broken", [{"rule": "never"}, {"zone": "Mars/Olympus"}, {"arguments": {"a": 1}}, {"kind": "k"}]
)
def test_a_row_that_cannot_be_fired_is_set_aside_and_says_why(broken: dict[str, Any]) -> None:
    add()
    add("good")
    promised_long_ago("good")
    with all_jobs_session() as session:
        session.execute(update(KeptSchedule).where(KeptSchedule.name == "nightly").values(broken))
    Beat(KINDS, []).tick()
    assert fires() == ["good"]
    assert problem_of("nightly")
    assert problem_of("good") is None


def test_each_change_of_a_tenants_schedule_is_in_its_audit_log(tenant: Tenant) -> None:
    add(kind="process_organization", organization_id=tenant.id)
    edit_schedule("nightly", actor=ACTOR, kinds=KINDS, priority=2)
    pause_schedule("nightly", actor=ACTOR, in_code=[])
    resume_schedule("nightly", actor=ACTOR, in_code=[])
    run_schedule("nightly", actor=ACTOR, kinds=KINDS, in_code=[])
    with pytest.raises(ConfigurationError, match="never due"):
        edit_schedule("nightly", actor=ACTOR, kinds=KINDS, when="0 0 30 2 *")
    delete_("nightly")
    entries = list_entries(tenant.id, subject="schedule")[::-1]
    assert [one.action.partition(".")[2] for one in entries] == [
        "added",
        "edited",
        "paused",
        "resumed",
        "run",
        "edited",
        "deleted",
    ]
    assert {(one.actor, one.details["schedule"]) for one in entries} == {(ACTOR, "nightly")}
    assert (entries[1].details["before"]["priority"], entries[1].details["after"]["priority"]) == (None, 2)
    assert "never due" in entries[5].details["failed"]


def test_missed_ticks_are_all_made_up_a_part_at_each_look() -> None:
    add(when=Every(60), missed="all")
    now = datetime.now(UTC)
    with all_jobs_session() as session:
        session.execute(update(KeptSchedule).values(since=now - timedelta(minutes=70)))
    beat = Beat(KINDS, [])
    assert beat.tick() < 1
    assert len(fires()) == 50
    assert beat.tick() > 0
    assert 70 <= len(fires()) <= 72
    assert len({one.id for one in jobs()}) == len(fires())
