"""An attempt ends, in the same transaction as its effect, and only if it still owns the job.

Order within that transaction: lock the jobs still owned, write the effects for those only, finish exactly those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from db.ledger.claim import OWNED, Claimed, mine
from db.sessions import organization_of

_LOCK_OWNED = text(f"SELECT id FROM ledger.jobs WHERE {OWNED} ORDER BY id FOR NO KEY UPDATE")  # noqa: S608


def lock_owned(session: Session, claimed: Sequence[Claimed]) -> set[UUID]:
    """Lock the jobs this attempt still owns, in id order, and return their ids. The others are fenced: rescued,
    cancelled or run by somebody else meanwhile."""
    return set(session.scalars(_LOCK_OWNED, mine(session, claimed)))


_SUCCEED = text(f"""
UPDATE ledger.jobs
SET state = 'succeeded', finished_at = clock_timestamp(), lease_expires_at = NULL, run_until = NULL,
    result = (SELECT CAST(:results AS jsonb)) -> CAST(id AS text),
    error_class = NULL, error_message = NULL, error_traceback = NULL
WHERE {OWNED}
RETURNING id
""")  # noqa: S608


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


_FAIL = text("""
UPDATE ledger.jobs
SET state = 'failed', finished_at = clock_timestamp(), lease_expires_at = NULL, run_until = NULL,
    error_class = :error_class, error_message = :message, error_traceback = :traceback
WHERE organization_id = :organization_id AND id = :id AND claim_token = :token AND state = 'running'
RETURNING id
""")


def fail(session: Session, claimed: Claimed, failure: Failure) -> bool:
    """`running -> failed` for good, with the reason; False when the attempt is fenced."""
    return session.scalar(_FAIL, _failure_of(session, claimed, failure)) is not None


# Faults that are not the job's own give the attempt back and are counted apart. The token stays with a job that ends.
_RETRY = text("""
UPDATE ledger.jobs
SET state = CASE WHEN used_up THEN 'failed' ELSE 'queued' END,
    finished_at = CASE WHEN used_up THEN clock_timestamp() END,
    run_at = CASE WHEN used_up THEN run_at ELSE clock_timestamp() + :delay * interval '1 second' END,
    attempt = CASE WHEN :uses_attempt OR used_up THEN attempt ELSE attempt - 1 END,
    faults = CASE WHEN :uses_attempt THEN faults ELSE faults + 1 END,
    claim_token = CASE WHEN used_up THEN claim_token END, lease_expires_at = NULL, run_until = NULL,
    error_class = :error_class, error_message = :message, error_traceback = :traceback
FROM (SELECT organization_id AS owner, id AS this,
             CASE WHEN :uses_attempt THEN attempt >= max_attempts ELSE faults + 1 >= :max_faults END AS used_up
      FROM ledger.jobs
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
) -> str | None:
    """`running -> queued` after a delay, or `failed` when attempts (or faults) are used up; None when fenced."""
    parameters = _failure_of(session, claimed, failure)
    state: str | None = session.scalar(
        _RETRY, {**parameters, "delay": delay_seconds, "uses_attempt": uses_attempt, "max_faults": max_faults}
    )
    return state


def _failure_of(session: Session, claimed: Claimed, failure: Failure) -> dict[str, Any]:
    return {
        "organization_id": organization_of(session),
        "id": claimed.id,
        "token": claimed.claim_token,
        "error_class": _printable(failure.error_class),
        "message": _printable(failure.message),
        "traceback": None if failure.traceback is None else _printable(failure.traceback),
    }


def _printable(message: str) -> str:
    return message.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()[:20_000]


_RECORD_CURSOR = text("""
UPDATE ledger.jobs SET cursor = :cursor, children = coalesce(children, 0) + :added
WHERE organization_id = :organization_id AND id = :id AND claim_token = :token AND state = 'running'
RETURNING id
""").bindparams(bindparam("cursor", type_=JSONB))


def record_cursor(session: Session, claimed: Claimed, cursor: dict[str, Any], *, children_added: int) -> bool:
    """Move a fan-out's cursor in the transaction that adds the children; False when the attempt is fenced."""
    moved = session.scalar(
        _RECORD_CURSOR,
        {
            "organization_id": organization_of(session),
            "id": claimed.id,
            "token": claimed.claim_token,
            "cursor": cursor,
            "added": children_added,
        },
    )
    return moved is not None


_FINISHED_BY_ME = text("""
SELECT id, state FROM ledger.jobs
WHERE organization_id = :organization_id AND id = ANY(:ids) AND claim_token = ANY(:tokens)
  AND state || '' IN ('succeeded', 'failed')
""")


def finished_as(session: Session, claimed: Sequence[Claimed]) -> dict[UUID, str]:
    """The jobs that these very attempts have finished, and as what: so a COMMIT whose answer was lost is looked up."""
    return {row.id: row.state for row in session.execute(_FINISHED_BY_ME, mine(session, claimed))}
