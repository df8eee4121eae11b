"""`Archive`, `Manifest`: what an exported organization looks like in a directory or a zip.

A file of JSON lines for each table, the bytes that documents were made from under `sources/`, and `manifest.json`,
which is written last and says how many rows and which bytes there are to be.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from sqlalchemy import Table

from docworker.db.errors import InvalidArgumentError
from docworker.db.tenants.tables import TABLES

FORMAT = "docworker organization"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SOURCES = "sources"
_CHUNK_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EXPORT_AGAIN = "export the organization again, or take another copy of the file"


_ADDED_LATER = frozenset({"document_contributors", "document_attachments"})
"""Exports of releases before have none of these."""


def file_of(table_name: str) -> str:
    return f"{table_name}.jsonl"


@dataclass(frozen=True)
class TableFile:
    """What a file of rows is to hold."""

    rows: int
    size_bytes: int
    sha256: str
    columns: list[str]


@dataclass(frozen=True)
class Manifest:
    """`sources` counts the files under `sources/`, and is None where they were left out; `missing_sources` are the
    sha256 of those that documents name and the store did not have."""

    organization_id: str
    slug: str
    exported_at: str
    tables: dict[str, TableFile]
    sources: int | None
    missing_sources: list[str]

    @property
    def exported(self) -> dict[str, Table]:
        """The tables that it has, in the order of TABLES."""
        return {name: table for name, table in TABLES.items() if name in self.tables}

    def to_json(self) -> str:
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps({**content, "sha256": _checksum(content)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "Manifest":
        """Raises InvalidArgumentError for one that is cut off, edited, or of another format."""
        try:
            content = json.loads(text)
            checksum = content.pop("sha256", None)
        except (ValueError, AttributeError) as error:
            raise InvalidArgumentError(f"{where} is cut off or damaged: {error}; {_EXPORT_AGAIN}") from error
        found = (content.pop("format", None), content.pop("format_version", None))
        if found[0] != FORMAT:
            raise InvalidArgumentError(f"{where} is not of an exported organization: its format is {found[0]!r}")
        if found[1] != FORMAT_VERSION:
            raise InvalidArgumentError(
                f"{where} has format version {found[1]!r}, and this release reads version {FORMAT_VERSION}: import it "
                "with the release that exported it"
            )
        if checksum != _checksum({"format": FORMAT, "format_version": FORMAT_VERSION, **content}):
            raise InvalidArgumentError(f"{where} was edited or damaged: its checksum does not fit; {_EXPORT_AGAIN}")
        tables = {name: TableFile(**one) for name, one in content.pop("tables").items()}
        return cls(**content, tables=tables)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Archive(Protocol):
    """The files of an export, by their names in it."""

    path: Path

    def open(self, name: str) -> IO[bytes]:
        """Raises KeyError or FileNotFoundError when it is not there."""
        ...

    def sources(self) -> Iterator[str]:
        """The names of the files under `sources/`, without the folder."""
        ...


class _Directory:
    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")

    def sources(self) -> Iterator[str]:
        folder = self.path / SOURCES
        return (one.name for one in folder.iterdir()) if folder.is_dir() else iter(())


class _Zip:
    def __init__(self, path: Path, opened: zipfile.ZipFile) -> None:
        self.path = path
        self._zip = opened

    def open(self, name: str) -> IO[bytes]:
        return self._zip.open(name)

    def sources(self) -> Iterator[str]:
        prefix = f"{SOURCES}/"
        return (name.removeprefix(prefix) for name in self._zip.namelist() if name.startswith(prefix))


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """A directory or a zip that was exported. Raises InvalidArgumentError when it is neither."""
    if path.is_dir():
        yield _Directory(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise InvalidArgumentError(f"there is no export at {path}: give a directory or a zip") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise InvalidArgumentError(f"{path} cannot be read as a zip: {error}; {_EXPORT_AGAIN}") from error
    with archive:
        yield _Zip(path, archive)


def read_manifest(archive: Archive) -> Manifest:
    """Raises InvalidArgumentError when there is none that this release understands."""
    with _readable(archive, MANIFEST) as stream:
        return Manifest.from_json(stream.read(), f"{archive.path}/{MANIFEST}")


def verify(archive: Archive, manifest: Manifest) -> None:
    """Make sure that every file holds what the manifest says, and names no other organization.

    Raises InvalidArgumentError, which names the file.
    """
    if set(manifest.tables) | _ADDED_LATER != set(TABLES):
        raise InvalidArgumentError(
            f"{archive.path}/{MANIFEST} lists the tables {sorted(manifest.tables)}, and this release knows "
            f"{sorted(TABLES)}: import it with the release that exported it"
        )
    for name, expected in manifest.tables.items():
        _verify_table(archive, manifest, name, expected)
    if manifest.sources is not None:
        _verify_sources(archive, manifest.sources)


def rows(archive: Archive, table_name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line of a table's file, and the row in it. Raises InvalidArgumentError for what is no row."""
    name = file_of(table_name)
    with _readable(archive, name) as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode()
                row = json.loads(text)
            except ValueError as error:
                raise InvalidArgumentError(
                    f"{archive.path}/{name}, line {number}, is cut off or damaged: {error}; {_EXPORT_AGAIN}"
                ) from error
            if not isinstance(row, dict):
                raise InvalidArgumentError(f"{archive.path}/{name}, line {number}, is not a row; {_EXPORT_AGAIN}")
            yield text, row


