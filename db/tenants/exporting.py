"""`export_organization`: all that is kept of one organization, but its jobs, into a directory or a zip.

The tables are read in one snapshot and streamed, so memory does not grow with their rows. What is written stands in
`PATH.partial` until it is whole; a run that was cut off is taken up by the next one.
"""

import fcntl
import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from sqlalchemy import Select, Table, Text, cast, func, literal_column, select

from docworker.db.catalog import Place
from docworker.db.documents.store import SourceCorruptError, SourceMissingError, source_key, source_store
from docworker.db.errors import InvalidArgumentError
from docworker.db.sessions import TenantSession, read
from docworker.db.sessions.opening import reading_at
from docworker.db.tenants import archive
from docworker.db.tenants.archive import MANIFEST, SOURCES, Manifest, TableFile, file_of, opened
from docworker.db.tenants.tables import TABLES, rows_in_order

_ROWS_AT_A_TIME = 1000
_TEXTS_AT_A_TIME = 50
"""Rows of the tables that hold whole texts."""
_OWNER = "organization_id"
"""The file that says whose export is being written, and is locked by whoever writes it."""
_KEPT = "kept"
"""Where sources of a run that was cut off wait until the new snapshot names them."""


def export_organization(
    organization_id: UUID, path: Path, *, with_sources: bool = True, force: bool = False, place: Place | None = None
) -> Manifest:
    """Export to `path`, a zip if it ends in `.zip` and a directory else; returns the manifest. It is readable for the
    user alone who runs this.

    What is there already is replaced with `force` only, and only if it is an export. With a `place` it is read from the
    master there, whatever state the catalog has the organization in. Raises InvalidArgumentError for a
    path that cannot be used, StoreError when sources cannot be read now.
    """
    path = path.absolute()
    check_free(path, force=force)
    try:
        with _staged(path, organization_id) as staging:
            slug, exported_at, tables = _read_tables(organization_id, place, staging)
            sources, missing = _write_sources(staging, organization_id) if with_sources else _leave_sources(staging)
            manifest = Manifest(str(organization_id), slug, exported_at, tables, sources, missing)
            _write_text(staging / MANIFEST, manifest.to_json())
            _publish(staging, path)
    except OSError as error:
        raise InvalidArgumentError(
            f"cannot write the export to {path}: {error.strerror or error}; mend that and run the same command again, "
            "it goes on from there"
        ) from error
    return manifest


def check_free(path: Path, *, force: bool = False) -> None:
    """Raises InvalidArgumentError where nothing can be exported to."""
    if not path.parent.is_dir():
        raise InvalidArgumentError(f"there is no directory {path.parent} to export into: make it first")
    if not path.exists():
        return
    if not force:
        raise InvalidArgumentError(f"{path} exists already: choose another path, or replace it with --force")
    with opened(path) as existing:
        archive.read_manifest(existing)  # so that nothing but an export is ever replaced


@contextmanager
def _staged(path: Path, organization_id: UUID) -> Iterator[Path]:
    """The directory `PATH.partial`, ours alone. It stays when the block raises."""
    staging = path.with_name(f"{path.name}.partial")
    staging.mkdir(mode=0o700, exist_ok=True)
    with (staging / _OWNER).open("a+") as owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidArgumentError(f"another export writes {staging}: wait until it has ended") from error
        owner.seek(0)
        if owner.read() not in {"", str(organization_id)}:
            raise InvalidArgumentError(
                f"{staging} is what is left of another organization's export: remove it, or choose another path"
            )
        owner.truncate(0)
        owner.write(str(organization_id))
        owner.flush()
        (staging / MANIFEST).unlink(missing_ok=True)
        yield staging


def _read_tables(organization_id: UUID, place: Place | None, staging: Path) -> tuple[str, str, dict[str, TableFile]]:
    if place is None:
        return read(organization_id, lambda session: _write_tables(session, staging))
    with reading_at(place, organization_id) as session:
        return _write_tables(session, staging)


def _write_tables(session: TenantSession, staging: Path) -> tuple[str, str, dict[str, TableFile]]:
    """All tables anew, of one snapshot; also the organization's slug, and when it was."""
    session.hold_snapshot()
    session.limit_statements(0)
    exported_at = session.scalar(select(cast(func.to_json(func.clock_timestamp()), Text)))
    assert exported_at is not None
    tables = {name: _write_table(session, table, staging / file_of(name)) for name, table in TABLES.items()}
    organizations = TABLES["organizations"]
    slug = session.scalar(select(organizations.c.slug).where(organizations.c.id == session.organization_id))
    return str(slug), exported_at.strip('"'), tables


