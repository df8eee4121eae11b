"""`SourceStore`: the bytes that documents were made from, kept by content behind fsspec.

A key is `organization id/sha256`, so equal files of one organization are kept once and bytes never change under a key.
It knows nothing of documents: deleting a key that a document still names is the caller's mistake.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, BinaryIO, cast
from uuid import UUID, uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from docworker.db.addresses import without_secrets
from docworker.db.errors import BadInputError, ConfigurationError, DocworkerError, InvalidArgumentError, StoreError
from docworker.db.settings import settings

CHUNK_BYTES = 256 * 1024
_KEEP_IN_MEMORY_BYTES = 8 * 1024 * 1024
_KEY = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/([0-9a-f]{64})")


class SourceMissingError(BadInputError):
    """The store does not hold the bytes that a document names."""


class SourceCorruptError(BadInputError):
    """The bytes in the store are not those that were put there."""


class SourceTooLargeError(BadInputError):
    """The source is larger than DOCWORKER_MAX_SOURCE_BYTES allows."""


@dataclass(frozen=True)
class Source:
    """What identifies the bytes of one source: `key` in the store, and their size."""

    key: str
    size_bytes: int


class Spool:
    """Bytes that are gathered piece by piece: in memory while they are few, then in a temporary file.

    `head` are the first `HEAD_BYTES` of them.
    """

    HEAD_BYTES = 4096

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._file = SpooledTemporaryFile(max_size=_KEEP_IN_MEMORY_BYTES)  # noqa: SIM115 - closed by `close`
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        self.head = b""

    def write(self, piece: bytes) -> None:
        """Raises SourceTooLargeError as soon as they are more than may be."""
        _check_size(self.size_bytes + len(piece), self._max_bytes)
        if len(self.head) < self.HEAD_BYTES:
            self.head += bytes(piece[: self.HEAD_BYTES - len(self.head)])
        self._digest.update(piece)
        self._file.write(piece)
        self.size_bytes += len(piece)

    def fill(self, stream: BinaryIO) -> None:
        while piece := stream.read(CHUNK_BYTES):
            self.write(piece)

    def source(self, organization_id: UUID) -> Source:
        """What identifies these bytes once they are kept."""
        return Source(source_key(organization_id, self._digest.hexdigest()), self.size_bytes)

    def rewound(self) -> IO[bytes]:
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_size(size_bytes: int, most: int) -> None:
    if size_bytes > most:
        raise SourceTooLargeError(f"larger than {most} bytes: raise DOCWORKER_MAX_SOURCE_BYTES to take it")


class SourceStore:
    """A directory or any fsspec address (`s3://bucket/prefix`, `memory://…`).

    Safe to use in several processes and threads, and after a fork: it holds no connection of its own.
    """

    def __init__(self, url: str, *, max_source_bytes: int) -> None:
        self.url = url
        self.max_source_bytes = max_source_bytes

    @property
    def place(self) -> str:
        """Where it is, as people may see it: an address without secrets, or a whole path."""
        return without_secrets(self.url) if "://" in self.url else str(Path(self.url).absolute())

    def identify(self, organization_id: UUID, stream: BinaryIO) -> Source:
        """The key and size that `put` would give these bytes, without writing anything.

        Raises SourceTooLargeError as soon as the limit is passed.
        """
        digest, size_bytes = hashlib.sha256(), 0
        for chunk in self._chunks(stream):
            digest.update(chunk)
            size_bytes += len(chunk)
        return Source(source_key(organization_id, digest.hexdigest()), size_bytes)

    def put(self, organization_id: UUID, stream: BinaryIO) -> Source:
        """Keep the bytes of the stream; bytes that are already there are not written again.

        A reader sees all of them or nothing. Raises SourceTooLargeError, or StoreError when they cannot be written.
        """
        with self.spool() as spool:
            spool.fill(stream)
            return self.keep(organization_id, spool)

    def spool(self) -> "Spool":
        """Where bytes can be gathered before they are kept; close it afterwards."""
        return Spool(self.max_source_bytes)

    def keep(self, organization_id: UUID, spool: "Spool") -> Source:
        """As `put`, for bytes that were gathered; raises StoreError when they cannot be written."""
        source = spool.source(organization_id)
        with self._explained("write", source.key):
            if self._size(source.key) != source.size_bytes:
                self._write(source.key, spool.rewound())
        return source

    def keys(self, organization_id: UUID, *, before: datetime, after: str = "") -> Iterator[str]:
        """The keys of an organization whose bytes were written before this time. A folder is listed at a time, in the
        order of their names, the first two digits of what is in them; from behind `after` on."""
        filesystem, directory = self._directory_of(organization_id)
        for folder in sorted(self._listed(filesystem, directory, organization_id, detail=False)):
            if folder.rstrip("/").rsplit("/", 1)[-1] <= after:
                continue
            for known in self._listed(filesystem, folder, organization_id, detail=True):
                key = f"{organization_id}/{known['name'].rsplit('/', 1)[-1]}"
                if _KEY.fullmatch(key) and _written_at(filesystem, known["name"], known) < before:
                    yield key

    def _listed(self, filesystem: Any, path: str, organization_id: UUID, *, detail: bool) -> Any:
        with self._explained("list", f"{organization_id}/…"):
            try:
                return filesystem.ls(path, detail=detail, refresh=True)
            except FileNotFoundError:
                return []
            finally:
                # What a driver remembers of a listing it would later take for what is there, though others delete.
                filesystem.invalidate_cache()

    def get(self, key: str) -> bytes:
        """The bytes under a key, checked against their sha256.

        Raises SourceMissingError, SourceCorruptError, SourceTooLargeError, or StoreError when they cannot be read.
        """
        filesystem, path = self._locate(key)
        with self._explained("read", key):
            try:
                with filesystem.open(path, "rb") as stream:
                    content = b"".join(self._chunks(stream))
            except FileNotFoundError as error:
                self._assert_mounted()
                raise SourceMissingError(
                    f"the source {key} is not in {self.place}, where this process has its store: if it was imported "
                    "with another DOCWORKER_STORE, set the same for all; then import the file again"
                ) from error
        if hashlib.sha256(content).hexdigest() != _sha256_of(key):
            raise SourceCorruptError(
                f"the source {key} in {self.place} has other bytes than were put there ({len(content)} bytes found): "
                "import the file again"
            )
        return content

    def exists(self, key: str) -> bool:
        with self._explained("look up", key):
            return self._size(key) is not None

    def delete(self, key: str) -> None:
        """Forget the bytes under a key; a key that is not there is no error."""
        filesystem, path = self._locate(key)
        with self._explained("delete", key), suppress(FileNotFoundError):
            filesystem.rm_file(path)

    def delete_all(self, organization_id: UUID) -> None:
        """Forget everything of an organization."""
        filesystem, directory = self._directory_of(organization_id)
        with self._explained("delete", f"{organization_id}/…"), suppress(FileNotFoundError):
            filesystem.rm(directory, recursive=True)

    def _directory_of(self, organization_id: UUID) -> tuple[Any, str]:
        filesystem, path = self._locate(source_key(organization_id, "0" * 64))
        return filesystem, path.rsplit("/", 2)[0]

    def _chunks(self, stream: IO[bytes]) -> Iterator[bytes]:
        size_bytes = 0
        while chunk := stream.read(CHUNK_BYTES):
            size_bytes += len(chunk)
            _check_size(size_bytes, self.max_source_bytes)
            yield chunk

    def _write(self, key: str, content: IO[bytes]) -> None:
        filesystem, path = self._locate(key)
        if isinstance(filesystem, LocalFileSystem):
            _write_file(Path(path), content)
        else:
            # An object store shows an object only when it is complete, and has no rename but copy and delete.
            filesystem.pipe_file(path, content.read())

    def _size(self, key: str) -> int | None:
        filesystem, path = self._locate(key)
        try:
            return int(filesystem.info(path)["size"])
        except FileNotFoundError:
            return None

    def _locate(self, key: str) -> tuple[Any, str]:
        try:
            # fsspec keeps its file systems, one set per process, so this is a look-up and survives a fork.
            filesystem, root = cast(Any, fsspec).url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(
                f"DOCWORKER_STORE: {self.url!r} cannot be used: {error}; for s3:// install docworker[s3]"
            ) from error
        organization_id, sha256 = _parts_of(key)
        return filesystem, f"{root.rstrip('/')}/{organization_id}/{sha256[:2]}/{sha256}"

    def _assert_mounted(self) -> None:
        """A store that is missing as a whole, an unmounted disk, says nothing about a single source."""
        filesystem, root = cast(Any, fsspec).url_to_fs(self.url)
        if isinstance(filesystem, LocalFileSystem) and not Path(root).is_dir():
            raise StoreError(f"the source store {self.place} is not there: mount it or correct DOCWORKER_STORE")

    @contextmanager
    def _explained(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except DocworkerError:
            raise
        except Exception as error:
            # Every driver of fsspec has errors of its own besides OSError.
            raise StoreError(f"cannot {action} the source {key} in {self.place}: {_remedy(error)}") from error


def source_store() -> SourceStore:
    """The store that DOCWORKER_STORE and DOCWORKER_MAX_SOURCE_BYTES describe."""
    configured = settings()
    return SourceStore(configured.store, max_source_bytes=configured.max_source_bytes)


def _written_at(filesystem: Any, path: str, known: dict[str, Any]) -> datetime:
    """Of what a listing says of a file, under the names that drivers have for it."""
    moment = next(
        (known[name] for name in ("mtime", "LastModified", "last_modified", "created") if name in known), None
    )
    if isinstance(moment, int | float):
        return datetime.fromtimestamp(moment, UTC)
    if not isinstance(moment, datetime):
        moment = filesystem.modified(path)
    assert isinstance(moment, datetime)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def source_key(organization_id: UUID, sha256: str) -> str:
    return f"{organization_id}/{sha256}"


def _parts_of(key: str) -> tuple[str, str]:
    match = _KEY.fullmatch(key)
    if match is None:
        raise InvalidArgumentError(f"not a key of the source store: {key!r}")
    return match[1], match[2]


def _sha256_of(key: str) -> str:
    return _parts_of(key)[1]


def _write_file(path: Path, content: IO[bytes]) -> None:
    """Write beside the target, then rename: whoever looks sees the whole file or none, also after a power cut."""
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as stream:
            shutil.copyfileobj(content, stream, CHUNK_BYTES)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(path)
        _sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remedy(error: Exception) -> str:
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    text = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"{text}; free some space or point DOCWORKER_STORE elsewhere"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
        return f"{text}; let this user write there or point DOCWORKER_STORE elsewhere"
    return text
