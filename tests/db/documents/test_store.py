"""The source store: content-addressed, atomic, checked; the same on a directory and on an fsspec address."""

import io
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import fsspec
import pytest

from docworker.db.documents.store import SourceCorruptError, SourceMissingError, SourceStore, SourceTooLargeError
from docworker.db.errors import ConfigurationError, InvalidArgumentError, StoreError
from docworker.db.faults import Fault, classify

ORGANIZATION = UUID("019a5f3e-0000-7000-8000-000000000001")
LIMIT_BYTES = 20 * 1024 * 1024


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SourceStore]:
    name = uuid4().hex
    url = str(tmp_path / name) if request.param == "directory" else f"memory://{name}"
    yield SourceStore(url, max_source_bytes=LIMIT_BYTES)
    filesystem, root = fsspec.url_to_fs(url)
    if filesystem.exists(root):
        filesystem.rm(root, recursive=True)


def put(store: SourceStore, content: bytes) -> str:
    return store.put(ORGANIZATION, io.BytesIO(content)).key


def files_under(url: str) -> list[str]:
    filesystem, root = fsspec.url_to_fs(url)
    return sorted(filesystem.find(root)) if filesystem.exists(root) else []


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(300_000), os.urandom(9 * 1024 * 1024)])
def test_what_was_put_is_got(store: SourceStore, content: bytes) -> None:
    source = store.put(ORGANIZATION, io.BytesIO(content))
    assert source.size_bytes == len(content)
    assert store.get(source.key) == content
    assert store.exists(source.key)


def test_equal_bytes_of_one_organization_are_kept_once(store: SourceStore) -> None:
    assert put(store, b"same") == put(store, b"same")
    assert len(files_under(store.url)) == 1


def test_equal_bytes_of_two_organizations_are_kept_apart(store: SourceStore) -> None:
    other = store.put(uuid4(), io.BytesIO(b"same")).key
    mine = put(store, b"same")
    store.delete(other)
    assert store.get(mine) == b"same"


def test_bytes_already_there_are_not_written_again(tmp_path: Path) -> None:
    store = SourceStore(str(tmp_path), max_source_bytes=LIMIT_BYTES)
    put(store, b"same")
    (path,) = files_under(store.url)
    before = Path(path).stat().st_ino
    put(store, b"same")
    assert Path(path).stat().st_ino == before


def test_identify_names_the_key_without_writing(store: SourceStore) -> None:
    source = store.identify(ORGANIZATION, io.BytesIO(b"text"))
    assert not files_under(store.url)
    assert source == store.put(ORGANIZATION, io.BytesIO(b"text"))


def test_source_over_the_limit_is_refused_before_it_is_read_to_its_end(store: SourceStore) -> None:
    stream = io.BytesIO(bytes(2 * LIMIT_BYTES))
    with pytest.raises(SourceTooLargeError, match=f"larger than {LIMIT_BYTES} bytes: raise DOCWORKER_MAX_SOURCE_BYTES"):
        store.put(ORGANIZATION, stream)
    assert stream.tell() < 1.1 * LIMIT_BYTES
    assert not files_under(store.url)


def test_missing_source_is_named(store: SourceStore) -> None:
    put(store, b"another one")
    key = store.identify(ORGANIZATION, io.BytesIO(b"never put")).key
    assert not store.exists(key)
    with pytest.raises(SourceMissingError, match=key):
        store.get(key)


def test_store_that_is_gone_as_a_whole_is_no_fault_of_the_document(tmp_path: Path) -> None:
    store = SourceStore(str(tmp_path / "store"), max_source_bytes=LIMIT_BYTES)
    key = put(store, b"text")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="mount it or correct DOCWORKER_STORE"):
        store.get(key)
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    assert store.get(key) == b"text"


def test_delete_forgets_and_may_be_repeated(store: SourceStore) -> None:
    key = put(store, b"text")
    store.delete(key)
    store.delete(key)
    assert not store.exists(key)


def test_changed_bytes_are_noticed_when_read(store: SourceStore) -> None:
    key = put(store, b"right")
    (path,) = files_under(store.url)
    fsspec.url_to_fs(store.url)[0].pipe_file(path, b"wrong")
    with pytest.raises(SourceCorruptError, match=key):
        store.get(key)


def test_truncated_bytes_are_mended_by_the_next_put(store: SourceStore) -> None:
    key = put(store, b"right")
    (path,) = files_under(store.url)
    fsspec.url_to_fs(store.url)[0].pipe_file(path, b"rig")
    put(store, b"right")
    assert store.get(key) == b"right"


@pytest.mark.parametrize("key", ["", "../../etc/passwd", f"{ORGANIZATION}/short", f"{ORGANIZATION}/../{'a' * 64}"])
def test_only_keys_of_the_store_are_looked_up(store: SourceStore, key: str) -> None:
    with pytest.raises(InvalidArgumentError):
        store.get(key)


class FailingStream(io.BytesIO):
    """Breaks off half way, as a file on a dying disk does."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_stream_that_breaks_off_leaves_nothing(store: SourceStore) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        store.put(ORGANIZATION, FailingStream(bytes(600_000)))
    assert not files_under(store.url)


def test_store_that_cannot_be_written_says_what_to_do_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of the directory")
    store = SourceStore(str(tmp_path / "file"), max_source_bytes=LIMIT_BYTES)
    with pytest.raises(StoreError, match="point DOCWORKER_STORE elsewhere") as raised:
        put(store, b"text")
    assert classify(raised.value) is Fault.OVERLOAD


@contextmanager
def no_room_for_files_over_1000_bytes() -> Iterator[None]:
    """Around as little as can be: what pytest itself writes is under the limit as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_that_breaks_off_leaves_no_part_behind(tmp_path: Path) -> None:
    store = SourceStore(str(tmp_path), max_source_bytes=LIMIT_BYTES)
    with pytest.raises(StoreError, match="cannot write the source"), no_room_for_files_over_1000_bytes():
        put(store, bytes(5000))
    assert not files_under(store.url)


def test_unknown_kind_of_store_names_the_setting() -> None:
    store = SourceStore("nosuchthing://bucket", max_source_bytes=LIMIT_BYTES)
    with pytest.raises(ConfigurationError, match="DOCWORKER_STORE: 'nosuchthing://bucket'"):
        put(store, b"text")


def test_store_without_its_extra_says_what_to_install() -> None:
    try:
        import s3fs  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        store = SourceStore("s3://bucket/prefix", max_source_bytes=LIMIT_BYTES)
        with pytest.raises(ConfigurationError, match=r"docworker\[s3\]"):
            put(store, b"text")


def test_store_works_in_a_forked_child(tmp_path: Path) -> None:
    store = SourceStore(str(tmp_path), max_source_bytes=LIMIT_BYTES)
    key = put(store, b"from the parent")
    child = os.fork()
    if child == 0:
        os._exit(0 if store.get(key) == b"from the parent" else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_keys_are_listed_by_the_time_they_were_written_at(store: SourceStore) -> None:
    now = datetime.now(UTC)
    assert list(store.keys(ORGANIZATION, before=now + timedelta(minutes=1))) == []
    kept = {put(store, bytes([number])) for number in range(20)}
    store.put(uuid4(), io.BytesIO(b"somebody else's"))
    filesystem, root = fsspec.url_to_fs(store.url)
    filesystem.pipe_file(f"{root}/{ORGANIZATION}/ab/half.part", b"left by a kill")
    assert sorted(store.keys(ORGANIZATION, before=now + timedelta(minutes=1))) == sorted(kept)
    assert list(store.keys(ORGANIZATION, before=now - timedelta(minutes=1))) == []
