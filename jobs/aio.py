"""The asyncio twins of what looks at jobs, organizations, documents and the source store, for applications.

The code is the synchronous one, run where its waiting can be awaited (`db.sessions.aio.run`); `receive` and `enqueue`
are no twins: they take sessions of both kinds.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from uuid import UUID

from docworker.db.cluster.positions import WalPosition
from docworker.db.documents import reading, search
from docworker.db.documents.reading import DocumentEntry, Filters, VersionEntry
from docworker.db.documents.search import SearchHits
from docworker.db.documents.store import SourceStore
from docworker.db.documents.store import source_store as synchronous_store
from docworker.db.ledger import Story
from docworker.db.models import DocumentStatus, Job
from docworker.db.sessions.aio import run
from docworker.db.tenants import organizations
from docworker.jobs import progress
from docworker.jobs.progress import LOOK_SECONDS, Progress


async def organization_id_of(slug: str) -> UUID:
    """As `docworker.organization_id_of`."""
    return await run(organizations.organization_id_of, slug)


async def create_organization(slug: str, name: str | None = None) -> UUID:
    """As `docworker.create_organization`."""
    return await run(organizations.create_organization, slug, name)


async def search_documents(
    organization_id: UUID,
    words: str,
    *,
    limit: int = 20,
    offset: int = 0,
    filters: Filters | None = None,
    position: WalPosition | None = None,
) -> SearchHits:
    """As `docworker.search_documents`."""
    return await run(
        search.search_documents, organization_id, words, limit=limit, offset=offset, filters=filters, position=position
    )


async def wait_until_findable(
    organization_id: UUID, document_id: UUID, *, timeout_seconds: float = 10.0
) -> WalPosition | None:
    """As `docworker.wait_until_findable`."""
    return await run(search.wait_until_findable, organization_id, document_id, timeout_seconds=timeout_seconds)


async def find_document(organization_id: UUID, reference: str) -> DocumentEntry:
    """As `docworker.db.find_document`."""
    return await run(reading.find_document, organization_id, reference)


async def list_documents(
    organization_id: UUID, *, under: str = "/", status: DocumentStatus | None = None
) -> list[DocumentEntry]:
    """As `docworker.db.list_documents`."""
    return await run(reading.list_documents, organization_id, under=under, status=status)


async def list_versions(organization_id: UUID, document_id: UUID) -> Sequence[VersionEntry]:
    """As `docworker.db.list_versions`."""
    return await run(reading.list_versions, organization_id, document_id)


async def get_job(organization_id: UUID, job_id: UUID) -> Job:
    """As `docworker.get_job`."""
    return await run(progress.get_job, organization_id, job_id)


async def get_story(organization_id: UUID, job_id: UUID) -> Story:
    """As `docworker.get_story`."""
    return await run(progress.get_story, organization_id, job_id)


class JobWatch:
    """As `docworker.JobWatch`."""

    def __init__(self, organization_id: UUID, job_ids: Iterable[UUID]) -> None:
        self._watch = progress.JobWatch(organization_id, job_ids)

    async def look(self) -> Progress:
        """How far they are now."""
        return await run(self._watch.look)


async def watch_jobs(
    organization_id: UUID, job_ids: Iterable[UUID], *, every_seconds: float = LOOK_SECONDS
) -> AsyncIterator[Progress]:
    """As `docworker.watch_jobs`."""
    watch, before = JobWatch(organization_id, job_ids), None
    while True:
        now = await watch.look()
        if now != before:
            yield now
        if not now.live:
            return
        before = now
        await asyncio.sleep(every_seconds)


class AsyncSourceStore:
    """A `SourceStore` whose waiting is done in threads."""

    def __init__(self, store: SourceStore) -> None:
        self._store = store

    async def get(self, key: str) -> bytes:
        return await asyncio.to_thread(self._store.get, key)

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._store.exists, key)

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._store.delete, key)


def source_store() -> AsyncSourceStore:
    """The store that DOCWORKER_STORE describes."""
    return AsyncSourceStore(synchronous_store())
