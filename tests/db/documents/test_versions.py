"""Writing versions: what counts as a conflict, what is simply not there, and the two ways that are not optimistic."""

import threading
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import aliased
from sqlalchemy.orm.exc import DetachedInstanceError, StaleDataError

from docworker.db.documents.versions import (
    NewText,
    Outcome,
    Rejected,
    Written,
    increment,
    lock_document,
    reject,
    restore_version,
    write_version,
    write_versions,
)
from docworker.db.errors import ConflictError, InvalidArgumentError, NotFoundError
from docworker.db.models import Document, DocumentStatus, DocumentVersion
from docworker.db.models.base import new_id
from docworker.db.sessions import writing
from tests.support.database import held_back, somebody_waits
from tests.support.tenants import Tenant
from tests.support.waiting import eventually


def text_for(document: Document, content: str, **options: object) -> NewText:
    values = {"title": None, "content": content, "content_sha256": f"sha of {content}", "pipeline": "tests/1"}
    return NewText(document_id=document.id, read_version=document.version, **{**values, **options})  # type: ignore[arg-type]


def write(tenant: Tenant, document: Document, content: str) -> Outcome:
    with writing(tenant.id) as session:
        return write_version(session, document, text_for(document, content))


def write_all(tenant: Tenant, *results: NewText | Rejected) -> dict[UUID, Outcome]:
    with writing(tenant.id) as session:
        return write_versions(session, results)


def delete_softly(tenant: Tenant, document_id: UUID) -> None:
    with writing(tenant.id) as session:
        session.get_one(Document, (tenant.id, document_id)).deleted_at = datetime.now(UTC)


@pytest.fixture
def document(tenant: Tenant) -> Document:
    """Read, detached, with one version."""
    (document_id,) = tenant.add("raw")
    write(tenant, tenant.get(document_id), "first")
    return tenant.get(document_id)


def test_a_result_becomes_the_next_version(tenant: Tenant, document: Document) -> None:
    assert write(tenant, document, "second") == Outcome(Written.VERSION, 2)
    assert [one.content for one in tenant.versions(document.id)] == ["first", "second"]


def test_the_same_text_is_no_version_but_lets_a_failed_document_be_processed_again(
    tenant: Tenant, document: Document
) -> None:
    with writing(tenant.id) as session:
        reject(session, document, Rejected(document.id, document.version, "a reason"))
    assert write(tenant, tenant.get(document.id), "first") == Outcome(Written.UNCHANGED, 1)
    present = tenant.get(document.id)
    assert (present.status, present.status_reason, present.latest_version) == ("processed", None, 1)


@pytest.mark.parametrize("content", ["first", "second"])
def test_a_document_written_since_it_was_read_is_a_conflict(tenant: Tenant, document: Document, content: str) -> None:
    document_id = document.id
    tenant.change(document_id, "somebody else's")
    with pytest.raises((StaleDataError, ConflictError)):
        write(tenant, document, content)
    assert tenant.get(document_id).content == "somebody else's"
    assert len(tenant.versions(document_id)) == 1


def test_a_rejection_of_an_overtaken_document_is_a_conflict(tenant: Tenant, document: Document) -> None:
    document_id = document.id
    tenant.change(document_id, "somebody else's")
    with pytest.raises((StaleDataError, ConflictError)), writing(tenant.id) as session:
        reject(session, document, Rejected(document.id, document.version, "a reason"))
    assert tenant.get(document_id).status == DocumentStatus.PROCESSED


def test_the_same_rejection_of_an_overtaken_document_is_a_conflict_too(tenant: Tenant, document: Document) -> None:
    with writing(tenant.id) as session:
        reject(session, document, Rejected(document.id, document.version, "a reason"))
    rejected = tenant.get(document.id)
    tenant.change(document.id, "somebody else's")
    with pytest.raises(ConflictError), writing(tenant.id) as session:
        reject(session, rejected, Rejected(rejected.id, rejected.version, "a reason"))


def test_a_result_of_an_older_reading_does_not_pass_with_a_fresh_document(tenant: Tenant, document: Document) -> None:
    made_of_old = text_for(document, "of the old text")
    tenant.change(document.id, "newer")
    with pytest.raises(ConflictError, match="was read at version 2 and is at 3"), writing(tenant.id) as session:
        write_version(session, tenant.get(document.id), made_of_old)
    assert tenant.get(document.id).content == "newer"


