"""`succeed`, `fail`, `retry`, `give_back`: an attempt ends with its effect, and only if it still owns the job.

Order within that transaction: lock the jobs still owned, write the effects for those only, finish exactly those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.ledger.claim import OWNED, Claimed, ClaimKey, mine
from docworker.db.ledger.values import as_json
from docworker.db.models.ledger.job import JOBS, JobState
from docworker.db.sessions import organization_of

MOST_KEPT = 20_000
"""Characters of an error's message, or of its traceback, that are kept with the job."""


class AttemptEnd(StrEnum):
    """How an attempt ended, also in metrics."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """For good: its job has failed."""
    RETRIED = "retried"
    """Its job waits for another attempt."""
    GIVEN_BACK = "given_back"
    """Undone, at no cost."""
    SNOOZED = "snoozed"
    """Put off by itself, at no cost."""
    FENCED = "fenced"
    """Its job was not its own any more: taken over, cancelled, or ended by somebody else."""


_LOCK_OWNED = text(f"SELECT id FROM {JOBS} WHERE {OWNED} ORDER BY id FOR NO KEY UPDATE")


def lock_owned(session: Session, claimed: Sequence[Claimed | ClaimKey]) -> set[UUID]:
    """Lock the jobs this attempt still owns, in id order, and return their ids. The others are fenced: rescued,
    cancelled or run by somebody else meanwhile."""
    return set(session.scalars(_LOCK_OWNED, mine(session, claimed)))


_SUCCEED = text(f"""
UPDATE {JOBS}
SET state = 'succeeded', finished_at = clock_timestamp(), lease_expires_at = NULL, run_until = NULL,
    result = (SELECT CAST(:results AS jsonb)) -> CAST(id AS text),
    error_class = NULL, error_message = NULL, error_traceback = NULL
WHERE {OWNED}
RETURNING id
""")


def succeed(session: Session, results: Sequence[tuple[Claimed, str | None]]) -> set[UUID]:
    """`running -> succeeded` for jobs locked by `lock_owned`; results are JSON texts. Returns the ids finished."""
    by_id = ",".join(f'"{one.id}":{result}' for one, result in results if result is not None)
    parameters = mine(session, [one for one, _ in results]) | {"results": f"{{{by_id}}}"}
    return set(session.scalars(_SUCCEED, parameters))


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed, kept with the job."""

    error_class: str
    message: str
    traceback: str | None = None


_FAIL = text(f"""
UPDATE {JOBS}
SET state = 'failed', finished_at = clock_timestamp(), lease_expires_at = NULL, run_until = NULL,
    error_class = :error_class, error_message = :message, error_traceback = :traceback
WHERE organization_id = :organization_id AND id = :id AND claim_token = :token AND state = 'running'
RETURNING id
""")


def fail(session: Session, claimed: Claimed, failure: Failure) -> bool:
    """`running -> failed` for good, with the reason; False when the attempt is fenced."""
    return session.scalar(_FAIL, _failure_of(session, claimed, failure)) is not None


# Faults that are not the job's own give the attempt back and are counted apart. The token stays with a job that ends.
_RETRY = text(f"""
UPDATE {JOBS}
SET state = CASE WHEN used_up THEN 'failed' ELSE 'queued' END,
    finished_at = CASE WHEN used_up THEN clock_timestamp() END,
    run_at = CASE WHEN used_up THEN run_at ELSE clock_timestamp() + :delay * interval '1 second' END,
    later = NOT used_up AND :delay > 0,
    attempt = CASE WHEN :uses_attempt OR used_up THEN attempt ELSE attempt - 1 END, given_back = 0,
    faults = CASE WHEN :uses_attempt THEN faults ELSE faults + 1 END,
    claim_token = CASE WHEN used_up THEN claim_token END, lease_expires_at = NULL, run_until = NULL,
    error_class = :error_class, error_message = :message, error_traceback = :traceback
FROM (SELECT organization_id AS owner, id AS this,
             CASE WHEN :uses_attempt THEN attempt >= max_attempts ELSE faults + 1 >= :max_faults END AS used_up
      FROM {JOBS}
      WHERE organization_id = :organization_id AND id = :id AND claim_token = :token AND state = 'running'
      FOR NO KEY UPDATE) AS mine
WHERE organization_id = owner AND id = this AND state = 'running'
RETURNING state
""")


def retry(
    session: Session,
    claimed: Claimed,
    failure: Failure,
    *,
    delay_seconds: float,
    uses_attempt: bool,
    max_faults: int,
) -> AttemptEnd | None:
    """`running -> queued` after a delay, or `failed` when attempts (or faults) are used up; None when fenced."""
    parameters = _failure_of(session, claimed, failure)
    state: str | None = session.scalar(
        _RETRY, {**parameters, "delay": delay_seconds, "uses_attempt": uses_attempt, "max_faults": max_faults}
    )
    if state is None:
        return None
    return AttemptEnd.RETRIED if state == JobState.QUEUED else AttemptEnd.FAILED


def _failure_of(session: Session, claimed: Claimed, failure: Failure) -> dict[str, Any]:
    return {
        "organization_id": organization_of(session),
        "id": claimed.id,
        "token": claimed.claim_token,
        **_kept(failure),
    }


