"""`Shutdown`: nothing new is taken, running jobs finish or are given back, and at the deadline the worker is gone.

Within the time limit Celery's own orderly stop does it. This is the part that keeps the deadline: Celery's stop waits
for running tasks without limit, and its timed stop waits to the end of the time, however soon the tasks are done.
"""

import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from docworker.jobs.execution.leases import request_stop
from docworker.worker.consumer.pool import end_group

log = structlog.get_logger(__name__)

GIVE_BACK_SECONDS = 3.0
"""How long giving messages back to the broker may take; one that is down must not hold up the end."""


class Shutdown:
    """The end of one worker process and its children. `begin` and `hurry` are safe in a signal handler."""

    def __init__(
        self,
        *,
        timeout_seconds: float,
        children: Callable[[], Iterable[int]],
        give_back_messages: Callable[[], Any],
        clean_up: Callable[[], Any],
    ) -> None:
        self.begun = False
        self.exit_code = 0
        self._timeout_seconds = timeout_seconds
        self._children = children
        self._give_back_messages = give_back_messages
        self._clean_up = clean_up
        # A pipe, because locks (and so events and new threads) can deadlock in a signal handler.
        self._reader, self._writer = os.pipe()

    def start(self) -> None:
        threading.Thread(target=self._keep_deadline, name="shutdown", daemon=True).start()

    def begin(self, *, reason: str, exit_code: int = 0) -> None:
        """Ask running jobs to finish, and see to it that the process ends in time. The first call counts."""
        if self.begun:
            return
        self.begun = True
        self.exit_code = exit_code
        log.info("worker.stopping", reason=reason, seconds=self._timeout_seconds)
        request_stop(self._timeout_seconds)
        os.write(self._writer, b"b")

    def hurry(self) -> None:
        """End now."""
        os.write(self._writer, b"h")

    def _keep_deadline(self) -> None:
        os.read(self._reader, 1)
        select.select([self._reader], [], [], self._timeout_seconds)
        self.end_now()

    def end_now(self) -> None:
        """Give messages back and exit, whatever runs. The ledger gives the jobs to others when their leases end."""
        log.warning("worker.ending_by_force")
        for pid in self._children():
            end_group(pid)
        giving_back = threading.Thread(target=self._give_back, daemon=True)
        giving_back.start()
        giving_back.join(GIVE_BACK_SECONDS)
        self._clean_up()
        os._exit(self.exit_code)

    def _give_back(self) -> None:
        started = time.monotonic()
        try:
            self._give_back_messages()
        except Exception as error:  # noqa: BLE001 - whatever the broker's client raises, the process ends
            log.warning("messages.not_given_back", error=str(error))
        else:
            log.info("messages.given_back", seconds=round(time.monotonic() - started, 2))
