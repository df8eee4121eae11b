"""`receive`: one file that an application was given becomes a document with its job, in the caller's transaction.

What can be refused is refused before the store or the database is written: the name, the size, the format, a name that
is taken. The organization's sources are held before the bytes are put, so nobody purges them before the commit; what a
rollback leaves in the store is swept later (`sweep_sources`).
"""

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from inspect import iscoroutinefunction
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol, get_args, overload
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from docworker.db.documents.folders import ensure_folders, find_folder
from docworker.db.documents.intake import Incoming, insert_documents, replace_document
from docworker.db.documents.names import check_name, composed, spellings
from docworker.db.documents.reading import parse_path, path_text
from docworker.db.documents.source_lock import hold_sources
from docworker.db.documents.store import CHUNK_BYTES, Spool, source_store
from docworker.db.documents.tags import tag_document
from docworker.db.errors import (
    EmptyFileError,
    InvalidArgumentError,
    NameTakenError,
    NotFoundError,
    UnsupportedFileError,
)
from docworker.db.models import Document, Folder, User
from docworker.db.sessions import organization_of
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.pipeline.media_types import UNSUPPORTED, media_type_of

IfTaken = Literal["refuse", "version", "number"]
"""What a name that is taken means: an error, new bytes for the document that has it, or the name with a number."""

_ROUNDS = 20
"""How often a name is tried again that others take, or give up, meanwhile."""


class Reader(Protocol):
    """A file that was opened in binary mode, or what reads like one."""

    def read(self, size: int = -1, /) -> bytes: ...


class AsyncReader(Protocol):
    """What has an awaitable `read`, such as Starlette's UploadFile."""

    def read(self, size: int = -1, /) -> Awaitable[bytes]: ...


Content = bytes | bytearray | memoryview | Reader | Spool
AsyncContent = Content | AsyncReader | AsyncIterable[bytes]


@dataclass(frozen=True)
class Received:
    """`filename` differs from the one given where a number was added; `is_new` is false for a new version."""

    document_id: UUID
    job_id: UUID
    filename: str
    media_type: str
    size_bytes: int
    is_new: bool


@dataclass(frozen=True)
class _Wanted:
    """What the caller said, checked as far as that can be done without a server."""

    filename: str
    folder: UUID | tuple[str, ...]
    owner_id: UUID | None
    tags: frozenset[str]
    media_type: str | None
    if_taken: IfTaken
    job_id: UUID | None


@overload
def receive(
    session: Session,
    content: Content,
    filename: str,
    *,
    folder: str | UUID = "/",
    owner_id: UUID | None = None,
    tags: Collection[str] = (),
    media_type: str | None = None,
    if_taken: IfTaken = "refuse",
    job_id: UUID | None = None,
) -> Received: ...


@overload
def receive(
    session: AsyncSession,
    content: AsyncContent,
    filename: str,
    *,
    folder: str | UUID = "/",
    owner_id: UUID | None = None,
    tags: Collection[str] = (),
    media_type: str | None = None,
    if_taken: IfTaken = "refuse",
    job_id: UUID | None = None,
) -> Awaitable[Received]: ...


def receive(
    session: Session | AsyncSession,
    content: Any,
    filename: str,
    *,
    folder: str | UUID = "/",
    owner_id: UUID | None = None,
    tags: Collection[str] = (),
    media_type: str | None = None,
    if_taken: IfTaken = "refuse",
    job_id: UUID | None = None,
) -> Received | Awaitable[Received]:
    """Keep a file's bytes, make its document and enqueue its processing (awaitable with an AsyncSession).

    `content` are bytes, a binary file, or what `spool` has gathered; with an AsyncSession also what has an awaitable
    `read`, or an async iterator of bytes. It is read in pieces, never in the event loop's thread. `folder` is a path,
    whose folders are made where they are missing, or the id of one; `media_type` is what the sender said. `job_id` is
    what the job is to be called, for who has to know it again.

    Raises, with nothing written and the transaction as it was: InvalidNameError, EmptyFileError, SourceTooLargeError,
    UnsupportedFileError, NameTakenError, NotFoundError for an unknown folder or owner, StoreError when the store is
    away, InvalidArgumentError for a session that only reads.
    """
    wanted = _checked(filename, folder, owner_id, tags, media_type, if_taken, job_id)
    inner: Any = session.sync_session if isinstance(session, AsyncSession) else session
    organization_of(inner)
    if getattr(inner, "read_only", False):
        raise InvalidArgumentError(
            "this session only reads: receive files in one of docworker.writing(organization_id)"
        )
    if isinstance(session, AsyncSession):
        return _receive_async(session, content, wanted)
    with _spooled(content) as spool:
        incoming = _incoming(organization_of(session), spool, wanted)
        _look_first(session, wanted)
        source_store().keep(organization_of(session), spool)
        return _enter(session, wanted, incoming)


