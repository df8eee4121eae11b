"""Due times where clocks are changed: a whole year, compared with a slow look at each of its minutes."""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest

from docworker.db.errors import ConfigurationError
from docworker.jobs.schedules.cron import Cron
from docworker.jobs.schedules.rules import Every, Solar

ZONES = ["Europe/Berlin", "America/Santiago", "Australia/Lord_Howe"]
"""North; south, where clocks change at midnight; south, by half an hour."""
BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
EXPRESSIONS = [
    "30 2 * * *",
    "0 0 * * *",
    "15,45 0-3 * * *",
    "0 2 29 3 *",
    "30 1 * * sun",
    "*/20 * * * *",
    "15 * * * *",
    "10 */2 * * *",
    "* 2 * * *",
]


class Shown(NamedTuple):
    """What a clock shows at a moment, and what it did not show before that although it should have."""

    moment: datetime
    wall: datetime
    is_repeated: bool
    skipped: tuple[datetime, ...]


@cache
def minutes(zone: str) -> list[Shown]:
    """Every zone's clock is changed at a full half hour."""
    shown: list[Shown] = []
    before: datetime | None = None
    for half_hour in range((END - BEGIN) // (30 * MINUTE)):
        moment = BEGIN + half_hour * 30 * MINUTE
        local = moment.astimezone(ZoneInfo(zone))
        wall = local.replace(tzinfo=None, fold=0)
        gap = 0 if before is None else max(0, round((wall - before) / MINUTE) - 1)
        skipped = tuple(wall - number * MINUTE for number in range(1, gap + 1))
        for number in range(30):
            before = wall + number * MINUTE
            shown.append(Shown(moment + number * MINUTE, before, local.fold == 1, () if number else skipped))
    return shown


def values(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.replace("sun", "0").split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        found |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


def slow_ticks(expression: str, zone: str) -> list[datetime]:
    """As docs/jobs.md has it: times of day once, after the gap if they are skipped; others whenever they are shown."""
    minute, hour, day, month, weekday = expression.split()
    of_minute, of_hour = values(minute, 0, 59), values(hour, 0, 23)
    of_day, of_month, of_week = values(day, 1, 31), values(month, 1, 12), values(weekday, 0, 6)

    def matches(wall: datetime) -> bool:
        return (
            wall.minute in of_minute
            and wall.hour in of_hour
            and wall.day in of_day
            and wall.month in of_month
            and wall.isoweekday() % 7 in of_week
        )

    is_time_of_day = minute[0] != "*" and hour[0] != "*"
    return [
        one.moment
        for one in minutes(zone)
        if (matches(one.wall) and not (is_time_of_day and one.is_repeated))
        or (is_time_of_day and any(map(matches, one.skipped)))
    ]


def forwards(rule: Cron) -> Iterator[datetime]:
    due = rule.next_after(BEGIN - MINUTE)
    while due < END:
        yield due
        due = rule.next_after(due)


def backwards(rule: Cron) -> Iterator[datetime]:
    due = rule.latest_until(END - MINUTE)
    while due is not None and due >= BEGIN:
        yield due
        due = rule.latest_until(due - timedelta(microseconds=1))


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_year_of_ticks_is_what_a_look_at_each_minute_finds(expression: str, zone: str) -> None:
    due = slow_ticks(expression, zone)
    rule = Cron(expression, zone)
    assert list(forwards(rule)) == due
    assert list(backwards(rule))[::-1] == due


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", ["30 1,2 * * *", "*/5 * * * *", "59 0-3 * * *"])
def test_at_each_minute_around_a_change_the_ticks_before_and_after_are_its_neighbours(
    expression: str, zone: str
) -> None:
    rule, due = Cron(expression, zone), slow_ticks(expression, zone)
    shown = minutes(zone)
    changes = [at for at, one in enumerate(shown) if one.skipped or (one.is_repeated and not shown[at - 1].is_repeated)]
    assert len(changes) == 2
    for at in changes:
        for one in shown[at - 200 : at + 200]:
            moment = one.moment + timedelta(seconds=30)
            following = bisect_right(due, moment)
            assert rule.next_after(moment) == due[following]
            assert rule.latest_until(moment) == due[following - 1]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("expression", "zone", "after", "following"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00+02:00", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("30 * * * *", "Europe/Berlin", "2026-10-25T01:45+02:00", ["2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"]),
        (
            "0 2,3 * * *",
            "Europe/Berlin",
            "2026-03-29T01:00+01:00",
            ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"],
        ),
        ("0 0 * * *", "Pacific/Apia", "2011-12-29T12:00-10:00", ["2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00"]),
    ],
)
def test_ticks_where_a_clock_is_changed(expression: str, zone: str, after: str, following: list[str]) -> None:
    moment = at(after)
    for one in following:
        moment = Cron(expression, zone).next_after(moment)
        assert moment == at(one)


def test_periods_keep_their_pace_whatever_clocks_show() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    moment = datetime(2026, 10, 25, 1, 0, tzinfo=berlin)
    assert Every(3600).next_after(moment) - Every(3600).latest_until(moment) == timedelta(hours=1)


def test_the_sun_rises_at_the_same_moment_for_everybody() -> None:
    sunrise = Solar("sunrise", 52.5, 13.4)
    due = sunrise.next_after(BEGIN)
    assert at("2026-01-01T08:10+01:00") < due < at("2026-01-01T08:25+01:00")
    following = sunrise.next_after(due)
    asked = [due + number * timedelta(minutes=97) for number in range(15)]
    assert {sunrise.next_after(one) for one in asked} == {following}
    assert {sunrise.latest_until(one) for one in asked} == {due}


def test_where_the_sun_does_not_rise_nothing_is_due() -> None:
    tromso = Solar("sunrise", 69.65, 18.96)
    before = tromso.latest_until(datetime(2026, 12, 24, tzinfo=UTC))
    assert before is not None
    assert (before.month, tromso.next_after(before).month) == (11, 1)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", None, 7])
def test_a_zone_that_is_not_known_is_refused(zone: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no time zone"):
        Cron("0 0 * * *", zone)


@pytest.mark.parametrize("place", [("moonrise", 0, 0), ("sunset", 91, 0), ("sunset", 0, 181), ("sunset", "x", 0)])
def test_what_is_no_event_or_no_place_is_refused(place: tuple[str, float, float]) -> None:
    with pytest.raises(ConfigurationError, match="solar"):
        Solar(*place)
