"""An organization, a folder or a document is as it was at a moment; nothing later is lost, and nothing wins unseen."""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text

from docworker.db.documents.folders import find_folder
from docworker.db.documents.reading import list_documents, parse_path
from docworker.db.documents.restoring import Finding, Found
from docworker.db.documents.retention import prune_versions, purge_deleted
from docworker.db.documents.store import source_store
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models import AuditEntry, Document, DocumentStatus, Folder
from docworker.db.sessions import reading, writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.kinds.indexing import index_documents
from docworker.jobs.testing import drain
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.owner import only_one_for
from docworker.worker.tenants.places import Model
from docworker.worker.tenants.restoring import restore_tenant
from tests.support.archives import LARGE_NUMBER
from tests.support.database import somebody_waits
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("clusters")

PLACEMENTS = [(Model.SHARED, "home"), (Model.SCHEMA, "home"), (Model.DATABASE, "east"), (Model.SHARED, "east")]


class PlacedTenant(Tenant):
    def __init__(self, model: Model = Model.SHARED, cluster: str = "home") -> None:
        self.slug = f"restored-{uuid4().hex}"
        self.id = create_tenant(self.slug, model=model, cluster=cluster).organization_id

    def now(self) -> datetime:
        with reading(self.id, source="master") as session:
            moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
            return moment

    def process(self, document_id: UUID, text: str) -> None:
        """A further version, as the main job makes it."""
        self.change(document_id, text)
        with writing(self.id) as session:
            enqueue(session, process_document, document_id=document_id)
        drain()

    def delete(self, document_id: UUID) -> None:
        with writing(self.id) as session:
            session.get_one(Document, (self.id, document_id)).deleted_at = func.clock_timestamp()

    def folder(self, path: str) -> UUID:
        with reading(self.id, source="master") as session:
            found = find_folder(session, parse_path(path))
        assert found is not None
        return found

    def delete_folder(self, path: str) -> UUID:
        folder_id = self.folder(path)
        with writing(self.id) as session:
            session.get_one(Folder, (self.id, folder_id)).deleted_at = func.clock_timestamp()
        return folder_id

    def restore(self, to: datetime, **options: str | bool | None) -> dict[UUID, Finding]:
        return {one.id: one for one in restore_tenant(self.slug, to, **options)}  # type: ignore[arg-type]


@pytest.fixture
def tenant(clusters: None) -> PlacedTenant:
    return PlacedTenant()


@pytest.fixture(params=PLACEMENTS, ids=lambda param: "-".join(param))
def placed(request: pytest.FixtureRequest) -> Iterator[PlacedTenant]:
    tenant = PlacedTenant(*request.param)
    yield tenant
    drop_tenant(tenant.slug)


def found(findings: dict[UUID, Finding]) -> dict[Found, int]:
    return dict(Counter(one.found for one in findings.values()))


