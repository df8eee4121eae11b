"""`under_key`, `admit`: of the jobs of one `limit_key` of an organization no more are under way than its limit lets.

Those that are due wait, and who plans admits them, the one due longest first, where something of their key has changed
(`db.models.ledger.key`). What is admitted and not dispatched yet is taken back where a limit has become lower. Of each
key a window's worth is admitted at a time, so that this is always little.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from docworker.db.ledger.values import MAX_KEY_LENGTH, MOST_RUNNING, check_integer, check_text
from docworker.db.ledger.waiting.order import Admitted
from docworker.db.models import KeyLimit
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.models.ledger.gate import GATES
from docworker.db.models.ledger.job import JOBS
from docworker.db.models.ledger.key import KEY_EVENTS, KEY_LIMITS

WINDOW = 1000
"""So many jobs of a key are admitted at most and not dispatched yet."""


def checked_limit_key(key: str) -> str:
    """Raises InvalidArgumentError."""
    return check_text("a limit_key", key, most=MAX_KEY_LENGTH)


_KEY = text("SELECT ledger.key_jobs(CAST(:organization_id AS uuid), CAST(:jobs AS uuid[]), CAST(:limit_key AS text))")


def under_key(session: Session, organization_id: UUID, job_ids: Sequence[UUID], limit_key: str) -> None:
    """Let jobs that this transaction has enqueued be counted by this key: those that are due `queued -> waiting`."""
    session.execute(_KEY, {"organization_id": organization_id, "jobs": list(job_ids), "limit_key": limit_key})


def effective_limit(organization: str, key: str) -> str:
    """SQL for the limit of an organization's key; NULL where there is none."""
    limit = f"SELECT max_running FROM {KEY_LIMITS} AS own WHERE own.limit_key = {key} AND own.organization_id ="
    return f"coalesce(({limit} {organization}), ({limit} '{SYSTEM_ORGANIZATION_ID}'))"


_OF_KEY = """job.limit_key = key.limit_key AND job.organization_id = key.organization_id AND job.limit_key IS NOT NULL
      AND NOT job.later AND job.state IN ('waiting', 'queued', 'dispatched', 'running')"""
_IN_LINE = f"""{_OF_KEY} AND job.state = 'waiting' AND NOT EXISTS (
    SELECT FROM {GATES} AS gate
    WHERE job.gated AND gate.organization_id = job.organization_id AND gate.id = job.id AND gate.pending > 0)"""
_TOLD = text(f"SELECT organization_id, limit_key, told_by FROM {KEY_EVENTS} ORDER BY told_by LIMIT :most")
# What is dispatched or runs counts, and what is admitted: only this statement makes that more, and only one planner
# executes it. What somebody has locked just now is for the next look.
_ADMIT = text(f"""
WITH key AS MATERIALIZED (
    SELECT told.*, {effective_limit("told.organization_id", "told.limit_key")} AS most
    FROM unnest(CAST(:organizations AS uuid[]), CAST(:keys AS text[])) AS told (organization_id, limit_key)
), counted AS MATERIALIZED (
    SELECT key.*,
           (SELECT count(*) FROM {JOBS} AS job WHERE {_OF_KEY} AND job.state IN ('dispatched', 'running')) AS under_way,
           (SELECT count(*) FROM {JOBS} AS job WHERE {_OF_KEY} AND job.state = 'queued') AS admitted
    FROM key
), key_room AS MATERIALIZED (
    SELECT *, CASE WHEN most IS NULL THEN :window ELSE least(:window, greatest(0, most - under_way)) END - admitted
              AS room
    FROM counted
), chosen AS MATERIALIZED (
    SELECT key.organization_id, key.limit_key, true AS comes, job.ctid FROM key_room AS key CROSS JOIN LATERAL (
        SELECT job.ctid FROM {JOBS} AS job WHERE {_IN_LINE}
        ORDER BY job.run_at, job.id LIMIT greatest(0, key.room) FOR NO KEY UPDATE SKIP LOCKED
    ) AS job
    UNION ALL
    SELECT key.organization_id, key.limit_key, false, job.ctid FROM key_room AS key CROSS JOIN LATERAL (
        SELECT job.ctid FROM {JOBS} AS job WHERE {_OF_KEY} AND job.state = 'queued'
        ORDER BY job.run_at DESC, job.id DESC LIMIT greatest(0, -key.room) FOR NO KEY UPDATE SKIP LOCKED
    ) AS job
), changed AS (
    UPDATE {JOBS} AS job
    SET state = CASE WHEN chosen.comes THEN 'queued' ELSE 'waiting' END,
        run_at = CASE WHEN chosen.comes THEN greatest(job.run_at, clock_timestamp()) ELSE job.run_at END
    FROM chosen WHERE job.ctid = chosen.ctid
    RETURNING job.organization_id, job.kind, job.alone, job.priority, job.run_at, chosen.limit_key, chosen.comes
)
SELECT changed.organization_id, changed.kind, changed.alone, changed.priority, changed.run_at, NULL AS limit_key
FROM changed WHERE comes
UNION ALL
SELECT key.organization_id, NULL, NULL, NULL, NULL, key.limit_key
FROM key_room AS key
CROSS JOIN LATERAL (
    SELECT count(*) AS jobs FROM changed
    WHERE changed.organization_id = key.organization_id AND changed.limit_key = key.limit_key
) AS moved
WHERE moved.jobs < -key.room
   OR (key.most IS NULL OR key.under_way + key.admitted + moved.jobs < key.most) AND key.room >= 0
      AND moved.jobs < (SELECT count(*) FROM (
          SELECT FROM {JOBS} AS job WHERE {_IN_LINE} LIMIT moved.jobs + 1) AS waiting)
""")
# With what the statement before it has told itself.
_FORGET = text(f"""
DELETE FROM {KEY_EVENTS} AS event
USING unnest(CAST(:organizations AS uuid[]), CAST(:keys AS text[]), CAST(:told_by AS bigint[]))
      AS told (organization_id, limit_key, told_by)
WHERE event.organization_id = told.organization_id AND event.limit_key = told.limit_key
  AND event.told_by IN (told.told_by, CAST(CAST(pg_current_xact_id() AS text) AS bigint))
""")
# At the end of the line of events, so that keys with much that waits do not keep others from being looked at.
_TELL_AGAIN = text(f"""
INSERT INTO {KEY_EVENTS} (organization_id, limit_key, told_by)
SELECT organization_id, limit_key, CAST(CAST(pg_current_xact_id() AS text) AS bigint)
FROM unnest(CAST(:organizations AS uuid[]), CAST(:keys AS text[])) AS held (organization_id, limit_key)
ON CONFLICT DO NOTHING
""")


