"""The tables, one noun a module. Importing this package knows them all, as Alembic needs."""

from docworker.db.models.audit import AuditEntry
from docworker.db.models.base import Base, new_id
from docworker.db.models.catalog import Placement
from docworker.db.models.document import Document, DocumentSearch, DocumentStatus
from docworker.db.models.folder import Folder
from docworker.db.models.job import Job, JobState, Pause, ScheduleFire
from docworker.db.models.organization import Organization
from docworker.db.models.tag import DocumentTag, Tag
from docworker.db.models.user import User
from docworker.db.models.version import DocumentVersion

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
    "new_id",
]
