"""When schedules are due: arithmetic, without a clock."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.schedule import SCHEDULES, Cron, Every

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


def test_an_expression_that_is_no_crontab_is_refused() -> None:
    with pytest.raises(ValueError, match="61"):
        Cron("61 * * * *")


def test_names_of_schedules_are_unique() -> None:
    assert len({one.name for one in SCHEDULES}) == len(SCHEDULES)
