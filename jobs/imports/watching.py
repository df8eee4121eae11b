"""`FolderWatch`: files are imported as they come to be in a folder of this machine.

The kernel tells of changes; what it may not tell of (what came before, or while nobody watched, or on file systems of
other machines) a scan of the whole folder finds, at the start and now and then. A file is imported when it has stayed
as it is for a while: until then somebody may be writing it. Nothing is deleted.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from watchfiles import watch

from docworker.db.documents.folders import ROOT, FolderPath
from docworker.db.documents.names import composed
from docworker.db.errors import DocworkerError, InvalidArgumentError
from docworker.db.faults import classify
from docworker.jobs.imports.ignoring import IGNORE_FILE, Ignore
from docworker.jobs.imports.importing import BATCH_FILES, FileResult, import_found
from docworker.jobs.imports.walking import Found, FoundFile, look_at_file, walk

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 2.0
SCAN_SECONDS = 300.0
POLL_SECONDS = 2.0
"""Between two scans where the kernel is not asked."""
LONGEST_WAIT_SECONDS = 30.0
_TICK_MILLISECONDS = 250


class Shape(NamedTuple):
    """What differs when a file has been written to, or replaced by another."""

    size: int
    changed_ns: int
    inode: int


class _Waiting(NamedTuple):
    """A file that has had this shape since then (monotonic)."""

    location: Path
    shape: Shape
    since: float


class FolderWatch:
    """`run()` until `stop()`; `tell` is called for each file that was imported, failed, or cannot be processed.

    While the database or the store is away nothing is forgotten. `exclude` and `hidden` are as for `Ignore`, and a
    `.docworkerignore` in the folder is read again when it changes. With `poll` the kernel is not asked: for file
    systems of other machines.
    """

    def __init__(
        self,
        organization_id: UUID,
        root: Path,
        *,
        into: FolderPath = ROOT,
        exclude: Collection[str] = (),
        hidden: bool = False,
        settle_seconds: float = SETTLE_SECONDS,
        scan_seconds: float = SCAN_SECONDS,
        poll: bool = False,
        tell: Callable[[FileResult], None] = lambda _: None,
    ) -> None:
        if not root.is_dir():
            raise InvalidArgumentError(f"{str(root)!r} is no folder: only a folder can be watched")
        self._organization_id = organization_id
        self._root = root.resolve()
        self._into = into
        self._exclude, self._hidden = exclude, hidden
        self._settle_seconds = settle_seconds
        self._scan_seconds = min(scan_seconds, POLL_SECONDS) if poll else scan_seconds
        self._poll = poll
        self._tell = tell
        self._ignore = self._read_ignore()
        self._waiting: dict[FolderPath, _Waiting] = {}
        self._done: dict[FolderPath, Shape] = {}
        self._next_scan = 0.0
        self._stopping = threading.Event()
        self._failures = 0
        self._not_before = 0.0

    def stop(self) -> None:
        """Safe in a signal handler; what is being imported is finished."""
        self._stopping.set()

    def run(self) -> None:
        """Raises InvalidArgumentError when the folder is gone, DocworkerError when there is too much to watch."""
        try:
            for changed in self._ticks() if self._poll else self._told():
                self._turn(changed)
        except OSError as error:
            raise DocworkerError(
                f"{str(self._root)!r} cannot be watched: {error}; where there are too many folders, raise the kernel's "
                "fs.inotify.max_user_watches, or use --poll"
            ) from error

    def _told(self) -> Iterator[list[Path]]:
        """What the kernel tells of; often nothing."""
        for changes in watch(
            self._root,
            watch_filter=None,
            stop_event=self._stopping,
            rust_timeout=_TICK_MILLISECONDS,
            debounce=_TICK_MILLISECONDS,
            yield_on_timeout=True,
            raise_interrupt=False,
            force_polling=False,
            ignore_permission_denied=True,
        ):
            yield [Path(path) for _, path in changes]

    def _ticks(self) -> Iterator[list[Path]]:
        # Asleep, because an Event set in a signal handler may deadlock with its own wait.
        while not self._stopping.is_set():
            yield []
            time.sleep(_TICK_MILLISECONDS / 1000)

    def _turn(self, changed: Iterable[Path]) -> None:
        """The first one comes when the kernel has begun to tell: nothing falls between that and the scan."""
        for path in changed:
            self._note(path)
        if time.monotonic() >= self._next_scan:
            self._next_scan = time.monotonic() + self._scan_seconds
            self._scan()
        if time.monotonic() >= self._not_before:
            self._import(self._settled())

    def _scan(self) -> None:
        found = [one for one in walk(self._root, self._ignore) if isinstance(one, FoundFile)]
        there = {one.path for one in found}
        self._done = {path: shape for path, shape in self._done.items() if path in there}
        self._await(found)

    def _note(self, path: Path) -> None:
        names = tuple(map(composed, path.relative_to(self._root).parts))
        if names == (IGNORE_FILE,):
            self._ignore = self._read_ignore()
            self._next_scan = 0.0
        elif names and not self._is_left_out(names, is_folder=path.is_dir()):
            below = walk(path, self._ignore, at=names) if path.is_dir() else [look_at_file(names, path)]
            self._await(below)

    def _read_ignore(self) -> Ignore:
        return Ignore.of_tree(self._root, self._exclude, hidden=self._hidden)

    def _is_left_out(self, names: FolderPath, *, is_folder: bool) -> bool:
        """By itself or with a folder it is in."""
        return any(
            self._ignore.why(names[:depth], is_folder=is_folder or depth < len(names))
            for depth in range(1, len(names) + 1)
        )

    def _await(self, found: Iterable[Found]) -> None:
        """Files that are not as they were when they were imported wait until they stay as they are."""
        now = time.monotonic()
        for one in found:
            if isinstance(one, FoundFile) and (shape := _shape_of(one.location)) is not None:
                known = self._waiting.get(one.path)
                if shape != self._done.get(one.path) and (known is None or known.shape != shape):
                    self._waiting[one.path] = _Waiting(one.location, shape, now)

    def _settled(self) -> Iterator[FoundFile]:
        now = time.monotonic()
        for path, waiting in list(self._waiting.items()):
            if (shape := _shape_of(waiting.location)) is None:
                del self._waiting[path]
            elif shape != waiting.shape:
                self._waiting[path] = _Waiting(waiting.location, shape, now)
            elif now - waiting.since >= self._settle_seconds:
                yield FoundFile(path, waiting.location)

    def _import(self, settled: Iterator[FoundFile]) -> None:
        try:
            while some := list(islice(settled, BATCH_FILES)):
                for result in import_found(self._organization_id, some, into=self._into):
                    self._tell(result)
                for file in some:
                    self._done[file.path] = self._waiting.pop(file.path).shape
                self._failures = 0
        except (SQLAlchemyError, DocworkerError) as error:
            if not classify(error).retryable:
                raise
            self._failures += 1
            seconds = min(LONGEST_WAIT_SECONDS, 2.0**self._failures)
            self._not_before = time.monotonic() + seconds
            log.warning("watch.waiting", error=str(error).partition("\n")[0], seconds=seconds, files=len(self._waiting))


def _shape_of(location: Path) -> Shape | None:
    """None where there is no such file any more."""
    try:
        status = location.stat()
    except OSError:
        return None
    return Shape(status.st_size, status.st_mtime_ns, status.st_ino)
