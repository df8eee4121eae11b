"""`ProcessDirectory`: a directory of its own for each running process, under the state directory.

It holds what others on this machine may want to know (the metrics port) and goes when its process goes: at a clean exit
by `remove`, after a kill by whoever starts next.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import structlog

from docworker.db.errors import ConfigurationError

log = structlog.get_logger(__name__)

PORT = "port"
METRICS = "metrics"
_LOCK = "lock"


class ProcessDirectory:
    """The directory of this process; its lock tells the others that we live."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self.metrics = path / METRICS
        self._lock = lock

    def write_port(self, port: int) -> None:
        """Say where our metrics and health are. Where there is no room for it, `docworker health` does not find us."""
        new = self.path / f"{PORT}.new"
        try:
            new.write_text(f"{port}\n")
            new.replace(self.path / PORT)
        except OSError as error:
            log.warning("port.not_written", port=port, error=error.strerror, remedy="make room for the state directory")

    def remove(self) -> None:
        """Leave nothing behind. Safe in a forked child and when called twice."""
        shutil.rmtree(self.path, ignore_errors=True)


def claim(state_directory: Path, role: str) -> ProcessDirectory:
    """A new directory for a process of this role; those of processes that were killed are removed.

    Raises ConfigurationError when there can be none.
    """
    try:
        return _claim(state_directory, role)
    except OSError as error:
        raise ConfigurationError(
            f"DOCWORKER_STATE_DIRECTORY: cannot write to {state_directory.absolute()}: {error.strerror}; "
            "set it to a directory of this machine that may be written"
        ) from error


def _claim(state_directory: Path, role: str) -> ProcessDirectory:
    state_directory.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(state_directory):
        for path in state_directory.glob("*-*/"):
            if (path / _LOCK).exists() and not _is_alive(path):
                shutil.rmtree(path, ignore_errors=True)
        path = Path(tempfile.mkdtemp(prefix=f"{role}-", dir=state_directory))
        lock = (path / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    (path / METRICS).mkdir()
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return ProcessDirectory(path, lock)


def ports(state_directory: Path, role: str) -> list[int]:
    """The metrics ports of the running processes of this role."""
    found = []
    for path in sorted(state_directory.glob(f"{role}-*/")):
        with suppress(FileNotFoundError, ValueError):
            if _is_alive(path):
                found.append(int((path / PORT).read_text()))
    return found


def _is_alive(path: Path) -> bool:
    """Whether the process that claimed the directory, or a child of it, still holds its lock."""
    try:
        with (path / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # removed by its process, just now
        return False
    return False


@contextmanager
def _one_at_a_time(state_directory: Path) -> Iterator[None]:
    with (state_directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
