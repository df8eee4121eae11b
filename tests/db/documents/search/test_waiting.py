"""Who has written a document can wait until a search finds it."""

import asyncio
import threading

import pytest
from sqlalchemy import update

import docworker
from docworker import aio
from docworker.db.documents.search import search_documents, wait_until_findable
from docworker.db.errors import NotFoundError
from docworker.db.models import Document, DocumentStatus
from docworker.db.models.base import new_id
from docworker.db.sessions import writing
from docworker.db.settings import settings
from tests.support.tenants import Tenant, index


def set_status(tenant: Tenant, status: DocumentStatus) -> None:
    with writing(tenant.id) as session:
        session.execute(update(Document).values(status=status))


def test_it_waits_for_the_index_and_its_position_finds_the_document(tenant: Tenant) -> None:
    document_id = tenant.write("/a.txt", "needle", indexed=False)
    assert wait_until_findable(tenant.id, document_id, timeout_seconds=0) is None

    def index_it() -> None:
        with writing(tenant.id) as session:
            index(session, [document_id])

    indexing = threading.Timer(0.2, index_it)
    indexing.start()
    position = wait_until_findable(tenant.id, document_id, timeout_seconds=60)
    indexing.join()
    assert position is not None
    assert [hit.document_id for hit in search_documents(tenant.id, "needle", position=position)] == [document_id]


@pytest.mark.parametrize("status", [DocumentStatus.FAILED, DocumentStatus.UNSUPPORTED])
def test_it_does_not_wait_for_what_will_not_come(tenant: Tenant, status: DocumentStatus) -> None:
    document_id = tenant.write("/a.txt", "needle", indexed=False)
    set_status(tenant, status)
    assert wait_until_findable(tenant.id, document_id, timeout_seconds=1e9) is None


def test_a_document_that_is_to_be_processed_anew_is_not_findable_yet(tenant: Tenant) -> None:
    document_id = tenant.write("/a.txt", "needle")
    assert wait_until_findable(tenant.id, document_id, timeout_seconds=0) is not None
    set_status(tenant, DocumentStatus.PENDING)
    assert wait_until_findable(tenant.id, document_id, timeout_seconds=0) is None


def test_documents_that_are_not_there_are_named(tenant: Tenant) -> None:
    of_another = Tenant().write("/a.txt", "needle")
    for document_id in (new_id(), of_another):
        with pytest.raises(NotFoundError, match="no document"):
            wait_until_findable(tenant.id, document_id)


def test_its_asynchronous_twin_says_the_same(tenant: Tenant) -> None:
    document_id = tenant.write("/a.txt", "needle")

    async def look() -> object:
        await aio.open_database(settings())
        try:
            return await aio.wait_until_findable(tenant.id, document_id)
        finally:
            await aio.close_database()

    assert asyncio.run(look()) is not None
    assert docworker.wait_until_findable(tenant.id, document_id) is not None