def _kept(failure: Failure) -> dict[str, str | None]:
    traceback = failure.traceback
    return {
        "error_class": _printable(failure.error_class)[:MOST_KEPT],
        "message": _printable(failure.message)[:MOST_KEPT],
        "traceback": None if traceback is None else cut_in_the_middle(_printable(traceback), MOST_KEPT),
    }


def _printable(message: str) -> str:
    return message.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def cut_in_the_middle(text: str, most: int) -> str:
    """At most about `most` characters, from both ends: a traceback tells the most at its end, then at its beginning."""
    left_out = len(text) - most
    if left_out <= 0:
        return text
    half = most // 2
    return f"{text[:half]}\n… {left_out} characters are left out here …\n{text[-half:]}"


# Nobody is to blame for an attempt that is given back, unless it happens again and again: that one counts, with a
# reason. One statement for all jobs of a message, and the state is looked at by the lock alone.
_GIVE_BACK = text(f"""
WITH held AS MATERIALIZED (
    SELECT id, given_back >= :most AS counts, given_back >= :most AND attempt >= max_attempts AS used_up
    FROM {JOBS}
    WHERE {OWNED}
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE {JOBS} AS job
SET state = CASE WHEN used_up THEN 'failed' ELSE 'queued' END,
    finished_at = CASE WHEN used_up THEN clock_timestamp() END,
    run_at = CASE WHEN used_up THEN job.run_at ELSE clock_timestamp() END,
    attempt = CASE WHEN counts THEN job.attempt ELSE job.attempt - 1 END,
    given_back = CASE WHEN counts THEN 0 ELSE job.given_back + 1 END,
    claim_token = CASE WHEN used_up THEN job.claim_token END, lease_expires_at = NULL, run_until = NULL,
    claimed_by = CASE WHEN counts THEN job.claimed_by END,
    error_class = CASE WHEN counts THEN :error_class ELSE job.error_class END,
    error_message = CASE WHEN counts THEN :message ELSE job.error_message END,
    error_traceback = CASE WHEN counts THEN NULL ELSE job.error_traceback END
FROM held
WHERE job.organization_id = :organization_id AND job.id = ANY(:ids) AND job.id = held.id
RETURNING job.id, CASE WHEN used_up THEN 'failed' WHEN counts THEN 'retried' ELSE 'given_back' END
""")


def give_back(session: Session, claimed: Sequence[Claimed | ClaimKey], *, most: int) -> dict[UUID, AttemptEnd]:
    """Return jobs to the queue at once, as if they had never been claimed: they were not begun, or were asked to stop.

    After `most` times in a row, with no end of an attempt and no move of the cursor between, it counts as an attempt.
    Returns what became of each job that was still owned: given_back, retried, or failed when its attempts are used up.
    """
    return _give_back(session, claimed, given_back_too_often(most), most)


def given_back_too_often(most: int) -> Failure:
    """Why a job that is given back once more has used up an attempt."""
    return Failure(
        "GivenBack",
        f"given back {most} times in a row and never done: its worker stopped each time, or it came after slower jobs "
        "of its batch; give it smaller pieces, or raise DOCWORKER_MAX_GIVEN_BACK",
    )


def charge(session: Session, claimed: Sequence[Claimed | ClaimKey], failure: Failure) -> dict[UUID, AttemptEnd]:
    """`running -> queued` at once, or `failed` when attempts are used up: these attempts are over and count, for this
    reason. Returns what became of each job that was still owned: retried or failed."""
    return _give_back(session, claimed, failure, 0)


def _give_back(
    session: Session, claimed: Sequence[Claimed | ClaimKey], failure: Failure, most: int
) -> dict[UUID, AttemptEnd]:
    rows = session.execute(_GIVE_BACK, {**mine(session, claimed), **_kept(failure), "most": most})
    return {job_id: AttemptEnd(end) for job_id, end in rows}


_RECORD_CURSOR = text(f"""
UPDATE {JOBS} SET cursor = CAST(:cursor AS jsonb), children = coalesce(children, 0) + :added, given_back = 0,
    lease_expires_at = least(clock_timestamp() + :lease * interval '1 second', run_until)
WHERE organization_id = :organization_id AND id = :id AND claim_token = :token AND state = 'running'
RETURNING id
""")


def record_cursor(
    session: Session, claimed: Claimed, cursor: dict[str, Any], *, children_added: int, lease_seconds: float
) -> bool:
    """Move a job's cursor in the transaction that does what is before it; False when the attempt is fenced.

    The lease is renewed by it: one transaction after another holds the job's lock, and who renews leases skips it then.
    """
    moved = session.scalar(
        _RECORD_CURSOR,
        {
            "organization_id": organization_of(session),
            "id": claimed.id,
            "token": claimed.claim_token,
            "cursor": as_json(cursor, "the cursor"),
            "added": children_added,
            "lease": lease_seconds,
        },
    )
    return moved is not None


_FINISHED_BY_ME = text(f"""
SELECT id, state FROM {JOBS}
WHERE organization_id = :organization_id AND id = ANY(:ids) AND claim_token = ANY(:tokens)
  AND state || '' IN ('succeeded', 'failed')
""")


def finished_as(session: Session, claimed: Sequence[Claimed]) -> dict[UUID, AttemptEnd]:
    """The jobs that these very attempts have finished, and as what: so a COMMIT whose answer was lost is looked up."""
    return {row.id: AttemptEnd(row.state) for row in session.execute(_FINISHED_BY_ME, mine(session, claimed))}
