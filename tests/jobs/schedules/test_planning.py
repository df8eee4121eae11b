"""Which ticks are fired now; and a year of two beats that are killed at random, in three time zones."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from docworker.db.models import Missed
from docworker.jobs.schedules.cron import Cron
from docworker.jobs.schedules.planning import MOST_MADE_UP, ON_TIME, due_ticks
from docworker.jobs.schedules.rules import Every, When

BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOURLY = Every(3600)


def test_of_what_was_missed_the_latest_tick_is_fired() -> None:
    assert due_ticks(HOURLY, Missed.LATEST, NOON, NOON - 3 * HOUR) == [NOON]
    assert due_ticks(HOURLY, Missed.LATEST, NOON, NOON) == []


def test_of_what_was_missed_all_ticks_are_fired_the_oldest_first_up_to_a_bound() -> None:
    assert due_ticks(HOURLY, Missed.ALL, NOON, NOON - 3 * HOUR) == [NOON - 2 * HOUR, NOON - HOUR, NOON]
    many = due_ticks(HOURLY, Missed.ALL, NOON, NOON - 2 * MOST_MADE_UP * HOUR)
    assert (len(many), many[0], many[-1]) == (MOST_MADE_UP, NOON - (MOST_MADE_UP - 1) * HOUR, NOON)


def test_of_what_was_missed_no_tick_is_fired_but_one_that_is_hardly_late() -> None:
    late = NOON + ON_TIME
    assert due_ticks(HOURLY, Missed.NONE, late, NOON - 3 * HOUR) == [NOON]
    assert due_ticks(HOURLY, Missed.NONE, late + timedelta(seconds=1), NOON - 3 * HOUR) == []


@pytest.mark.parametrize("missed", list(Missed))
def test_what_was_due_before_it_was_promised_is_not_fired(missed: Missed) -> None:
    """`after` is then when the schedule was added, edited or resumed."""
    assert due_ticks(HOURLY, missed, NOON + timedelta(seconds=20), NOON + timedelta(seconds=10)) == []
    assert due_ticks(HOURLY, missed, NOON + timedelta(seconds=20), NOON - timedelta(seconds=10)) == [NOON]


def ticks_of(when: When) -> list[datetime]:
    due = [when.next_after(BEGIN)]
    while due[-1] < END:
        due.append(when.next_after(due[-1]))
    return due[:-1]


class Year:
    """A ledger of ticks with its clock, and beats that look at it and die: before a tick is committed, or after."""

    def __init__(self, when: When, missed: Missed, seed: int) -> None:
        self.when, self.missed, self.random = when, missed, random.Random(seed)
        self.fired: set[datetime] = set()
        self.effects = 0
        self.looks: list[datetime] = []

    def run(self) -> None:
        now = BEGIN
        while True:
            now += timedelta(minutes=self.random.choice([7, 45, 90, 600, 60 * 30]))
            now = min(now, END - timedelta(seconds=1))
            last = self.last
            for _ in range(2):  # both have looked before either fires
                self.look(now, last)
            self.looks.append(now)
            if now == END - timedelta(seconds=1):
                self.look(now, self.last, dies=False)
                return

    @property
    def last(self) -> datetime:
        return max(self.fired, default=BEGIN)

    def look(self, now: datetime, last: datetime, *, dies: bool = True) -> None:
        for tick in due_ticks(self.when, self.missed, now, last):
            if dies and self.random.random() < 0.03:
                return
            self.effects += tick not in self.fired  # as the key of the table of ticks decides
            self.fired.add(tick)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "15,45 1-3 * * *", "*/30 */3 * * *"])
def test_in_a_year_of_killed_beats_each_due_tick_has_one_effect(expression: str, zone: str) -> None:
    year = Year(Cron(expression, zone), Missed.ALL, seed=len(expression + zone))
    year.run()
    assert sorted(year.fired) == ticks_of(year.when)
    assert year.effects == len(year.fired)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "UTC"])
def test_in_a_year_of_killed_beats_what_was_missed_is_made_up_once_by_its_latest_tick(zone: str) -> None:
    year = Year(Cron("*/30 */3 * * *", zone), Missed.LATEST, seed=len(zone))
    year.run()
    due = set(ticks_of(year.when))
    assert year.fired <= due
    assert year.fired <= {year.when.latest_until(look) for look in year.looks}
    assert max(year.fired) == max(due)
