"""Files become documents: one a place, and new bytes only onto what is still as it was read."""

from dataclasses import replace

from sqlalchemy import select, text

from docworker.db.documents.intake import Incoming, find_present, insert_documents, update_documents
from docworker.db.documents.store import Source
from docworker.db.models import Document
from docworker.db.sessions import writing
from tests.support.tenants import Tenant

FILE = Incoming(None, "a.txt", Source("key one", 3), "text/plain")
CHANGED = replace(FILE, source=Source("key two", 4))


def test_one_document_is_made_at_a_place(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        assert set(insert_documents(session, [FILE])) == {FILE}
    with writing(tenant.id) as session:
        assert insert_documents(session, [CHANGED, replace(FILE, filename="b.txt")]).keys() == {
            replace(FILE, filename="b.txt")
        }
        keys = session.scalars(select(Document.source_key).order_by(Document.filename)).all()
    assert keys == ["key one", "key one"]


def test_new_bytes_go_onto_the_document_that_was_read(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        insert_documents(session, [FILE])
    with writing(tenant.id) as session:
        present = find_present(session, [FILE])[FILE.place]
        assert update_documents(session, {CHANGED: present}) == {CHANGED: present.id}
        assert find_present(session, [FILE])[FILE.place] == replace(present, version=2, source_key="key two")


def test_document_changed_since_it_was_read_is_left_alone(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        insert_documents(session, [FILE])
        present = find_present(session, [FILE])[FILE.place]
    with writing(tenant.id) as session:
        session.execute(text("UPDATE app.documents SET version = version + 1"))
    with writing(tenant.id) as session:
        assert update_documents(session, {CHANGED: present}) == {}
        assert session.scalar(select(Document.source_key)) == "key one"


def test_document_deleted_since_it_was_read_is_left_out(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        insert_documents(session, [FILE])
        present = find_present(session, [FILE])[FILE.place]
        session.execute(text("UPDATE app.documents SET deleted_at = now()"))
    with writing(tenant.id) as session:
        assert find_present(session, [FILE]) == {}
        assert update_documents(session, {CHANGED: present}) == {}
        assert set(insert_documents(session, [CHANGED])) == {CHANGED}


def test_documents_of_another_organization_are_neither_seen_nor_changed(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        insert_documents(session, [FILE])
        present = find_present(session, [FILE])[FILE.place]
    with writing(Tenant().id) as session:
        assert find_present(session, [FILE]) == {}
        assert update_documents(session, {CHANGED: present}) == {}
        assert set(insert_documents(session, [FILE])) == {FILE}
