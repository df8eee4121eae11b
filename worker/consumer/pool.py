"""The prefork pool's children: replaced at once, and able to start processes of their own for a job.

What differs from Celery's pool: a child that has served its messages ends without a wait, whatever it has started ends
with it, and a new link to the broker neither hands a message to a child that is busy nor forgets the time limits of
what runs. How a process that runs tasks is opened and closed is in `worker.children`.
"""

import gc
import multiprocessing
import multiprocessing.process
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Any

from celery import platforms
from celery.concurrency import asynpool, prefork

_SERVED_SECONDS = 30.0
_SERVED_POLL_SECONDS = 0.005
_EX_FAILURE = 1
_MAIN_PROCESS = multiprocessing.current_process()
_NOT_OURS = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1})
"""Signals that a worker handles, and a process forked by a job does not."""

_WARNED = "_docworker_warned"
"""Set on the pool's record of a message whose soft limit has been told."""


def become_child() -> None:
    """In a new child of the pool: stand alone, so that a job may use multiprocessing and subprocess as any program may.

    A process group of its own lets the parent end what the child has started. The signals that are for the parent are
    not ignored, which programs started here would inherit, but handled by doing nothing.
    """
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_to_parent)
    # The standard library takes the pool's "daemonic" process for the current one, which may have no children.
    multiprocessing.process._current_process = _MAIN_PROCESS  # type: ignore[attr-defined]


def _leave_to_parent(number: int, frame: FrameType | None) -> None:
    """Supervisors send SIGTERM to a whole group. It is for the parent to end its children, when their jobs are done."""


def end_group(pid: int) -> None:
    """Kill a child and what it has started; nothing happens when they are gone."""
    for kill in (os.kill, os.killpg):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


class _ForkHooks:
    """Gives processes that are forked by a job ordinary signals, and lets them die with the process that forked them.

    The kernel means the forking thread, so this is left out where a thread may end before the process does.

    A signal that reaches the new process before it has ordinary ones would meet the worker's handler and be lost (a
    pool's SIGTERM, and the pool would wait for ever), so signals wait in the kernel meanwhile.
    """

    def __init__(self) -> None:
        self._parent = 0
        self._forking = threading.local()

    def before(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        self._parent = os.getpid() if is_main else 0
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_OURS | {signal.SIGINT})

    def in_parent(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def in_child(self) -> None:
        for number in _NOT_OURS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)
        if self._parent:
            platforms.set_pdeathsig("SIGKILL")
            if os.getppid() != self._parent:  # it died before the kernel knew
                os._exit(_EX_FAILURE)


_hooked = False


def prepare_forks() -> None:
    """In a process that runs tasks: see to the processes that it forks. Calling it again changes nothing."""
    global _hooked
    if not _hooked:
        _hooked = True
        hooks = _ForkHooks()
        os.register_at_fork(before=hooks.before, after_in_parent=hooks.in_parent, after_in_child=hooks.in_child)


class _Child(asynpool.Worker):
    """The loop of a child."""

    def _ensure_messages_consumed(self, completed: int) -> bool:
        """Wait until the parent has read our results, for as long as the pool's own would, in shorter steps."""
        deadline = time.monotonic() + _SERVED_SECONDS
        while self.on_ready_counter and time.monotonic() < deadline:
            if self.on_ready_counter.value >= completed:
                return True
            time.sleep(_SERVED_POLL_SECONDS)
        return False

    def _do_exit(self, pid: int, exitcode: int | None, exc: BaseException | None = None) -> None:
        """End now. The pool's own announces the end and waits a second for the parent to send SIGTERM, which is not
        how our children end; the parent sees the end as soon as it happens."""
        if exitcode is None:
            exitcode = _EX_FAILURE if exc else 0
        try:
            if self.on_exit is not None:
                self.on_exit(pid, exitcode)
        finally:
            os._exit(exitcode)


class _Processes(asynpool.AsynPool):
    """The children, as the parent sees them."""

    Worker = _Child

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # Before each fork the pool collects garbage. Nothing that was imported by now is any, and to look through it
        # again would take longer than all else that a new child needs.
        gc.collect()
        gc.freeze()
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]

    def _join_exited_workers(self, shutdown: bool = False) -> Any:
        before = self._pids()
        try:
            return super()._join_exited_workers(shutdown)  # type: ignore[no-untyped-call]
        finally:
            for pid in before - self._pids():
                end_group(pid)

    def did_start_ok(self) -> bool:
        """Whether there is a child when the loop begins. One that was killed by then is replaced like any other; the
        pool's own answer would end the worker."""
        self._join_exited_workers()
        return bool(self._pool)

    def _pids(self) -> set[int]:
        return {process.pid for process in self._pool}

    def flush(self) -> None:
        """When the link to the broker was lost: forget what has not begun. Who is busy stays busy."""
        super().flush()  # type: ignore[no-untyped-call]
        self._busy_workers.update(job._write_to.inqW_fd for job in self._running() if job._write_to is not None)

    def register_with_event_loop(self, hub: Any) -> None:
        """Also after each lost link, which has cleared the timers of the loop, and so the limits of what runs."""
        super().register_with_event_loop(hub)  # type: ignore[no-untyped-call]
        for job in self._running():
            soft = None if getattr(job, _WARNED, False) else _left(job, job._soft_timeout)
            hard = _left(job, job._timeout)
            if soft or hard:
                self.on_timeout_set(job, soft, hard)

    def _on_soft_timeout(self, job: int, soft: float, hard: float, hub: Any) -> None:
        if job in self._cache:
            setattr(self._cache[job], _WARNED, True)
        super()._on_soft_timeout(job, soft, hard, hub)  # type: ignore[no-untyped-call]

    def _running(self) -> Iterable[Any]:
        return [job for job in list(self._cache.values()) if job._accepted and not job.ready()]


def _left(job: Any, limit: float | None) -> float | None:
    """Seconds until the limit; hardly any when it has passed, as a limit of 0 is none."""
    return None if not limit else max(0.001, job._time_accepted + limit - time.monotonic())


class Pool(prefork.TaskPool):
    """What `worker_pool` names for DOCWORKER_WORKER_POOL=prefork."""

    Pool = _Processes
