"""`import_tree`: files into the source store, folders and documents, and a job for each new or changed one.

Some hundred files a transaction, each in a savepoint of its own when it has to be, so that one bad file costs one file.
Threads read the files of the next transactions meanwhile, and keep the bytes of this one: a disk is waited for by many
at once. Nothing is deleted here (`pruning` tells what is gone), and importing the same tree again changes nothing.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db.documents.folders import ROOT, FolderPath, ensure_folders
from docworker.db.documents.intake import Incoming, Present, find_present, insert_documents, update_documents
from docworker.db.documents.source_lock import forgotten_if_dropped, hold_sources
from docworker.db.documents.store import (
    Source,
    SourceCorruptError,
    SourceMissingError,
    SourceStore,
    SourceTooLargeError,
    source_store,
)
from docworker.db.faults import classify
from docworker.db.models import DocumentStatus
from docworker.db.retrying import run_in_transaction
from docworker.db.sessions import organization_of, reading, writing
from docworker.jobs.enqueue import enqueue_many
from docworker.jobs.imports.ignoring import Ignore
from docworker.jobs.imports.walking import Found, FoundFile, FoundFolder, Refused, open_file, printable_path, walk
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.pipeline.media_types import HEAD_BYTES, UNSUPPORTED, media_type_of
from docworker.jobs.pipeline.registry import installed_signature

log = structlog.get_logger(__name__)
T = TypeVar("T")
R = TypeVar("R")

BATCH_FILES = 500
_THREADS = 8
"""That wait for disks; more of them hardly helped."""
_SHARE = 25
"""Files that a thread takes at a time."""
_BATCHES_AHEAD = 2

_TRIES = 5
"""Of a transaction."""
_ROUNDS = 5
"""How often a file is looked at again after another import got in between."""


class Imported(StrEnum):
    """What an import did about a file."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    UNSUPPORTED = "unsupported"
    """Kept, and recorded as a document that cannot be processed."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """Passed over on purpose: a symbolic link to a folder, what is hidden, what a pattern leaves out."""


@dataclass(frozen=True)
class FileResult:
    """`path` is the document's place in the organization's tree; new and changed files have a job."""

    path: str
    imported: Imported
    reason: str | None = None
    document_id: UUID | None = None
    job_id: UUID | None = None


@dataclass(frozen=True)
class _Read:
    """What reading a file has told."""

    source: Source
    media_type: str | None

    def incoming(self, folder_id: UUID | None, filename: str) -> Incoming:
        unsupported = UNSUPPORTED if self.media_type is None else None
        return Incoming(folder_id, filename, self.source, self.media_type, unsupported)


@dataclass(frozen=True)
class _File:
    """A file that was read once."""

    path: FolderPath
    location: Path
    incoming: Incoming

    def result(self, imported: Imported, reason: str | None = None, document_id: UUID | None = None) -> FileResult:
        return FileResult(printable_path(self.path), imported, reason, document_id)


_Writes = Mapping[_File, Present | None]


def import_tree(
    organization_id: UUID,
    root: Path,
    *,
    into: FolderPath = ROOT,
    ignore: Ignore | None = None,
    on_found: Callable[[Found], None] = lambda _: None,
) -> Iterator[FileResult]:
    """Mirror the files below `root` into the folder `into`, and yield what became of each once that is committed.

    Hidden files and what the tree's `.docworkerignore` names are left out, unless `ignore` says otherwise; `on_found`
    is told what was found. A generator: whoever stops in the middle has imported the first part.
    Raises InvalidArgumentError when `root` cannot be walked, StoreError when the source store fails.
    """
    found = walk(root, Ignore.of_tree(root) if ignore is None else ignore)
    return import_found(organization_id, found, into=into, on_found=on_found)


def import_found(
    organization_id: UUID,
    found: Iterable[Found],
    *,
    into: FolderPath = ROOT,
    on_found: Callable[[Found], None] = lambda _: None,
) -> Iterator[FileResult]:
    """As `import_tree`, of what a walk has found."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="import") as threads:
        importing = _Import(organization_id, into, source_store(), threads)
        found = iter(found)
        ahead: deque[_Batch] = deque()
        try:
            while True:
                while len(ahead) <= _BATCHES_AHEAD and (some := list(islice(found, BATCH_FILES))):
                    for one in some:
                        on_found(one)
                    ahead.append(importing.begin(some))
                if not ahead:
                    return
                yield from importing.take(ahead.popleft())
        finally:
            threads.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Batch:
    found: Sequence[Found]
    files: Sequence[Future[list[_Read | str]]]
    """What becomes of reading the files in `found`, in their order."""


