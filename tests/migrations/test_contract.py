"""From texts stored twice to texts stored once and back: with documents there, and with the release before at work."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from docworker.db import catalog
from docworker.db.catalog import AT_HOME
from docworker.db.cluster.engines import owner_engine
from docworker.db.documents.search import search_documents
from docworker.db.documents.versions import NewText, restore_version, write_version, write_versions
from docworker.db.models import Document, DocumentVersion
from docworker.db.sessions import reading, writing
from docworker.db.settings import settings
from docworker.migrations import contract as contraction
from docworker.migrations.contract import contract, keeps_copies
from docworker.migrations.runner import downgrade, upgrade
from docworker.worker.cli.run.migrate import migrate
from docworker.worker.local.stack import LocalStack
from tests.support.database import opened_database, somebody_waits
from tests.support.processes import Processes
from tests.support.tenants import Tenant, index
from tests.support.waiting import eventually

BEFORE = "0004"

_WRITE_AS_BEFORE = text("""
WITH updated AS (
    UPDATE app.documents SET content = :text, content_sha256 = :hash, status = 'processed',
           latest_version = latest_version + 1, version = version + 1
    WHERE organization_id = :organization AND id = :id RETURNING latest_version)
INSERT INTO app.document_versions
    (organization_id, document_id, version_number, content, content_sha256, facts, pipeline)
SELECT :organization, :id, latest_version, :text, :hash, '{}', 'before/1' FROM updated
""")
_MANY = text("""
WITH made AS (
    INSERT INTO app.documents (organization_id, id, filename, content, status, latest_version, version)
    SELECT :organization, gen_random_uuid(), number, 'text ' || number, 'processed', 1, 1
    FROM generate_series(1, :count) AS number RETURNING id, content)
INSERT INTO app.document_versions
    (organization_id, document_id, version_number, content, content_sha256, facts, pipeline)
