"""Importing trees: every file arrives once, a bad one costs one, and importing again changes nothing."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from sqlalchemy import func, select, text, update

from docworker.db.cluster.engines import owner_engine
from docworker.db.documents.reading import find_document, list_documents
from docworker.db.documents.store import SourceStore, source_store
from docworker.db.errors import NotFoundError, StoreError
from docworker.db.models import Document, Folder, Job
from docworker.db.sessions import reading, writing
from docworker.db.settings import settings
from docworker.jobs.imports.importing import FileResult, Imported, import_tree
from docworker.jobs.pipeline.media_types import UNSUPPORTED
from docworker.jobs.testing import drain
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.owner import find_placement
from tests.support.database import opened_database, somebody_waits
from tests.support.stack import applied
from tests.support.tenants import Tenant
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def database(environment: dict[str, str]) -> Iterator[None]:
    with applied(environment | {"DOCWORKER_MAX_SOURCE_BYTES": "100000"}), opened_database():
        yield


@pytest.fixture
def tenant() -> Tenant:
    return Tenant()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


def fill(root: Path, count: int) -> None:
    for number in range(count):
        path = root / f"folder{number % 9}" / f"sub{number % 4}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text number {number}")


def run(tenant: Tenant, root: Path, **options: Any) -> list[FileResult]:
    return list(import_tree(tenant.id, root, **options))


def counts(results: Sequence[FileResult]) -> dict[str, int]:
    return dict(Counter(result.imported.value for result in results))


def reasons(results: Sequence[FileResult]) -> dict[str, str | None]:
    return {result.path: result.reason for result in results if result.imported is Imported.FAILED}


def everything(tenant: Tenant) -> list[Any]:
    """All rows of the organization, as the master has them."""
    with reading(tenant.id, source="master") as session:
        return [
            sorted(map(repr, session.execute(select(*model.__table__.columns)).all()))
            for model in (Document, Folder, Job)
        ]


@pytest.mark.parametrize("step", ["put", "exists"])
def test_nothing_stays_in_the_store_of_an_organization_that_is_dropped_amid_an_import(
    tenant: Tenant, tree: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its files have gone with it when the import comes to keep them, or to see after its commit whether they are
    there."""
    store, dropping = source_store(), threading.Lock()
    as_before = getattr(SourceStore, step)
    fill(tree, 4)

    def once_it_is_dropped(*arguments: Any) -> Any:
        with dropping:
            if find_placement(tenant.slug) is not None:
                drop_tenant(tenant.slug)
        return as_before(*arguments)

    monkeypatch.setattr(SourceStore, step, once_it_is_dropped)
    with suppress(NotFoundError):
        run(tenant, tree)
    assert find_placement(tenant.slug) is None
    assert list(store.keys(tenant.id, before=datetime.now(UTC) + timedelta(days=1))) == []


def test_tree_is_mirrored_and_each_file_has_a_job(tenant: Tenant, tree: Path) -> None:
    fill(tree, 30)
    (tree / "empty" / "inside").mkdir(parents=True)
    results = run(tenant, tree)
    assert counts(results) == {"new": 30}
    entry = find_document(tenant.id, "/folder1/sub1/1.txt")
    assert (entry.status, entry.media_type, entry.latest_version) == ("pending", "text/plain", 0)
    with reading(tenant.id, source="master") as session:
        jobs = session.scalars(select(Job)).all()
        document = session.get_one(Document, (tenant.id, entry.id))
        folders = session.scalars(select(Folder.name)).all()
    assert {job.arguments["document_id"] for job in jobs} == {str(result.document_id) for result in results}
    assert {job.id for job in jobs} == {result.job_id for result in results}
    assert {job.kind for job in jobs} == {"process_document"}
    assert document.source_key is not None
    assert source_store().get(document.source_key) == b"text number 1"
    assert {"empty", "inside"} <= set(folders)


