"""People who change the same things at once, and what stays on record of what failed."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from docworker.db.documents.folders import find_folder
from docworker.db.documents.reading import find_document, list_documents
from docworker.db.editing import documents, folders
from docworker.db.editing.audit import audited, carried_out, list_entries
from docworker.db.editing.users import add_user, delete_user
from docworker.db.errors import DocworkerError, InvalidArgumentError, NameTakenError, NotFoundError
from docworker.db.models import Document, DocumentContributor, Folder
from docworker.db.sessions import reading, writing
from docworker.worker.local.stack import LocalStack
from tests.support.database import held_back
from tests.support.project import PROJECT
from tests.support.tenants import Tenant
from tests.support.waiting import eventually


def parents(tenant: Tenant) -> dict[str, UUID | None]:
    with reading(tenant.id, source="master") as session:
        return {row.name: row.parent_id for row in session.execute(select(Folder.name, Folder.parent_id))}


def test_a_failed_attempt_is_on_record_and_its_effect_is_not(tenant: Tenant) -> None:
    (document_id,) = tenant.add("text")

    def work(session: Any) -> None:
        with audited(session, "renamed", actor="ada", subject="document", subject_id=document_id, to="x") as doing:
            session.get_one(Document, (tenant.id, document_id)).filename = "x"
            session.flush()
            doing.details["seen"] = 1
            raise InvalidArgumentError("not today")

    with pytest.raises(InvalidArgumentError, match="not today"):
        carried_out(tenant.id, work)
    assert tenant.get(document_id).filename != "x"
    (entry,) = eventually(lambda: list(list_entries(tenant.id)))
    assert (entry.actor, entry.action, entry.subject_id) == ("ada", "document.renamed", document_id)
    assert entry.details == {"to": "x", "seen": 1, "failed": "InvalidArgumentError: not today"}


def test_of_two_moves_into_each_other_one_is_refused(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        for name in "ab":
            folders.create_folder(session, (name,), actor="ada")
    start = Barrier(2)

    def move(path: str, to: str) -> str | None:
        start.wait(10)
        try:
            carried_out(tenant.id, lambda session: folders.move_folder(session, (path,), (to,), actor="ada"))
        except DocworkerError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(move, "a", "b"), pool.submit(move, "b", "a")
        outcomes = [first.result(), second.result()]
    assert outcomes.count(None) == 1
    found = parents(tenant)
    assert [found["a"], found["b"]].count(None) == 1


def test_the_second_of_two_moves_waits_for_the_first(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        for path in (("a",), ("b",)):
            folders.create_folder(session, path, actor="ada")

    def other() -> None:
        with writing(tenant.id) as session:
            folders.move_folder(session, ("b",), ("a",), actor="bob")

    with writing(tenant.id) as session:
        folders.move_folder(session, ("a",), ("b",), actor="ada")
        with held_back(other) as waiting:
            session.commit()
            error = waiting.exception(10)
    assert isinstance(error, NotFoundError), "a is in b by now"
    assert parents(tenant)["b"] is None


def test_a_document_that_is_moved_into_a_folder_that_is_being_deleted_is_in_a_new_one(tenant: Tenant) -> None:
    document_id = tenant.write("/text.txt", "text")
    with writing(tenant.id) as session:
        folders.create_folder(session, ("a",), actor="ada")
    moved = documents.moved_to(("a",))
    with writing(tenant.id) as session:
        folders.delete_folder(session, ("a",), recursive=False, actor="ada")
        with held_back(
            lambda: list(documents.change_documents(tenant.id, [document_id], "moved", moved, actor="bob"))
        ) as waiting:
            session.commit()
            (outcome,) = waiting.result(10)
    assert outcome.changed
    with reading(tenant.id, source="master") as session:
        assert session.get_one(Document, (tenant.id, document_id)).folder_id == find_folder(session, ("a",))


def test_what_stands_at_the_name_of_a_deleted_document_is_left_alone(tenant: Tenant, stack: LocalStack) -> None:
    old = tenant.write("/a.txt", "old")
    list(documents.change_documents(tenant.id, [old], "deleted", documents.deleted(), actor="ada"))
    new = tenant.write("/a.txt", "new")
    (outcome,) = documents.change_documents(tenant.id, [old], "undeleted", documents.undeleted(), actor="ada")
    assert outcome.error == "another document is called 'a.txt' in that folder: give it another name first"
    stack.wait_for_replicas()
    assert [one.id for one in list_documents(tenant.id)] == [new]


def test_another_organizations_documents_and_folders_are_not_there(tenant: Tenant, stack: LocalStack) -> None:
    document_id = tenant.write("/in/a.txt", "text")
    other = Tenant()
    (outcome,) = documents.change_documents(other.id, [document_id], "deleted", documents.deleted(), actor="mallory")
    assert outcome.error == f"no document {document_id} in this organization: see `docworker documents`"
    with pytest.raises(NotFoundError), writing(other.id) as session:
        folders.delete_folder(session, ("in",), recursive=True, actor="mallory")
    stack.wait_for_replicas()
    assert find_document(tenant.id, "/in/a.txt").id == document_id


def test_contributions_go_to_who_gets_the_documents_and_are_not_doubled(tenant: Tenant) -> None:
    first, second = tenant.write("/a.txt", "text"), tenant.write("/b.txt", "text")
    with writing(tenant.id) as session:
        ada, bob = (add_user(session, f"{name}@x", actor="root") for name in ("ada", "bob"))
        for document_id, user_id in ((first, ada), (second, ada), (first, bob)):
            session.add(
                DocumentContributor(organization_id=tenant.id, document_id=document_id, user_id=user_id, role="author")
            )
    with writing(tenant.id) as session:
        assert delete_user(session, "ada@x", reassign_to="bob@x", actor="root") == 0
    with reading(tenant.id, source="master") as session:
        rows = session.execute(select(DocumentContributor.document_id, DocumentContributor.user_id))
        assert sorted(rows) == sorted([(first, bob), (second, bob)])


def test_a_name_that_is_taken_is_named_also_for_folders(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        for path in (("a",), ("b",), ("b", "a")):
            folders.create_folder(session, path, actor="ada")
    for work in (
        lambda session: folders.rename_folder(session, ("a",), "b", actor="ada"),
        lambda session: folders.move_folder(session, ("a",), ("b",), actor="ada"),
    ):
        with pytest.raises(NameTakenError, match=r"another folder is called '[ab]' there"):
            carried_out(tenant.id, work)


def test_the_examples_of_the_documentation_run(tenant: Tenant, stack: LocalStack) -> None:
    text = (PROJECT / "docs" / "editing.md").read_text()
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    document_id = tenant.write("/a.txt", "text")
    assert names["archive"](tenant.id, [document_id], "ada") == []
    names["approve"](tenant.id, document_id, "ada")
    stack.wait_for_replicas()
    assert [one.path for one in list_documents(tenant.id)] == ["/archive/2026/a.txt"]
    assert {one.action for one in list_entries(tenant.id)} == {
        "document.moved",
        "document.approved",
        "folder.created",
    }
