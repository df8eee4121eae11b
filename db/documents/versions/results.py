"""`NewText` and `Rejected` go into a version write, `Outcome` comes out of it. Nothing here touches the database."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from docworker.db.models.document import DocumentStatus


@dataclass(frozen=True)
class NewText:
    """What processing made of a document that was read at `read_version`."""

    document_id: UUID
    read_version: int
    title: str | None
    content: str
    content_sha256: str
    pipeline: str
    facts: dict[str, Any] = field(default_factory=dict)
    media_type: str | None = None
    job_id: UUID | None = None


@dataclass(frozen=True)
class Rejected:
    """Why a document that was read at `read_version` could not be processed, and what it is from now on."""

    document_id: UUID
    read_version: int
    reason: str
    status: DocumentStatus = DocumentStatus.FAILED
    pipeline: str | None = None
    """The signature of the processors that would always say so; None where another try may help."""


class Written(StrEnum):
    """What became of one document of a batch."""

    VERSION = "version"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    CONFLICT = "conflict"
    MISSING = "missing"


@dataclass(frozen=True)
class Outcome:
    written: Written
    version_number: int | None = None
