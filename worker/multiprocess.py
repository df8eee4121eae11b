"""Metrics of a worker whose children count for themselves: one file a child, added up by the parent when asked.

The files belong to places in the pool, not to process ids: a replaced child goes on counting where the one before it
stopped, so totals stay right and files do not grow in number. Only the gauges of living children are added up.
"""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from billiard.process import current_process
from prometheus_client import values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from db.errors import DocworkerError

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PARENT = "parent"


def prepare(directory: Path) -> None:
    """Make every metric defined from now on a shared one. In the parent, before `db` or `jobs` define theirs.

    Raises DocworkerError when they have done so already, because those would be counted nowhere.
    """
    early = [name for name in ("db.metrics", "jobs.metrics") if name in sys.modules]
    if early:
        raise DocworkerError(f"{', '.join(early)} was imported before the metrics directory was chosen")
    os.environ[_VARIABLE] = str(directory)
    values.ValueClass = values.MultiProcessValue(process_identifier=place)  # type: ignore[no-untyped-call]


def place() -> str:
    """The place of this process in the worker: its number in the pool, or that of the parent."""
    index = getattr(current_process(), "index", None)
    return _PARENT if index is None else f"child{index}"


def start_child() -> None:
    """In a new child, before it counts anything: what its predecessor had in flight is over."""
    directory = os.environ.get(_VARIABLE)
    if directory is None or place() == _PARENT:
        return
    _pid_path(Path(directory), place()).write_text(str(os.getpid()))
    for path in Path(directory).glob(f"gauge_live*_{place()}.db"):
        path.unlink()


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
