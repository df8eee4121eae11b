"""The tables, one noun a module. Importing this package knows them all, as Alembic needs."""

from docworker.db.models.attachment import DocumentAttachment
from docworker.db.models.audit import AuditEntry, InstallationEntry
from docworker.db.models.base import Base, new_id
from docworker.db.models.catalog import Changes, Placement, PlacementState
from docworker.db.models.contributor import ContributorRole, DocumentContributor
from docworker.db.models.document import Document, DocumentSearch, DocumentStatus
from docworker.db.models.folder import Folder
from docworker.db.models.ledger.attempt import PastAttempt
from docworker.db.models.ledger.backlog import Backlog
from docworker.db.models.ledger.gate import Gate, GateMember, OrderEvent
from docworker.db.models.ledger.job import Job, JobState, Pause, Suspension, Weight
from docworker.db.models.ledger.key import KeyEvent, KeyLimit, KeyRateSpent
from docworker.db.models.ledger.limit import Limit, LimitChange, RateSpent
from docworker.db.models.ledger.process import ProcessBeat
from docworker.db.models.ledger.schedule import KeptSchedule, Missed, ScheduleFire
from docworker.db.models.ledger.token import ApiToken
from docworker.db.models.ledger.webhook import WebhookEndpoint
from docworker.db.models.organization import Organization
from docworker.db.models.report import KeptReport
from docworker.db.models.tag import DocumentTag, Tag
from docworker.db.models.user import User
from docworker.db.models.version import DocumentVersion

__all__ = [
    "ApiToken",
    "AuditEntry",
    "Backlog",
    "Base",
    "Changes",
    "ContributorRole",
    "Document",
    "DocumentAttachment",
    "DocumentContributor",
    "DocumentSearch",
    "DocumentStatus",
    "DocumentTag",
    "DocumentVersion",
    "Folder",
    "Gate",
    "GateMember",
    "InstallationEntry",
    "Job",
    "JobState",
    "KeptReport",
    "KeptSchedule",
    "KeyEvent",
    "KeyLimit",
    "KeyRateSpent",
    "Limit",
    "LimitChange",
    "Missed",
    "OrderEvent",
    "Organization",
    "PastAttempt",
    "Pause",
    "Placement",
    "PlacementState",
    "ProcessBeat",
    "RateSpent",
    "ScheduleFire",
    "Suspension",
    "Tag",
    "User",
    "WebhookEndpoint",
    "Weight",
    "new_id",
]
