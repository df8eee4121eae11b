"""Tasks for the tests of the worker's processes: they run, wait, query or misbehave as they are told.

They are Celery tasks without a ledger, installed into a worker as a user's package would be.
"""

import os
import time
from pathlib import Path

from celery import shared_task
from sqlalchemy import text

from db.engines import database
from jobs import metrics
from jobs.running import stopping
from tests.waiting import eventually

LONGEST_SECONDS = 60


@shared_task(name="trial.write")
def write(path: str, line: str = "ran") -> None:
    """Append a line to a file."""
    _append(path, line)


@shared_task(name="trial.hold")
def hold(path: str, release: str) -> None:
    """Append `begun PID`, wait until the file `release` is there, append `finished`."""
    _append(path, f"begun {os.getpid()}")
    eventually(Path(release).exists, within_seconds=LONGEST_SECONDS, what=f"{release} is there")
    _append(path, "finished")


@shared_task(name="trial.obey")
def obey(path: str) -> None:
    """Append `begun`, wait until the worker is told to stop, append `told to stop`."""
    _append(path, "begun")
    eventually(stopping, within_seconds=LONGEST_SECONDS, what="the worker is told to stop")
    _append(path, "told to stop")


@shared_task(name="trial.count")
def count(path: str, seconds: float = 0) -> None:
    """Count one message, keep busy that long, append `ran PID`."""
    metrics.MESSAGES.labels("trial.count").inc()
    metrics.QUEUE_SECONDS.labels("trial.count").observe(0.1)
    time.sleep(seconds)
    _append(path, f"ran {os.getpid()}")


@shared_task(name="trial.hold_connections")
def hold_connections(path: str, release: str, checked_out: int = 1, idle: int = 0) -> None:
    """Keep connections to the master, some of them in use, and show a running job, until `release` is there."""
    engine = database().cluster().master
    connections = [engine.connect() for _ in range(checked_out + idle)]
    for connection in connections:
        connection.execute(text("SELECT 1"))
    for connection in connections[checked_out:]:
        connection.close()
    with metrics.running("trial.hold_connections", 1):
        _append(path, f"begun {os.getpid()}")
        eventually(Path(release).exists, within_seconds=LONGEST_SECONDS, what=f"{release} is there")
    for connection in connections[:checked_out]:
        connection.close()


def _append(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")
