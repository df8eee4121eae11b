"""Entries of `beat_schedule`: what they mean here, and those that mean nothing."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from celery import Celery, shared_task
from celery.schedules import crontab, schedule, solar

from docworker.db.errors import ConfigurationError
from docworker.db.settings import settings
from docworker.jobs.kind import Kind
from docworker.jobs.schedules.celery_entries import Refused, schedules_of
from docworker.jobs.schedules.cron import Cron
from docworker.jobs.schedules.rules import Every, Solar
from docworker.jobs.schedules.schedule import Schedule
from docworker.jobs.schedules.sources import code_schedules
from docworker.jobs.schedules.tasks import TaskSchedule
from docworker.jobs.task import known_kinds
from docworker.worker.app import build_app, celery_app

TENANT = UUID(int=7)
KIND = "process_folder"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@shared_task(name="tests.plain")
def plain(*_: Any, **__: Any) -> None: ...


@pytest.fixture
def app(environment: dict[str, str]) -> Iterator[Celery]:
    yield build_app(settings())
    celery_app().set_current()


def only(app: Celery, **entry: Any) -> Schedule:
    app.conf.beat_schedule = {"entry": {"task": "reconcile_documents", "schedule": 60.0, **entry}}
    kinds: dict[str, Kind] = known_kinds(app)
    (found,) = schedules_of(app, kinds)
    return found


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (30, Every(30)),
        (timedelta(days=1), Every(86_400)),
        (schedule(timedelta(hours=2), relative=True), Every(7200)),
        (crontab(minute=30, hour=2), Cron("30 2 * * *")),
        (crontab(minute="*/15"), Cron("*/15 * * * *")),
        (crontab(0, "8-10", "mon,fri", month_of_year="*/6"), Cron("0 8,9,10 * */6 1,5")),
        (crontab(0, 0, day_of_week="sunday", day_of_month="1-7"), Cron("0 0 1,2,3,4,5,6,7 * 0", both_days=True)),
        (solar("sunset", 52.5, 13.4), Solar("sunset", 52.5, 13.4)),
    ],
)
def test_schedules_of_celery_are_rules_with_absolute_times(app: Celery, given: Any, rule: Any) -> None:
    assert only(app, schedule=given).when == rule


def test_days_of_a_crontab_match_both_fields_as_celery_has_it(app: Celery) -> None:
    first_sunday = only(app, schedule=crontab(0, 0, day_of_week="sun", day_of_month="1-7"))
    due = first_sunday.when.next_after(BEGIN)
    for _ in range(24):
        assert (due.isoweekday(), due.day <= 7) == (7, True)
        due = first_sunday.when.next_after(due)


def test_the_time_zone_is_the_entrys_or_its_clocks_or_the_apps(app: Celery) -> None:
    app.conf.timezone = "Europe/Berlin"
    zones = [
        only(app, schedule=crontab(0, 2)).when,
        only(app, schedule=crontab(0, 2), options={"timezone": "Asia/Tokyo"}).when,
        only(app, schedule=crontab(0, 2, nowfun=lambda: datetime.now(ZoneInfo("Australia/Lord_Howe")))).when,
    ]
    assert [one.zone for one in zones if isinstance(one, Cron)] == [
        "Europe/Berlin",
        "Asia/Tokyo",
        "Australia/Lord_Howe",
    ]


def test_arguments_and_options_of_a_kind(app: Celery) -> None:
    folder = str(UUID(int=3))
    one = only(app, task=KIND, args=(folder,), kwargs={"organization_id": str(TENANT)}, options={"missed": "all"})
    assert (one.kind, one.arguments, one.organization_id, one.missed) == (KIND, {"folder_id": folder}, TENANT, "all")
    other = only(app, task="process_organization", options={"each_organization": True, "priority": 7})
    assert (other.each_organization, other.priority) == (True, 7)
    assert only(app, task="process_organization", options={"organization_id": TENANT}).organization_id == TENANT


def test_a_plain_task_keeps_its_arguments_and_options(app: Celery) -> None:
    one = only(app, task="tests.plain", args=(1,), kwargs={"two": 2}, options={"queue": "other", "expires": 60})
    assert isinstance(one, TaskSchedule)
    assert (one.positional, one.named, one.options) == ((1,), {"two": 2}, {"queue": "other", "expires": 60})


class Odd(crontab):
    def is_due(self, last_run_at: datetime) -> Any:
        return super().is_due(last_run_at)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"task": "no.such.task"}, "there is no task 'no.such.task'"),
        ({"task": None}, "its task is a name"),
        ({"schedule": 0.5}, "whole number of seconds"),
        ({"schedule": "30 2 * * *"}, "its schedule is a crontab"),
        ({"schedule": Odd(0, 2)}, "its schedule is a crontab"),
        ({"schedule": crontab(0, 2), "options": {"timezone": "Mars"}}, "no time zone 'Mars'"),
        ({"options": {"queue": "other"}}, "the option 'queue' means nothing"),
        ({"options": {"missed": "some"}}, "latest, all or none"),
        ({"args": (1, 2)}, "takes 0 arguments, got 2"),
        ({"kwargs": {"at": object()}}, "its arguments cannot be kept as JSON"),
        ({"when": 60}, "when"),
    ],
)
def test_an_entry_that_cannot_be_understood_is_set_aside_with_the_reason(
    app: Celery, entry: dict[str, Any], reason: str
) -> None:
    found = only(app, **entry)
    assert isinstance(found.when, Refused)
    with pytest.raises(ConfigurationError, match=reason):
        found.when.next_after(BEGIN)


def test_an_entry_of_the_name_of_another_schedule_is_refused(app: Celery) -> None:
    app.conf.beat_schedule = {"prune_jobs": {"task": "reconcile_documents", "schedule": 60.0}}
    with pytest.raises(ConfigurationError, match="two schedules are called 'prune_jobs'"):
        code_schedules(schedules_of(app, known_kinds(app)))
