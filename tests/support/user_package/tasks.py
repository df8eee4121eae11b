"""Tasks for the tests of the worker's processes: they run, wait, query or misbehave as they are told.

They are Celery tasks without a ledger, installed into a worker as a user's package would be.
"""

import gc
import math
import multiprocessing
import os
import signal
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from celery import shared_task, signals
from celery.worker.control import control_command
from sqlalchemy import text

from docworker.db.cluster import database
from docworker.db.settings import HOME
from docworker.jobs import metrics
from docworker.jobs.execution.leases import stopping
from tests.support.waiting import eventually

LONGEST_SECONDS = 60


KILL_CHILDREN = "DOCWORKER_TESTS_KILL_CHILDREN"


@signals.worker_ready.connect
def kill_children_before_the_loop(sender: Any, **_: Any) -> None:
    """Where the environment says so, all of them: between the start of the pool and that of the loop."""
    if KILL_CHILDREN in os.environ:
        for child in sender.controller.pool._pool._pool:
            os.kill(child.pid, signal.SIGKILL)
            eventually(lambda: child.exitcode is not None, what="it ends")  # noqa: B023


@shared_task(name="tests.write")
def write(path: str, line: str = "ran") -> None:
    """Append a line to a file."""
    _append(path, line)


@shared_task(name="tests.hold")
def hold(path: str, release: str) -> None:
    """Append `begun PID`, wait until the file `release` is there, append `finished`."""
    _append(path, f"begun {os.getpid()}")
    eventually(Path(release).exists, within_seconds=LONGEST_SECONDS, what=f"{release} is there")
    _append(path, "finished")


@shared_task(name="tests.close_all")
def close_all(path: str, release: str) -> None:
    """Append the process's id, close every descriptor as a process does that ends, and wait until `release` is there:
    its parent is told of an end that it cannot collect yet."""
    _append(path, str(os.getpid()))
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    eventually(Path(release).exists, within_seconds=LONGEST_SECONDS, what=f"{release} is there")


@shared_task(name="tests.obey")
def obey(path: str) -> None:
    """Append `begun`, wait until the worker is told to stop, append `told to stop`."""
    _append(path, "begun")
    eventually(stopping, within_seconds=LONGEST_SECONDS, what="the worker is told to stop")
    _append(path, "told to stop")


@shared_task(name="tests.count")
def count(path: str, seconds: float = 0) -> None:
    """Count one message, keep busy that long, append `ran PID`."""
    metrics.MESSAGES.labels("tests.count").inc()
    metrics.QUEUE_SECONDS.labels("tests.count").observe(0.1)
    time.sleep(seconds)
    _append(path, f"ran {os.getpid()}")


@shared_task(name="tests.frozen")
def frozen(path: str) -> None:
    """Append how many objects the collector of garbage leaves alone."""
    _append(path, str(gc.get_freeze_count()))


@shared_task(name="tests.hold_connections")
def hold_connections(path: str, release: str, checked_out: int = 1, idle: int = 0) -> None:
    """Keep connections to the master, some of them in use, and show a running job, until `release` is there."""
    engine = database().cluster(HOME).master
    connections = [engine.connect() for _ in range(checked_out + idle)]
    for connection in connections:
        connection.execute(text("SELECT 1"))
    for connection in connections[checked_out:]:
        connection.close()
    with metrics.running("tests.hold_connections", 1):
        _append(path, f"begun {os.getpid()}")
        eventually(Path(release).exists, within_seconds=LONGEST_SECONDS, what=f"{release} is there")
    for connection in connections[:checked_out]:
        connection.close()


@shared_task(name="tests.compute")
def compute(path: str, means: str, method: str = "fork") -> None:
    """Have processes of our own compute something, in this way, and append it."""
    _append(path, str(_MEANS[means](multiprocessing.get_context(method))))


def _by_process(context: Any) -> object:
    queue = context.SimpleQueue()
    process = context.Process(target=queue.put, args=(6,))
    process.start()
    found = queue.get()
    process.join()
    return found


def _by_pool(context: Any) -> object:
    with context.Pool(2) as pool:  # its end is a SIGTERM to each of them
        return pool.map(math.factorial, [3])[0]


def _by_executor(context: Any) -> object:
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        return executor.submit(math.factorial, 3).result()


def _by_terminated_program(context: Any) -> object:
    with subprocess.Popen(["/bin/sleep", "60"]) as program:
        program.terminate()
        return -program.wait(10) - signal.SIGTERM + 6


_MEANS = {
    "process": _by_process,
    "pool": _by_pool,
    "executor": _by_executor,
    "terminated_program": _by_terminated_program,
}


@shared_task(name="tests.leave_behind")
def leave_behind(path: str, method: str, release: str) -> None:
    """Start a process and a program that would last; append their ids and wait until `release` is there."""
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=time.sleep, args=(LONGEST_SECONDS,))
    process.start()
    program = subprocess.Popen(["/bin/sleep", str(LONGEST_SECONDS)])
    _append(path, f"{os.getpid()} {process.pid} {program.pid}")
    eventually(Path(release).exists, within_seconds=LONGEST_SECONDS, what=f"{release} is there")
    os._exit(0)


@control_command()
def lose_link(state: Any) -> dict[str, int]:
    """Have the worker never look again at what comes over the connection that it asks for messages with."""
    consumer = state.consumer
    cycle = consumer.connection.transport.cycle
    lost = [number for number, (_, command) in cycle._fd_to_chan.items() if command == "BRPOP"]
    for number in lost:
        del cycle._fd_to_chan[number]
        consumer.hub.remove_reader(number)
    return {"lost": len(lost)}


def _append(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")