class _Import:
    def __init__(
        self, organization_id: UUID, into: FolderPath, store: SourceStore, threads: ThreadPoolExecutor
    ) -> None:
        self._organization_id = organization_id
        self._into = into
        self._store = store
        self._threads = threads
        self._signature = installed_signature()
        self._folders: dict[FolderPath, UUID | None] = {ROOT: None}

    def begin(self, found: Sequence[Found]) -> _Batch:
        """Have the files read."""
        return _Batch(found, self._shared(self._read, [one for one in found if isinstance(one, FoundFile)]))

    def take(self, batch: _Batch) -> Iterator[FileResult]:
        """Import what was read."""
        self._make_folders(batch.found)
        reads = (read for share in batch.files for read in share.result())
        files = []
        for found in batch.found:
            if isinstance(found, Refused):
                yield self._refused(found)
            elif isinstance(found, FoundFile):
                path, read = (*self._into, *found.path), next(reads)
                if isinstance(read, str):
                    yield FileResult(printable_path(path), Imported.FAILED, read)
                else:
                    files.append(_File(path, found.location, read.incoming(self._folders[path[:-1]], path[-1])))
        yield from self._mirror(files)

    def _shared(self, work: Callable[[T], R], items: Sequence[T]) -> list[Future[list[R]]]:
        """Have threads do the work, each on a share of the items."""
        shares = (items[start : start + _SHARE] for start in range(0, len(items), _SHARE))
        return [self._threads.submit(lambda share: [work(one) for one in share], share) for share in shares]

    def _together(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        return [done for share in self._shared(work, items) for done in share.result()]

    def _refused(self, found: Refused) -> FileResult:
        imported = Imported.SKIPPED if found.passed_over else Imported.FAILED
        return FileResult(printable_path((*self._into, *found.path)), imported, found.reason)

    def _make_folders(self, batch: Sequence[Found]) -> None:
        paths = {(*self._into, *found.path) for found in batch if isinstance(found, FoundFolder)}
        paths |= {(*self._into, *found.path[:-1]) for found in batch if isinstance(found, FoundFile)}
        missing = paths - self._folders.keys()
        if missing:
            self._folders |= run_in_transaction(
                self._organization_id, lambda session: ensure_folders(session, missing), times=_TRIES
            )

    def _read(self, found: FoundFile) -> _Read | str:
        """Or why it cannot be read."""
        try:
            with open_file(found.location) as stream:
                head = stream.read(HEAD_BYTES)
                stream.seek(0)
                source = self._store.identify(self._organization_id, stream)
        except (SourceTooLargeError, OSError) as error:
            return _why_unread(error)
        return _Read(source, media_type_of(found.path[-1], head))

    def _mirror(self, files: Sequence[_File]) -> Iterator[FileResult]:
        """1. Ask the master what is there. 2. Keep the bytes of what is new or changed, with no connection held.
        3. Write documents and jobs in one transaction. 4. Again for those where somebody else got in between."""
        for _ in range(_ROUNDS):
            if not files:
                return
            with reading(self._organization_id, source="master") as session:
                present = find_present(session, [file.incoming for file in files])
            known = [(file, present.get(file.incoming.place)) for file in files]
            writes: dict[_File, Present | None] = {}
            for (file, there), kept in zip(known, self._together(self._settle, known), strict=True):
                if kept is None:
                    yield file.result(Imported.UNCHANGED, document_id=there.id if there else None)
                elif isinstance(kept, FileResult):
                    yield kept
                else:
                    writes[kept] = there
            results, files = self._write(writes)
            self._look_again([file for file in writes if file not in files])
            yield from results
        for file in files:
            yield file.result(Imported.FAILED, "others keep changing this document: import it again")

    def _write(self, writes: _Writes) -> tuple[list[FileResult], list[_File]]:
        if not writes:
            return [], []
        with forgotten_if_dropped(self._organization_id, [file.incoming.source.key for file in writes]):
            return run_in_transaction(self._organization_id, lambda session: _write(session, writes), times=_TRIES)

    def _settle(self, known: tuple[_File, Present | None]) -> _File | FileResult | None:
        """The file with its bytes kept, or what is wrong with it; None when nothing has changed."""
        file, there = known
        return None if there is not None and self._is_unchanged(file.incoming, there) else self._keep(file)

    def _look_again(self, files: Sequence[_File]) -> None:
        """Bytes that were already there may have been purged before the document that now protects them was. Whoever
        drops the organization waits while they are kept again, or they would stay when all others have gone."""
        are_there = self._together(lambda file: self._store.exists(file.incoming.source.key), files)
        for file, is_there in zip(files, are_there, strict=True):
            if not is_there:
                with writing(self._organization_id):
                    self._keep(file)

    def _is_unchanged(self, file: Incoming, there: Present) -> bool:
        if there.source_key != file.source.key:
            return False
        if there.status == DocumentStatus.UNSUPPORTED:
            return file.unsupported is not None
        if there.status == DocumentStatus.FAILED and there.rejected_by != self._signature:
            return False
        return there.status == DocumentStatus.PROCESSED or self._is_intact(file.source.key)

    def _is_intact(self, key: str) -> bool:
        """Whether the store still has the bytes; what is damaged is removed, so that it can be put again."""
        try:
            self._store.get(key)
        except (SourceMissingError, SourceCorruptError):
            self._store.delete(key)
            return False
        return True

    def _keep(self, file: _File) -> _File | FileResult:
        """The bytes may have changed since they were read: what the store got is what counts."""
        try:
            with open_file(file.location) as stream:
                source = self._store.put(self._organization_id, stream)
        except (SourceTooLargeError, OSError) as error:
            return file.result(Imported.FAILED, _why_unread(error))
        return replace(file, incoming=replace(file.incoming, source=source))


def _why_unread(error: Exception) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def _write(session: Session, writes: _Writes) -> tuple[list[FileResult], list[_File]]:
    """What was written, and the files whose document somebody else made or changed first."""
    try:
        with session.begin_nested():
            return _write_together(session, writes)
    except DBAPIError as error:
        if classify(error).retryable:
            raise
    log.info("import.set_apart", organization_id=str(organization_of(session)), files=len(writes))
    results: list[FileResult] = []
    overtaken: list[_File] = []
    for file, present in writes.items():
        try:
            with session.begin_nested():
                written, late = _write_together(session, {file: present})
        except DBAPIError as error:
            if classify(error).retryable:
                raise
            reason = str(error.orig).partition("\n")[0]
            results.append(file.result(Imported.FAILED, f"refused by the database: {reason}"))
        else:
            results += written
            overtaken += late
    return results, overtaken


def _write_together(session: Session, writes: _Writes) -> tuple[list[FileResult], list[_File]]:
    hold_sources(session)
    ids = insert_documents(session, [file.incoming for file, present in writes.items() if present is None])
    ids |= update_documents(session, {file.incoming: present for file, present in writes.items() if present})
    results, overtaken = [], []
    for file, present in writes.items():
        document_id = ids.get(file.incoming)
        if document_id is None:
            overtaken.append(file)
        elif file.incoming.unsupported is not None:
            results.append(file.result(Imported.UNSUPPORTED, file.incoming.unsupported, document_id))
        else:
            results.append(file.result(Imported.CHANGED if present else Imported.NEW, document_id=document_id))
    return _enqueue(session, results), overtaken


def _enqueue(session: Session, results: Sequence[FileResult]) -> list[FileResult]:
    pending = [one.document_id for one in results if one.imported is not Imported.UNSUPPORTED]
    arguments = [{"document_id": document_id} for document_id in pending]
    jobs = enqueue_many(session, process_document, arguments, unique_keys=map(str, pending)) if pending else []
    job_of = dict(zip(pending, jobs, strict=True))
    return [replace(one, job_id=job_of.get(one.document_id)) for one in results]
