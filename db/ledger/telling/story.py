"""`tell`, `told_of`: what running attempts say of themselves, and the story of a job, all its attempts in order.

Where an attempt ends without success a trigger on the jobs writes down how, whoever ends it; one that succeeds writes
nothing: its end stands in the job's row.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from docworker.db.ledger.claim import Claimed
from docworker.db.ledger.values import as_json
from docworker.db.models import Job, JobState, PastAttempt
from docworker.db.models.ledger.attempt import ATTEMPTS
from docworker.db.models.ledger.job import JOBS
from docworker.db.sessions import organization_of

# Who holds the job just now is a renewal, an end or a cancellation, or the attempt itself in another transaction, which
# would wait for itself: nothing is written then, and what was to be told is told the next time.
_TELL = text(f"""
WITH mine AS MATERIALIZED (
    SELECT attempt, claimed_by, claimed_at FROM {JOBS}
    WHERE organization_id = :organization_id AND id = :id AND claim_token = :token AND state || '' = 'running'
    FOR NO KEY UPDATE SKIP LOCKED
), told AS (
    UPDATE {JOBS}
    SET progress = coalesce(CAST(:progress AS jsonb) || jsonb_build_object('at', clock_timestamp()), progress),
        lease_expires_at = least(clock_timestamp() + :lease * interval '1 second', run_until)
    WHERE organization_id = :organization_id AND id = :id AND EXISTS (SELECT FROM mine)
), logged AS (
    INSERT INTO {ATTEMPTS} AS kept
        (organization_id, job_id, claim_token, position, attempt, worker, claimed_at, log)
    SELECT :organization_id, :id, :token,
           1 + coalesce((SELECT max(position) FROM {ATTEMPTS}
                         WHERE organization_id = :organization_id AND job_id = :id), 0),
           attempt, claimed_by, claimed_at, CAST(:lines AS jsonb)
    FROM mine WHERE CAST(:lines AS jsonb) IS NOT NULL
    ON CONFLICT (organization_id, job_id, claim_token) DO UPDATE SET log = coalesce(kept.log, '[]') || excluded.log
)
SELECT count(*) FROM mine
""")


def tell(
    session: Session,
    claimed: Claimed,
    *,
    progress: dict[str, Any] | None,
    lines: Sequence[dict[str, Any]],
    lease_seconds: float,
    with_end: bool = False,
) -> bool:
    """Keep how far a running job is, if that is given, and lines of its log, and renew its lease; False where somebody
    holds the job just now, or it is not this attempt's any more. Unless it goes with the attempt's end, its COMMIT does
    not wait for the disk."""
    if not with_end:
        session.execute(text("SET LOCAL synchronous_commit = off"))
    parameters = {
        "organization_id": organization_of(session),
        "id": claimed.id,
        "token": claimed.claim_token,
        "progress": None if progress is None else as_json({**progress, "claim": str(claimed.claim_token)}, "progress"),
        "lines": f"[{','.join(as_json(line, 'a line of the log') for line in lines)}]" if lines else None,
        "lease": lease_seconds,
    }
    return bool(session.scalar(_TELL, parameters))


_SNOOZE = text(f"""
UPDATE {JOBS}
SET state = 'queued', run_at = clock_timestamp() + :delay * interval '1 second', later = :delay > 0,
    attempt = attempt - 1, given_back = 0, claim_token = NULL, lease_expires_at = NULL, run_until = NULL
WHERE organization_id = :organization_id AND id = :id AND claim_token = :token AND state = 'running'
RETURNING id
""")


def snooze(session: Session, claimed: Claimed, *, delay_seconds: float) -> bool:
    """`running -> queued` after a delay, at no attempt's cost; False when the attempt is fenced."""
    parameters = {
        "organization_id": organization_of(session),
        "id": claimed.id,
        "token": claimed.claim_token,
        "delay": delay_seconds,
    }
    return session.scalar(_SNOOZE, parameters) is not None


@dataclass(frozen=True)
class AttemptTold:
    """An attempt of a job. `number` is the one that it had: what costs none gives it back, and the next one has it.

    `outcome` is one of succeeded, failed, retried, given_back, snoozed, rescued (its lease had ended), cancelled; None
    while it runs. `progress` is what it told last, as `Progress` has it.
    """

    number: int
    worker: str | None
    claimed_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    error_class: str | None
    error_message: str | None
    progress: dict[str, Any] | None
    log: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Story:
    """The attempts of a job that are kept, in their order; `left_out` is how many lay between the first ten of them and
    the later ones."""

    attempts: Sequence[AttemptTold]
    left_out: int


def told_of(session: Session, job: Job) -> Story:
    """All attempts of a job: those kept, and the one that runs or has succeeded, of which the job's row tells."""
    rows = session.scalars(
        select(PastAttempt)
        .where(PastAttempt.organization_id == job.organization_id, PastAttempt.job_id == job.id)
        .order_by(PastAttempt.position)
    ).all()
    told = [_told(row, job) for row in rows]
    is_told = any(row.claim_token == job.claim_token for row in rows)
    if not is_told and job.state in (JobState.RUNNING, JobState.SUCCEEDED) and job.claimed_at is not None:
        told.append(_last(job, log=()))
    left_out = rows[-1].position - len(rows) if rows else 0
    return Story(told, max(left_out, 0))


def _told(row: PastAttempt, job: Job) -> AttemptTold:
    if row.outcome is None and row.claim_token == job.claim_token:
        return _last(job, log=row.log or ())
    return AttemptTold(
        number=row.attempt,
        worker=row.worker,
        claimed_at=row.claimed_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        error_class=row.error_class,
        error_message=row.error_message,
        progress=_shown(row.progress, row.claim_token),
        log=row.log or (),
    )


def _last(job: Job, *, log: Sequence[dict[str, Any]]) -> AttemptTold:
    return AttemptTold(
        number=job.attempt,
        worker=job.claimed_by,
        claimed_at=job.claimed_at,
        ended_at=job.finished_at,
        outcome=None if job.state == JobState.RUNNING else job.state,
        error_class=None,
        error_message=None,
        progress=progress_of(job),
        log=log,
    )


def progress_of(job: Job) -> dict[str, Any] | None:
    """What the attempt that runs, or that ended the job, told last of how far it is: `done`, `of` and `message` if it
    said so, and the time, `at`."""
    return _shown(job.progress, job.claim_token)


def _shown(progress: Any, token: UUID | None) -> dict[str, Any] | None:
    """Without the claim that told it; nothing where that was another one."""
    if not isinstance(progress, dict) or progress.get("claim") != str(token):
        return None
    return {name: value for name, value in progress.items() if name != "claim"}


def progress_text(progress: dict[str, Any] | None) -> str | None:
    """What an attempt told of how far it is, as `3/10 page three`."""
    if progress is None:
        return None
    of = progress.get("of")
    done = f"{progress.get('done', 0):g}" + ("" if of is None else f"/{of:g}")
    return f"{done} {progress.get('message', '')}".rstrip()


def line_text(line: dict[str, Any]) -> str:
    """A line of an attempt's log, with the time since the attempt began."""
    if "left_out" in line:
        return f"… {line['left_out']} more lines are not kept"
    fields = {name: value for name, value in line.items() if name not in ("seconds", "message")}
    told = "".join(f"  {name}={json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    return f"{line.get('seconds', 0):8.3f} s  {line.get('message', '')}{told}"
