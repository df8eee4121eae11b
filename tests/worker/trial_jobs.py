"""Kinds of job for the tests of real processes: they hold, kill their worker, or fail, as they are told."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from jobs.task import Attempt, job
from tests.waiting import eventually

LONGEST_SECONDS = 60


@job(name="trial.hold_job", max_attempts=3)
def hold_job(attempt: Attempt, path: str, release: str) -> None:
    """Append `begun JOB`, wait until the file `release` is there, append `finished JOB`."""
    _append(path, f"begun {attempt.id}")
    eventually(Path(release).exists, within_seconds=LONGEST_SECONDS, what=f"{release} is there")
    _append(path, f"finished {attempt.id}")


@job(name="trial.obey_job", max_attempts=3)
def obey_job(attempt: Attempt, path: str) -> None:
    """Append `begun`, go on until a safe point says to stop, append `stopped`."""
    _append(path, "begun")
    eventually(lambda: attempt.should_stop, within_seconds=LONGEST_SECONDS, what="a safe point says to stop")
    _append(path, "stopped")


@job(name="trial.occupy", max_attempts=3)
def occupy(attempt: Attempt, path: str, seconds: int) -> None:
    """Append `begun`, hold the interpreter's lock that long in one call of C, append `finished`."""
    _append(path, "begun")
    ctypes.PyDLL(None).sleep(seconds)
    _append(path, "finished")


@job(name="trial.poison", max_attempts=2)
def poison(attempt: Attempt) -> None:
    """Kill the process it runs in."""
    os.kill(os.getpid(), signal.SIGKILL)


@job(name="trial.leave", max_attempts=2)
def leave(attempt: Attempt, path: str) -> None:
    """Append `begun PID` and ask for the exit of the process."""
    _append(path, f"begun {os.getpid()}")
    sys.exit(3)


@job(name="trial.overrun", max_attempts=1, soft_limit_seconds=1, hard_limit_seconds=30)
def overrun(attempt: Attempt, path: str) -> None:
    """Run into the soft limit."""
    _append(path, "begun")
    eventually(lambda: False, within_seconds=LONGEST_SECONDS, what="the end of time")


@job(name="trial.fork", max_attempts=1)
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


def _append(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")
