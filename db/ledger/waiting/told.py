"""`Told`: from where on something may be told of keys, so that nobody walks past what was told and removed before.

Who tells writes a row with its transaction's number. While anybody holds an old snapshot these rows cannot be removed
for good, and lie before the living ones. Whatever a transaction tells is seen or not there once it is older than all
that still write: below that number, and below the first row that is there, nothing comes to life.
"""

import time

OLDEST_WRITER = "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
"""SQL for the number below which all transactions have ended."""
WHOLE_EVERY_SECONDS = 30.0
"""Another server may have become the master, where numbers are lower."""


class Told:
    """In memory: a new planner looks at all rows."""

    def __init__(self) -> None:
        self._at = 0
        self._whole_at = float("-inf")
        self.since = 0

    def begin(self) -> int:
        """The number from which on to look now; 0 for all of them."""
        now = time.monotonic()
        is_whole = now - self._whole_at >= WHOLE_EVERY_SECONDS
        self._whole_at = now if is_whole else self._whole_at
        self.since = 0 if is_whole else self._at
        return self.since

    def ended(self, oldest_writer: int, first: int | None = None) -> None:
        """Of what was looked at this is the first row that is there, None where there is none."""
        self._at = oldest_writer if first is None else min(first, oldest_writer)