def test_importing_the_same_tree_again_changes_nothing(tenant: Tenant, tree: Path) -> None:
    fill(tree, 500)
    (tree / "song.mp3").write_bytes(b"ID3\x03\0\0\0\0\x0f\x76")
    assert counts(run(tenant, tree)) == {"new": 500, "unsupported": 1}
    before = everything(tenant)
    results = run(tenant, tree)
    assert counts(results) == {"unchanged": 501}
    assert not any(result.job_id for result in results)
    assert everything(tenant) == before


def test_a_file_known_to_be_bad_is_tried_again_by_other_processors(tenant: Tenant, tree: Path) -> None:
    (tree / "empty.txt").write_text("  ")
    run(tenant, tree)
    drain()
    assert counts(run(tenant, tree)) == {"unchanged": 1}
    with writing(tenant.id) as session:
        session.execute(update(Document).values(rejected_by="extract/1"))
    assert counts(run(tenant, tree)) == {"changed": 1}
    drain()
    assert counts(run(tenant, tree)) == {"unchanged": 1}
    (tree / "empty.txt").write_text("words")
    assert counts(run(tenant, tree)) == {"changed": 1}


def test_only_the_changed_file_is_processed_again(tenant: Tenant, tree: Path) -> None:
    fill(tree, 5)
    run(tenant, tree)
    with writing(tenant.id) as session:
        session.execute(text("DELETE FROM ledger.jobs"))
        session.execute(update(Document).values(status="processed", status_reason=None, version=7))
    (tree / "folder2/sub2/2.txt").write_text("another text")
    results = run(tenant, tree)
    assert counts(results) == {"changed": 1, "unchanged": 4}
    (changed,) = [result for result in results if result.imported is Imported.CHANGED]
    with reading(tenant.id, source="master") as session:
        document = session.get_one(Document, (tenant.id, changed.document_id))
        assert (document.status, document.version) == ("pending", 8)
        assert document.source_key is not None
        assert source_store().get(document.source_key) == b"another text"
        assert session.scalars(select(Job.id)).all() == [changed.job_id]


def test_files_land_in_the_folder_asked_for(tenant: Tenant, tree: Path) -> None:
    fill(tree, 2)
    run(tenant, tree, into=("2026", "q3"))
    run(tenant, tree / "folder1/sub1/1.txt", into=("single",))
    assert find_document(tenant.id, "/2026/q3/folder1/sub1/1.txt")
    assert find_document(tenant.id, "/single/1.txt")


def test_a_tree_from_a_disk_that_spells_names_otherwise_is_the_same_tree(tenant: Tenant, tmp_path: Path) -> None:
    name = "\N{LATIN CAPITAL LETTER U WITH DIAERESIS}bersicht"
    for form in ("NFC", "NFD"):
        path = tmp_path / form / normalize(form, name) / f"{normalize(form, name)}.txt"
        path.parent.mkdir(parents=True)
        path.write_text("text")
    assert counts(run(tenant, tmp_path / "NFD")) == {"new": 1}
    assert counts(run(tenant, tmp_path / "NFC")) == {"unchanged": 1}
    assert [one.path for one in list_documents(tenant.id)] == [f"/{name}/{name}.txt"]


def test_other_formats_are_kept_and_recorded_as_unsupported(tenant: Tenant, tree: Path) -> None:
    (tree / "song.mp3").write_bytes(b"ID3\x03\0\0\0\0\x0f\x76")
    (result,) = run(tenant, tree)
    assert (result.imported, result.job_id) == (Imported.UNSUPPORTED, None)
    entry = find_document(tenant.id, "/song.mp3")
    assert entry.status == "unsupported"
    assert entry.status_reason == UNSUPPORTED
    with reading(tenant.id, source="master") as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_unsupported_file_that_becomes_readable_is_processed(tenant: Tenant, tree: Path) -> None:
    (tree / "notes.bin").write_bytes(b"\x00\x01\x02")
    assert counts(run(tenant, tree)) == {"unsupported": 1}
    (tree / "notes.bin").write_bytes(b"<!doctype html><p>text")
    assert counts(run(tenant, tree)) == {"changed": 1}
    assert find_document(tenant.id, "/notes.bin").status == "pending"