def test_a_deleted_document_is_not_found_rather_than_a_conflict(tenant: Tenant, document: Document) -> None:
    delete_softly(tenant, document.id)
    gone = tenant.get(document.id)
    for content in ("first", "second"):
        with pytest.raises(NotFoundError, match=f"no document {document.id}"):
            write(tenant, gone, content)
    with pytest.raises(NotFoundError), writing(tenant.id) as session:
        reject(session, gone, Rejected(gone.id, gone.version, "a reason"))
    with pytest.raises(NotFoundError), writing(tenant.id) as session:
        restore_version(session, document.id, 1)


def test_unchanged_text_of_a_document_deleted_meanwhile_is_not_found(tenant: Tenant, document: Document) -> None:
    delete_softly(tenant, document.id)
    with pytest.raises(NotFoundError):
        write(tenant, document, "first")


def test_another_organizations_document_is_not_found_rather_than_a_conflict(tenant: Tenant, document: Document) -> None:
    other = Tenant()
    with pytest.raises(NotFoundError):
        write(other, document, "theirs")
    with pytest.raises(NotFoundError), writing(other.id) as session:
        reject(session, document, Rejected(document.id, document.version, "theirs"))
    assert write_all(other, text_for(document, "theirs"))[document.id].written is Written.MISSING
    with writing(other.id) as session:
        for attack in (
            lambda: lock_document(session, document.id),
            lambda: increment(session, document.id, "source_bytes"),
            lambda: restore_version(session, document.id, 1),
        ):
            with pytest.raises(NotFoundError, match=f"no document {document.id} in this organization"):
                attack()
    assert tenant.get(document.id).version == document.version


def test_a_batch_tells_for_each_document_what_became_of_it(tenant: Tenant) -> None:
    ids = tenant.add("new", "same", "bad", "overtaken", "deleted", "purged")
    new, same, bad, overtaken, deleted, purged = map(tenant.get, ids)
    write(tenant, same, "same")
    same = tenant.get(same.id)
    tenant.change(overtaken.id, "somebody else's")
    delete_softly(tenant, deleted.id)
    with writing(tenant.id) as session:
        session.execute(delete(Document).where(Document.id == purged.id))
    never_was = Rejected(new_id(), 1, "a reason")
    outcomes = write_all(
        tenant,
        text_for(new, "new"),
        text_for(same, "same"),
        Rejected(bad.id, bad.version, "a reason"),
        text_for(overtaken, "old"),
        text_for(deleted, "deleted"),
        text_for(purged, "purged"),
        never_was,
    )
    assert outcomes == {
        new.id: Outcome(Written.VERSION, 1),
        same.id: Outcome(Written.UNCHANGED, 1),
        bad.id: Outcome(Written.REJECTED),
        overtaken.id: Outcome(Written.CONFLICT),
        deleted.id: Outcome(Written.MISSING),
        purged.id: Outcome(Written.MISSING),
        never_was.document_id: Outcome(Written.MISSING),
    }
    assert [len(tenant.versions(one)) for one in ids] == [1, 1, 0, 0, 0, 0]
    assert (tenant.get(bad.id).status, tenant.get(bad.id).status_reason) == ("failed", "a reason")
    assert tenant.get(overtaken.id).content == "somebody else's"


def test_one_and_many_leave_the_same_rows(tenant: Tenant) -> None:
    alone, together = map(tenant.get, tenant.add("one", "two"))
    job_id = new_id()
    made = {"title": "T", "facts": {"words": 2}, "media_type": "text/plain", "job_id": job_id}
    with writing(tenant.id) as session:
        write_version(session, alone, text_for(alone, "text", **made))
    write_all(tenant, text_for(together, "text", **made))
    assert_equal_rows(tenant.get(alone.id), tenant.get(together.id))
    assert_equal_rows(tenant.versions(alone.id)[0], tenant.versions(together.id)[0])
    assert tenant.get(together.id).version == together.version + 1


def test_one_and_many_leave_the_same_rows_when_the_text_is_the_one_that_is_there(tenant: Tenant) -> None:
    """As when a file was replaced by one of another kind that holds the same text."""
    ids = tenant.add("one", "two")
    write_all(tenant, *(text_for(tenant.get(one), "text", media_type="text/plain") for one in ids))
    with writing(tenant.id) as session:
        session.execute(update(Document).where(Document.id.in_(ids)).values(status="pending", media_type=None))
    alone, together = map(tenant.get, ids)
    again = {"title": "New", "media_type": "text/html"}
    with writing(tenant.id) as session:
        assert write_version(session, alone, text_for(alone, "text", **again)) == Outcome(Written.UNCHANGED, 1)
    assert write_all(tenant, text_for(together, "text", **again)) == {together.id: Outcome(Written.UNCHANGED, 1)}
    assert_equal_rows(tenant.get(alone.id), tenant.get(together.id))


