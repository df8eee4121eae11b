"""The tables, one noun a module. Importing this package knows them all, as Alembic needs."""

from db.models.audit import AuditEntry
from db.models.base import Base
from db.models.catalog import Placement
from db.models.document import Document, DocumentSearch, DocumentStatus
from db.models.folder import Folder
from db.models.job import Job, JobState, Pause, ScheduleFire
from db.models.organization import Organization
from db.models.tag import DocumentTag, Tag
from db.models.user import User
from db.models.version import DocumentVersion

__all__ = [
    "AuditEntry",
    "Base",
    "Document",
    "DocumentSearch",
    "DocumentStatus",
    "DocumentTag",
    "DocumentVersion",
    "Folder",
    "Job",
    "JobState",
    "Organization",
    "Pause",
    "Placement",
    "ScheduleFire",
    "Tag",
    "User",
]