def admit(session: Session, *, most: int = 1000) -> list[Admitted]:
    """`waiting -> queued` for the jobs that the limits of their keys let go, of so many changes at most, and `queued ->
    waiting` for what they let go no more; returns those that have come into their lanes. For who may plan."""
    told = session.execute(_TOLD, {"most": most}).all()
    if not told:
        return []
    organizations, names = zip(*dict.fromkeys((row.organization_id, row.limit_key) for row in told), strict=True)
    rows = session.execute(_ADMIT, {"organizations": list(organizations), "keys": list(names), "window": WINDOW}).all()
    organizations, names, told_by = zip(*told, strict=True)
    session.execute(_FORGET, {"organizations": list(organizations), "keys": list(names), "told_by": list(told_by)})
    held = [(row.organization_id, row.limit_key) for row in rows if row.limit_key is not None]
    if held:
        organizations, names = zip(*held, strict=True)
        session.execute(_TELL_AGAIN, {"organizations": list(organizations), "keys": list(names)})
    return [Admitted(*row[:5]) for row in rows if row.limit_key is None]


def set_key_limit(session: Session, key: str, *, organization_id: UUID | None, max_running: int) -> None:
    """Of an organization's jobs of this key so many may be dispatched or running at a time; without an organization, of
    each one's that has no limit of its own for it. In force from the next look of the dispatcher on; what is dispatched
    goes on. For the dispatcher's session. Raises InvalidArgumentError."""
    check_integer("max_running", max_running, 0, MOST_RUNNING)
    place = {"organization_id": organization_id or SYSTEM_ORGANIZATION_ID, "limit_key": checked_limit_key(key)}
    session.execute(
        insert(KeyLimit)
        .values(**place, max_running=max_running)
        .on_conflict_do_update(
            index_elements=[KeyLimit.organization_id, KeyLimit.limit_key],
            set_={"max_running": max_running, "updated_at": func.clock_timestamp()},
        )
    )


def remove_key_limit(session: Session, key: str, *, organization_id: UUID | None) -> bool:
    """Take the limit of a key back; False when there was none."""
    statement = delete(KeyLimit).where(
        KeyLimit.organization_id == (organization_id or SYSTEM_ORGANIZATION_ID), KeyLimit.limit_key == key
    )
    return session.execute(statement.returning(KeyLimit.limit_key)).first() is not None


def limit_of_key(session: Session, organization_id: UUID, key: str) -> int | None:
    """What is in force of an organization's key; None where nothing is."""
    statement = select(KeyLimit.max_running).where(
        KeyLimit.limit_key == key, KeyLimit.organization_id.in_((organization_id, SYSTEM_ORGANIZATION_ID))
    )
    return session.scalars(statement.order_by(KeyLimit.organization_id.desc()).limit(1)).first()


def find_key_limits(session: Session) -> Sequence[KeyLimit]:
    """All of them, in the order of organization and key."""
    return session.scalars(select(KeyLimit).order_by(KeyLimit.organization_id, KeyLimit.limit_key)).all()