def test_texts_and_deletions_are_brought_back_wherever_the_organization_is(
    placed: PlacedTenant, stack: LocalStack
) -> None:
    rewritten = placed.write("/a/rewritten.txt", "one", "two", title="Two")
    deleted = placed.write("/a/b/deleted.txt", "there")
    both = placed.write("/both.txt", "before")
    same = placed.write("/same.txt", "same")
    pending = placed.write("/pending.txt")
    moment = placed.now()
    for document_id in (rewritten, both):
        placed.process(document_id, "faulty")
    for document_id in (deleted, both):
        placed.delete(document_id)
    placed.delete_folder("/a/b")
    later = placed.write("/later.txt", "later")
    rows = {one: placed.get(one).version for one in (same, pending, later)}

    planned = placed.restore(moment, dry_run=True)
    assert placed.versions(rewritten)[-1].content == "faulty"
    assert placed.get(deleted).deleted_at is not None
    done = placed.restore(moment)
    assert {one: finding.found for one, finding in done.items()} == {
        placed.folder("/a/b"): Found.UNDELETED,
        rewritten: Found.REWRITTEN,
        deleted: Found.UNDELETED,
        both: Found.REWRITTEN,
        same: Found.UNCHANGED,
        pending: Found.UNCHANGED,
        later: Found.CREATED_LATER,
    }
    assert planned == done
    assert [one.content for one in placed.versions(rewritten)] == ["one", "two", "faulty", "two"]
    restored = placed.versions(rewritten)[-1]
    assert (restored.title, restored.facts["restored_from"], restored.pipeline) == ("Two", 2, "tests/1")
    document = placed.get(rewritten)
    assert (document.content, document.title, document.latest_version, document.status) == (
        "two",
        "Two",
        4,
        "processed",
    )
    assert placed.get(both).content == "before"
    stack.wait_for_replicas()
    assert {one.path for one in list_documents(placed.id)} == {
        "/a/rewritten.txt",
        "/a/b/deleted.txt",
        "/both.txt",
        "/same.txt",
        "/pending.txt",
        "/later.txt",
    }
    assert {one: placed.get(one).version for one in rows} == rows
    with reading(placed.id, source="master") as session:
        entries = session.scalars(select(AuditEntry).where(AuditEntry.action == "document.restored")).all()
    assert {entry.subject_id: entry.details.get("from_version") for entry in entries} == {
        rewritten: 2,
        deleted: None,
        both: 1,
    }
    assert drain(kinds={index_documents.kind.name: index_documents.kind}) > 0

    counts = found(placed.restore(moment))
    assert counts.keys() <= {Found.UNCHANGED, Found.CREATED_LATER, Found.ROW_CHANGED}
    assert [one.version_number for one in placed.versions(rewritten)] == [1, 2, 3, 4]


def test_facts_stay_what_they_are_and_texts_of_any_kind(tenant: PlacedTenant) -> None:
    odd = "\u2028 \U0001f600 \\ \"quoted\" '' %s :name"
    document_id = tenant.write("/odd.txt", odd)
    with writing(tenant.id) as session:
        session.execute(text("UPDATE app.document_versions SET facts = CAST(:facts AS jsonb)"), {"facts": FACTS})
    moment = tenant.now()
    tenant.process(document_id, "faulty")
    tenant.restore(moment)
    with reading(tenant.id, source="master") as session:
        facts = session.scalar(text("SELECT facts::text FROM app.document_versions WHERE version_number = 3"))
    assert LARGE_NUMBER in facts
    assert tenant.versions(document_id)[-1].content == odd


FACTS = f'{{"n": {LARGE_NUMBER}}}'


def test_what_was_uploaded_later_is_neither_lost_nor_wins_unseen(tenant: PlacedTenant) -> None:
    """Once as a text that an application has set, once as bytes."""
    texts = [tenant.write(f"/{number}.txt", "first") for number in range(3)]
    moment = tenant.now()
    tenant.process(texts[0], "faulty")
    tenant.change(texts[0], "uploaded later")
    source = source_store().put(tenant.id, io.BytesIO(b"uploaded as well"))
    with writing(tenant.id) as session:
        document = session.get_one(Document, (tenant.id, texts[1]))
        document.source_key, document.status, document.media_type = source.key, DocumentStatus.PENDING, "text/plain"
    first = tenant.restore(moment)
    assert {one: first[one].found for one in texts} == {
        texts[0]: Found.WAITING,
        texts[1]: Found.WAITING,
        texts[2]: Found.UNCHANGED,
    }
    assert tenant.get(texts[0]).content == "uploaded later"
    with writing(tenant.id) as session:
        for document_id in texts[:2]:
            enqueue(session, process_document, document_id=document_id)
    drain()
    tenant.restore(moment)
    assert [one.content for one in tenant.versions(texts[0])] == ["first", "faulty", "uploaded later", "first"]
    assert [one.content for one in tenant.versions(texts[1])] == ["first", "uploaded as well", "first"]


def test_what_waited_then_as_well_is_unchanged(tenant: PlacedTenant) -> None:
    document_id = tenant.write("/waits.txt", "first")
    tenant.change(document_id, "second")
    assert found(tenant.restore(tenant.now())) == {Found.UNCHANGED: 1}
    assert tenant.get(document_id).content == "second"


