"""When somebody has watched the master without a break, as numbers."""

import pytest

from docworker.jobs.execution.continuity import CLOCK_TOLERANCE_SECONDS, PROMPT_SECONDS, Continuity

STARTED = 1_000.0
CLOCK_AHEAD = 500_000.0
"""By how much the master's clock differs from the monotonic one."""


class Watch:
    """Looks at a master whose clock and whose answers are the test's."""

    def __init__(self) -> None:
        self.continuity = Continuity()
        self.now = STARTED
        self.ahead = CLOCK_AHEAD

    def look(self, *, after: float = 0.5, takes: float = 0.0) -> bool:
        asked_at = self.now + after
        self.now = asked_at + takes
        return self.continuity.looked(asked_at=asked_at, answered_at=self.now, master_seconds=self.now + self.ahead)

    def look_for(self, seconds: float) -> "Watch":
        for _ in range(round(seconds / 0.5)):
            self.look()
        return self

    @property
    def seconds(self) -> float:
        return self.continuity.seconds(self.now)


def test_it_grows_from_the_first_look_on() -> None:
    watch = Watch()
    assert watch.seconds == 0
    assert not watch.look()
    assert watch.seconds == 0
    watch.look_for(10)
    assert watch.seconds == pytest.approx(10)


@pytest.mark.parametrize(
    ("after", "takes"),
    [
        pytest.param(PROMPT_SECONDS + 0.1, 0, id="held up between two looks"),
        pytest.param(0.5, PROMPT_SECONDS + 0.1, id="held up in a look"),
        pytest.param(9, 15, id="held up in both"),
    ],
)
def test_a_stall_begins_it_anew(after: float, takes: float) -> None:
    watch = Watch().look_for(10)
    assert not watch.look(after=after, takes=takes)
    assert watch.seconds == 0
    assert watch.look_for(3).seconds == pytest.approx(3)


@pytest.mark.parametrize(
    ("step", "takes", "ahead"),
    [(0.0, 0.0, 0.0), (3600.0, 0.0, 3600.0), (3600.0, 5.0, 3600.0), (-3600.0, 0.0, 0.0), (0.0, 60.0, 0.0)],
)
def test_it_knows_by_how_much_at_least_a_clock_was_set_ahead(step: float, takes: float, ahead: float) -> None:
    watch = Watch().look_for(10)
    watch.continuity.broke()
    watch.ahead += step
    watch.look(takes=takes)
    assert watch.continuity.set_ahead_seconds == pytest.approx(ahead)
    watch.look()
    assert watch.continuity.set_ahead_seconds == 0


@pytest.mark.parametrize("step", [3600.0, -3600.0, CLOCK_TOLERANCE_SECONDS + 0.1])
def test_a_clock_that_was_set_begins_it_anew(step: float) -> None:
    watch = Watch().look_for(10)
    watch.ahead += step
    assert not watch.look()
    assert watch.look_for(3).seconds == pytest.approx(3)


def test_a_clock_that_is_steered_does_not() -> None:
    watch = Watch().look_for(10)
    for _ in range(20):
        watch.ahead += CLOCK_TOLERANCE_SECONDS / 10
        assert watch.look()
    assert watch.seconds > 19


def test_a_look_that_failed_begins_it_anew() -> None:
    watch = Watch().look_for(10)
    watch.continuity.broke()
    assert watch.seconds == 0
    assert not watch.look()
    assert watch.seconds == 0


def test_nobody_is_trusted_who_has_not_looked_for_long() -> None:
    """As one who was frozen since, and goes on where he stood."""
    watch = Watch().look_for(10)
    watch.now += PROMPT_SECONDS + 0.1
    assert watch.seconds == 0


def test_the_masters_time_goes_on_from_the_latest_look() -> None:
    watch = Watch().look_for(10)
    seen = watch.now
    watch.ahead += 3600
    watch.now += 1
    assert watch.continuity.master_seconds(watch.now) == pytest.approx(seen + CLOCK_AHEAD + 1)
    watch.continuity.broke()
    with pytest.raises(LookupError):
        watch.continuity.master_seconds(watch.now)