def spoil(path: Path, how: str) -> str:
    """Make the file at `path` bad in one way; returns the reason that is to be given."""
    path.unlink()
    if how == "broken link":
        path.symlink_to("nowhere")
        return "a symbolic link that leads nowhere: No such file or directory"
    if how == "pipe":
        os.mkfifo(path)
        return "not a regular file"
    if how == "too large":
        path.write_bytes(b"a" * 100_001)
        return "larger than 100000 bytes: raise DOCWORKER_MAX_SOURCE_BYTES to take it"
    if how == "unreadable":
        path.symlink_to("/proc/self/mem")  # may be opened, and fails when it is read, also for root
        return "cannot be read: Input/output error"
    assert how == "bad name"
    Path(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.txt")).touch()
    return "the name is not valid UTF-8: rename it"


@pytest.mark.parametrize("how", ["broken link", "pipe", "too large", "unreadable", "bad name"])
def test_bad_file_among_twenty_costs_one(tenant: Tenant, tree: Path, how: str) -> None:
    fill(tree, 20)
    reason = spoil(tree / "folder7/sub3/7.txt", how)
    results = run(tenant, tree)
    assert counts(results) == {"new": 19, "failed": 1}
    assert list(reasons(results).values()) == [reason]
    assert counts(run(tenant, tree)) == {"unchanged": 19, "failed": 1}


@contextmanager
def names_refused(name: str) -> Iterator[None]:
    """The database refuses documents with this file name."""
    owner = owner_engine(settings())
    with owner.begin() as connection:
        connection.execute(
            text(f"ALTER TABLE app.documents ADD CONSTRAINT poison CHECK (filename <> '{name}') NOT VALID")
        )
    try:
        yield
    finally:
        with owner.begin() as connection:
            connection.execute(text("ALTER TABLE app.documents DROP CONSTRAINT poison"))


def test_file_that_the_database_refuses_costs_one(tenant: Tenant, tree: Path) -> None:
    fill(tree, 20)
    with names_refused("7.txt"):
        results = run(tenant, tree)
        assert counts(results) == {"new": 19, "failed": 1}
        assert "poison" in str(reasons(results)["/folder7/sub3/7.txt"])
    assert len({result.job_id for result in results if result.job_id}) == 19
    assert counts(run(tenant, tree)) == {"unchanged": 19, "new": 1}


def test_concurrent_imports_of_one_tree_make_each_document_once(tenant: Tenant, tree: Path) -> None:
    fill(tree, 150)
    with ThreadPoolExecutor(4) as pool:
        results = [one for part in pool.map(lambda _: run(tenant, tree), range(4)) for one in part]
    assert counts(results) == {"new": 150, "unchanged": 450}
    documents, folders, jobs = everything(tenant)
    assert (len(documents), len(folders), len(jobs)) == (150, 9 + 36, 150)


def test_concurrent_imports_of_changed_files_lose_no_change(tenant: Tenant, tmp_path: Path) -> None:
    trees = []
    for name in ("a", "b", "c"):
        fill(tmp_path / name, 40)
        for path in (tmp_path / name).rglob("*.txt"):
            path.write_text(f"{name} {path.name}")
        trees.append(tmp_path / name)
    run(tenant, trees[0])
    with ThreadPoolExecutor(3) as pool:
        for results in pool.map(lambda tree: run(tenant, tree), trees):
            assert not reasons(results)
    with reading(tenant.id, source="master") as session:
        keys = session.scalars(select(Document.source_key)).all()
        pending = session.scalars(select(Document.id).where(Document.status == "pending")).all()
        jobs = session.scalars(select(Job.arguments["document_id"].astext)).all()
    assert len(keys) == 40
    assert all(source_store().exists(str(key)) for key in keys)
    assert {str(document_id) for document_id in pending} <= set(jobs)


def test_deleted_document_does_not_stand_in_the_way(tenant: Tenant, tree: Path) -> None:
    fill(tree, 1)
    run(tenant, tree)
    with writing(tenant.id) as session:
        session.execute(update(Document).values(deleted_at=func.clock_timestamp()))
    assert counts(run(tenant, tree)) == {"new": 1}


@pytest.mark.parametrize("damage", ["lost", "other bytes"])
def test_source_damaged_in_the_store_is_mended_by_importing_again(tenant: Tenant, tree: Path, damage: str) -> None:
    fill(tree, 1)
    run(tenant, tree)
    with reading(tenant.id, source="master") as session:
        key = str(session.scalar(select(Document.source_key)))
    if damage == "lost":
        source_store().delete(key)
    else:
        organization, sha256 = key.split("/")
        (Path(settings().store) / organization / sha256[:2] / sha256).write_bytes(b"TEXT NUMBER 0")
    assert counts(run(tenant, tree)) == {"changed": 1}
    assert source_store().get(key) == b"text number 0"


def test_store_that_fails_ends_the_import_with_its_reason(
    tenant: Tenant, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tree, 3)
    monkeypatch.setenv("DOCWORKER_STORE", "/proc/no/store")
    settings.cache_clear()
    with pytest.raises(StoreError, match="cannot write the source"):
        run(tenant, tree)


def test_ctrl_c_while_writing_ends_the_import(tenant: Tenant, tree: Path) -> None:
    fill(tree, 3)
    owner = owner_engine(settings())

    def interrupt() -> None:
        eventually(lambda: somebody_waits("app.documents"), what="the import waits for the table")
        os.kill(os.getpid(), signal.SIGINT)

    with owner.begin() as connection:
        connection.execute(text("LOCK TABLE app.documents IN SHARE MODE"))
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run(tenant, tree)
    assert everything(tenant)[0] == []


def test_documents_of_another_organization_are_invisible(tenant: Tenant, tree: Path) -> None:
    fill(tree, 3)
    run(tenant, tree)
    other = Tenant()
    assert list_documents(other.id) == []
    with pytest.raises(NotFoundError):
        find_document(other.id, "/folder1/sub1/1.txt")
    assert counts(run(other, tree)) == {"new": 3}
    assert everything(tenant) != everything(other)


def test_an_import_that_was_given_up_is_completed_by_the_next_one(tenant: Tenant, tree: Path) -> None:
    fill(tree, 1100)
    begun = import_tree(tenant.id, tree)
    first = [next(begun) for _ in range(600)]
    assert isinstance(begun, Generator)
    begun.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("import")]
    rest = counts(run(tenant, tree))
    assert rest["unchanged"] >= 600
    assert rest["unchanged"] + rest["new"] == 1100
    assert [one.path for one in first] == [one.path for one in run(Tenant(), tree)][:600], "in the same order each time"


