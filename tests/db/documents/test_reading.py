"""Looking at documents: by id, by path, as a tree; never another organization's."""

import pytest
from sqlalchemy import func, update

from docworker.db.documents.reading import find_document, list_documents, list_versions, load_statuses, load_version
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models import Document, DocumentStatus
from docworker.db.sessions import writing
from docworker.worker.local.stack import LocalStack
from tests.support.tenants import Tenant


def test_document_is_found_by_id_and_by_path(tenant: Tenant) -> None:
    document_id = tenant.write("/reports/2026/q3.pdf", "text")
    for reference in (str(document_id), document_id.hex, "/reports/2026/q3.pdf", "reports/2026/q3.pdf"):
        entry = find_document(tenant.id, reference)
        assert (entry.id, entry.path) == (document_id, "/reports/2026/q3.pdf")


def test_document_in_the_root_is_found(tenant: Tenant) -> None:
    document_id = tenant.write("/note.txt")
    assert find_document(tenant.id, "/note.txt").id == document_id
    assert find_document(tenant.id, "note.txt").path == "/note.txt"


def test_file_called_like_an_id_is_found_with_a_slash(tenant: Tenant) -> None:
    name = "0123456789abcdef0123456789abcdef"
    document_id = tenant.write(f"/{name}")
    assert find_document(tenant.id, f"/{name}").id == document_id
    with pytest.raises(NotFoundError):
        find_document(tenant.id, name)


@pytest.mark.parametrize("reference", ["/nothing", "/nowhere/q3.pdf", "01890000-0000-7000-8000-000000000000"])
def test_missing_document_is_named(tenant: Tenant, reference: str) -> None:
    with pytest.raises(NotFoundError, match=f"no document '{reference}'"):
        find_document(tenant.id, reference)


@pytest.mark.parametrize("reference", ["", "/", "//"])
def test_reference_that_names_nothing_is_refused(tenant: Tenant, reference: str) -> None:
    with pytest.raises(InvalidArgumentError, match="names no document"):
        find_document(tenant.id, reference)


def test_deleted_document_is_not_found(tenant: Tenant) -> None:
    document_id = tenant.write("/gone.txt", "text")
    with writing(tenant.id) as session:
        session.execute(update(Document).values(deleted_at=func.clock_timestamp()))
    with pytest.raises(NotFoundError):
        find_document(tenant.id, str(document_id))
    assert list_documents(tenant.id) == []
    assert load_statuses(tenant.id, [document_id]) == {}


def test_documents_of_another_organization_are_not_there(tenant: Tenant) -> None:
    document_id = tenant.write("/secret/plan.txt", "text")
    other = Tenant()
    for reference in (str(document_id), "/secret/plan.txt"):
        with pytest.raises(NotFoundError):
            find_document(other.id, reference)
    assert list_documents(other.id) == []
    assert list_versions(other.id, document_id) == []
    assert load_statuses(other.id, [document_id]) == {}
    with pytest.raises(NotFoundError):
        load_version(other.id, document_id, 1)


def test_tree_is_listed_by_path_below_a_folder_and_by_state(tenant: Tenant, stack: LocalStack) -> None:
    for path in ("/b.txt", "/a/deep/er/x.txt", "/a/y.txt"):
        tenant.write(path, "text")
    tenant.write("/a/pending.txt")
    stack.wait_for_replicas()
    assert [entry.path for entry in list_documents(tenant.id)] == [
        "/a/deep/er/x.txt",
        "/a/pending.txt",
        "/a/y.txt",
        "/b.txt",
    ]
    assert [entry.path for entry in list_documents(tenant.id, under="/a/deep")] == ["/a/deep/er/x.txt"]
    pending = list_documents(tenant.id, under="a", status=DocumentStatus.PENDING)
    assert [entry.path for entry in pending] == ["/a/pending.txt"]
    with pytest.raises(NotFoundError, match="no folder '/nowhere'"):
        list_documents(tenant.id, under="nowhere")


def test_versions_are_listed_newest_first_and_loaded_with_their_text(tenant: Tenant, stack: LocalStack) -> None:
    document_id = tenant.write("/a.txt", "one", "two words", title="Title")
    stack.wait_for_replicas()
    versions = list_versions(tenant.id, document_id)
    assert [(one.version_number, one.facts["words"], one.title) for one in versions] == [
        (2, 2, "Title"),
        (1, 1, "Title"),
    ]
    assert load_version(tenant.id, document_id, 1).content == "one"
    with pytest.raises(NotFoundError, match="has no version 3"):
        load_version(tenant.id, document_id, 3)
