"""How ledgers share what all of them take from: by how many organizations wait in each, and at once."""

from collections import Counter

import pytest

from docworker.jobs.kind import Arguments, Kind
from docworker.worker.dispatcher.shares import WANTS_SECONDS, Caps, Shares, Window


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def kind(max_running: int) -> Kind:
    return Kind(
        name="capped",
        arguments=Arguments,
        run=lambda _: None,
        max_attempts=3,
        priority=5,
        takes_batches=False,
        soft_limit_seconds=10,
        hard_limit_seconds=20,
        max_running=max_running,
    )


def served(shares: Shares, waiting: dict[str, int], rounds: int) -> Counter[str]:
    """One place becomes free at a time, and all look for it in turn."""
    taken: Counter[str] = Counter()
    for _ in range(rounds):
        free = 1
        for name, organizations in waiting.items():
            mine = shares.take(name, free)
            shares.took(name, mine, waiting=organizations)
            taken[name] += mine
            free -= mine
    return taken


def test_one_ledger_takes_all_there_is(clock: Clock) -> None:
    window = Window(4, clock)
    window.join("home")
    for number in range(3):
        assert window.take("home", depth=number, just_sent=0, asked_at=clock.seconds) == 4 - number
        window.took("home", 4 - number, waiting=9)
    assert window.share_of("home") == 4
    assert window.waiting("home", depth=3, asked_at=clock.seconds, sent=2) == 5


def test_places_that_become_free_one_at_a_time_go_to_each_by_its_organizations(clock: Clock) -> None:
    shares = Shares(2.0, clock)
    served(shares, {"home": 3, "east": 1}, 8)
    assert served(shares, {"home": 3, "east": 1}, 400) == {"home": 300, "east": 100}


def test_many_places_at_once_are_divided_by_organizations(clock: Clock) -> None:
    shares = Shares(2.0, clock)
    shares.took("home", 0, waiting=3)
    shares.took("east", 0, waiting=1)
    assert shares.take("home", 8) == 6
    assert shares.take("east", 8) == 2
    assert (shares.of("home", 8), shares.of("east", 8)) == (6, 2)


def test_who_has_nothing_takes_no_room(clock: Clock) -> None:
    shares = Shares(2.0, clock)
    for _ in range(5):
        shares.take("east", 4)
        shares.took("east", 0, waiting=0)
        assert shares.take("home", 4) == 4
        shares.took("home", 4, waiting=1)


def test_who_comes_late_is_served_next_and_gets_nothing_for_the_time_before(clock: Clock) -> None:
    shares = Shares(2.0, clock)
    served(shares, {"home": 1000}, 5000)
    shares.took("east", 0, waiting=1)
    assert shares.take("home", 1) + shares.take("east", 1) == 1
    shares.took("home", 0, waiting=1000)
    shares.took("east", 0, waiting=1)
    assert served(shares, {"east": 1, "home": 1000}, 3)["east"] == 1
    assert served(shares, {"east": 1, "home": 1000}, 500)["east"] <= 1


def test_what_one_may_be_taking_nobody_else_takes(clock: Clock) -> None:
    shares = Shares(2.0, clock)
    assert shares.take("east", 4) == 4
    assert shares.take("home", 4) == 0
    shares.took("east", 1, waiting=0)
    assert shares.take("home", 3) == 3


def test_for_one_that_falls_silent_nothing_is_kept(clock: Clock) -> None:
    shares = Shares(2.0, clock)
    shares.took("east", 0, waiting=1000)
    shares.take("home", 4)
    shares.took("home", 4, waiting=1)
    assert shares.take("home", 4) < 4
    shares.take("east", 4)
    clock.seconds += WANTS_SECONDS
    assert shares.take("home", 4) == 4


def test_for_one_that_comes_seldom_its_part_is_kept_until_it_comes_or_leaves(clock: Clock) -> None:
    window = Window(4, clock)
    for name in ("home", "east"):
        window.join(name)
    window.took("east", 0, waiting=1, wants_seconds=10 * WANTS_SECONDS)
    clock.seconds += 5 * WANTS_SECONDS
    window.took("home", 4, waiting=1)
    assert window.take("home", depth=0, just_sent=0, asked_at=clock.seconds) < 4
    window.took("home", 0, waiting=1)
    window.leave("east")
    window.join("west")
    assert window.take("home", depth=0, just_sent=0, asked_at=clock.seconds) == 4


def test_what_others_have_sent_since_the_look_at_the_broker_takes_room(clock: Clock) -> None:
    window = Window(4, clock)
    for name in ("home", "east"):
        window.join(name)
    asked_at = clock.seconds
    clock.seconds += 0.1
    assert window.take("east", depth=0, just_sent=0, asked_at=asked_at) == 4
    window.took("east", 3, waiting=0)
    assert window.take("home", depth=0, just_sent=0, asked_at=asked_at) == 1


def test_of_the_messages_at_the_broker_the_newest_wait(clock: Clock) -> None:
    window = Window(4, clock)
    for name in ("home", "east"):
        window.join(name)
    window.took("east", 1, waiting=0)
    window.took("home", 3, waiting=0)
    clock.seconds += 1
    assert window.waiting("east", depth=3, asked_at=clock.seconds, sent=0) == 0
    assert window.waiting("east", depth=4, asked_at=clock.seconds, sent=0) == 1
    assert window.waiting("home", depth=3, asked_at=clock.seconds, sent=0) == 3
    assert window.waiting("home", depth=9, asked_at=clock.seconds, sent=0) == 8, "nobody knows whose the others are"


def test_a_cap_is_for_all_ledgers_together(clock: Clock) -> None:
    caps = Caps({"capped": kind(3), "free": kind(3)}, 10, clock)
    caps.know("east", {"capped": 2})
    assert caps.take("home", {"capped": 0})("capped") == 1
    assert caps.take("east", {"capped": 2})("capped") == 2, "home may be taking it"
    assert caps.took("home", {"capped": 1}, {})
    assert caps.take("east", {"capped": 2})("capped") == 2
    caps.know("home", {})
    assert caps.take("east", {"capped": 1})("capped") == 3


def test_the_jobs_of_a_ledger_that_has_not_answered_for_a_lease_hold_no_place(clock: Clock) -> None:
    caps = Caps({"capped": kind(1)}, 10, clock)
    caps.know("east", {"capped": 1})
    assert caps.take("home", {})("capped") == 0
    clock.seconds += 10
    assert caps.take("home", {})("capped") == 1


def test_at_the_start_places_wait_for_what_the_others_run(clock: Clock) -> None:
    caps = Caps({"capped": kind(1)}, 10, clock)
    for name in ("home", "east"):
        caps.join(name)
    assert caps.take("home", {})("capped") == 0
    caps.know("east", {})
    assert caps.take("home", {})("capped") == 1