def test_thousand_files_are_imported(tenant: Tenant, tree: Path) -> None:
    fill(tree, 1000)
    assert counts(run(tenant, tree)) == {"new": 1000}


def test_hostile_file_costs_itself_and_nobody_else(tenant: Tenant, tree: Path) -> None:
    hostile = {
        "comments.svg.txt": b"<!-- a -->\n" * 5000 + b"<svg>",
        "headings.md": b"# " * 30_000 + b"x",
        "marks.txt": "e\u0301\u0316".encode() + "\u0301\u0316".encode() * 24_000,
        "words.txt": b"a_" * 50_000,
        "nested.html": b"<div>" * 19_000 + b"bottom",
        "guess.txt": b"\x81\x40\xff" * 33_000,
    }
    for name, content in hostile.items():
        (tree / name).write_bytes(content)
    (tree / "good.txt").write_text("good")
    other = Tenant()
    assert counts(run(tenant, tree)) == {"new": 7}
    assert counts(run(other, tree / "good.txt")) == {"new": 1}
    drain()
    assert find_document(other.id, "/good.txt").status == "processed"
    became = {entry.path: entry.status_reason for entry in list_documents(tenant.id)}
    assert became["/good.txt"] is None
    for path, reason in became.items():
        assert reason is None or reason.startswith(("undecodable: ", "cpu_limit: ")), (path, reason)
    with reading(tenant.id, source="master") as session:
        states = Counter((kind, state) for kind, state in session.execute(select(Job.kind, Job.state)))
    assert states["index_documents", "succeeded"] >= 1
    assert not states["index_documents", "failed"]
