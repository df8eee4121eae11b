"""Kinds of job for the tests of real processes: they hold, kill their worker, or fail, as they are told."""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.orm import Session

from docworker.db.models.audit import AuditEntry
from docworker.db.models.base import new_id
from docworker.jobs.enqueue import EnqueueOptions, enqueue_many
from docworker.jobs.execution.outcomes import settle_error
from docworker.jobs.kind import Arguments
from docworker.jobs.task import AsyncAttempt, Attempt, Batch, batch_job, job
from tests.support.waiting import eventually

LONGEST_SECONDS = 60


@job(name="tests.hold_job", max_attempts=3)
def hold_job(attempt: Attempt, path: str, release: str) -> None:
    """Append `begun JOB`, wait until the file `release` is there, append `finished JOB`."""
    _append(path, f"begun {attempt.id}")
    eventually(Path(release).exists, within_seconds=LONGEST_SECONDS, what=f"{release} is there")
    _append(path, f"finished {attempt.id}")


@job(name="tests.obey_job", max_attempts=3)
def obey_job(attempt: Attempt, path: str) -> None:
    """Append `begun`, go on until a safe point says to stop, append `stopped`."""
    _append(path, "begun")
    eventually(lambda: attempt.should_stop, within_seconds=LONGEST_SECONDS, what="a safe point says to stop")
    _append(path, "stopped")


@job(name="tests.occupy", max_attempts=3)
def occupy(attempt: Attempt, path: str, seconds: int) -> None:
    """Append `begun`, hold the interpreter's lock that long in one call of C, append `finished`."""
    _append(path, "begun")
    ctypes.PyDLL(None).sleep(seconds)
    _append(path, "finished")


@job(name="tests.last", max_attempts=100)
def last(attempt: Attempt, seconds: float) -> None:
    """Occupy the process that long."""
    time.sleep(seconds)


@job(name="tests.poison", max_attempts=2)
def poison(attempt: Attempt) -> None:
    """Kill the process it runs in."""
    os.kill(os.getpid(), signal.SIGKILL)


@job(name="tests.die_once", max_attempts=3)
def die_once(attempt: Attempt, path: str, dies: bool) -> None:
    """Append the job's id; the first attempt kills the process it runs in, if it is told to."""
    _append(path, str(attempt.id))
    if dies and attempt.claimed.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@job(name="tests.leave", max_attempts=2)
def leave(attempt: Attempt, path: str) -> None:
    """Append `begun PID` and ask for the exit of the process."""
    _append(path, f"begun {os.getpid()}")
    sys.exit(3)


@job(name="tests.overrun", max_attempts=1, soft_limit_seconds=1, hard_limit_seconds=30)
def overrun(attempt: Attempt, path: str) -> None:
    """Run into the soft limit."""
    _append(path, "begun")
    eventually(lambda: False, within_seconds=LONGEST_SECONDS, what="the end of time")


@job(name="tests.fail", max_attempts=1, soft_limit_seconds=2, hard_limit_seconds=3)
def fail(attempt: Attempt) -> None:
    """Fail at once."""
    raise ValueError("no such thing")


@job(name="tests.fail_late", max_attempts=1, soft_limit_seconds=2, hard_limit_seconds=3)
def fail_late(attempt: Attempt) -> None:
    """Fail when the soft limit is over."""
    try:
        time.sleep(LONGEST_SECONDS)
    except SoftTimeLimitExceeded:
        raise ValueError("no such thing") from None


@batch_job(name="tests.settle", arguments=Arguments, max_attempts=1, soft_limit_seconds=2, hard_limit_seconds=3)
def settle(batch: Batch) -> None:
    """Say at once of each that it has failed."""
    for attempt in batch.starting():
        settle_error(attempt, ValueError("no such thing"))


@job(name="tests.fork", max_attempts=1)
def fork(attempt: Attempt, path: str, how: str) -> None:
    """Fork; the child `returns`, `raises` or `exits`. Append how it ended, as its parent knows it."""
    pid = os.fork()
    if pid == 0:
        _append(path, f"child {os.getpid()}")
        if how == "raises":
            raise RuntimeError("in the forked process")
        if how == "exits":
            raise SystemExit(3)
        return
    _append(path, f"ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


@job(name="tests.fetch", concurrency=4, max_attempts=3)
async def fetch(attempt: AsyncAttempt, port: int) -> None:
    """Wait for the answer of an HTTP server of this machine, and have the one effect of writing an entry."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /{attempt.id} HTTP/1.0\r\nIdempotency-Key: {attempt.idempotency_key}\r\n\r\n".encode())
    await reader.read()
    writer.close()
    await attempt.finish(lambda session: _write_entry(session, attempt))


@job(name="tests.record")
def record(attempt: Attempt) -> None:
    """Have the one effect of writing an entry."""
    attempt.finish(lambda session: _write_entry(session, attempt))


@job(name="tests.fan_out")
def fan_out(attempt: Attempt, children: int) -> None:
    """Enqueue that many of `record` as children."""
    options: EnqueueOptions = {"parent_id": attempt.id, "max_attempts": attempt.claimed.max_attempts}
    attempt.finish(lambda session: _none(enqueue_many(session, record, [{}] * children, **options)))


@job(name="tests.count_awaited")
def count_awaited(attempt: Attempt) -> None:
    """Have the one effect of writing an entry, and keep how the jobs ended that this one waited for."""

    def effect(session: Session) -> dict[str, int]:
        _write_entry(session, attempt)
        return attempt.awaited._asdict()

    attempt.finish(effect)


def _none(_: object) -> None:
    """What was enqueued is no result."""


@job(name="tests.odd", soft_limit_seconds=30, hard_limit_seconds=40)
def odd(attempt: Attempt, how: str) -> None:
    """Do something that a job should not, one of `ODD_ENDS`, and have the effect of writing an entry if that is
    survived."""
    _ODD[how]()
    attempt.finish(lambda session: _write_entry(session, attempt))


class PanicError(BaseException):
    """As an extension in another language raises."""


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise PanicError


def _panic() -> None:
    raise PanicError("at the disco")


def _be_unspeakable() -> None:
    raise UnspeakableError


def _hold_the_interpreter() -> None:
    """For longer than the lease of an impatient test: no other thread of this process runs meanwhile."""
    ctypes.PyDLL(None).usleep(5_000_000)


def _fork_and_return() -> None:
    os.fork()


def _fork_and_exit() -> None:
    if os.fork() == 0:
        sys.exit(0)


_ODD: dict[str, Callable[[], object]] = {
    "panic": _panic,
    "unspeakable": _be_unspeakable,
    "sys.exit": lambda: sys.exit(3),
    "os._exit": lambda: os._exit(1),
    "hold the interpreter": _hold_the_interpreter,
    "fork and return": _fork_and_return,
    "fork and exit": _fork_and_exit,
}
ODD_ENDS = {how: how in {"hold the interpreter", "fork and return", "fork and exit"} for how in _ODD}
"""What `odd` can do, and whether the job succeeds all the same."""


def _write_entry(session: Session, attempt: Attempt | AsyncAttempt) -> None:
    session.add(
        AuditEntry(
            organization_id=attempt.organization_id,
            id=new_id(),
            actor="tests",
            action="tests",
            subject="job",
            subject_id=attempt.id,
        )
    )


def _append(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")
