"""The asyncio twins of what applications need: sessions, and what looks at jobs, organizations and documents.

`docworker.receive` and `docworker.enqueue` take sessions of both kinds.
"""

from docworker.db.sessions.aio import (
    AsyncDatabase,
    AsyncTenantSession,
    close_database,
    health,
    lifespan,
    open_database,
    position_after,
    read,
    reading,
    routing,
    writing,
)
from docworker.jobs.aio import (
    AsyncSourceStore,
    JobWatch,
    create_organization,
    find_document,
    get_job,
    get_story,
    list_documents,
    list_versions,
    organization_id_of,
    search_documents,
    source_store,
    wait_until_findable,
    watch_jobs,
)
from docworker.jobs.imports.receiving import async_spool as spool

__all__ = [
    "AsyncDatabase",
    "AsyncSourceStore",
    "AsyncTenantSession",
    "JobWatch",
    "close_database",
    "create_organization",
    "find_document",
    "get_job",
    "get_story",
    "health",
    "lifespan",
    "list_documents",
    "list_versions",
    "open_database",
    "organization_id_of",
    "position_after",
    "read",
    "reading",
    "routing",
    "search_documents",
    "source_store",
    "spool",
    "wait_until_findable",
    "watch_jobs",
    "writing",
]