SELECT :organization, id, 1, content, '', '{}', 'before/1' FROM made
""")


_ADD_AS_BEFORE = text("""
INSERT INTO app.documents (organization_id, id, filename, content, status, latest_version, version)
SELECT :organization, gen_random_uuid(), gen_random_uuid(), content, 'pending', 0, 1
FROM unnest(CAST(:contents AS text[])) AS content
RETURNING id
""")


class TwoReleases(Tenant):
    """An organization whose documents are written by this release and by the one before."""

    def add_as_before(self, *contents: str) -> list[UUID]:
        """Documents that are not processed yet, without the columns that came since."""
        with writing(self.id) as session:
            given = {"organization": self.id, "contents": list(contents)}
            return list(session.scalars(_ADD_AS_BEFORE, given))

    def write_as_before(self, document_id: UUID, content: str) -> None:
        with writing(self.id) as session:
            session.execute(
                _WRITE_AS_BEFORE,
                {"organization": self.id, "id": document_id, "text": content, "hash": _hash(content)},
            )

    def write_one(self, document_id: UUID, content: str) -> None:
        document = self.get(document_id)
        with writing(self.id) as session:
            write_version(session, document, _new(document, content))

    def write_in_batch(self, document_id: UUID, content: str) -> None:
        with writing(self.id) as session:
            write_versions(session, [_new(self.get(document_id), content)])

    def restore(self, document_id: UUID, number: int) -> None:
        with writing(self.id) as session:
            restore_version(session, document_id, number)

    def add_many(self, count: int) -> None:
        """Processed documents as the release before leaves them."""
        with writing(self.id) as session:
            session.execute(_MANY, {"organization": self.id, "count": count})

    def columns(self) -> dict[UUID, str | None]:
        """What the release before would read: the column in the documents, by id."""
        with reading(self.id, source="master") as session:
            rows = session.execute(text("SELECT id, content FROM app.documents ORDER BY id"))
            return {row.id: row.content for row in rows}

    def documents(self) -> list[Document]:
        with reading(self.id, source="master") as session:
            return session.query(Document).order_by(Document.id).all()

    def texts(self) -> dict[UUID, str | None]:
        return {document.id: document.content for document in self.documents()}

    def copies(self) -> int:
        return sum(content is not None for content in self.columns().values())


def _new(document: Document, content: str) -> NewText:
    return NewText(document.id, document.version, None, content, _hash(content), "after/1")


def _hash(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@pytest.fixture
def tenants(fresh_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TwoReleases]]:
    """Two organizations in a database that the release before has used, which asks no catalog."""
    with opened_database():
        tenants = [TwoReleases(), TwoReleases()]
        downgrade(BEFORE)
        monkeypatch.setattr(catalog, "answer_of", lambda *_, **__: catalog.Answer(AT_HOME, float("inf")))
        yield tenants


WRITERS = ["write_as_before", "write_one", "write_in_batch"]


def write_everything(tenant: TwoReleases) -> dict[UUID, str]:
    """Documents whose last writer was the release before or this one, in each way; what their text is now."""
    expected: dict[UUID, str] = {}
    for first in WRITERS:
        for second in WRITERS:
            (document_id,) = tenant.add("raw")
            getattr(tenant, first)(document_id, f"{first}")
            getattr(tenant, second)(document_id, f"{second} after {first}")
            expected[document_id] = f"{second} after {first}"
    (restored,) = tenant.add("raw")
    tenant.write_one(restored, "one")
    tenant.write_in_batch(restored, "two")
    tenant.restore(restored, 1)
    return expected | {restored: "one"}


def test_the_release_before_finds_every_text_until_the_contraction_and_this_one_always(
    tenants: list[TwoReleases],
) -> None:
    old = [tenant.add_as_before("raw", "raw") for tenant in tenants]
    for tenant, ids in zip(tenants, old, strict=True):
        tenant.write_as_before(ids[0], "written before")
    upgrade()
    expected = []
    for tenant, (processed, pending) in zip(tenants, old, strict=True):
        expected.append(write_everything(tenant) | {processed: "written before", pending: "raw"})
        assert tenant.columns() == expected[-1] == tenant.texts()
    versions = [{one.id: one.version for one in tenant.documents()} for tenant in tenants]
    contract()
    for tenant, (_, pending), texts, numbers in zip(tenants, old, expected, versions, strict=True):
        assert tenant.texts() == texts
        assert {one.id: one.version for one in tenant.documents()} == numbers, "whoever has read them may write"
        assert {one for one, content in tenant.columns().items() if content is not None} == {pending}
    for tenant, texts in zip(tenants, expected, strict=True):
        texts |= write_everything(tenant)
        assert tenant.texts() == texts


def test_a_database_that_nobody_has_used_keeps_no_copies(fresh_environment: dict[str, str]) -> None:
    assert not keeps_copies()
    with opened_database():
        tenant = TwoReleases()
        document_id = tenant.add("raw")[0]
        assert tenant.copies() == 1
        tenant.write_in_batch(document_id, "text")
        assert (tenant.copies(), tenant.texts()) == (0, {document_id: "text"})


def test_a_text_that_is_not_processed_yet_survives_the_contraction(tenants: list[TwoReleases]) -> None:
    tenant = tenants[0]
    new, reverted = tenant.add_as_before("raw", "raw")
    for document_id in (new, reverted):
        tenant.write_as_before(document_id, "first")
        tenant.write_as_before(document_id, "second")
    upgrade()
    tenant.change(new, "draft")
    tenant.change(reverted, "first")
    contract()
    assert tenant.texts() == {new: "draft", reverted: "first"}


def test_a_history_written_from_its_end_leaves_the_newest_text_to_the_release_before(
    tenants: list[TwoReleases],
) -> None:
    tenant = tenants[0]
    upgrade()
    with writing(tenant.id) as session:
        document = Document(organization_id=tenant.id, filename="a.txt", latest_version=2)
        session.add(document)
        for number, content in ((2, "newest"), (1, "older")):
            session.flush()
            session.add(
                DocumentVersion(
                    organization_id=tenant.id,
                    document_id=document.id,
                    version_number=number,
                    content=content,
                    content_sha256=_hash(content),
                    pipeline="import/1",
                )
            )
    assert list(tenant.columns().values()) == list(tenant.texts().values()) == ["newest"]


def test_what_is_written_while_the_contraction_waits_for_the_row_is_not_removed(tenants: list[TwoReleases]) -> None:
    tenant = tenants[0]
    (drafted,) = tenant.add_as_before("raw")
    tenant.write_as_before(drafted, "processed")
    (rewritten,) = tenant.add_as_before("raw")
    tenant.write_as_before(rewritten, "processed")
    upgrade()
    with ThreadPoolExecutor(1) as pool:
        with writing(tenant.id) as session:
            session.get_one(Document, (tenant.id, drafted)).content = "draft"
            document = session.get_one(Document, (tenant.id, rewritten))
            write_version(session, document, _new(document, "newer"))
            contracted = pool.submit(contraction.change_copies, contraction.REMOVE_COPIES, owner_engine(settings()))
            eventually(somebody_waits, what="the contraction to wait")
        contracted.result(10)
    assert tenant.texts() == {drafted: "draft", rewritten: "newer"}


def test_contraction_goes_on_while_everybody_writes(
    tenants: list[TwoReleases], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contraction, "CHUNK", 7)
    tenant = tenants[0]
    tenant.add_many(200)
    upgrade()
    ids = list(tenant.texts())
    done = threading.Event()

    def write(part: list[UUID]) -> int:
        rounds = 0
        while not done.is_set() or not rounds:
            rounds += 1
            for number, document_id in enumerate(part):
                (tenant.write_one if number % 2 else tenant.write_in_batch)(
                    document_id, f"round {rounds} of {document_id}"
                )
        return rounds

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, ids[start:200:10]) for start in (0, 1)]
        contract()
        done.set()
        rounds = [writer.result() for writer in writers]
    expected = {one: f"round {rounds[start]} of {one}" for start in (0, 1) for one in ids[start:200:10]}
    texts = tenant.texts()
    assert {one: texts[one] for one in expected} == expected
    assert sum(content is not None and content.startswith("text ") for content in texts.values()) == 160
    assert tenant.copies() == 0


def test_a_contraction_that_was_killed_is_done_by_the_next_one(
    tenants: list[TwoReleases], processes: Processes
) -> None:
    for tenant in tenants:
        tenant.add_many(contraction.CHUNK + 100)
    upgrade()
    before = [tenant.texts() for tenant in tenants]
    last = max(tenants[1].texts())
    with writing(tenants[1].id) as session:
        session.execute(text("SELECT FROM app.documents WHERE id = :id FOR UPDATE"), {"id": last})
        killed = processes.start("migrate", "--contract")
        eventually(somebody_waits, what="the contraction to wait", within_seconds=30)
        killed.kill9()
    left = sum(tenant.copies() for tenant in tenants)
    assert 0 < left <= contraction.CHUNK + 100
    contract()
    assert [tenant.copies() for tenant in tenants] == [0, 0]
    assert [tenant.texts() for tenant in tenants] == before
    contract()


def test_going_back_gives_the_release_before_all_texts(tenants: list[TwoReleases]) -> None:
    upgrade()
    expected = [write_everything(tenant) for tenant in tenants]
    contract()
    for tenant, texts in zip(tenants, expected, strict=True):
        (document_id,) = tenant.add("raw")
        tenant.write_one(document_id, "written once")
        texts |= {document_id: "written once"}
    downgrade(BEFORE)
    for tenant, texts in zip(tenants, expected, strict=True):
        assert tenant.columns() == texts
    assert not keeps_copies()
    upgrade()
    assert keeps_copies()


def test_a_migration_and_the_way_back_may_be_repeated(tenants: list[TwoReleases]) -> None:
    for _ in range(2):
        upgrade()
        contract()
        downgrade(BEFORE)
    with writing(tenants[0].id) as session:
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'app.ix_document_search_vector'::regclass"
        assert session.scalar(text(valid)) is True


def test_texts_are_found_before_and_after_the_contraction(tenants: list[TwoReleases], stack: LocalStack) -> None:
    tenant = tenants[0]
    ids = tenant.add_as_before("raw", "raw")
    tenant.write_as_before(ids[0], "needle written before")
    upgrade()
    tenant.write_one(ids[1], "needle written after")
    for contracted in (False, True):
        if contracted:
            contract()
        with writing(tenant.id) as session:
            session.execute(text("DELETE FROM app.document_search"))
            assert index(session, ids) == 2
        stack.wait_for_replicas()
        hits = search_documents(tenant.id, "needle")
        snippets = {hit.document_id: "".join(fragment.text for fragment in hit.snippet) for hit in hits}
        assert snippets == {ids[0]: "needle written before", ids[1]: "needle written after"}


def test_migrate_says_what_is_left_to_do_and_does_it_when_asked(tenants: list[TwoReleases]) -> None:
    run = CliRunner().invoke
    assert "run `docworker migrate --contract`" in run(migrate).output
    assert keeps_copies()
    assert "run `" not in run(migrate, ["--contract"]).output
    assert not keeps_copies()
    assert "run `" not in run(migrate).output