def source_sha256(row: dict[str, Any]) -> str | None:
    """What the name of a document's source is under `sources/`."""
    key = row.get("source_key")
    return None if key is None else str(key).rpartition("/")[2]


def _verify_table(archive: Archive, manifest: Manifest, name: str, expected: TableFile) -> None:
    where = f"{archive.path}/{file_of(name)}"
    unknown = set(expected.columns) - set(TABLES[name].c.keys())
    if unknown:
        raise InvalidArgumentError(
            f"{where} has the columns {sorted(unknown)}, which this release does not know: import it with the release "
            "that exported it"
        )
    with _readable(archive, file_of(name)) as stream:
        size_bytes, digest = _digest(stream)
    if (size_bytes, digest) != (expected.size_bytes, expected.sha256):
        raise InvalidArgumentError(
            f"{where} was cut off or edited: {size_bytes} bytes with the sha256 {digest}, and the manifest says "
            f"{expected.size_bytes} with {expected.sha256}; {_EXPORT_AGAIN}"
        )
    count = 0
    for _, row in rows(archive, name):
        count += 1
        _verify_row(row, manifest, f"{where}, line {count},", "id" if name == "organizations" else "organization_id")
        if name == "documents" and manifest.sources is not None:
            _verify_has_source(archive, row, manifest)
    if count != expected.rows:
        raise InvalidArgumentError(f"{where} has {count} rows, and the manifest says {expected.rows}; {_EXPORT_AGAIN}")


def _verify_row(row: dict[str, Any], manifest: Manifest, where: str, key: str) -> None:
    owners = {row.get(key)}
    if row.get("source_key") is not None:
        owners.add(str(row["source_key"]).partition("/")[0])
    if owners != {manifest.organization_id}:
        raise InvalidArgumentError(
            f"{where} names the organization {', '.join(sorted(map(str, owners - {manifest.organization_id})))} "
            f"instead of {manifest.organization_id}: rows of others are not imported; {_EXPORT_AGAIN}"
        )


def _verify_has_source(archive: Archive, row: dict[str, Any], manifest: Manifest) -> None:
    sha256 = source_sha256(row)
    if sha256 is not None and sha256 not in manifest.missing_sources:
        with _readable(archive, f"{SOURCES}/{sha256}"):
            pass


def _verify_sources(archive: Archive, expected: int) -> None:
    count = 0
    for name in archive.sources():
        count += 1
        with _readable(archive, f"{SOURCES}/{name}") as stream:
            _, digest = _digest(stream)
        if not _SHA256.fullmatch(name) or digest != name:
            raise InvalidArgumentError(
                f"{archive.path}/{SOURCES}/{name} was cut off or edited: its sha256 is {digest}; {_EXPORT_AGAIN}"
            )
    if count != expected:
        raise InvalidArgumentError(
            f"{archive.path}/{SOURCES} has {count} files, and the manifest says {expected}; {_EXPORT_AGAIN}"
        )


@contextmanager
def _readable(archive: Archive, name: str) -> Iterator[IO[bytes]]:
    try:
        with archive.open(name) as stream:
            yield stream
    except (KeyError, FileNotFoundError, NotADirectoryError) as error:
        raise InvalidArgumentError(
            f"{archive.path} has no {name}: it is no export that was finished; {_EXPORT_AGAIN}"
        ) from error
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InvalidArgumentError(f"{archive.path}/{name} cannot be read: {error}; {_EXPORT_AGAIN}") from error


def _digest(stream: IO[bytes]) -> tuple[int, str]:
    size_bytes, digest = 0, hashlib.sha256()
    while chunk := stream.read(_CHUNK_BYTES):
        size_bytes += len(chunk)
        digest.update(chunk)
    return size_bytes, digest.hexdigest()
