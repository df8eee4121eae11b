"""What a process knows of its own jobs and of its end, whichever thread or child asks."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from docworker.jobs.execution import leases as module
from docworker.jobs.execution.leases import Leases, clear_stop, leases, request_stop


@pytest.fixture(autouse=True)
def _no_stop() -> Iterator[None]:
    yield
    clear_stop()


def test_a_child_never_sees_a_stop_without_its_deadline() -> None:
    """It would take the deadline for passed, and give back all it has at once."""

    def look_for_a_second() -> bool:
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            if (stop_at := module._board.stop_at) and stop_at < time.monotonic() + 50:
                return False
        return True

    child = forked(look_for_a_second)
    ended = 0
    while not ended:
        request_stop(100)
        clear_stop()
        ended, status = os.waitpid(child, os.WNOHANG)
    assert os.waitstatus_to_exitcode(status) == 0


def test_all_threads_of_a_new_process_share_its_leases() -> None:
    """A claim in leases of a thread's own would look lost to the others, and its jobs would wait for their rescue."""

    def all_get_the_same() -> bool:
        sys.setswitchinterval(1e-6)
        barrier = Barrier(8)

        def get(_: int) -> Leases:
            barrier.wait()
            return leases()

        with ThreadPoolExecutor(8) as pool:
            return len(set(pool.map(get, range(8)))) == 1

    for _ in range(50):
        _, status = os.waitpid(forked(all_get_the_same), 0)
        assert os.waitstatus_to_exitcode(status) == 0


def test_a_child_does_not_inherit_its_parents_leases() -> None:
    parents = leases()
    _, status = os.waitpid(forked(lambda: leases() is not parents), 0)
    assert os.waitstatus_to_exitcode(status) == 0


def forked(is_well: Callable[[], bool]) -> int:
    """A child that exits with 0 if that is so."""
    child = os.fork()
    if child:
        return child
    try:
        os._exit(0 if is_well() else 1)
    finally:
        os._exit(2)
