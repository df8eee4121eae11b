"""How a worker ends: jobs finish or are given up in time, messages go back, the exit code says how it went."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from tests.support.workers import Workers

POOLS = ["prefork", "threads", "solo"]


def begin_holding(workers: Workers, release: str = "release") -> None:
    workers.send("hold", path=workers.path("out"), release=workers.path(release))
    eventually(lambda: workers.lines("out"), within_seconds=20, what="the task begins")


@pytest.mark.parametrize("pool", POOLS)
def test_sigterm_lets_a_running_task_finish_and_exits_0(workers: Workers, pool: str) -> None:
    worker = workers.start(worker_pool=pool)
    begin_holding(workers)

    worker.send(signal.SIGTERM)
    worker.wait_for_log("worker.stopping")
    workers.release("release")

    assert worker.wait(within_seconds=20) == 0
    assert workers.lines("out")[1:] == ["finished"]
    assert workers.waiting() == 0


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_that_outlasts_the_shutdown_timeout_is_given_up_and_its_message_is_back_at_once(
    workers: Workers, pool: str
) -> None:
    worker = workers.start(worker_pool=pool, worker_processes="1", shutdown_timeout="1")
    begin_holding(workers)
    workers.send("write", path=workers.path("other"))

    started = time.monotonic()
    assert worker.stop(within_seconds=20) == 0

    assert 1 <= time.monotonic() - started < 10
    assert workers.waiting() == 2
    assert workers.lines("out")[1:] == []
    assert workers.lines("other") == []


def test_sigterm_reaches_children_only_as_the_request_to_stop(workers: Workers) -> None:
    worker = workers.start(worker_processes="2")
    begin_holding(workers)
    workers.send("obey", path=workers.path("obedient"))
    eventually(lambda: workers.lines("obedient"), what="the second task begins")

    os.killpg(worker.pid, signal.SIGTERM)
    eventually(lambda: "told to stop" in workers.lines("obedient"), what="the task is told to stop")
    workers.release("release")

    assert worker.wait(within_seconds=20) == 0
    assert "finished" in workers.lines("out")


def test_ctrl_c_waits_for_running_tasks_and_a_second_one_does_not(workers: Workers) -> None:
    worker = workers.start(shutdown_timeout="60")
    begin_holding(workers)

    os.killpg(worker.pid, signal.SIGINT)
    worker.wait_for_log("worker.stopping")
    assert worker.running
    os.killpg(worker.pid, signal.SIGINT)

    assert worker.wait(within_seconds=20) == 0
    assert workers.waiting() == 1
    assert workers.lines("out")[1:] == []


def test_an_idle_worker_ends_at_once_and_leaves_no_state_behind(
    workers: Workers, fresh_environment: dict[str, str]
) -> None:
    worker = workers.start()
    state = Path(fresh_environment["DOCWORKER_STATE_DIRECTORY"])
    assert list(state.glob("worker-*"))

    started = time.monotonic()
    assert worker.stop(within_seconds=20) == 0

    assert time.monotonic() - started < 10, "of the 20 s it may take"
    assert not list(state.glob("worker-*"))
