"""`forecast_of_line`, `forecast_of_run`: about when a job will begin or end, by what was measured lately. Estimates.

A place in line counts what the planner would send first; how fast the line moves is what its own organization has got
done in the last five minutes, or, where that is nothing, what runs now, shared by those who wait.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.ledger.dispatching.lanes import first
from docworker.db.ledger.dispatching.planning import Load
from docworker.db.ledger.telling.story import progress_of
from docworker.db.models import Job
from docworker.db.models.ledger.job import JOBS, READY

LATELY_SECONDS = 300
_MOST_COUNTED = 10_000
_MOST_ORGANIZATIONS = 1000


@dataclass(frozen=True)
class Forecast:
    """`seconds` from now on, an estimate; `basis` says what it was reckoned from."""

    seconds: float
    basis: str


class Line(NamedTuple):
    """Where a due job stands: so many jobs of its organization go before it (at least, where `is_cut`), and so many
    organizations have jobs that are ready, itself among them."""

    jobs_ahead: int
    organizations: int
    is_cut: bool


_LINE = text(f"""
WITH RECURSIVE ring AS (
    SELECT organization_id, 1 AS place FROM {first("organization_id", "true")} AS first
    UNION ALL
    SELECT following.organization_id, ring.place + 1
    FROM ring CROSS JOIN LATERAL {first("organization_id", "organization_id > ring.organization_id")} AS following
    WHERE ring.place < :organizations
)
SELECT (SELECT count(*) FROM (
            SELECT FROM {JOBS}
            WHERE {READY} AND organization_id = :organization_id AND run_at <= (SELECT clock_timestamp())
              AND (priority, run_at, id) < (:priority, CAST(:run_at AS timestamptz), :id)
            LIMIT :most) AS ahead) AS jobs_ahead,
       (SELECT count(*) FROM ring) AS organizations
""")
_BY_INDEX = text("SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)")


def line_of(session: Session, job: Job) -> Line:
    """By the order in which the planner sends an organization's jobs, whatever their kind."""
    session.execute(_BY_INDEX)
    row = session.execute(
        _LINE,
        {
            "organization_id": job.organization_id,
            "priority": job.priority,
            "run_at": job.run_at,
            "id": job.id,
            "most": _MOST_COUNTED,
            "organizations": _MOST_ORGANIZATIONS,
        },
    ).one()
    return Line(row.jobs_ahead, row.organizations, row.jobs_ahead >= _MOST_COUNTED)


_LATELY = text(f"""
SELECT count(*) AS jobs,
       CAST(extract(epoch FROM clock_timestamp() - min(finished_at)) AS double precision) AS seconds,
       CAST(avg(extract(epoch FROM finished_at - claimed_at)) FILTER (WHERE kind = :kind) AS double precision) AS took
FROM (
    SELECT finished_at, claimed_at, kind FROM {JOBS}
    WHERE organization_id = :organization_id AND state IN ('succeeded', 'failed', 'cancelled')
      AND finished_at > (SELECT clock_timestamp() - :lately * interval '1 second') AND claimed_at IS NOT NULL
    ORDER BY finished_at DESC LIMIT :most
) AS ended
""")


class _Lately(NamedTuple):
    """What an organization got done lately: how many jobs in how many seconds, and how long one of the kind took."""

    jobs: int
    seconds: float | None
    took: float | None


def _lately(session: Session, job: Job) -> _Lately:
    parameters = {
        "organization_id": job.organization_id,
        "kind": job.kind,
        "lately": LATELY_SECONDS,
        "most": _MOST_COUNTED,
    }
    return _Lately(*session.execute(_LATELY, parameters).one())


def forecast_of_line(session: Session, job: Job, line: Line, under_way: Load, slots: int) -> Forecast | None:
    """When it may begin, where nothing but those before it keeps it from that; None where nothing was measured."""
    lately = _lately(session, job)
    before = line.jobs_ahead + 1
    if lately.jobs >= 2 and lately.seconds:
        rate = lately.jobs / lately.seconds
        return Forecast(
            before / rate,
            f"its organization got {lately.jobs:,} jobs done in the last {seconds_text(lately.seconds)}",
        )
    runs_for = under_way.running_seconds.get(job.kind)
    if not runs_for or not slots:
        return None
    seconds = 2 * runs_for  # what runs is half done on average
    return Forecast(
        before * line.organizations * seconds / slots,
        f"jobs of its kind take about {seconds_text(seconds)}; {slots} processes, {line.organizations} organizations",
    )


def forecast_of_run(session: Session, job: Job, now: datetime) -> Forecast | None:
    """When a running job will have ended: by its own progress, else by what others of its kind took lately."""
    if job.claimed_at is None:
        return None
    ran = (now - job.claimed_at).total_seconds()
    progress = progress_of(job) or {}
    done, of = progress.get("done"), progress.get("of")
    if isinstance(done, int | float) and isinstance(of, int | float) and 0 < done <= of:
        return Forecast(ran * (of - done) / done, f"it has done {done:g} of {of:g} in {seconds_text(ran)}")
    took = _lately(session, job).took
    if took is None:
        return None
    return Forecast(max(0.0, took - ran), f"its organization's jobs of this kind took {seconds_text(took)} lately")


def seconds_text(seconds: float) -> str:
    """As `0.3 s`, `45 s`, `12 min`, `3.5 h`, `2.1 d`."""
    for unit, length in (("d", 86400.0), ("h", 3600.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{max(seconds, 0):.1f} s"
