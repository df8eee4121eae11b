"""`Backlogs`: the one who plans counts what waits of organizations that have a largest backlog."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy.orm import Session

from docworker.db.faults import classify
from docworker.db.ledger import Permit
from docworker.db.ledger.waiting.backlogs import count_backlogs
from docworker.worker.logs import first_line

_COUNT_SECONDS = 1.0
_SHARE_OF_TIME = 0.05


class Backlogs:
    """`update()` after each look: about once a second, less often where that would take more than a twentieth of the
    time."""

    def __init__(self, planning: Callable[[], AbstractContextManager[tuple[Session, Permit | None]]], log: Any) -> None:
        self._planning = planning
        self._log = log
        self._count_at = float("-inf")

    def update(self) -> None:
        started = time.monotonic()
        if started < self._count_at:
            return
        try:
            with self._planning() as (session, permit):
                if permit is not None:
                    count_backlogs(session)
        except Exception as error:
            if not classify(error).retryable:
                raise
            self._log.warning("backlogs.not_counted", error=first_line(error))
        now = time.monotonic()
        self._count_at = now + max(_COUNT_SECONDS, (now - started) / _SHARE_OF_TIME)
