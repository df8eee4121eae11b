"""Receiving a file: bytes, document and job in one call, and every refusal by its name before anything is written."""

import asyncio
import io
import os
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unicodedata import normalize
from uuid import UUID

import pytest
from sqlalchemy import func, select

from docworker import (
    Document,
    EmptyFileError,
    InvalidArgumentError,
    InvalidNameError,
    NameTakenError,
    NotFoundError,
    Received,
    SourceTooLargeError,
    StoreError,
    UnsupportedFileError,
    aio,
    new_id,
    reading,
    receive,
    spool,
    writing,
)
from docworker.db.documents.folders import ensure_folders
from docworker.db.documents.source_lock import hold_sources, unused_sources
from docworker.db.documents.store import source_store
from docworker.db.models import Folder, Job, Tag, User
from docworker.db.models.tag import DocumentTag
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds import maintenance
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.testing import assert_enqueued, drain
from tests.support.database import held_back, opened_database
from tests.support.stack import applied
from tests.support.tenants import Tenant

LIMIT_BYTES = 1_000_000
TEXT = b"Everybody meets in the yard."


@pytest.fixture(autouse=True)
def database(environment: dict[str, str]) -> Iterator[None]:
    with applied(environment | {"DOCWORKER_MAX_SOURCE_BYTES": str(LIMIT_BYTES)}), opened_database():
        yield


@pytest.fixture
def tenant() -> Tenant:
    return Tenant()


def put(tenant: Tenant, content: Any = TEXT, filename: str = "drill.md", **options: Any) -> Received:
    with writing(tenant.id) as session:
        return receive(session, content, filename, **options)


def put_async(tenant: Tenant, content: Any, filename: str = "drill.md", **options: Any) -> Received:
    async def produce() -> Received:
        await aio.open_database(settings())
        try:
            async with aio.writing(tenant.id) as session:
                return await receive(session, content, filename, **options)
        finally:
            await aio.close_database()

    return asyncio.run(produce())


def rows(tenant: Tenant) -> dict[str, int]:
    with reading(tenant.id, source="master") as session:
        return {
            model.__tablename__: session.scalar(select(func.count()).select_from(model)) or 0
            for model in (Document, Folder, Job, Tag)
        }


def kept(tenant: Tenant) -> list[str]:
    return sorted(path.name for path in (Path(settings().store) / str(tenant.id)).rglob("*") if path.is_file())


def test_what_was_received_is_processed(tenant: Tenant) -> None:
    received = put(tenant, folder="/safety/2026", tags=["drill", "yard", "drill"])
    assert (received.filename, received.media_type, received.size_bytes) == ("drill.md", "text/markdown", len(TEXT))
    assert received.is_new
    with reading(tenant.id, source="master") as session:
        (job,) = assert_enqueued(session, process_document, document_id=received.document_id)
        assert job.id == received.job_id
        folder = session.scalars(select(Folder.name).order_by(Folder.name)).all()
        tags = select(Tag.name).join(DocumentTag, DocumentTag.tag_id == Tag.id).order_by(Tag.name)
        assert (folder, session.scalars(tags).all()) == (["2026", "safety"], ["drill", "yard"])
    drain()
    assert tenant.get(received.document_id).content == TEXT.decode()


def test_owner_and_folder_are_given_by_id(tenant: Tenant) -> None:
    owner = User(organization_id=tenant.id, id=new_id(), email="a@example.org", display_name="A")
    with writing(tenant.id) as session:
        session.add(owner)
        folder_id = ensure_folders(session, [("inbox",)])[("inbox",)]
        assert folder_id is not None
        session.flush()
        received = receive(session, TEXT, "a.txt", folder=folder_id, owner_id=owner.id)
    document = tenant.get(received.document_id)
    assert (document.owner_id, document.folder_id) == (owner.id, folder_id)


