"""The children of a worker: a job may start processes of its own, and none of them outlives its child."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from docworker.worker.local.launching import is_alive
from tests.support.metrics import metric
from tests.support.user_package.tasks import KILL_CHILDREN
from tests.support.waiting import eventually
from tests.support.workers import Workers

METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_job_may_use_processes_of_its_own(workers: Workers, pool: str) -> None:
    """Also a pool's end by SIGTERM, which our children leave to their parent, reaches them."""
    workers.start(worker_pool=pool, worker_processes="1")
    wanted = [(means, method) for means in ("process", "pool", "executor") for method in METHODS]
    for means, method in [*wanted, ("terminated_program", "fork")]:
        workers.send("compute", path=workers.path("out"), means=means, method=method)

        expected = wanted.index((means, method)) + 1 if (means, method) in wanted else len(wanted) + 1
        eventually(lambda: workers.lines("out") == ["6"] * expected, within_seconds=30, what=f"{means} by {method}")  # noqa: B023


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


def started(workers: Workers) -> list[int]:
    """The ids of the child and of what its job has started, once there are all."""
    return [int(one) for one in eventually(lambda: workers.lines("out"), within_seconds=20)[-1].split()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_what_a_job_has_started_ends_with_its_child(workers: Workers, method: str, how: str) -> None:
    workers.start(worker_processes="1")
    workers.send("leave_behind", path=workers.path("out"), method=method, release=workers.path("release"))
    child, *others = started(workers)

    if how == "is killed":
        os.kill(child, signal.SIGKILL)
    else:
        workers.release("release")

    eventually(lambda: not any(map(is_alive, (child, *others))), within_seconds=10, what=f"{others} end")


def test_what_a_job_has_forked_ends_with_a_worker_that_is_killed(workers: Workers) -> None:
    worker = workers.start(worker_processes="1")
    workers.send("leave_behind", path=workers.path("out"), method="fork", release=workers.path("release"))
    child, forked, program = started(workers)

    worker.kill9()

    eventually(lambda: not is_alive(child) and not is_alive(forked), within_seconds=10)
    os.kill(program, signal.SIGKILL)  # of a program that was started by subprocess nobody knows then


def test_a_worker_that_ends_by_force_takes_what_its_jobs_started_along(workers: Workers) -> None:
    worker = workers.start(worker_processes="1", shutdown_timeout="0.5")
    workers.send("leave_behind", path=workers.path("out"), method="spawn", release=workers.path("release"))
    pids = started(workers)

    worker.stop()

    eventually(lambda: not any(map(is_alive, pids)), within_seconds=10)


def test_a_fork_looks_for_no_garbage_in_what_was_imported(workers: Workers) -> None:
    """The pool collects garbage before each; with all that a worker imports that takes longer than the rest."""
    workers.start(worker_processes="1")
    workers.send("frozen", path=workers.path("out"))
    (frozen,) = eventually(lambda: workers.lines("out"), within_seconds=20)
    assert int(frozen) > 50_000


@pytest.mark.parametrize("children", ["1", "2"])
def test_children_that_are_killed_before_the_loop_begins_are_replaced(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, children: str
) -> None:
    """Celery takes it for a pool that cannot start, and ends the worker."""
    monkeypatch.setenv(KILL_CHILDREN, "1")
    worker = workers.start(worker_processes=children)
    for _ in range(4):
        workers.send("write", path=workers.path("out"))
    eventually(lambda: len(workers.lines("out")) == 4, within_seconds=20)
    assert is_alive(worker.pid)


def test_a_fresh_link_while_a_child_is_ending_does_not_end_the_worker(workers: Workers) -> None:
    """The kernel tells of the end of a child before it can be collected; meanwhile the pool has it and does not watch
    it, which Celery's own takes for a descriptor that is missing."""
    worker = workers.start(worker_processes="2", watchdog_timeout="2")
    workers.send("close_all", path=workers.path("ending"), release=workers.path("release"))
    (ending,) = eventually(lambda: workers.lines("ending"), within_seconds=20)
    assert workers.app.control.broadcast("lose_link", reply=True)

    for _ in range(4):
        workers.send("write", path=workers.path("out"))
    eventually(lambda: len(workers.lines("out")) == 4, within_seconds=20)
    assert worker.log.count("broker.link_lost") == 1

    os.kill(int(ending), signal.SIGKILL)
    workers.hold_all(2, "held")
    workers.release("release-held")


def test_a_child_that_has_served_its_messages_is_replaced_at_once(workers: Workers) -> None:
    """With Celery's own pool each child waits for more than a second before it ends, in which its place is empty."""
    workers.start(worker_processes="1", max_tasks_per_child="1")
    for _ in range(10):
        workers.send("count", path=workers.path("out"))
    times = []
    for number in range(1, 11):
        eventually(lambda: len(workers.lines("out")) >= number, within_seconds=20)  # noqa: B023
        times.append(time.monotonic())

    assert min(after - before for before, after in pairwise(times)) < 1
    assert len(set(workers.lines("out"))) == 10
    eventually(lambda: metric("docworker_messages_total", kind="tests.count") == 10)
