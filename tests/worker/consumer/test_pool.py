"""The children of a worker: a job may start processes of its own, and none of them outlives its child."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from docworker.worker.local.launching import is_alive
from tests.support.trials import Trial, metric
from tests.support.waiting import eventually

METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_job_may_use_processes_of_its_own(trial: Trial, pool: str) -> None:
    """Also a pool's end by SIGTERM, which our children leave to their parent, reaches them."""
    trial.start_worker(worker_pool=pool, worker_processes="1")
    wanted = [(means, method) for means in ("process", "pool", "executor") for method in METHODS]
    for means, method in [*wanted, ("terminated_program", "fork")]:
        trial.send("compute", path=trial.path("out"), means=means, method=method)

        expected = wanted.index((means, method)) + 1 if (means, method) in wanted else len(wanted) + 1
        eventually(lambda: trial.lines("out") == ["6"] * expected, within_seconds=30, what=f"{means} by {method}")  # noqa: B023


ENDED_AT_ONCE = """
import os, signal, time
from docworker.worker.child_signals import prepare_forks

signal.signal(signal.SIGTERM, lambda *_: None)  # as in a worker
prepare_forks()
for _ in range(100):
    pid = os.fork()
    if not pid:
        time.sleep(5)
        os._exit(0)
    os.kill(pid, signal.SIGTERM)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), "the signal was lost"
"""


def test_a_process_of_a_job_that_is_ended_as_soon_as_it_was_forked_ends() -> None:
    """Without a moment in which it has the worker's handlers: a pool that is closed early would wait for ever."""
    subprocess.run([sys.executable, "-c", ENDED_AT_ONCE], check=True, timeout=60)


def started(trial: Trial) -> list[int]:
    """The ids of the child and of what its job has started, once there are all."""
    return [int(one) for one in eventually(lambda: trial.lines("out"), within_seconds=20)[-1].split()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_what_a_job_has_started_ends_with_its_child(trial: Trial, method: str, how: str) -> None:
    trial.start_worker(worker_processes="1")
    trial.send("leave_behind", path=trial.path("out"), method=method, release=trial.path("release"))
    child, *others = started(trial)

    if how == "is killed":
        os.kill(child, signal.SIGKILL)
    else:
        trial.release("release")

    eventually(lambda: not any(map(is_alive, (child, *others))), within_seconds=10, what=f"{others} end")


def test_what_a_job_has_forked_ends_with_a_worker_that_is_killed(trial: Trial) -> None:
    worker = trial.start_worker(worker_processes="1")
    trial.send("leave_behind", path=trial.path("out"), method="fork", release=trial.path("release"))
    child, forked, program = started(trial)

    worker.kill9()

    eventually(lambda: not is_alive(child) and not is_alive(forked), within_seconds=10)
    os.kill(program, signal.SIGKILL)  # of a program that was started by subprocess nobody knows then


def test_a_worker_that_ends_by_force_takes_what_its_jobs_started_along(trial: Trial) -> None:
    worker = trial.start_worker(worker_processes="1", shutdown_timeout="0.5")
    trial.send("leave_behind", path=trial.path("out"), method="spawn", release=trial.path("release"))
    pids = started(trial)

    worker.stop()

    eventually(lambda: not any(map(is_alive, pids)), within_seconds=10)


def test_a_fork_looks_for_no_garbage_in_what_was_imported(trial: Trial) -> None:
    """The pool collects garbage before each; with all that a worker imports that takes longer than the rest."""
    trial.start_worker(worker_processes="1")
    trial.send("frozen", path=trial.path("out"))
    (frozen,) = eventually(lambda: trial.lines("out"), within_seconds=20)
    assert int(frozen) > 50_000


def test_a_child_that_has_served_its_messages_is_replaced_at_once(trial: Trial) -> None:
    """With Celery's own pool each child waits for more than a second before it ends, in which its place is empty."""
    trial.start_worker(worker_processes="1", max_tasks_per_child="1")
    for _ in range(10):
        trial.send("count", path=trial.path("out"))
    times = []
    for number in range(1, 11):
        eventually(lambda: len(trial.lines("out")) >= number, within_seconds=20)  # noqa: B023
        times.append(time.monotonic())

    assert min(after - before for before, after in pairwise(times)) < 1
    assert len(set(trial.lines("out"))) == 10
    eventually(lambda: metric("docworker_messages_total", kind="tests.count") == 10)
