"""Waiting for something to become true, with a deadline: instead of sleeping and hoping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, within_seconds: float = 10, what: str = "") -> T:
    """Poll `condition` until it is true, and return what it gave.

    An AssertionError it raises counts as "not yet", so that a condition may consist of asserts (and then returns
    nothing); the last one is what a failure shows.
    """
    deadline = time.monotonic() + within_seconds
    pause = 0.005
    while True:
        complaint: AssertionError | None = None
        try:
            value = condition()
        except AssertionError as error:
            complaint = error
        else:
            if value or value is None:
                return value
        if time.monotonic() > deadline:
            shown = f"last: {complaint}" if complaint else f"last value: {value!r}"
            raise AssertionError(f"{what or 'condition'}: not within {within_seconds:g} s; {shown}") from complaint
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