def test_versions_that_were_pruned_cannot_be_brought_back(tenant: PlacedTenant) -> None:
    pruned, kept, gap, gone = (tenant.write(f"/{n}.txt", "first") for n in ("pruned", "kept", "gap", "gone"))
    moment = tenant.now()
    for document_id in (pruned, kept, gap, gone):
        tenant.process(document_id, "second")
        tenant.process(document_id, "third")
    with writing(tenant.id) as session:
        session.execute(
            text("DELETE FROM app.document_versions WHERE document_id = :id AND version_number = 1"), {"id": pruned}
        )
        session.execute(
            text("DELETE FROM app.document_versions WHERE document_id = :id AND version_number = 2"), {"id": gap}
        )
        session.execute(
            text("DELETE FROM app.document_versions WHERE document_id = :id AND version_number < 3"), {"id": gone}
        )
        assert prune_versions(session, keep=3, keep_days=0, most=10) == 0
    done = tenant.restore(moment)
    assert {one: done[one].found for one in (pruned, kept, gap, gone)} == {
        pruned: Found.PRUNED,
        kept: Found.REWRITTEN,
        gap: Found.PRUNED,
        gone: Found.PRUNED,
    }
    assert tenant.get(pruned).content == "third"


def test_documents_without_a_text_then_and_rows_that_changed_are_listed_and_left_alone(tenant: PlacedTenant) -> None:
    without, moved = tenant.write("/without.txt"), tenant.write("/moved.txt", "text")
    moment = tenant.now()
    tenant.process(without, "its first")
    with writing(tenant.id) as session:
        session.get_one(Document, (tenant.id, moved)).filename = "elsewhere.txt"
    done = tenant.restore(moment)
    assert (done[without].found, done[moved].found) == (Found.NO_TEXT_THEN, Found.ROW_CHANGED)
    assert done[moved].path == "/elsewhere.txt"


def test_a_place_that_others_have_by_now_is_not_taken_from_them(tenant: PlacedTenant) -> None:
    first, below = tenant.write("/a.txt", "a"), tenant.write("/folder/deeper/b.txt", "b")
    moment = tenant.now()
    tenant.delete(first)
    second = tenant.write("/a.txt", "another")
    tenant.delete(below)
    old_folder = tenant.delete_folder("/folder")
    tenant.write("/folder/c.txt", "c")
    for dry_run in (True, False):
        done = tenant.restore(moment, dry_run=dry_run)
        assert (done[first].found, done[second].found) == (Found.PLACE_TAKEN, Found.CREATED_LATER)
        assert str(second) in str(done[first].reason)
        assert done[old_folder].found is Found.PLACE_TAKEN
    assert tenant.get(first).deleted_at is not None
    assert done[below].found is Found.PLACE_TAKEN
    assert tenant.get(below).deleted_at is not None


def test_what_was_purged_is_listed_if_it_was_there_then(tenant: PlacedTenant) -> None:
    before = tenant.write("/deleted-before.txt", "x")
    tenant.delete(before)
    there = tenant.write("/there.txt", "x")
    moment = tenant.now()
    later = tenant.write("/later.txt", "x")
    for document_id in (there, later):
        tenant.delete(document_id)
    with writing(tenant.id) as session:
        assert len(purge_deleted(session, older_than=timedelta(0), most=10)) == 3
    assert {one: finding.found for one, finding in tenant.restore(moment).items()} == {there: Found.PURGED}
    assert {one: finding.found for one, finding in tenant.restore(moment, document=str(there)).items()} == {
        there: Found.PURGED
    }


def test_only_a_folder_or_a_document_is_brought_back_also_when_it_was_deleted(tenant: PlacedTenant) -> None:
    inside, deeper, outside = (tenant.write(path, "first") for path in ("/in/a.txt", "/in/er/b.txt", "/out/a.txt"))
    moment = tenant.now()
    for document_id in (inside, deeper, outside):
        tenant.process(document_id, "second")
    tenant.delete(deeper)
    folders = {tenant.delete_folder("/in/er"), tenant.delete_folder("/in")}
    assert tenant.restore(moment, document="/in/a.txt", dry_run=True).keys() == {
        inside,
        tenant_folder(folders, tenant, "in"),
    }
    assert tenant.restore(moment, document=str(outside), dry_run=True).keys() == {outside}
    done = tenant.restore(moment, folder="/in/er")
    assert done.keys() == {deeper, *folders}
    assert tenant.get(deeper).content == "first"
    assert tenant.get(inside).content == "second"
    assert tenant.restore(moment, folder="/in").keys() == {inside, deeper}
    assert tenant.get(inside).content == "first"
    assert tenant.get(outside).content == "second"


