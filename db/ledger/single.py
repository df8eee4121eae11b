"""`claim_one`, `succeed_one`, `succeed_and_claim`: a job that runs by itself is claimed and ended in one exchange.

The same steps as for many jobs (`db.ledger.claim`, `db.ledger.finish`), for one row and with no session. The token of
a claim is made here, so that a COMMIT whose answer was lost can be looked up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db.cluster.prepared import Statement
from docworker.db.ledger.claim import Claim, Claimed, ClaimKey, set_aside
from docworker.db.models.ledger.job import JOBS
from docworker.db.sessions import writing
from docworker.db.sessions.exchanges import Committed, commit_with, transact
from docworker.db.sessions.statements import Call, Row

_CLAIMED = """job.arguments, job.attempt, job.max_attempts, job.faults, job.run_until,
          CAST(extract(epoch FROM job.claimed_at - least(job.claimed_at, greatest(job.run_at, '1900-01-01')))
               AS double precision),
          job.parent_id, job.cursor, job.traceparent,
          CAST(coalesce(job.dispatched_lsn, pg_current_wal_flush_lsn() - '0/0') AS bigint)"""

# By ctid, which leaves the planner one way. Who changed the row between the snapshot and the lock (a producer that
# folds into it) is passed over like one who holds it.
_CLAIM_ONE = Statement(
    "docworker_claim_one",
    f"""
UPDATE {JOBS} AS job
SET state = 'running', attempt = job.attempt + 1, claim_token = :token, claimed_at = clock_timestamp(),
    claimed_by = :worker, redispatch_at = NULL, dispatches = 0,
    lease_expires_at = clock_timestamp() + least(:lease, :max_run) * interval '1 second',
    run_until = clock_timestamp() + :max_run * interval '1 second'
WHERE job.ctid = (
    SELECT ctid FROM {JOBS}
    WHERE organization_id = :organization_id AND id = :id AND kind = :kind AND state || '' = 'dispatched'
      AND (NOT alone OR message_id = :message_id) AND attempt >= 0 AND attempt < max_attempts
    FOR NO KEY UPDATE SKIP LOCKED
)
RETURNING {_CLAIMED}""",
    {
        "organization_id": "uuid",
        "id": "uuid",
        "kind": "text",
        "message_id": "uuid",
        "token": "uuid",
        "worker": "text",
        "lease": "float8",
        "max_run": "float8",
    },
)
_MINE = "organization_id = :organization_id AND id = :id AND claim_token = :token AND state || '' = 'running'"
_OF_MINE = {"organization_id": "uuid", "id": "uuid", "token": "uuid"}
_CLAIMED_AS = Statement("docworker_claimed_as", f"SELECT {_CLAIMED} FROM {JOBS} AS job WHERE {_MINE}", _OF_MINE)
_LOCK_ONE = Statement(
    "docworker_lock_one",
    f"SELECT id FROM {JOBS} WHERE {_MINE} FOR NO KEY UPDATE",
    _OF_MINE,
)
_SUCCEED_ONE = Statement(
    "docworker_succeed_one",
    f"""
UPDATE {JOBS}
SET state = 'succeeded', finished_at = clock_timestamp(), lease_expires_at = NULL, run_until = NULL,
    result = CAST(:result AS jsonb), error_class = NULL, error_message = NULL, error_traceback = NULL
WHERE {_MINE}
RETURNING id""",
    {**_OF_MINE, "result": "text"},
)


@dataclass(frozen=True)
class Wanted:
    """A job that a message names, to be claimed under `token`. Times are in seconds."""

    organization_id: UUID
    id: UUID
    kind: str
    message_id: UUID | None
    worker: str
    lease_seconds: float
    max_run_seconds: float
    token: UUID = field(default_factory=uuid4)

    @property
    def key(self) -> ClaimKey:
        return ClaimKey(self.organization_id, self.id, self.token)

    @property
    def call(self) -> Call:
        values = {
            "organization_id": self.organization_id,
            "id": self.id,
            "kind": self.kind,
            "message_id": self.message_id,
            "token": self.token,
            "worker": self.worker,
            "lease": self.lease_seconds,
            "max_run": self.max_run_seconds,
        }
        return Call(self.organization_id, _CLAIM_ONE, values)


def claim_one(wanted: Wanted) -> Claim:
    """Take the job if it is dispatched: `dispatched -> running`. Once more on a connection that turns out to be lost,
    unless it was taken all the same."""
    try:
        return claim_of(wanted, transact([wanted.call]))
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    claim = claimed_as(wanted)
    return claim if claim.jobs else claim_of(wanted, transact([wanted.call]))


def claimed_as(wanted: Wanted) -> Claim:
    """The job if it was claimed under this token after all: so a COMMIT whose answer was lost is looked up."""
    return claim_of(wanted, transact([Call(wanted.organization_id, _CLAIMED_AS, _mine(wanted.key))]))


def succeed_one(claimed: Claimed) -> bool:
    """`running -> succeeded` for a job that has no effect; false when the attempt is fenced, or when this was committed
    on a connection that was lost then (`finished_as` tells)."""
    end = _end_of(claimed, None)
    try:
        return bool(transact([end]).rows[0])
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return bool(transact([end]).rows[0])


def succeed_and_claim(claimed: Claimed, wanted: Wanted) -> Committed:
    """`succeed_one`, and `claim_one` in the same transaction, whatever became of the first: `claim_of` says whether
    it was claimed."""
    return transact([_end_of(claimed, None), wanted.call])


def lock_of(claimed: Claimed) -> Call:
    """What locks the job for a session that is about to write its effect (`writing(…, first=[…])`); no row when the
    attempt is fenced."""
    return Call(claimed.organization_id, _LOCK_ONE, _mine(claimed))


def succeed_with(session: Session, claimed: Claimed, result: str | None, wanted: Wanted | None = None) -> Committed:
    """`running -> succeeded` and COMMIT together, for a job locked by `lock_of` in a session that has written its
    effect; the result is JSON. With one that is wanted of the same organization, that is claimed as well: `claim_of`
    says whether it was."""
    return commit_with(session, [_end_of(claimed, result), *([] if wanted is None else [wanted.call])])


def _end_of(claimed: Claimed, result: str | None) -> Call:
    return Call(claimed.organization_id, _SUCCEED_ONE, _mine(claimed) | {"result": result})


def _mine(key: Claimed | ClaimKey) -> dict[str, UUID]:
    return {"organization_id": key.organization_id, "id": key.id, "token": key.claim_token}


def claim_of(wanted: Wanted, committed: Committed) -> Claim:
    """What the last call of a transaction that is over has claimed."""
    rows: Sequence[Row] = committed.rows[-1]
    if not rows:
        return Claim([], None)
    ((arguments, attempt, max_attempts, faults, run_until, queued_seconds, parent_id, cursor, traceparent, lsn),) = rows
    claimed = Claimed(
        organization_id=wanted.organization_id,
        id=wanted.id,
        kind=wanted.kind,
        arguments=arguments,
        attempt=attempt,
        max_attempts=max_attempts,
        faults=faults,
        claim_token=wanted.token,
        run_until=run_until,
        queued_seconds=queued_seconds,
        parent_id=parent_id,
        cursor=cursor,
        traceparent=traceparent,
    )
    if not isinstance(arguments, dict):
        with writing(wanted.organization_id) as session:
            set_aside(session, wanted.kind, [wanted.id], [claimed])
        return Claim([], None)
    return Claim([claimed], committed.position_at(lsn))