def test_one_and_many_leave_the_same_rows_when_the_rejection_is_the_one_that_is_there(tenant: Tenant) -> None:
    ids = tenant.add("raw", "raw")
    write_all(tenant, *(Rejected(one, 1, "a reason") for one in ids))
    alone, together = map(tenant.get, ids)
    with writing(tenant.id) as session:
        assert reject(session, alone, Rejected(alone.id, alone.version, "a reason")) == Outcome(Written.REJECTED)
    assert write_all(tenant, Rejected(together.id, together.version, "a reason")) == {
        together.id: Outcome(Written.REJECTED)
    }
    assert_equal_rows(tenant.get(alone.id), tenant.get(together.id))


def assert_equal_rows(first: object, second: object) -> None:
    own = ("id", "filename", "created_at", "updated_at", "_sa_instance_state", "document_id")
    values = [{name: value for name, value in vars(row).items() if name not in own} for row in (first, second)]
    assert values[0] == values[1]


def test_of_several_results_for_one_document_in_a_batch_the_last_counts(tenant: Tenant, document: Document) -> None:
    outcomes = write_all(
        tenant, Rejected(document.id, document.version, "first look"), *(text_for(document, text) for text in "abc")
    )
    assert outcomes == {document.id: Outcome(Written.VERSION, 2)}
    assert [one.content for one in tenant.versions(document.id)] == ["first", "c"]
    assert tenant.get(document.id).version == document.version + 1


def test_each_document_of_a_batch_gets_what_was_made_of_it(tenant: Tenant) -> None:
    changed, settled, rejected = (tenant.add("raw", "raw", "raw") for _ in range(3))
    write_all(tenant, *(text_for(tenant.get(one), "same") for one in settled))
    with writing(tenant.id) as session:
        session.execute(update(Document).where(Document.id.in_(settled)).values(status="pending"))

    def named(document: Document, content: str) -> NewText:
        name = str(document.id)
        made = {"title": f"title {name}", "media_type": f"text/{name}", "pipeline": f"by {name}"}
        return text_for(document, content, **made, facts={"of": name}, job_id=document.id)

    write_all(
        tenant,
        *(named(tenant.get(one), f"text {one}") for one in changed),
        *(named(tenant.get(one), "same") for one in settled),
        *(Rejected(one, 1, f"reason {one}") for one in rejected),
    )
    for one in changed:
        document, (version,) = tenant.get(one), tenant.versions(one)
        assert (document.content, document.content_sha256) == (f"text {one}", f"sha of text {one}")
        assert (document.title, document.media_type) == (f"title {one}", f"text/{one}")
        assert (version.title, version.content, version.content_sha256) == (
            f"title {one}",
            f"text {one}",
            f"sha of text {one}",
        )
        assert (version.facts, version.pipeline, version.job_id) == ({"of": str(one)}, f"by {one}", one)
    for one in settled:
        document = tenant.get(one)
        assert (document.title, document.media_type, document.content) == (f"title {one}", f"text/{one}", "same")
    assert [tenant.get(one).status_reason for one in rejected] == [f"reason {one}" for one in rejected]


def test_a_document_changed_while_a_batch_waits_for_it_is_a_conflict(tenant: Tenant, document: Document) -> None:
    with writing(tenant.id) as session:
        session.get_one(Document, (tenant.id, document.id)).content = "somebody else's"
        session.flush()
        with held_back(lambda: write_all(tenant, text_for(document, "first"))) as batch:
            session.commit()
    assert batch.result() == {document.id: Outcome(Written.CONFLICT)}
    assert tenant.get(document.id).content == "somebody else's"


def test_a_batch_that_waits_for_a_document_has_locked_none_behind_it(tenant: Tenant) -> None:
    """Else two batches would wait in a circle. The table holds the documents in the opposite order of their keys."""
    first, second = sorted(tenant.add("one", "two"))
    move = update(Document).values(title=Document.title)
    as_they_stand = select(Document.id).where(Document.id.in_([first, second])).order_by(text("ctid"))

    def turned() -> bool:
        with writing(tenant.id) as session:
            session.execute(move.where(Document.id == first), execution_options={"synchronize_session": False})
            return session.scalars(as_they_stand).all() == [second, first]

    eventually(turned, what="the first to stand behind the second")

    def both() -> None:
        with writing(tenant.id) as session:
            for way in ("enable_indexscan", "enable_bitmapscan"):
                session.execute(text(f"SET LOCAL {way} = off"))
            write_versions(session, [text_for(tenant.get(one), "new") for one in (second, first)])

    with writing(tenant.id) as holder:
        lock_document(holder, first)
        with held_back(both):
            with writing(tenant.id) as session:
                session.execute(text("SET LOCAL lock_timeout = '1s'"))
                lock_document(session, second)
            holder.rollback()


