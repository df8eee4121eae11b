"""What a result means for the document as it is now."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from docworker.db.documents.versions.decision import decide
from docworker.db.documents.versions.results import NewText, Outcome, Rejected, Written
from docworker.db.models.base import new_id

ID = new_id()
SAME, OTHER = "a" * 64, "b" * 64


class Row(NamedTuple):
    version: int = 7
    latest_version: int = 3
    content_sha256: str | None = SAME
    status: str = "processed"
    status_reason: str | None = None
    rejected_by: str | None = None
    deleted_at: datetime | None = None


KNOWN_BAD = Row(status="failed", status_reason="broken", rejected_by="one")


def text(sha256: str, version: int = 7) -> NewText:
    return NewText(ID, version, None, "text", sha256, "pipeline")


@pytest.mark.parametrize(
    ("present", "result", "outcome", "changes_row"),
    [
        (None, text(SAME), Outcome(Written.MISSING), False),
        (Row(deleted_at=datetime.now(UTC)), text(OTHER), Outcome(Written.MISSING), False),
        (Row(), text(OTHER, version=6), Outcome(Written.CONFLICT), False),
        (Row(), text(SAME, version=6), Outcome(Written.CONFLICT), False),
        (Row(), Rejected(ID, 6, "broken"), Outcome(Written.CONFLICT), False),
        (Row(), text(SAME), Outcome(Written.UNCHANGED, 3), False),
        (Row(status="failed", status_reason="broken"), text(SAME), Outcome(Written.UNCHANGED, 3), True),
        (Row(), text(OTHER), Outcome(Written.VERSION, 4), True),
        (Row(latest_version=0, status="pending"), text(SAME), Outcome(Written.VERSION, 1), True),
        (Row(), Rejected(ID, 7, "broken"), Outcome(Written.REJECTED), True),
        (Row(status="failed", status_reason="other"), Rejected(ID, 7, "broken"), Outcome(Written.REJECTED), True),
        (Row(status="failed", status_reason="broken"), Rejected(ID, 7, "broken"), Outcome(Written.REJECTED), False),
        (KNOWN_BAD, Rejected(ID, 7, "broken", pipeline="one"), Outcome(Written.REJECTED), False),
        (KNOWN_BAD, Rejected(ID, 7, "broken", pipeline="another"), Outcome(Written.REJECTED), True),
    ],
)
def test_what_becomes_of_a_result(
    present: Any, result: NewText | Rejected, outcome: Outcome, changes_row: bool
) -> None:
    assert decide(present, result) == (outcome, changes_row)
