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
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, BinaryIO, cast
from uuid import UUID, uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

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


class SourceStore:
    """A directory or any fsspec address (`s3://bucket/prefix`, `memory://…`).

    Safe to use in several processes and threads, and after a fork: it holds no connection of its own.
    """

    def __init__(self, url: str, *, max_source_bytes: int) -> None:
        self.url = url
        self.max_source_bytes = max_source_bytes

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
        digest, size_bytes = hashlib.sha256(), 0
        with SpooledTemporaryFile(max_size=_KEEP_IN_MEMORY_BYTES) as spool:
            for chunk in self._chunks(stream):
                digest.update(chunk)
                size_bytes += len(chunk)
                spool.write(chunk)
            source = Source(source_key(organization_id, digest.hexdigest()), size_bytes)
            with self._explained("write", source.key):
                if self._size(source.key) != size_bytes:
                    spool.seek(0)
                    self._write(source.key, spool)
        return source

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
                raise SourceMissingError(f"the source {key} is not in {self.url}: import the file again") from error
        if hashlib.sha256(content).hexdigest() != _sha256_of(key):
            raise SourceCorruptError(
                f"the source {key} in {self.url} has other bytes than were put there ({len(content)} bytes found): "
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

    def _chunks(self, stream: IO[bytes]) -> Iterator[bytes]:
        size_bytes = 0
        while chunk := stream.read(CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > self.max_source_bytes:
                raise SourceTooLargeError(
                    f"larger than {self.max_source_bytes} bytes: raise DOCWORKER_MAX_SOURCE_BYTES to take it"
                )
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
            raise StoreError(f"the source store {self.url} is not there: mount it or correct DOCWORKER_STORE")

    @contextmanager
    def _explained(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except DocworkerError:
            raise
        except Exception as error:
            # Every driver of fsspec has errors of its own besides OSError.
            raise StoreError(f"cannot {action} the source {key} in {self.url}: {_remedy(error)}") from error


def source_store() -> SourceStore:
    """The store that DOCWORKER_STORE and DOCWORKER_MAX_SOURCE_BYTES describe."""
    configured = settings()
    return SourceStore(configured.store, max_source_bytes=configured.max_source_bytes)


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