def test_an_empty_batch_writes_nothing(tenant: Tenant) -> None:
    assert write_all(tenant) == {}


def test_a_restored_version_is_a_new_one_that_says_where_it_is_from(tenant: Tenant, document: Document) -> None:
    write(tenant, document, "second")
    with writing(tenant.id) as session:
        assert restore_version(session, document.id, 1) == Outcome(Written.VERSION, 3)
    newest = tenant.versions(document.id)[-1]
    assert (newest.content, newest.facts["restored_from"]) == ("first", 1)


def test_restoring_the_latest_version_writes_nothing(tenant: Tenant, document: Document) -> None:
    with writing(tenant.id) as session:
        assert restore_version(session, document.id, 1) == Outcome(Written.UNCHANGED, 1)


def test_a_restored_text_is_rewritten_neither_by_one_result_nor_among_many(tenant: Tenant, document: Document) -> None:
    write(tenant, document, "second")
    with writing(tenant.id) as session:
        restore_version(session, document.id, 1)
    read = tenant.get(document.id)
    assert write_all(tenant, text_for(read, "other")) == {document.id: Outcome(Written.UNCHANGED, 3)}
    assert write(tenant, read, "other") == Outcome(Written.UNCHANGED, 3)
    assert tenant.get(document.id).version == read.version


def test_a_version_that_is_not_there_cannot_be_restored(tenant: Tenant, document: Document) -> None:
    with pytest.raises(NotFoundError, match="has no version 7: its latest is 1"), writing(tenant.id) as session:
        restore_version(session, document.id, 7)


def test_a_locked_document_makes_the_second_wait_and_see_what_the_first_did(tenant: Tenant, document: Document) -> None:
    locked, let_go = threading.Event(), threading.Event()
    calls: list[str] = []

    def buy_a_title(name: str) -> None:
        with writing(tenant.id) as session:
            mine = lock_document(session, document.id)
            if mine.title is None:
                calls.append(name)
                locked.set()
                assert let_go.wait(10)
                mine.title = name

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(buy_a_title, "first")
        assert locked.wait(10)
        second = pool.submit(buy_a_title, "second")
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        let_go.set()
        first.result(10)
        second.result(10)
    assert (calls, tenant.get(document.id).title) == (["first"], "first")


def test_a_lock_shows_the_row_as_it_is_now_even_if_the_session_has_an_older_one(
    tenant: Tenant, document: Document
) -> None:
    with writing(tenant.id) as session:
        older = session.get_one(Document, (tenant.id, document.id))
        assert older.content == "first"
        tenant.change(document.id, "newer")
        assert lock_document(session, document.id) is older
        assert older.content == "newer"


def test_a_lock_that_was_waited_for_shows_the_text_that_was_waited_for(tenant: Tenant, document: Document) -> None:
    def read_locked() -> tuple[int, str | None]:
        with writing(tenant.id) as session:
            mine = lock_document(session, document.id)
            return mine.latest_version, mine.content

    with writing(tenant.id) as session:
        write_version(session, tenant.get(document.id), text_for(document, "newer"))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(read_locked)
            eventually(somebody_waits, what="the second one to wait")
            session.commit()
            assert waiting.result(10) == (2, "newer")


def test_a_text_that_could_not_be_read_with_its_row_is_no_none_once_the_session_is_gone(
    tenant: Tenant, document: Document
) -> None:
    with writing(tenant.id) as session:
        session.execute(delete(DocumentVersion))
        unread = session.get_one(Document, (tenant.id, document.id))
    with pytest.raises(DetachedInstanceError, match="read `content` before the session is closed"):
        _ = unread.content


def column(tenant: Tenant, document_id: UUID) -> str | None:
    """What the document itself stores."""
    with writing(tenant.id) as session:
        statement = text("SELECT content FROM app.documents WHERE id = :id")
        content: str | None = session.execute(statement, {"id": document_id}).scalar_one()
        return content


