"""`keep` and `kept_answer`: what dear reports said when the schedule computed them, of large organizations."""

from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from docworker.db.models import Document, KeptReport
from docworker.db.reports.report import Answer, Report
from docworker.db.sessions import TenantSession, organization_of

KEPT_FOR = timedelta(days=2)
"""What is older is not shown: the schedule stands still."""


def is_large(session: TenantSession, *, documents: int) -> bool:
    """Whether the session's organization has at least so many documents, live or deleted."""
    last = (
        select(Document.id).where(Document.organization_id == organization_of(session)).offset(documents - 1).limit(1)
    )
    return bool(session.scalar(select(last.exists())))


def keep(session: TenantSession, report: Report, answer: Answer, *, seconds: float) -> None:
    """Instead of what was kept of it before."""
    row = {
        "rows": _rows_of(report).dump_python(answer.rows, mode="json"),
        "computed_at": answer.computed_at,
        "seconds": seconds,
    }
    statement = insert(KeptReport).values(organization_id=organization_of(session), name=report.name, **row)
    session.execute(
        statement.on_conflict_do_update(index_elements=[KeptReport.organization_id, KeptReport.name], set_=row)
    )


def kept_answer(session: TenantSession, report: Report, limit: int | None) -> Answer | None:
    """None where nothing is kept that is young enough, or not as much as is asked for."""
    if limit is not None and report.limit is not None and limit > report.limit:
        return None
    kept = session.execute(
        select(KeptReport.rows, KeptReport.computed_at).where(
            KeptReport.organization_id == organization_of(session),
            KeptReport.name == report.name,
            KeptReport.computed_at > func.clock_timestamp() - KEPT_FOR,
        )
    ).one_or_none()
    if kept is None:
        return None
    rows = _rows_of(report).validate_python(kept.rows)
    return Answer(rows[:limit], kept.computed_at, is_kept=True)


def _rows_of(report: Report) -> TypeAdapter[list[Any]]:
    return TypeAdapter(list[report.row])  # type: ignore[name-defined]
