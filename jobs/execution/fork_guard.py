"""`no_way_out_of_a_fork`: a process that a job forks ends where the job's function does, and is not a second worker."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger(__name__)


@contextmanager
def no_way_out_of_a_fork() -> Iterator[None]:
    """End the process at the end of the block, however it ends, if it is not the one that began it.

    Such a process shares its parent's pipes and database connections, and must touch none of them on its way out. Its
    exit code is that of `sys.exit`, else 0 after a return and 1 after an exception.
    """
    began = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != began:
            _end(began, error)
        raise
    if os.getpid() != began:
        _end(began, None)


def _end(parent: int, error: BaseException | None) -> None:
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        error = None
    try:
        log.warning("fork.ended", parent=parent, exit_code=code, exc_info=error)
    finally:
        os._exit(code & 0xFF)