@pytest.mark.parametrize("way", ["one", "batch"])
def test_the_text_is_stored_once(tenant: Tenant, way: str) -> None:
    (document_id,) = tenant.add("raw")
    assert column(tenant, document_id) == "raw"
    for content in ("first", "second"):
        read = tenant.get(document_id)
        if way == "one":
            write(tenant, read, content)
            assert read.content == content, "also in the object that was written"
        else:
            write_all(tenant, text_for(read, content))
        assert (column(tenant, document_id), tenant.get(document_id).content) == (None, content)
    assert [one.content for one in tenant.versions(document_id)] == ["first", "second"]


def test_a_text_that_is_set_is_the_present_one_until_a_version_is_made_of_it(
    tenant: Tenant, document: Document
) -> None:
    tenant.change(document.id, "draft")
    assert tenant.get(document.id).content == "draft"
    write(tenant, tenant.get(document.id), "made of it")
    assert tenant.get(document.id).content == "made of it"
    assert column(tenant, document.id) is None


def test_a_text_that_is_set_to_what_it_is_changes_nothing(tenant: Tenant, document: Document) -> None:
    for content in ("first", "draft", "draft", "first", "first"):
        before = tenant.get(document.id).version
        with writing(tenant.id) as session:
            mine = session.get_one(Document, (tenant.id, document.id))
            changes = mine.content != content
            mine.content = content
        assert (tenant.get(document.id).version, tenant.get(document.id).content) == (before + changes, content)


def test_the_text_is_read_searched_and_set_by_statements_as_by_objects(tenant: Tenant, document: Document) -> None:
    other = new_id()
    with writing(tenant.id) as session:
        rows = [{"organization_id": tenant.id, "id": other, "filename": "other.txt", "content": "other"}]
        session.execute(insert(Document).values(version=1), rows)
        third = insert(Document).values(organization_id=tenant.id, filename="third.txt", version=1, content="third")
        session.execute(third)
        found = session.connection().execute(select(Document.content).order_by(Document.content))
        assert [row.content for row in found] == ["first", "other", "third"]
        again = aliased(Document)
        assert session.scalars(select(again.id).where(again.content.like("fir%"))).all() == [document.id]
        session.execute(update(Document).where(Document.id == document.id).values(content="set"))
        assert session.scalar(select(Document.content).where(Document.id == document.id)) == "set"


def test_a_change_of_a_document_touches_no_index(tenant: Tenant, document: Document) -> None:
    with writing(tenant.id) as session:
        write_version(session, tenant.get(document.id), text_for(document, "second"))
        hot = "SELECT pg_stat_get_xact_tuples_hot_updated('app.documents'::regclass)"
        assert session.scalar(text(hot)) == 1


def test_a_deleted_document_cannot_be_locked_or_counted(tenant: Tenant, document: Document) -> None:
    delete_softly(tenant, document.id)
    with writing(tenant.id) as session:
        with pytest.raises(NotFoundError):
            lock_document(session, document.id)
        with pytest.raises(NotFoundError):
            increment(session, document.id, "source_bytes")


def test_increments_at_the_same_time_all_count(tenant: Tenant, document: Document) -> None:
    def add(_: int) -> int:
        with writing(tenant.id) as session:
            return increment(session, document.id, "source_bytes", by=3)

    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(add, range(20)))
    assert sorted(values) == list(range(3, 63, 3))
    assert tenant.get(document.id).source_bytes == 60


def test_an_increment_is_seen_by_whoever_read_the_row_before(tenant: Tenant, document: Document) -> None:
    with writing(tenant.id) as session:
        increment(session, document.id, "source_bytes")
    with pytest.raises(StaleDataError):
        write(tenant, document, "second")


@pytest.mark.parametrize("column", ["title", "latest_version", "version", "no_such_column"])
def test_what_does_not_count_cannot_be_incremented(tenant: Tenant, document: Document, column: str) -> None:
    with (
        pytest.raises(InvalidArgumentError, match=f"documents.{column} cannot be incremented"),
        writing(tenant.id) as session,
    ):
        increment(session, document.id, column)


def test_a_row_the_database_refuses_costs_the_savepoint_and_not_the_transaction(tenant: Tenant) -> None:
    good, bad = map(tenant.get, tenant.add("good", "bad"))
    with writing(tenant.id) as session:
        with pytest.raises(DBAPIError), session.begin_nested():
            write_versions(session, [text_for(good, "good"), text_for(bad, "a NUL \x00")])
        assert write_versions(session, [text_for(good, "good")])[good.id].written is Written.VERSION
    assert (len(tenant.versions(good.id)), len(tenant.versions(bad.id))) == (1, 0)