def tenant_folder(folders: set[UUID], tenant: PlacedTenant, name: str) -> UUID:
    with reading(tenant.id, source="master") as session:
        return session.scalars(select(Folder.id).where(Folder.id.in_(folders), Folder.name == name)).one()


def test_others_who_write_meanwhile_are_not_overwritten_unseen(tenant: PlacedTenant) -> None:
    documents = [tenant.write(f"/{number}.txt", "first", indexed=False) for number in range(120)]
    moment = tenant.now()
    for document_id in documents:
        tenant.change(document_id, "faulty")
    with writing(tenant.id) as session:
        for document_id in documents:
            enqueue(session, process_document, document_id=document_id)
    drain()

    def write(_: int) -> None:
        for document_id in documents:
            with writing(tenant.id) as session:
                document = session.get_one(Document, (tenant.id, document_id), with_for_update=True)
                document.title = f"touched {document.version}"

    with ThreadPoolExecutor(3) as threads:
        writers = [threads.submit(write, number) for number in range(2)]
        restored = threads.submit(tenant.restore, moment).result()
        for writer in writers:
            writer.result()
    assert found(restored) == {Found.REWRITTEN: 120}
    assert {tuple(one.version_number for one in tenant.versions(document_id)) for document_id in documents} == {
        (1, 2, 3)
    }


def test_a_text_that_is_set_just_when_it_is_brought_back_is_not_lost(tenant: PlacedTenant) -> None:
    document_id = tenant.write("/a.txt", "first")
    moment = tenant.now()
    tenant.process(document_id, "faulty")
    with ThreadPoolExecutor(1) as threads:
        with writing(tenant.id) as session:
            session.get_one(Document, (tenant.id, document_id)).content = "uploaded just now"
            session.flush()
            restored = threads.submit(tenant.restore, moment)
            eventually(somebody_waits, within_seconds=20, what="the restore to wait")
        assert restored.result()[document_id].found is Found.WAITING
    assert tenant.get(document_id).content == "uploaded just now"


def test_other_commands_for_the_organization_end_first(tenant: PlacedTenant) -> None:
    document_id = tenant.write("/a.txt", "first")
    moment = tenant.now()
    tenant.process(document_id, "faulty")
    with ThreadPoolExecutor(1) as threads:
        with only_one_for(tenant.slug):
            restored = threads.submit(tenant.restore, moment)
            eventually(somebody_waits, within_seconds=20, what="the restore to wait")
            assert tenant.get(document_id).content == "faulty"
        assert found(restored.result()) == {Found.REWRITTEN: 1}


@pytest.mark.parametrize(
    ("moment", "options", "message"),
    [
        (lambda _: datetime(2026, 1, 1), {}, "may be meant in any time zone"),  # noqa: DTZ001
        (lambda tenant: tenant.now() + timedelta(minutes=1), {}, "is in the future, by the clock of the master"),
        (lambda _: datetime(2001, 1, 1, tzinfo=UTC), {}, "was made at .*: there is nothing of 2001-01-01"),
        (PlacedTenant.now, {"folder": "/a", "document": "/b"}, "not both"),
    ],
)
def test_moments_that_cannot_be_say_why(
    tenant: PlacedTenant, moment: Callable[[PlacedTenant], datetime], options: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        tenant.restore(moment(tenant), **options)


def test_names_of_nothing_are_refused(tenant: PlacedTenant) -> None:
    other = PlacedTenant().write("/theirs.txt", "x")
    moment = tenant.now()
    for options in ({"folder": "/nowhere"}, {"document": "/nothing.txt"}, {"document": str(other)}, {"document": "/"}):
        with pytest.raises(NotFoundError, match=r"had no (folder|document)"):
            tenant.restore(moment, **options)
    with pytest.raises(NotFoundError, match="no organization has the slug 'nobody'"):
        list(restore_tenant("nobody", moment))
