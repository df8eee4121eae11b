"""`REPORTS`: the reports there are; `compute`: one of them, in a session of an organization."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from sqlalchemy import func, select

from docworker.db.errors import InvalidArgumentError
from docworker.db.reports.activity import Day, activity
from docworker.db.reports.durations import Durations, durations
from docworker.db.reports.failures import Failures, failures
from docworker.db.reports.folders import FolderSize, folders
from docworker.db.reports.formats import FormatAndLanguage, formats
from docworker.db.reports.largest import ChangedDocument, LargeDocument, changed, largest
from docworker.db.reports.newest import NewestDocument, newest
from docworker.db.reports.organization import OrganizationStatistics, organization
from docworker.db.reports.question import Question
from docworker.db.reports.usage import Usage, usage
from docworker.db.sessions import TenantSession


@dataclass(frozen=True)
class Report:
    """`compute` gives rows of one dataclass. `limit` is that of who asks for none; None where there is but one row."""

    name: str
    summary: str
    compute: Callable[[TenantSession, Question], list[Any]]
    row: type[Any]
    has_period: bool = False
    limit: int | None = None
    of_jobs: bool = False
    """It counts jobs, which the ledger forgets when their retention is over."""
    is_dear: bool = False
    """It is kept of large organizations, by `db.reports.kept`; without a period, as one answer is kept."""
    chart: tuple[tuple[str, ...], str] | None = None
    """The fields that name a bar, and the one that says how long it is."""

    @property
    def is_list(self) -> bool:
        """Whether there may be more rows than one."""
        return self.limit is not None


@dataclass(frozen=True)
class Answer:
    """`rows` as of `computed_at`, by the server's clock."""

    rows: list[Any]
    computed_at: datetime
    is_kept: bool = False
    """It was computed then by the schedule, and not now."""


REPORTS = {
    report.name: report
    for report in (
        Report(
            "organization",
            "How many documents, folders, users and texts there are, and their size.",
            organization,
            OrganizationStatistics,
            is_dear=True,
        ),
        Report(
            "activity",
            "What happened on each day, and how many documents there were at its end.",
            activity,
            Day,
            has_period=True,
            limit=31,
            chart=(("day",), "documents"),
        ),
        Report(
            "folders",
            "The tree, with what is below each folder.",
            folders,
            FolderSize,
            limit=1000,
            chart=(("path",), "documents"),
        ),
        Report("newest", "The newest document of each folder.", newest, NewestDocument, limit=100, is_dear=True),
        Report(
            "formats",
            "Formats of documents, and languages of their texts.",
            formats,
            FormatAndLanguage,
            limit=100,
            is_dear=True,
            chart=(("media_type", "language"), "documents"),
        ),
        Report(
            "largest",
            "The documents of the largest files.",
            largest,
            LargeDocument,
            limit=20,
            chart=(("path",), "source_bytes"),
        ),
        Report(
            "changed",
            "The documents whose text has changed most often.",
            changed,
            ChangedDocument,
            limit=20,
            chart=(("path",), "texts"),
        ),
        Report(
            "failures",
            "Which kinds of jobs failed, and why.",
            failures,
            Failures,
            has_period=True,
            limit=50,
            of_jobs=True,
            chart=(("kind", "reason"), "jobs"),
        ),
        Report(
            "durations",
            "How long jobs waited and ran, by kind.",
            durations,
            Durations,
            has_period=True,
            limit=50,
            of_jobs=True,
            chart=(("kind",), "ran_p90"),
        ),
        Report(
            "usage",
            "What was used in a period, and what is kept, for a bill.",
            usage,
            Usage,
            has_period=True,
            of_jobs=True,
        ),
    )
}


def find_report(name: str) -> Report:
    """Raises InvalidArgumentError, with what may have been meant, for a name that no report has."""
    if name not in REPORTS:
        near = get_close_matches(name, REPORTS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(REPORTS)}"
        raise InvalidArgumentError(f"no report is called {name!r}; {hint}")
    return REPORTS[name]


def compute(report: Report, session: TenantSession, question: Question) -> Answer:
    """Raises the error of a statement that takes longer than `report_timeout`."""
    session.limit_statements(session.settings.report_timeout)
    asked = replace(question, limit=question.limit or report.limit)
    computed_at = session.scalars(select(func.statement_timestamp())).one()
    return Answer(report.compute(session, asked), computed_at)
