"""`Watchdog`: notices a worker that is alive but deaf: idle slots, waiting messages, and none taken for too long.

It looks at the broker over a connection of its own. A broker that does not answer, or refuses, is an outage and not
deafness. The cure is a fresh link to the broker, and when that does not help either, a fresh process.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from docworker.worker.brokers.depth import PROBE_TIMEOUT_SECONDS

log = structlog.get_logger(__name__)

LONGEST_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True)
class Activity:
    """What the worker does: messages begun since its start, slots that could begin another one now, and errors of its
    link to the broker since its start."""

    begun: int
    idle_slots: int
    link_errors: int


class Watchdog:
    """`look()` once in a while; a thread does so from `start()` until the worker is to end, and then calls `end`.

    `get_fresh_link` is called before, and `end` only if nothing is begun over the fresh link either.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        waiting: Callable[[], int | None],
        activity: Callable[[], Activity],
        get_fresh_link: Callable[[], Any],
        end: Callable[[], Any],
    ) -> None:
        self.waiting: int | None = None
        self.looked_at: float | None = None
        self._timeout_seconds = timeout_seconds
        self._interval_seconds = min(LONGEST_INTERVAL_SECONDS, timeout_seconds / 4)
        self._ask_waiting = waiting
        self._activity = activity
        self._get_fresh_link = get_fresh_link
        self._end = end
        self._begun = self._link_errors = -1
        self._deaf_since: float | None = None
        self._link_is_fresh = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _run(self) -> None:
        while not self.look():
            time.sleep(self._interval_seconds)
        self._end()

    @property
    def broker_answers(self) -> bool:
        """Whether the broker answered a moment ago."""
        fresh_seconds = 3 * (self._interval_seconds + PROBE_TIMEOUT_SECONDS)
        is_fresh = self.looked_at is not None and time.monotonic() - self.looked_at < fresh_seconds
        return is_fresh and self.waiting is not None

    def look(self) -> bool:
        """Look once; True when the worker has been deaf for the whole time limit, and then again over a fresh link.

        1. Deaf at this moment: messages wait, a slot is idle, and none was begun since the last look.
        2. Whatever contradicts that, also a broker that does not answer or refuses the worker, starts the time again.
        3. After the whole time the worker gets a fresh link, and the time starts again.
        4. After the whole time once more the worker is to end, unless it has begun a message in between.
        """
        activity = self._activity()
        self.waiting = self._ask_waiting()
        now = self.looked_at = time.monotonic()
        progressed = activity.begun != self._begun
        refused = activity.link_errors != self._link_errors
        self._begun, self._link_errors = activity.begun, activity.link_errors
        if progressed:
            self._link_is_fresh = False
        if not self.waiting or not activity.idle_slots or progressed or refused:
            self._deaf_since = None
            return False
        if self._deaf_since is None:
            self._deaf_since = now
        deaf_seconds = now - self._deaf_since
        if deaf_seconds < self._timeout_seconds:
            return False
        log.error(
            "worker.deaf",
            waiting=self.waiting,
            idle_slots=activity.idle_slots,
            seconds=round(deaf_seconds, 1),
            link_is_fresh=self._link_is_fresh,
        )
        if self._link_is_fresh:
            return True
        self._get_fresh_link()
        self._link_is_fresh = True
        self._deaf_since = None
        return False