async def _receive_async(session: AsyncSession, content: Any, wanted: _Wanted) -> Received:
    async with _spooled_async(content) as spool:
        incoming = _incoming(organization_of(session), spool, wanted)
        await session.run_sync(_look_first, wanted)
        await asyncio.to_thread(source_store().keep, organization_of(session), spool)
        return await session.run_sync(_enter, wanted, incoming)


@contextmanager
def spool(content: Content) -> Iterator[Spool]:
    """Gather a file before a session is opened, so that none is held while a slow sender sends; give it to `receive`.

    Raises SourceTooLargeError.
    """
    with _spooled(content) as gathered:
        yield gathered


@asynccontextmanager
async def async_spool(content: AsyncContent) -> AsyncIterator[Spool]:
    """As `spool`, of whatever `receive` takes with an AsyncSession."""
    async with _spooled_async(content) as gathered:
        yield gathered


@contextmanager
def _spooled(content: Any) -> Iterator[Spool]:
    if isinstance(content, Spool):
        yield content
        return
    if isinstance(content, bytes | bytearray | memoryview):
        content = BytesIO(content)
    if not callable(getattr(content, "read", None)):
        raise InvalidArgumentError(f"a file's content is bytes or a binary file, got {type(content).__name__}")
    with source_store().spool() as gathered:
        while piece := content.read(CHUNK_BYTES):
            gathered.write(_bytes(piece))
        yield gathered


@asynccontextmanager
async def _spooled_async(content: Any) -> AsyncIterator[Spool]:
    if isinstance(content, Spool):
        yield content
        return
    with source_store().spool() as gathered:
        async for piece in _pieces(content):
            await asyncio.to_thread(gathered.write, piece)
        yield gathered


async def _pieces(content: Any) -> AsyncIterator[bytes]:
    """In pieces that are worth a change of threads, whatever the sender's packets are."""
    waiting = bytearray()
    async for piece in _as_sent(content):
        waiting += _bytes(piece)
        if len(waiting) >= CHUNK_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


async def _as_sent(content: Any) -> AsyncIterator[Any]:
    if isinstance(content, bytes | bytearray | memoryview):
        content = BytesIO(content)
    read = getattr(content, "read", None)
    if callable(read):
        is_async = iscoroutinefunction(read)
        while True:
            # Of a file object, which may wait for a disk. A `read` that only returns an awaitable does not wait.
            piece = await read(CHUNK_BYTES) if is_async else await _awaited(await asyncio.to_thread(read, CHUNK_BYTES))
            if not piece:
                return
            yield piece
    elif hasattr(content, "__aiter__"):
        async for piece in content:
            yield piece
    else:
        raise InvalidArgumentError(
            f"a file's content is bytes, a file, or an async iterator of bytes, got {type(content).__name__}"
        )


async def _awaited(result: Any) -> Any:
    return await result if hasattr(result, "__await__") else result


def _bytes(piece: Any) -> bytes:
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise InvalidArgumentError(f"a file gives bytes, got {type(piece).__name__}: open it in binary mode")
    return bytes(piece)


def _checked(
    filename: Any, folder: Any, owner_id: Any, tags: Any, media_type: Any, if_taken: Any, job_id: Any
) -> _Wanted:
    if if_taken not in get_args(IfTaken):
        raise InvalidArgumentError(f"if_taken is one of {', '.join(get_args(IfTaken))}, got {if_taken!r:.60}")
    if not isinstance(folder, str | UUID):
        raise InvalidArgumentError(f"folder is a path or the id of a folder, got {folder!r:.60}")
    if owner_id is not None and not isinstance(owner_id, UUID):
        raise InvalidArgumentError(f"owner_id is the UUID of a user, got {owner_id!r:.60}")
    if isinstance(tags, str):
        raise InvalidArgumentError(f"tags are several names, got {tags!r:.60}: give a list")
    return _Wanted(
        composed(check_name("a file", filename)),
        folder if isinstance(folder, UUID) else tuple(check_name("a folder", name) for name in parse_path(folder)),
        owner_id,
        frozenset(check_name("a tag", name) for name in tags),
        media_type,
        if_taken,
        job_id,
    )


