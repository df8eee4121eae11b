"""`Stacks`: what each thread of a process that runs jobs does at this moment, asked from anywhere by `ask_stack`.

The standard library's faulthandler writes it when a signal comes, without the interpreter, so that it tells of a job
that occupies the interpreter as well. It names files, lines and functions, and no values. The kernel goes on with the
system call that the signal met, unless that is a sleep or a wait with a timeout: Python goes on with its own, a library
in C may return early.
"""

import faulthandler
import os
import signal
import tempfile
import time
from collections.abc import Callable
from socket import gethostname
from typing import Any

from celery import Celery
from celery.worker.control import control_command

SIGNAL = signal.SIGRTMIN + 7
_COMMAND = "docworker_stack"
_WRITTEN_SECONDS = 1.0
_POLL_SECONDS = 0.02


class Stacks:
    """Made in a worker before its first child is forked: the children inherit the file and what the signal does."""

    def __init__(self, processes: Callable[[], list[int]]) -> None:
        """`processes` are those that run jobs now."""
        self._processes = processes
        self._file = tempfile.TemporaryFile("a+")  # noqa: SIM115 -- as long as the process
        faulthandler.register(SIGNAL, file=self._file, all_threads=True)

    def of(self, process: str) -> str | None:
        """The stacks of one of our processes, named `host:pid` as the ledger names who claims; None if it is not ours,
        or does not write."""
        host, _, pid = process.rpartition(":")
        if host != gethostname() or not pid.isdecimal() or int(pid) not in self._processes():
            return None
        self._file.truncate(0)
        os.kill(int(pid), SIGNAL)
        return self._written()

    def _written(self) -> str | None:
        """What the file holds once it no longer grows: nothing tells where it ends."""
        deadline, size = time.monotonic() + _WRITTEN_SECONDS, 0
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            before, size = size, os.fstat(self._file.fileno()).st_size
            if size and size == before:
                break
        return os.pread(self._file.fileno(), size, 0).decode(errors="replace") or None


@control_command(name=_COMMAND, args=[("process", str)], signature="HOST:PID")
def _tell_stack(state: Any, process: str) -> str | None:
    """In a worker's main process."""
    stacks: Stacks = state.consumer.controller.stacks
    return stacks.of(process)


class _ToldError(Exception):
    """Ends the wait for further answers; its message is the one that was wanted."""


def ask_stack(app: Celery, process: str, *, timeout_seconds: float) -> str | None:
    """The stacks of a process of any worker, by way of the broker; None when no worker has told it in time.

    `process` is `host:pid`, as a job's `claimed_by`. Raises the broker's errors.
    """

    def hear(answers: dict[str, str | None]) -> None:
        """Each worker answers, all but one of them that it is not theirs."""
        for text in filter(None, answers.values()):
            raise _ToldError(text)

    arguments = {"process": process}
    try:
        app.control.broadcast(_COMMAND, arguments=arguments, reply=True, timeout=timeout_seconds, callback=hear)
    except _ToldError as told:
        return str(told)
    return None
