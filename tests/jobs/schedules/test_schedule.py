"""When schedules are due: arithmetic, without a clock."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docworker.db.errors import ConfigurationError
from docworker.jobs.schedules.schedule import SCHEDULES, Cron, Every, Schedule, distinct

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EXPRESSIONS = ["* * * * *", "*/5 * * * *", "7 * * * *", "23 2 * * *", "0 9 * * 1", "0 0 1 * *", "0 0 29 2 *"]
MOMENTS = st.integers(10**9, 4 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@pytest.mark.parametrize(
    ("expression", "latest", "following"),
    [
        ("7 * * * *", datetime(2026, 11, 21, 11, 7, tzinfo=UTC), datetime(2026, 11, 21, 12, 7, tzinfo=UTC)),
        ("0 12 * * *", NOON, datetime(2026, 11, 22, 12, 0, tzinfo=UTC)),
        ("23 2 * * *", datetime(2026, 11, 21, 2, 23, tzinfo=UTC), datetime(2026, 11, 22, 2, 23, tzinfo=UTC)),
        ("0 9 * * 1", datetime(2026, 11, 16, 9, 0, tzinfo=UTC), datetime(2026, 11, 23, 9, 0, tzinfo=UTC)),
        ("0 0 29 2 *", datetime(2024, 2, 29, tzinfo=UTC), datetime(2028, 2, 29, tzinfo=UTC)),
    ],
)
def test_cron_knows_the_tick_before_and_after(expression: str, latest: datetime, following: datetime) -> None:
    assert Cron(expression).latest_until(NOON) == latest
    assert Cron(expression).next_after(NOON) == following


@given(MOMENTS, st.sampled_from(EXPRESSIONS))
def test_no_tick_lies_between_the_latest_and_the_next(moment: datetime, expression: str) -> None:
    cron = Cron(expression)
    latest, following = cron.latest_until(moment), cron.next_after(moment)

    assert latest is not None
    assert latest <= moment < following
    assert cron.next_after(latest) == following


@given(MOMENTS, st.integers(1, 10**6))
def test_intervals_are_the_same_for_every_beat(moment: datetime, seconds: int) -> None:
    every = Every(seconds)
    latest, following = every.latest_until(moment), every.next_after(moment)

    assert latest <= moment < following
    assert following - latest == timedelta(seconds=seconds)
    assert every.latest_until(following) == following


MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


def slow_values(text: str, names: list[str], first: int, last: int) -> set[int]:
    """What one field means, by trying each number against each part."""

    def number(word: str) -> int:
        return names.index(word) + (1 if first == 1 else 0) if word in names else int(word)

    def matches(value: int, part: str) -> bool:
        span, _, step = part.partition("/")
        low, _, high = span.partition("-")
        bounds = (first, last) if span == "*" else (number(low), number(high or low))
        return bounds[0] <= value <= bounds[1] and (value - bounds[0]) % int(step or 1) == 0

    return {value for value in range(first, last + 1) if any(matches(value, part) for part in text.split(","))}


def slow_is_due(expression: str, moment: datetime) -> bool:
    """crontab(5) as it reads, for one minute."""
    minute, hour, day, month, weekday = expression.lower().split()
    of_week = {value % 7 for value in slow_values(weekday, ["sun", "mon", "tue", "wed", "thu", "fri", "sat"], 0, 7)}
    on_day = moment.day in slow_values(day, [], 1, 31)
    on_weekday = moment.isoweekday() % 7 in of_week
    restricted = day[0] != "*" and weekday[0] != "*"
    return (
        moment.minute in slow_values(minute, [], 0, 59)
        and moment.hour in slow_values(hour, [], 0, 23)
        and moment.month
        in slow_values(
            month, ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1, 12
        )
        and (on_day or on_weekday if restricted else on_day and on_weekday)
    )


def numbers(low: int, high: int) -> st.SearchStrategy[str]:
    spans = st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda pair: "{}-{}".format(*sorted(pair)))
    steps = st.integers(1, high)
    part = st.one_of(
        st.integers(low, high).map(str),
        spans,
        st.tuples(spans, steps).map(lambda pair: "{}/{}".format(*pair)),
        steps.map(lambda step: f"*/{step}"),
    )
    return st.one_of(st.just("*"), st.lists(part, min_size=1, max_size=3).map(",".join))


# Hours and minutes are few, so that each day need be looked at a few times only.
EXPRESSION = st.tuples(
    st.sampled_from(["0", "59", "7"]),
    st.sampled_from(["0", "23", "12", "0,23"]),
    numbers(1, 31),
    st.one_of(numbers(1, 12), st.sampled_from(["feb", "jan-mar", "FEB,dec", "2"])),
    st.one_of(numbers(0, 7), st.sampled_from(["mon", "Mon-Fri", "sun", "7", "fri,sun", "5-7"])),
).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(EXPRESSION, st.integers(1890, 2120), st.integers(0, 365 * 24 * 60))
def test_cron_is_due_as_crontab_5_says(expression: str, year: int, minutes: int) -> None:
    leap = datetime(2024, 1, 1, tzinfo=UTC)
    days = [leap + timedelta(days=number) for number in range(366)]
    day, month, weekday = expression.split()[2:]
    is_possible = any(slow_is_due(f"* * {day} {month} *", one) for one in days)
    if not is_possible and (day[0] == "*" or weekday[0] == "*"):
        with pytest.raises(ConfigurationError, match="never due"):
            Cron(expression)
        return
    cron = Cron(expression)
    moment = datetime(year, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    following, latest = cron.next_after(moment), cron.latest_until(moment)
    assert latest is not None
    assert latest <= moment < following
    assert slow_is_due(expression, following)
    assert slow_is_due(expression, latest)
    minute, hours = int(expression.split()[0]), [int(hour) for hour in expression.split()[1].split(",")]
    midnight = latest.replace(hour=0, minute=0)
    for _ in range(min((following - latest).days + 1, 1500)):
        for hour in hours:
            due = midnight.replace(hour=hour, minute=minute)
            assert not (latest < due < following and slow_is_due(expression, due)), due
        midnight += timedelta(days=1)


@pytest.mark.parametrize(
    ("expression", "following"),
    [
        ("0 0 13 * 5", [(2026, 11, 27), (2026, 12, 4), (2026, 12, 11), (2026, 12, 13), (2026, 12, 18)]),
        ("0 0 * * 7", [(2026, 11, 22), (2026, 11, 29)]),
        ("0 0 * * fri-sun", [(2026, 11, 22), (2026, 11, 27), (2026, 11, 28), (2026, 11, 29)]),
        ("0 0 1 jan,Jul *", [(2027, 1, 1), (2027, 7, 1)]),
        ("0 0 */10 * 1", [(2026, 12, 21), (2027, 1, 11), (2027, 2, 1)]),
        ("0 0 29 2 *", [(2028, 2, 29), (2032, 2, 29)]),
        ("0 0 30 2 1", [(2027, 2, 1), (2027, 2, 8)]),
    ],
)
def test_days_are_those_of_crontab_5(expression: str, following: list[tuple[int, int, int]]) -> None:
    moment = NOON
    for year, month, day in following:
        moment = Cron(expression).next_after(moment)
        assert moment == datetime(year, month, day, tzinfo=UTC)


def test_a_leap_day_is_found_across_a_century_without_one() -> None:
    cron = Cron("0 0 29 2 *")
    assert cron.next_after(datetime(2096, 3, 1, tzinfo=UTC)) == datetime(2104, 2, 29, tzinfo=UTC)
    assert cron.latest_until(datetime(2104, 2, 28, tzinfo=UTC)) == datetime(2096, 2, 29, tzinfo=UTC)


def test_times_of_other_zones_are_the_same_moments() -> None:
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    assert Cron("0 12 * * *").latest_until(tokyo) == NOON


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("0 0 30 2 *", "never due"),
        ("0 0 31 4,6,9,11 *", "never due"),
        ("61 * * * *", "minute '61' is not a number from 0 to 59"),
        ("* 24 * * *", "hour '24'"),
        ("* * 0 * *", "day of month '0'"),
        ("* * * 13 *", "month '13' is not a number from 1 to 12 or a name .jan"),
        ("* * * * 8", "day of week '8' is not a number from 0 to 7 or a name .sun"),
        ("* * * * monday", "day of week 'monday'"),
        ("5-1 * * * *", "ends before it begins"),
        ("*/0 * * * *", "a step is a number from 1 to 60"),
        ("5/10 * * * *", "a step goes over . or a range, such as 5-59/2"),
        ("-1 * * * *", "minute ''"),
        ("1,,2 * * * *", "minute ''"),
        ("1-2-3 * * * *", "minute '2-3'"),
        ("*/x * * * *", "a step is a number"),
        ("\u0661 * * * *", "is not a number"),
        ("* * * *", "has 4 fields"),
        ("* * * * * *", "has 6 fields"),
        ("@daily", "has 1 fields"),
        ("", "has 0 fields"),
        (None, "a cron expression is a text"),
        (7, "a cron expression is a text"),
    ],
)
def test_an_expression_that_is_no_crontab_is_refused(expression: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Cron(expression)


@pytest.mark.parametrize("seconds", [0, -5, 1.5, "60", True, None, 10**12, 10**400])
def test_a_period_that_is_no_number_of_seconds_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="a whole number of seconds from 1 to"):
        Every(seconds)


@pytest.mark.parametrize(
    ("name", "when", "kind", "arguments", "reason"),
    [
        ("leap", "0 0 30 2 *", "k", None, "schedule 'leap', defined at .*test_schedule.py:[0-9]+: .*'0 0 30 2 ."),
        ("s", 60, "k", None, "due times come from Every, Cron, Solar or a cron expression, got 60"),
        ("", Every(1), "k", None, "its name has 1 to 200 characters"),
        ("a\x00b", Every(1), "k", None, "a NUL character"),
        (7, Every(1), "k", None, "its name is a text, got 7"),
        ("s", Every(1), "", None, "the name of a kind"),
        ("s", Every(1), "k", {"at": float("nan")}, "its arguments cannot be kept as JSON"),
        ("s", Every(1), "k", [1], "its arguments cannot be kept as JSON"),
    ],
)
def test_a_schedule_that_is_wrong_by_itself_is_refused_where_it_is_defined(
    name: Any, when: Any, kind: str, arguments: Any, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Schedule(name, when, kind, arguments)


def test_two_schedules_of_one_name_are_refused_and_both_places_named() -> None:
    one = Schedule("twice", Every(60), "k")
    other = Schedule("twice", "7 * * * *", "k")
    with pytest.raises(ConfigurationError, match="two schedules are called 'twice'") as refused:
        distinct(one, Schedule("once", Every(60), "k"), other)
    assert one.place != other.place
    assert {one.place, other.place} <= set(str(refused.value).replace(";", "").replace(",", "").split())


def test_names_of_schedules_are_unique() -> None:
    assert len({one.name for one in SCHEDULES}) == len(SCHEDULES)
