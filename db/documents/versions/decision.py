"""`decide`: what a result means for the document as it is now. Pure; `one` and `many` carry it out."""

from datetime import datetime
from typing import NamedTuple, Protocol

from docworker.db.documents.versions.results import NewText, Outcome, Rejected, Written
from docworker.db.models.document import DocumentStatus


class Present(Protocol):
    """The columns of a document that count here."""

    @property
    def version(self) -> int: ...
    @property
    def latest_version(self) -> int: ...
    @property
    def content_sha256(self) -> str | None: ...
    @property
    def status(self) -> str: ...
    @property
    def status_reason(self) -> str | None: ...
    @property
    def rejected_by(self) -> str | None: ...
    @property
    def deleted_at(self) -> datetime | None: ...


class Decision(NamedTuple):
    """`changes_row` is false where the document is already as it should be: then only that has to be made sure of."""

    outcome: Outcome
    changes_row: bool


def may_rewrite(present: Present | None, result: NewText | Rejected) -> bool:
    """Whether the result would take the place of a text that was processed before."""
    if present is None or present.latest_version == 0 or present.status != DocumentStatus.PROCESSED:
        return False
    return isinstance(result, Rejected) or present.content_sha256 != result.content_sha256


def decide(present: Present | None, result: NewText | Rejected, *, is_restored: bool = False) -> Decision:
    """Equal text makes no version, and a text that somebody has brought back (`is_restored`) stays. What was changed
    since it was read is a conflict, whatever the result."""
    if present is None or present.deleted_at is not None:
        return Decision(Outcome(Written.MISSING), changes_row=False)
    if present.version != result.read_version:
        return Decision(Outcome(Written.CONFLICT), changes_row=False)
    if is_restored:
        return Decision(Outcome(Written.UNCHANGED, present.latest_version), changes_row=False)
    if isinstance(result, Rejected):
        known = (present.status, present.status_reason, present.rejected_by)
        is_known = known == (result.status, result.reason, result.pipeline)
        return Decision(Outcome(Written.REJECTED), changes_row=not is_known)
    if present.latest_version == 0 or present.content_sha256 != result.content_sha256:
        return Decision(Outcome(Written.VERSION, present.latest_version + 1), changes_row=True)
    is_settled = present.status == DocumentStatus.PROCESSED
    return Decision(Outcome(Written.UNCHANGED, present.latest_version), changes_row=not is_settled)
