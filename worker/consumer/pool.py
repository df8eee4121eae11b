"""`Pool`: the prefork pool, whose children are replaced at once and may start processes of their own for a job.

What differs from Celery's pool: a child that has served its messages ends without a wait, whatever it has started ends
with it, a new link to the broker neither hands a message to a child that is busy nor forgets the time limits of what
runs, and these do not count while a child waits to write an end. How a process that runs tasks is opened and closed is
in `worker.children`.
"""

import gc
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from celery.concurrency import asynpool, prefork

from docworker.jobs.execution.leases import is_held_up

_SERVED_SECONDS = 30.0
_SERVED_POLL_SECONDS = 0.005
_EX_FAILURE = 1
_LOOK_SECONDS = 1.0
"""How often a child is looked at whose time is over while it waits."""

_WARNED = "_docworker_warned"
"""Set on the pool's record of a message whose soft limit has been told."""


def end_group(pid: int) -> None:
    """Kill a child and what it has started; nothing happens when they are gone."""
    for kill in (os.kill, os.killpg):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


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
        """Whether no child has ended by itself before the loop begins, as one does that cannot be opened. Those that
        were killed by then are replaced like any other; the pool's own answer would end the worker."""
        return all(child.exitcode is None or child.exitcode < 0 for child in self._pool)

    def _track_child_process(self, proc: Any, hub: Any) -> None:
        """Also one of whose end the kernel has told before it could be collected: the pool still has it, and has
        stopped watching it. Whoever watches it again is told again."""
        if getattr(proc, "_sentinel_poll", None) is None:
            vars(proc).pop("_sentinel_poll", None)
        super()._track_child_process(proc, hub)  # type: ignore[no-untyped-call]

    def _pids(self) -> set[int]:
        return {process.pid for process in self._pool}

    def flush(self) -> None:
        """When the link to the broker was lost: forget what has not begun. Who is busy stays busy."""
        super().flush()  # type: ignore[no-untyped-call]
        self._busy_workers.update(job._write_to.inqW_fd for job in self._running() if job._write_to is not None)

    def register_with_event_loop(self, hub: Any) -> None:
        """Also after each lost link, which has cleared the timers of the loop, and so the limits of what runs."""
        self._hub = hub
        super().register_with_event_loop(hub)  # type: ignore[no-untyped-call]
        for job in self._running():
            soft = None if getattr(job, _WARNED, False) else _left(job, job._soft_timeout)
            hard = _left(job, job._timeout)
            if soft or hard:
                self.on_timeout_set(job, soft, hard)

    def _on_soft_timeout(self, job: int, soft: float, hard: float, hub: Any) -> None:
        if self._waits(job):
            self._look_again(job, self._on_soft_timeout, job, soft, hard, hub)
            return
        if job in self._cache:
            setattr(self._cache[job], _WARNED, True)
        super()._on_soft_timeout(job, soft, hard, hub)  # type: ignore[no-untyped-call]

    def _on_hard_timeout(self, job: int) -> None:
        if self._waits(job):
            self._look_again(job, self._on_hard_timeout, job)
        else:
            super()._on_hard_timeout(job)  # type: ignore[no-untyped-call]

    def _waits(self, job: int) -> bool:
        return job in self._cache and is_held_up(self._cache[job]._worker_pid)

    def _look_again(self, job: int, look: Any, *arguments: Any) -> None:
        self._tref_for_id[job] = self._hub.call_later(_LOOK_SECONDS, look, *arguments)

    def _running(self) -> Iterable[Any]:
        return [job for job in list(self._cache.values()) if job._accepted and not job.ready()]


def _left(job: Any, limit: float | None) -> float | None:
    """Seconds until the limit; hardly any when it has passed, as a limit of 0 is none."""
    return None if not limit else max(0.001, job._time_accepted + limit - time.monotonic())


class Pool(prefork.TaskPool):
    """What `worker_pool` names for DOCWORKER_WORKER_POOL=prefork."""

    Pool = _Processes