def _incoming(organization_id: UUID, spool: Spool, wanted: _Wanted) -> Incoming:
    """What will be written once the bytes are kept; raises EmptyFileError, UnsupportedFileError."""
    if not spool.size_bytes:
        raise EmptyFileError(f"{wanted.filename!r} is empty: send a file with something in it")
    media_type = media_type_of(wanted.filename, spool.head, wanted.media_type)
    if media_type is None:
        raise UnsupportedFileError(f"{wanted.filename!r} is {UNSUPPORTED}: convert it to one of these")
    return Incoming(None, wanted.filename, spool.source(organization_id), media_type, owner_id=wanted.owner_id)


def _look_first(session: Session, wanted: _Wanted) -> None:
    """What would be refused in the end is refused before the bytes are kept, and what is kept is held from here on."""
    hold_sources(session)
    organization_id = organization_of(session)
    if wanted.owner_id is not None and session.get(User, (organization_id, wanted.owner_id)) is None:
        raise NotFoundError(f"this organization has no user {wanted.owner_id}")
    if isinstance(wanted.folder, UUID):
        folder = session.get(Folder, (organization_id, wanted.folder))
        if folder is None or folder.deleted_at is not None:
            raise NotFoundError(f"this organization has no folder {wanted.folder}")
    if wanted.if_taken == "refuse":
        _refuse_if_taken(session, wanted)


def _refuse_if_taken(session: Session, wanted: _Wanted) -> None:
    folder_id: UUID | None
    if isinstance(wanted.folder, UUID):
        folder_id = wanted.folder
    elif wanted.folder:
        folder_id = find_folder(session, wanted.folder)
        if folder_id is None:
            return
    else:
        folder_id = None
    taken_by = _document_at(session, folder_id, wanted.filename)
    if taken_by is not None:
        raise _taken(wanted, taken_by)


def _document_at(session: Session, folder_id: UUID | None, filename: str) -> UUID | None:
    return session.scalar(_live_in(session, folder_id).where(Document.filename.in_(spellings(filename))).limit(1))


def _live_in(session: Session, folder_id: UUID | None) -> Select[UUID]:
    return select(Document.id).where(
        Document.organization_id == organization_of(session),
        Document.folder_id.is_not_distinct_from(folder_id),
        Document.deleted_at.is_(None),
    )


def _taken(wanted: _Wanted, document_id: UUID | None) -> NameTakenError:
    there = wanted.folder if isinstance(wanted.folder, UUID) else path_text(wanted.folder)
    return NameTakenError(
        f"the folder {there} has a document {wanted.filename!r}: choose another name, or if_taken='version' for a new "
        "version of it, or if_taken='number' for a name with a number",
        document_id,
    )


def _enter(session: Session, wanted: _Wanted, incoming: Incoming) -> Received:
    folder = wanted.folder
    folder_id = folder if isinstance(folder, UUID) else ensure_folders(session, [folder])[folder]
    written, document_id, is_new = _written(session, wanted, replace(incoming, folder_id=folder_id))
    tag_document(session, document_id, wanted.tags)
    # A key folds jobs that wait; one that has its id from the caller is not to be folded into another.
    unique_key = str(document_id) if wanted.job_id is None else None
    job_id = enqueue(session, process_document, unique_key=unique_key, id=wanted.job_id, document_id=document_id)
    return Received(document_id, job_id, written.filename, str(written.media_type), written.source.size_bytes, is_new)


def _written(session: Session, wanted: _Wanted, incoming: Incoming) -> tuple[Incoming, UUID, bool]:
    """Insert, which waits for who inserts the same name; where the name is taken, as the caller wishes."""
    for _ in range(_ROUNDS):
        inserted = insert_documents(session, [incoming])
        if inserted:
            return incoming, inserted[incoming], True
        if wanted.if_taken == "version":
            document_id = replace_document(session, incoming)
            if document_id is not None:
                return incoming, document_id, False
        elif wanted.if_taken == "number":
            incoming = _numbered(session, wanted, incoming)
        else:
            break
    raise _taken(wanted, _document_at(session, incoming.folder_id, wanted.filename))


def _numbered(session: Session, wanted: _Wanted, incoming: Incoming) -> Incoming:
    """`report.pdf` as `report (2).pdf`, with the first number above those that are taken."""
    given = PurePosixPath(wanted.filename)
    stem, suffix = given.stem, given.suffix
    pattern = re.compile(rf"{re.escape(stem)} \(([0-9]{{1,9}})\){re.escape(suffix)}")
    alike = (
        _live_in(session, incoming.folder_id)
        .with_only_columns(Document.filename)
        .where(func.starts_with(Document.filename, f"{stem} ("))
    )
    taken = [int(match[1]) for name in session.scalars(alike) if (match := pattern.fullmatch(name))]
    return replace(incoming, filename=check_name("a file", f"{stem} ({max(taken, default=1) + 1}){suffix}"))
