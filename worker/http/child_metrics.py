"""Metrics of a worker whose children count for themselves: `prepare` one file a child, added up by the parent when
asked.

The files belong to places in the pool, not to process ids: a replaced child goes on counting where the one before it
stopped, so totals stay right and files do not grow in number. Only the gauges of living children are added up.
"""

import mmap
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog
from billiard.process import current_process
from prometheus_client import mmap_dict, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from docworker.db.errors import DocworkerError

log = structlog.get_logger(__name__)

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PARENT = "parent"


def prepare(directory: Path) -> None:
    """Make every metric defined from now on a shared one. In the parent, before `db` or `jobs` define theirs.

    Raises DocworkerError when they have done so already, because those would be counted nowhere.
    """
    early = [name for name in ("docworker.db.metrics", "docworker.jobs.metrics") if name in sys.modules]
    if early:
        raise DocworkerError(f"{', '.join(early)} was imported before the metrics directory was chosen")
    os.environ[_VARIABLE] = str(directory)
    values.MmapedDict = ReservedDict  # type: ignore[attr-defined]
    values.ValueClass = values.MultiProcessValue(process_identifier=place)  # type: ignore[no-untyped-call]


class ReservedDict(mmap_dict.MmapedDict):
    """A file of values whose room on the disk is reserved before it is used: a write to mapped memory that a full disk
    has no room for kills the process (SIGBUS).

    Where there is no room, or no directory any more, the values stay in memory until the process ends: it counts on,
    and nobody sees it.
    """

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        try:
            _reserve(filename, mmap_dict._INITIAL_MMAP_SIZE)
        except OSError as error:
            _say_lost(filename, error)
            descriptor = os.memfd_create("docworker-metrics")
            super().__init__(f"/proc/self/fd/{descriptor}", read_mode)  # type: ignore[no-untyped-call]
            os.close(descriptor)
        else:
            super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        needed = len(key.encode()) + _MOST_BYTES_OF_A_VALUE
        while self._used + needed > self._capacity:
            try:
                os.posix_fallocate(self._f.fileno(), 0, 2 * self._capacity)
            except OSError as error:
                _say_lost(self._fname, error)
                self._move_to_memory()
            else:
                self._capacity *= 2
                self._m = mmap.mmap(self._f.fileno(), self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _move_to_memory(self) -> None:
        content = bytes(self._m)
        self._f.close()
        self._f = os.fdopen(os.memfd_create("docworker-metrics"), "w+b")
        self._f.write(content)
        self._f.flush()


_MOST_BYTES_OF_A_VALUE = 40
"""Besides its key: its length, padding, the value and when it was set."""


def _reserve(filename: str, size: int) -> None:
    """Raises OSError, and leaves no half of a file, when there is no room for a new one."""
    with open(filename, "ab") as file:  # noqa: PTH123 - as the client opens it
        if os.fstat(file.fileno()).st_size:
            return
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            with suppress(OSError):
                Path(filename).unlink()
            raise


def _say_lost(filename: str, error: OSError) -> None:
    log.warning("metrics.not_kept", file=Path(filename).name, error=error.strerror, remedy="make room for the state")


def place() -> str:
    """The place of this process in the worker: its number in the pool, or that of the parent."""
    index = getattr(current_process(), "index", None)
    return _PARENT if index is None else f"child{index}"


def start_child() -> None:
    """In a new child, before it counts anything: what its predecessor had in flight is over."""
    directory = os.environ.get(_VARIABLE)
    if directory is None or place() == _PARENT:
        return
    try:
        _pid_path(Path(directory), place()).write_text(str(os.getpid()))
        for path in Path(directory).glob(f"gauge_live*_{place()}.db"):
            path.unlink()
    except OSError as error:  # a full disk costs metrics, and no child
        _say_lost(str(_pid_path(Path(directory), place())), error)


class LivingCollector(MultiProcessCollector):
    """All counters and histograms, and the gauges of processes that are alive.

    A child killed with SIGKILL cannot take its gauges back. They are left out here rather than deleted, because its
    successor may be opening the same file at this moment.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(None, path=str(directory))  # type: ignore[no-untyped-call]
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in sorted(self._directory.glob("*.db")) if self._counts(path)]
        metrics: Iterable[Metric] = self.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
        return metrics

    def _counts(self, path: Path) -> bool:
        with suppress(FileNotFoundError):
            is_empty = path.stat().st_size == 0  # just created: it has a size before it has values
            is_live_gauge = path.name.startswith("gauge_live")
            return not is_empty and (not is_live_gauge or self._is_alive(path.stem.rpartition("_")[2]))
        return False

    def _is_alive(self, owner: str) -> bool:
        if owner == _PARENT:
            return True
        try:
            os.kill(int(_pid_path(self._directory, owner).read_text()), 0)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return False
        return True


def _pid_path(directory: Path, owner: str) -> Path:
    return directory / f"{owner}.pid"
