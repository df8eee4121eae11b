"""A process that runs tasks stands alone (`become_child`), and so do those its jobs start (`prepare_forks`)."""

import multiprocessing
import multiprocessing.process
import os
import signal
import threading
from types import FrameType

from celery import platforms

from docworker.db.cluster.engines import leave_to_parent

_EX_FAILURE = 1
_MAIN_PROCESS = multiprocessing.current_process()
_NOT_OURS = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1})
"""Signals that a worker handles, and a process forked by a job does not."""


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
        leave_to_parent()
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
