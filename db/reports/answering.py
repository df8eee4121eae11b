"""`answer`: a report of an organization, from a replica."""

from uuid import UUID

from docworker.db.reports.kept import kept_answer
from docworker.db.reports.question import Question
from docworker.db.reports.report import Answer, Report, compute
from docworker.db.sessions import TenantSession, read


def answer(report: Report, organization_id: UUID, question: Question, *, live: bool = False) -> Answer:
    """What is kept of a dear one, unless it is to be `live`. Raises the error of a statement that takes longer than
    `report_timeout`."""

    def load(session: TenantSession) -> Answer:
        kept = kept_answer(session, report, question.limit) if report.is_dear and not live else None
        return kept or compute(report, session, question)

    return read(organization_id, load)
