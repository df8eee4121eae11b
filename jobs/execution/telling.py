"""`Telling`: how far an attempt is and what it has logged, on its way to the ledger, at most once a second.

The first word goes at once, later ones with the next that comes when a second is over, and the last with the end.
"""

import time
from typing import Any

import structlog
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger import Claimed
from docworker.db.retrying import may_pass
from docworker.db.sessions import settling

log = structlog.get_logger(__name__)

EVERY_SECONDS = 1.0
MOST_LINES = 200
MOST_BYTES = 64 * 1024
"""Of the log of one attempt; what comes later is counted."""
MOST_OF_A_MESSAGE = 1000
"""Characters."""
_MOST_OF_A_LINE = 8 * 1024


class Telling:
    """What one attempt tells. What is held back is `pending`, and goes with `write` into the transaction of the end."""

    def __init__(self, claimed: Claimed) -> None:
        self._claimed = claimed
        self._began = time.monotonic()
        self._wrote = -EVERY_SECONDS
        self._progress: dict[str, Any] | None = None
        self._lines: list[dict[str, Any]] = []
        self._room_lines, self._room_bytes = MOST_LINES, MOST_BYTES
        self._left_out = 0

    @property
    def pending(self) -> bool:
        return self._progress is not None or bool(self._lines) or self._left_out > 0

    def progress(self, done: float, of: float | None, message: str | None) -> None:
        told: dict[str, Any] = {"done": done}
        if of is not None:
            told["of"] = of
        if message is not None:
            told["message"] = message[:MOST_OF_A_MESSAGE]
        ledger.as_json(told, "progress")
        self._progress = told
        self._write_in_time()

    def log(self, message: str, fields: dict[str, Any]) -> None:
        """Raises InvalidArgumentError where the fields have no form in JSON, or are larger than 8 KiB."""
        seconds = round(time.monotonic() - self._began, 3)
        line = {"seconds": seconds, "message": message[:MOST_OF_A_MESSAGE], **fields}
        size = len(ledger.as_json(line, "a line of the log").encode())
        if size > _MOST_OF_A_LINE:
            raise InvalidArgumentError(
                f"a line of the log has {size} bytes as JSON, the most is {_MOST_OF_A_LINE}: log less of it"
            )
        if self._room_lines <= 0 or size > self._room_bytes:
            self._room_lines = 0
            self._left_out += 1
            return
        self._room_lines -= 1
        self._room_bytes -= size
        self._lines.append(line)
        self._write_in_time()

    def write(self, session: Session) -> None:
        """Into the transaction that ends the attempt, while the job is still running and the attempt's own."""
        if self.pending and ledger.lock_owned(session, [self._claimed]):
            lines = [*self._lines, *([{"left_out": self._left_out}] if self._left_out else [])]
            self._tell(session, lines, with_end=True)

    def _write_in_time(self) -> None:
        if time.monotonic() - self._wrote < EVERY_SECONDS:
            return
        self._wrote = time.monotonic()
        progress, count = self._progress, len(self._lines)
        try:
            with settling(self._claimed.organization_id) as session:
                written = self._tell(session, self._lines[:count])
        except Exception as error:  # what a job says of itself is not what it fails of
            if not may_pass(error):
                raise
            log.warning("job.not_told", job=str(self._claimed.id), error=str(error))
            return
        if written:
            del self._lines[:count]
            if self._progress is progress:
                self._progress = None

    def _tell(self, session: Session, lines: list[dict[str, Any]], *, with_end: bool = False) -> bool:
        lease = database().settings.lease
        return ledger.tell(
            session, self._claimed, progress=self._progress, lines=lines, lease_seconds=lease, with_end=with_end
        )