def _write_table(session: TenantSession, table: Table, path: Path) -> TableFile:
    count, size_bytes, digest = 0, 0, hashlib.sha256()
    at_a_time = _TEXTS_AT_A_TIME if "content" in table.c else _ROWS_AT_A_TIME
    streamed = session.scalars(_lines(table, session.organization_id), execution_options={"yield_per": at_a_time})
    with _created(path) as stream:
        for line in streamed:
            encoded = f"{line}\n".encode()
            stream.write(encoded)
            digest.update(encoded)
            size_bytes += len(encoded)
            count += 1
        stream.flush()
        os.fsync(stream.fileno())
    return TableFile(count, size_bytes, digest.hexdigest(), list(table.c.keys()))


def _lines(table: Table, organization_id: UUID | None) -> Select[str]:
    """Each row as the server writes it in JSON: what Python has not, such as numbers of many digits, stays as it is.
    PostgreSQL keeps the order of a subquery."""
    row = rows_in_order(table, organization_id).subquery("exported_row")
    return select(cast(func.row_to_json(literal_column("exported_row")), Text)).select_from(row)


def _write_sources(staging: Path, organization_id: UUID) -> tuple[int, list[str]]:
    """The bytes that the exported documents name, those that an earlier run has fetched among them; how many, and which
    the store does not have."""
    store, sources, kept = source_store(), staging / SOURCES, staging / _KEPT
    _set_aside(sources, kept)
    count, missing = 0, set[str]()
    with opened(staging) as written:
        for _, row in archive.rows(written, "documents"):
            sha256 = archive.source_sha256(row)
            if sha256 is None or sha256 in missing or (sources / sha256).exists():
                continue
            if _is_whole(kept / sha256, sha256):
                (kept / sha256).rename(sources / sha256)
            else:
                try:
                    content = store.get(source_key(organization_id, sha256))
                except (SourceMissingError, SourceCorruptError):
                    missing.add(sha256)
                    continue
                with _created(kept / sha256) as stream:
                    stream.write(content)
                (kept / sha256).rename(sources / sha256)
            count += 1
    shutil.rmtree(kept)
    return count, sorted(missing)


def _leave_sources(staging: Path) -> tuple[None, list[str]]:
    for folder in (SOURCES, _KEPT):
        shutil.rmtree(staging / folder, ignore_errors=True)
    return None, []


def _set_aside(sources: Path, kept: Path) -> None:
    """The new snapshot may not name all that were fetched for an earlier one."""
    kept.mkdir(mode=0o700, exist_ok=True)
    sources.mkdir(mode=0o700, exist_ok=True)
    for fetched in sources.iterdir():
        fetched.rename(kept / fetched.name)


def _is_whole(path: Path, sha256: str) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256


def _created(path: Path) -> BinaryIO:
    """A file of ours alone, wherever it is moved to: it holds what an organization's own database shows to nobody."""
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _write_text(path: Path, text: str) -> None:
    with _created(path) as stream:
        stream.write(text.encode())
        stream.flush()
        os.fsync(stream.fileno())


def _publish(staging: Path, path: Path) -> None:
    """Have the whole export at `path`, in the place of one that may be there."""
    if path.suffix == ".zip":
        packed = staging / "packed.zip"
        _pack(staging, packed)
        packed.replace(path)
        shutil.rmtree(staging)
        return
    (staging / _OWNER).unlink()
    os.sync()
    if path.exists():
        replaced = path.with_name(f"{path.name}.replaced")
        path.rename(replaced)
        staging.rename(path)
        shutil.rmtree(replaced)
    else:
        staging.rename(path)


def _pack(staging: Path, packed: Path) -> None:
    with _created(packed) as stream:
        with zipfile.ZipFile(stream, "w") as made:
            for name in TABLES:
                made.write(staging / file_of(name), file_of(name), zipfile.ZIP_DEFLATED)
            if (staging / SOURCES).is_dir():
                for source in (staging / SOURCES).iterdir():
                    made.write(source, f"{SOURCES}/{source.name}", zipfile.ZIP_STORED)
            made.write(staging / MANIFEST, MANIFEST, zipfile.ZIP_DEFLATED)
        stream.flush()
        os.fsync(stream.fileno())
