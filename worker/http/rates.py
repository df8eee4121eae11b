"""`Rates`: how often each of many has asked of late.

Counted in this process alone, and forgotten with it: what several processes let in together is their sum.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable

MOST_REMEMBERED = 10_000


class Rates:
    """A bucket for each of those that asked last: it holds `most`, and fills by `per_second`."""

    def __init__(self, per_second: float, *, most: float) -> None:
        self._per_second = per_second
        self._most = most
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def seconds_to_wait(self, who: Hashable, now: float) -> float:
        """0 where it may ask now, which is counted; else how long until it may. `now` is in seconds of a clock that is
        never set back."""
        with self._lock:
            left, at = self._left.pop(who, (self._most, now))
            left = min(self._most, left + (now - at) * self._per_second)
            is_allowed = left >= 1.0
            self._left[who] = (left - 1.0 if is_allowed else left, now)
            if len(self._left) > MOST_REMEMBERED:
                self._left.popitem(last=False)
        return 0.0 if is_allowed else (1.0 - left) / self._per_second