class Upload:
    """As web frameworks hand one over: an awaitable `read`."""

    def __init__(self, content: bytes) -> None:
        self._stream = io.BytesIO(content)

    async def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


async def packets(content: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.mark.parametrize("make", [bytes, io.BytesIO, Upload, packets, memoryview], ids=lambda make: make.__name__)
def test_whatever_holds_bytes_is_received_with_asyncio(tenant: Tenant, make: Callable[[bytes], Any]) -> None:
    received = put_async(tenant, make(TEXT * 1000), folder="/a")
    assert received.size_bytes == 1000 * len(TEXT)
    drain()
    assert (tenant.get(received.document_id).content or "").count("yard") == 1000


def test_a_file_is_read_and_kept_while_the_event_loop_goes_on(tenant: Tenant) -> None:
    turn, pieces = threading.Event(), [b"first ", b"second", b""]

    class Slow(io.RawIOBase):
        """Its second piece comes only once the event loop has had its turn."""

        def read(self, _size: int = -1) -> bytes:
            if len(pieces) == 2:
                assert turn.wait(10), "the event loop was held up"
            return pieces.pop(0)

    async def produce() -> Received:
        await aio.open_database(settings())
        try:
            async with aio.writing(tenant.id) as session:
                asyncio.get_running_loop().call_later(0.01, turn.set)
                return await receive(session, Slow(), "slow.txt")
        finally:
            await aio.close_database()

    assert asyncio.run(produce()).size_bytes == 12


def test_a_large_stream_is_never_in_memory_as_a_whole(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCWORKER_MAX_SOURCE_BYTES", str(80_000_000))
    settings.cache_clear()

    class Endless(io.RawIOBase):
        left = 64_000_000

        def read(self, size: int = -1) -> bytes:
            assert 0 < size <= 1_000_000
            piece = b"a" * min(size, self.left)
            self.left -= len(piece)
            return piece

    tracemalloc.start()
    try:
        assert put(tenant, Endless(), "large.txt").size_bytes == 64_000_000
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


class TextFile:
    """One that was opened without "b"."""

    def read(self, _size: int = -1) -> str:
        return "text"


REFUSED: dict[type[Exception], list[dict[str, Any]]] = {
    InvalidNameError: [
        *({"filename": name} for name in ("", "a/b", "a\0b", ".", "..", "ü" * 600, "half \ud800", 7, None)),
        {"folder": "/a/../b"},
        {"folder": "/" + "a" * 1025},
        {"tags": ["good", ""]},
    ],
    InvalidArgumentError: [
        {"folder": 7},
        {"owner_id": "me"},
        {"tags": "word"},
        {"if_taken": "overwrite"},
        {"content": "text"},
        {"content": TextFile()},
        {"content": None},
    ],
    NotFoundError: [{"folder": UUID(int=7)}, {"owner_id": UUID(int=7)}],
    EmptyFileError: [{"content": b""}],
    SourceTooLargeError: [{"content": b"a" * (LIMIT_BYTES + 1)}],
    UnsupportedFileError: [{"content": b"ID3\x03\0\0\0\0\x0f\x76" + bytes(100)}],
}


@pytest.mark.parametrize("error", REFUSED, ids=lambda error: error.__name__)
@pytest.mark.parametrize("how", [put, put_async])
def test_what_cannot_be_is_refused_by_name_before_anything_is_written(
    tenant: Tenant, how: Callable[..., Received], error: type[Exception]
) -> None:
    for given in REFUSED[error]:
        with pytest.raises(error) as refusal:
            how(tenant, **{"content": TEXT, "folder": "/new", "tags": ["new"]} | given)
        assert type(refusal.value) is error
        assert (sum(rows(tenant).values()), kept(tenant)) == (0, []), given


def test_a_refusal_leaves_the_callers_transaction_as_it_was(tenant: Tenant) -> None:
    put(tenant)
    with writing(tenant.id) as session:
        first = receive(session, TEXT, "other.md")
        refused: tuple[dict[str, Any], ...] = ({"content": b""}, {"filename": "drill.md"}, {"filename": ""})
        for given in refused:
            with pytest.raises((EmptyFileError, NameTakenError, InvalidNameError)):
                receive(session, **({"content": TEXT, "filename": "third.md"} | given))
        second = receive(session, TEXT, "last.md")
    assert rows(tenant)["documents"] == 3
    assert {first.filename, second.filename} == {"other.md", "last.md"}


def test_a_store_that_is_away_is_told_and_nothing_is_written(
    tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DOCWORKER_STORE", str(tmp_path / "file" / "store"))
    settings.cache_clear()
    for how in (put, put_async):
        with pytest.raises(StoreError, match="DOCWORKER_STORE"):
            how(tenant, TEXT, folder="/new")
    assert sum(rows(tenant).values()) == 0


def test_a_session_that_only_reads_is_refused(tenant: Tenant) -> None:
    with reading(tenant.id) as session, pytest.raises(InvalidArgumentError, match="only reads"):
        receive(session, TEXT, "a.txt")
    assert kept(tenant) == []


def test_a_name_that_is_taken_is_an_error_that_knows_the_document(tenant: Tenant) -> None:
    there = put(tenant, folder="/a")
    with pytest.raises(NameTakenError, match=r"/a has a document 'drill\.md'") as refusal:
        put(tenant, b"Other text.\n", folder="/a")
    assert refusal.value.document_id == there.document_id
    assert len(kept(tenant)) == 1
    put(tenant, folder="/b")
    with writing(tenant.id) as session:
        session.get_one(Document, (tenant.id, there.document_id)).deleted_at = func.now()
    assert put(tenant, folder="/a").document_id != there.document_id


def test_a_new_version_is_made_where_it_is_asked_for(tenant: Tenant) -> None:
    first = put(tenant, if_taken="version")
    drain()
    second = put(tenant, b"Nobody meets anywhere.", if_taken="version", tags=["new"])
    assert (second.document_id, second.is_new, first.is_new) == (first.document_id, False, True)
    drain()
    assert [one.content for one in tenant.versions(first.document_id)] == [TEXT.decode(), "Nobody meets anywhere."]


def test_a_name_is_taken_in_every_spelling(tenant: Tenant) -> None:
    name = "caf\N{LATIN SMALL LETTER E WITH ACUTE}.md"
    received = put(tenant, filename=normalize("NFD", name))
    assert received.filename == name
    with pytest.raises(NameTakenError):
        put(tenant, filename=normalize("NFD", name))
    assert put(tenant, filename=normalize("NFD", name), if_taken="version").document_id == received.document_id


def test_names_are_numbered_where_it_is_asked_for(tenant: Tenant) -> None:
    names = [put(tenant, filename="a.b.txt", if_taken="number").filename for _ in range(3)]
    names += [put(tenant, filename="a.b (7).txt").filename, put(tenant, filename="a.b.txt", if_taken="number").filename]
    assert names == ["a.b.txt", "a.b (2).txt", "a.b (3).txt", "a.b (7).txt", "a.b (8).txt"]
    assert [put(tenant, filename="%_(", if_taken="number").filename for _ in range(2)] == ["%_(", "%_( (2)"]
    put(tenant, filename="ü" * 510 + ".md")
    with pytest.raises(InvalidNameError, match="bytes"):
        put(tenant, filename="ü" * 510 + ".md", if_taken="number")


@pytest.mark.parametrize("in_savepoint", [False, True])
def test_of_two_who_take_a_name_at_once_one_gets_the_named_error(tenant: Tenant, in_savepoint: bool) -> None:
    def second() -> str:
        with writing(tenant.id) as session:
            if not in_savepoint:
                return receive(session, b"Second.\n", "drill.md").filename
            with suppress(NameTakenError), session.begin_nested():
                receive(session, b"Second.\n", "drill.md")
            return receive(session, b"Second.\n", "drill.md", if_taken="number").filename

    with writing(tenant.id) as session:
        receive(session, TEXT, "drill.md")
        with held_back(second) as other:
            session.commit()
    if in_savepoint:
        assert other.result() == "drill (2).md"
    else:
        with pytest.raises(NameTakenError):
            other.result()
    assert rows(tenant)["documents"] == 1 + in_savepoint


def test_who_waited_for_one_that_was_rolled_back_gets_the_name(tenant: Tenant) -> None:
    with suppress(ZeroDivisionError), writing(tenant.id) as session:
        receive(session, TEXT, "drill.md")
        with held_back(lambda: put(tenant, b"Second.\n")) as other:
            session.rollback()
        raise ZeroDivisionError
    assert other.result().is_new
    assert rows(tenant) == {"documents": 1, "folders": 0, "jobs": 1, "tags": 0}


def age_the_store(tenant: Tenant) -> None:
    for path in (Path(settings().store) / str(tenant.id)).rglob("*"):
        os.utime(path, (0, 0))


def sweep(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        enqueue(session, maintenance.sweep_sources_of_organization)
    drain()


def test_what_a_rollback_left_in_the_store_is_swept_later(tenant: Tenant) -> None:
    stays = put(tenant)
    with suppress(ZeroDivisionError), writing(tenant.id) as session:
        receive(session, b"Rolled back.\n", "other.md")
        raise ZeroDivisionError
    assert rows(tenant)["documents"] == 1
    assert len(kept(tenant)) == 2
    sweep(tenant)
    assert len(kept(tenant)) == 2, "a file that is young may be about to be named"
    age_the_store(tenant)
    sweep(tenant)
    assert kept(tenant) == [str(tenant.get(stays.document_id).source_key).partition("/")[2]]


def test_the_schedule_sweeps_every_organization(tenant: Tenant) -> None:
    other = Tenant()
    for one in (tenant, other):
        source_store().put(one.id, io.BytesIO(b"named by nobody"))
        age_the_store(one)
    with writing(UUID(int=0)) as session:
        enqueue(session, maintenance.sweep_sources)
    drain()
    assert (kept(tenant), kept(other)) == ([], [])


def test_bytes_that_are_swept_just_now_are_put_again_for_who_receives_them(tenant: Tenant) -> None:
    """The sweep has found them unnamed and holds the lock; who receives them waits, and finds them gone."""
    key = source_store().put(tenant.id, io.BytesIO(TEXT)).key
    with writing(tenant.id) as session:
        assert unused_sources(session, [key]) == {key}
        with held_back(lambda: put(tenant)) as other:
            source_store().delete(key)
            session.commit()
    assert other.result().is_new
    assert source_store().get(key) == TEXT


def test_bytes_of_an_open_transaction_are_not_swept(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        receive(session, TEXT, "drill.md")
        age_the_store(tenant)
        with held_back(lambda: sweep(tenant)):
            session.commit()
    assert len(kept(tenant)) == 1


def test_a_slow_sender_is_waited_for_without_a_session(tenant: Tenant) -> None:
    with spool(io.BytesIO(TEXT)) as gathered:
        received = put(tenant, gathered)

    async def produce() -> Received:
        await aio.open_database(settings())
        try:
            async with aio.spool(packets(TEXT)) as gathered, aio.writing(tenant.id) as session:
                return await receive(session, gathered, "other.md")
        finally:
            await aio.close_database()

    assert (received.size_bytes, asyncio.run(produce()).size_bytes) == (len(TEXT), len(TEXT))
    with pytest.raises(SourceTooLargeError), spool(b"a" * (LIMIT_BYTES + 1)):
        pass


def test_others_may_receive_while_sources_are_held(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        hold_sources(session)
        assert put(tenant).is_new
