"""When the dispatcher looks again, as numbers; that it does so is tested with the dispatcher."""

import pytest

from docworker.worker.dispatcher.pace import (
    AFTER_SENDING_SECONDS,
    LONGEST_WHILE_FULL_SECONDS,
    SHORTEST_SECONDS,
    Pace,
)

WINDOW = 4
LONGEST = 0.5


def look(pace: Pace, *, sent: int, room: int) -> Pace:
    pace.looked(sent=sent, room=room, window=WINDOW, look_seconds=0.004)
    return pace


def settled(pace: Pace, *, sent: int, room: int) -> float:
    for _ in range(50):
        look(pace, sent=sent, room=room)
    return pace.seconds


def test_looks_are_farther_and_farther_apart_while_nothing_is_due() -> None:
    pace = Pace(LONGEST)
    waits = [look(pace, sent=0, room=WINDOW).seconds for _ in range(50)]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST


def test_it_looks_again_soon_after_it_has_sent_all_there_was() -> None:
    pace = Pace(LONGEST)
    settled(pace, sent=0, room=WINDOW)
    assert look(pace, sent=1, room=WINDOW).seconds == AFTER_SENDING_SECONDS


def test_it_looks_again_at_once_amid_a_round_that_has_sent_nothing_yet() -> None:
    pace = Pace(LONGEST)
    settled(pace, sent=0, room=WINDOW)
    pace.looked(sent=0, room=WINDOW, window=WINDOW, look_seconds=0.004, is_amid=True)
    assert pace.seconds == SHORTEST_SECONDS
    assert pace.listens
    pace.seconds = before = 0.05
    pace.looked(sent=WINDOW, room=WINDOW, window=WINDOW, look_seconds=0.004, is_amid=True)
    assert SHORTEST_SECONDS < pace.seconds < before


def test_a_ring_makes_it_look_soon() -> None:
    pace = Pace(LONGEST)
    settled(pace, sent=0, room=WINDOW)
    pace.notified()
    assert pace.seconds == 0, "nobody asked for the look before"


def test_it_is_deaf_while_nothing_can_be_sent_anyway() -> None:
    pace = Pace(LONGEST)
    assert not look(pace, sent=2, room=2).listens
    assert not look(pace, sent=0, room=0).listens
    assert look(pace, sent=1, room=2).listens


@pytest.mark.parametrize(
    ("room", "direction"), [(4, -1), (3, -1), (2, 0), (1, 1), (0, 1)], ids=lambda value: f"{value:+d}"
)
def test_with_a_backlog_it_comes_when_half_of_the_window_is_free(room: int, direction: int) -> None:
    pace = Pace(LONGEST)
    pace.seconds = before = 0.05
    look(pace, sent=room, room=room)
    assert (pace.seconds > before) - (pace.seconds < before) == direction


@pytest.mark.parametrize("room", range(WINDOW + 1))
def test_a_backlog_that_nobody_rang_for_is_not_dispatched_at_the_pace_of_an_idle_system(room: int) -> None:
    pace = Pace(30)
    pace.seconds = 30
    assert look(pace, sent=room, room=room).seconds <= LONGEST_WHILE_FULL_SECONDS


def test_its_waits_have_bounds() -> None:
    assert settled(Pace(LONGEST), sent=WINDOW, room=WINDOW) == SHORTEST_SECONDS
    assert settled(Pace(LONGEST), sent=0, room=0) == LONGEST_WHILE_FULL_SECONDS
    assert settled(Pace(0.1), sent=0, room=0) == 0.1


@pytest.mark.parametrize("sent", [0, 1])
def test_where_somebody_rings_all_the_time_a_ring_waits_for_a_share_of_the_time_a_look_takes(sent: int) -> None:
    pace = Pace(LONGEST)
    for _ in range(3):
        pace.notified()
        pace.looked(sent=sent, room=WINDOW, window=WINDOW, look_seconds=0.01)
        pace.seconds = LONGEST
        pace.notified()
        assert pace.seconds == 0.005
        pace.notified()
        assert pace.seconds == 0.005


def test_a_ring_is_answered_at_once_after_a_look_that_nobody_asked_for_and_found_nothing() -> None:
    pace = Pace(LONGEST)
    pace.notified()
    for _ in range(2):
        pace.looked(sent=0, room=WINDOW, window=WINDOW, look_seconds=0.01)
    pace.notified()
    assert pace.seconds == 0


def test_a_ring_never_makes_it_look_later() -> None:
    pace = Pace(LONGEST)
    pace.notified()
    pace.looked(sent=0, room=WINDOW, window=WINDOW, look_seconds=20)
    before = pace.seconds
    pace.notified()
    assert pace.seconds == before


def test_a_failure_is_not_repeated_at_once_whoever_rings() -> None:
    pace = Pace(LONGEST)
    for _ in range(50):
        pace.failed()
    assert pace.seconds == LONGEST
    assert not pace.listens
