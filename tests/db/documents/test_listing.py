"""The tree a page at a time: in order, whole, and from any path on."""

import pytest
from sqlalchemy import func, insert, update

from docworker.db.documents.listing import Listing
from docworker.db.documents.reading import Filters, folder_at, list_documents, parse_path
from docworker.db.models import Document
from docworker.db.models.base import new_id
from docworker.db.sessions import writing
from docworker.worker.local.stack import LocalStack
from tests.support.tenants import Tenant

ORDERED = [
    "/b.txt",
    "/z.txt",
    "/a/1.txt",
    "/a/2.txt",
    "/a/3.txt",
    "/a/b/1.txt",
    "/a/b/2.txt",
    "/a!/1.txt",
    "/c/d/e/1.txt",
]
"""A folder's own documents first, then its folders."""


@pytest.fixture
def tree(tenant: Tenant, stack: LocalStack) -> Tenant:
    for path in reversed(ORDERED):
        tenant.write(path)
    stack.wait_for_replicas()
    return tenant


def paths(tenant: Tenant, *, after: str | None = None, page: int = 1000, filters: Filters | None = None) -> list[str]:
    behind = None if after is None else parse_path(after)
    return [entry.path for entry in Listing(tenant.id, filters or Filters(), after=behind, page=page)]


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
def test_pages_of_any_size_give_each_document_once_and_in_order(tree: Tenant, page: int) -> None:
    assert paths(tree, page=page) == ORDERED
    assert Listing(tree.id, Filters(), page=page).documents == len(ORDERED)
    assert paths(Tenant(), page=page) == []


def test_a_listing_goes_on_behind_each_path(tree: Tenant) -> None:
    for number, path in enumerate(ORDERED, 1):
        assert paths(tree, after=path, page=2) == ORDERED[number:]
        assert Listing(tree.id, Filters(), after=parse_path(path)).documents == len(ORDERED) - number
    for gone, following in (("/a/2.txt2", "/a/3.txt"), ("/a/aa/x.txt", "/a/b/1.txt"), ("/b", "/b.txt")):
        assert paths(tree, after=gone, page=2) == ORDERED[ORDERED.index(following) :]
    assert paths(tree, after="/c/d/e/f/g.txt") == []


def test_a_listing_is_of_what_filters_choose(tree: Tenant) -> None:
    below = Filters(folder_at(tree.id, ("a",)))
    assert paths(tree, filters=below, page=2) == [path for path in ORDERED if path.startswith("/a/")]
    assert paths(tree, filters=below, after="/a/b/1.txt") == ["/a/b/2.txt"]
    assert paths(tree, filters=Filters(status="failed")) == []
    assert [one.path for one in list_documents(tree.id)] == sorted(ORDERED)


def test_documents_deleted_at_one_path_are_all_listed(tree: Tenant, stack: LocalStack) -> None:
    twins = [
        {"organization_id": tree.id, "id": new_id(), "filename": "b.txt", "deleted_at": func.clock_timestamp()}
        for _ in range(3)
    ]
    with writing(tree.id) as session:
        session.execute(update(Document).where(Document.filename == "3.txt").values(deleted_at=func.clock_timestamp()))
        for twin in twins:
            session.execute(insert(Document).values(version=1, **twin))
    stack.wait_for_replicas()
    deleted = ["/b.txt"] * 3 + ["/a/3.txt"]
    for page in (1, 2, 1000):
        assert paths(tree, filters=Filters(deleted=True), page=page) == deleted
    assert paths(tree, filters=Filters(deleted=True), after="/b.txt") == ["/a/3.txt"]
