"""`under_key`, `admit`: of the jobs of one `limit_key` of an organization no more are under way than its limit lets,
and they go no faster than its rate.

Those that are due wait, and who plans admits them, the one due longest first, where something of their key has changed
or a rate lets another go (`db.models.ledger.key`). What is admitted and not dispatched yet is taken back where a limit
has become lower. Of each key a window's worth is admitted at a time, so that this is always little.

A rate is spent when a job is dispatched, in that transaction; no more are admitted than could spend of it. One that was
handed back before it began has spent, and goes again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from docworker.db.ledger.values import MAX_KEY_LENGTH, check_text
from docworker.db.ledger.waiting.order import Admitted
from docworker.db.ledger.waiting.rates import Rate, limit_values, rate_in
from docworker.db.ledger.waiting.told import OLDEST_WRITER, Told
from docworker.db.models import KeyLimit, KeyRateSpent
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.models.ledger.gate import GATES
from docworker.db.models.ledger.job import JOBS
from docworker.db.models.ledger.key import KEY_EVENTS, KEY_LIMITS, KEY_RATES_SPENT

WINDOW = 1000
"""So many jobs of a key are admitted at most and not dispatched yet."""


def checked_limit_key(key: str) -> str:
    """Raises InvalidArgumentError."""
    return check_text("a limit_key", key, most=MAX_KEY_LENGTH)


_KEY = text("SELECT ledger.key_jobs(CAST(:organization_id AS uuid), CAST(:jobs AS uuid[]), CAST(:limit_key AS text))")


def under_key(session: Session, organization_id: UUID, job_ids: Sequence[UUID], limit_key: str) -> None:
    """Let jobs that this transaction has enqueued be counted by this key: those that are due `queued -> waiting`."""
    session.execute(_KEY, {"organization_id": organization_id, "jobs": list(job_ids), "limit_key": limit_key})


class Key(NamedTuple):
    """What is in force of an organization's key, and until when its rate is spent, at `now`."""

    organization_id: UUID
    name: str
    max_running: int | None
    rate: Rate | None
    spent_until: float | None
    now: float

    @property
    def tokens(self) -> int | None:
        """How many jobs its rate lets go now; None where it has none."""
        return None if self.rate is None else self.rate.free(self.spent_until or 0.0, self.now)


_COLUMNS = """key.organization_id, key.limit_key, in_force.max_running, in_force.rate_jobs, in_force.rate_seconds,
       in_force.rate_burst, CAST(extract(epoch FROM spent.spent_until) AS double precision) AS spent_until,
       CAST(extract(epoch FROM clock_timestamp()) AS double precision) AS now"""
_IN_FORCE = f"""LEFT JOIN LATERAL (
    SELECT * FROM {KEY_LIMITS} AS of_key
    WHERE of_key.limit_key = key.limit_key
      AND of_key.organization_id IN (key.organization_id, '{SYSTEM_ORGANIZATION_ID}')
    ORDER BY of_key.organization_id DESC LIMIT 1
) AS in_force ON true
LEFT JOIN {KEY_RATES_SPENT} AS spent
       ON spent.organization_id = key.organization_id AND spent.limit_key = key.limit_key"""
_KEYS = text(f"""
SELECT {_COLUMNS}
FROM unnest(CAST(:organizations AS uuid[]), CAST(:keys AS text[])) AS key (organization_id, limit_key) {_IN_FORCE}
""")


def _key_of(row: Any) -> Key:
    return Key(row.organization_id, row.limit_key, row.max_running, rate_in(row), row.spent_until, row.now)


OWES = "(job.dispatched_at IS NULL OR coalesce(job.claimed_at >= job.dispatched_at, false))"
"""Of a job: it has not been sent since it came into line or was begun, so it is to spend of a rate when it is sent."""

_OF_KEY = """job.limit_key = key.limit_key AND job.organization_id = key.organization_id AND job.limit_key IS NOT NULL
      AND NOT job.later AND job.state IN ('waiting', 'queued', 'dispatched', 'running')"""
_IN_LINE = f"""{_OF_KEY} AND job.state = 'waiting' AND NOT EXISTS (
    SELECT FROM {GATES} AS gate
    WHERE job.gated AND gate.organization_id = job.organization_id AND gate.id = job.id AND gate.pending > 0)"""
_TOLD = text(f"""
SELECT key.told_by, {OLDEST_WRITER} AS oldest_writer, {_COLUMNS} FROM (
    (SELECT organization_id, limit_key, told_by FROM {KEY_EVENTS}
     WHERE told_by >= :since ORDER BY told_by LIMIT :most)
    UNION ALL
    (SELECT organization_id, limit_key, NULL FROM {KEY_RATES_SPENT}
     WHERE look_at <= (SELECT clock_timestamp()) ORDER BY look_at LIMIT :most)
) AS key {_IN_FORCE}
""")
# What is dispatched or runs counts, and what is admitted: only this statement makes that more, and only one planner
# executes it. What somebody has locked just now is for the next look.
_ADMIT = text(f"""
WITH key AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:organizations AS uuid[]), CAST(:keys AS text[]), CAST(:most AS integer[]),
                         CAST(:tokens AS integer[])) AS key (organization_id, limit_key, most, tokens)
), counted AS MATERIALIZED (
    SELECT key.*,
           (SELECT count(*) FROM {JOBS} AS job WHERE {_OF_KEY} AND job.state IN ('dispatched', 'running')) AS under_way,
           (SELECT count(*) FROM {JOBS} AS job WHERE {_OF_KEY} AND job.state = 'queued') AS admitted,
           CASE WHEN tokens IS NOT NULL
                THEN (SELECT count(*) FROM {JOBS} AS job WHERE {_OF_KEY} AND job.state = 'queued' AND {OWES})
           END AS owing
    FROM key
), key_room AS MATERIALIZED (
    SELECT *, least(
        CASE WHEN most IS NULL THEN :window ELSE least(:window, greatest(0, most - under_way)) END - admitted,
        tokens - owing) AS room
    FROM counted
), chosen AS MATERIALIZED (
    SELECT key.organization_id, key.limit_key, true AS comes, job.ctid FROM key_room AS key CROSS JOIN LATERAL (
        SELECT job.ctid FROM {JOBS} AS job WHERE {_IN_LINE}
        ORDER BY job.run_at, job.id LIMIT greatest(0, key.room) FOR NO KEY UPDATE SKIP LOCKED
    ) AS job
    UNION ALL
    SELECT key.organization_id, key.limit_key, false, job.ctid FROM key_room AS key CROSS JOIN LATERAL (
        SELECT job.ctid FROM {JOBS} AS job WHERE {_OF_KEY} AND job.state = 'queued'
        ORDER BY {OWES} DESC, job.run_at DESC, job.id DESC LIMIT greatest(0, -key.room) FOR NO KEY UPDATE SKIP LOCKED
    ) AS job
), changed AS (
    UPDATE {JOBS} AS job
    SET state = CASE WHEN chosen.comes THEN 'queued' ELSE 'waiting' END,
        run_at = CASE WHEN chosen.comes THEN greatest(job.run_at, clock_timestamp()) ELSE job.run_at END
    FROM chosen WHERE job.ctid = chosen.ctid
    RETURNING job.organization_id, job.kind, job.alone, job.priority, job.run_at, chosen.limit_key, chosen.comes
), looked_at AS MATERIALIZED (
    SELECT key.*, moved.jobs AS moved,
           key.room >= 0 AND (key.most IS NULL OR key.under_way + key.admitted + moved.jobs < key.most)
           AND moved.jobs < (SELECT count(*) FROM (
               SELECT FROM {JOBS} AS job WHERE {_IN_LINE} LIMIT moved.jobs + 1) AS waiting) AS has_more
    FROM key_room AS key
    CROSS JOIN LATERAL (
        SELECT count(*) AS jobs FROM changed
        WHERE changed.organization_id = key.organization_id AND changed.limit_key = key.limit_key
    ) AS moved
)
SELECT changed.organization_id, changed.kind, changed.alone, changed.priority, changed.run_at, NULL AS limit_key,
       NULL AS is_held, NULL AS waits_for_token
FROM changed WHERE comes
UNION ALL
SELECT organization_id, NULL, NULL, NULL, NULL, limit_key,
       moved < -room OR has_more AND (tokens IS NULL OR owing + moved < tokens),
       CASE WHEN room < 0 THEN tokens + 1 WHEN has_more AND owing + moved >= tokens THEN owing + moved + 1 END
FROM looked_at
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


_LOOK_AT = text(f"""
UPDATE {KEY_RATES_SPENT} AS spent SET look_at = told.look_at
FROM unnest(CAST(:organizations AS uuid[]), CAST(:keys AS text[]), CAST(:moments AS timestamptz[]))
     AS told (organization_id, limit_key, look_at)
WHERE spent.organization_id = told.organization_id AND spent.limit_key = told.limit_key
""")
_NOTHING_SPENT = text(f"""
DELETE FROM {KEY_RATES_SPENT} AS spent
USING unnest(CAST(:organizations AS uuid[]), CAST(:keys AS text[])) AS told (organization_id, limit_key)
WHERE spent.organization_id = told.organization_id AND spent.limit_key = told.limit_key
""")
_SPEND = text(f"""
INSERT INTO {KEY_RATES_SPENT} (organization_id, limit_key, spent_until, look_at)
SELECT * FROM unnest(CAST(:organizations AS uuid[]), CAST(:keys AS text[]), CAST(:until AS timestamptz[]),
                     CAST(:moments AS timestamptz[]))
ON CONFLICT (organization_id, limit_key) DO UPDATE SET spent_until = excluded.spent_until, look_at = excluded.look_at
""")


def admit(session: Session, told_of: Told, *, most: int = 1000) -> list[Admitted]:
    """`waiting -> queued` for the jobs that the limits and rates of their keys let go, of so many changes at most, and
    `queued -> waiting` for what they let go no more; returns those that have come into their lanes. For who may
    plan."""
    told = session.execute(_TOLD, {"since": told_of.since, "most": most}).all()
    if not told:
        return []
    told_of.ended(told[0].oldest_writer, min((row.told_by for row in told if row.told_by is not None), default=None))
    keys = {(row.organization_id, row.limit_key): _key_of(row) for row in told}
    limits = {"most": [one.max_running for one in keys.values()], "tokens": [one.tokens for one in keys.values()]}
    rows = session.execute(_ADMIT, _named(keys) | limits | {"window": WINDOW}).all()
    events = [row for row in told if row.told_by is not None]
    if events:
        seen = _named([(row.organization_id, row.limit_key) for row in events])
        session.execute(_FORGET, seen | {"told_by": [row.told_by for row in events]})
    if held := [(row.organization_id, row.limit_key) for row in rows if row.is_held]:
        session.execute(_TELL_AGAIN, _named(held))
    waiting = {(row.organization_id, row.limit_key): row.waits_for_token for row in rows if row.limit_key is not None}
    _look_again(session, keys, waiting)
    return [Admitted(*row[:5]) for row in rows if row.limit_key is None]


def _look_again(
    session: Session, keys: Mapping[tuple[UUID, str], Key], waiting: Mapping[tuple[UUID, str], int | None]
) -> None:
    """Note when a rate lets the next one go that is `waiting` for so many tokens, else when nothing of it is spent any
    more."""
    moments = {}
    for place, key in keys.items():
        if key.spent_until is not None and key.rate is not None and key.spent_until > key.now:
            tokens = waiting[place]
            can_wait = tokens is not None and tokens <= key.rate.burst
            moments[place] = key.rate.frees(key.spent_until, tokens) if tokens and can_wait else key.spent_until
    if moments:
        session.execute(_LOOK_AT, _named(moments) | {"moments": _moments(moments)})
    if over := [place for place, key in keys.items() if key.spent_until is not None and place not in moments]:
        session.execute(_NOTHING_SPENT, _named(over))


def spend_rates(session: Session, sent: Counter[tuple[UUID, str]]) -> None:
    """So many jobs of these organizations' keys are dispatched by this transaction."""
    if not sent:
        return
    until, look_at = {}, {}
    for key in map(_key_of, session.execute(_KEYS, _named(sent))):
        if key.rate is not None:
            place = key.organization_id, key.name
            until[place] = key.rate.spend(key.spent_until or 0.0, key.now, sent[place])
            next_one = min(key.rate.free(until[place], key.now) + 1, key.rate.burst)
            look_at[place] = key.rate.frees(until[place], next_one)
    if until:
        session.execute(_SPEND, _named(until) | {"until": _moments(until), "moments": _moments(look_at)})


def _named(keys: Iterable[tuple[UUID, str]]) -> dict[str, Any]:
    ordered = list(keys)
    return {"organizations": [one for one, _ in ordered], "keys": [key for _, key in ordered]}


def _moments(seconds_of: Mapping[tuple[UUID, str], float]) -> list[datetime]:
    return [datetime.fromtimestamp(seconds, UTC) for seconds in seconds_of.values()]


def set_key_limit(
    session: Session,
    key: str,
    *,
    organization_id: UUID | None,
    max_running: int | None = None,
    rate: Rate | None = None,
) -> None:
    """Of an organization's jobs of this key so many may be dispatched or running at a time, and they go no faster than
    a rate; without an organization, of each one's that has no limit of its own for it. It takes the place of the limit
    that is there, and is in force from the next look of the dispatcher on; what is dispatched goes on. For the
    dispatcher's session. Raises InvalidArgumentError."""
    values = limit_values(max_running, rate)
    place = {"organization_id": organization_id or SYSTEM_ORGANIZATION_ID, "limit_key": checked_limit_key(key)}
    session.execute(
        insert(KeyLimit)
        .values(**place, **values)
        .on_conflict_do_update(
            index_elements=[KeyLimit.organization_id, KeyLimit.limit_key],
            set_=values | {"updated_at": func.clock_timestamp()},
        )
    )
    if rate is not None:
        # What a slower rate has spent in advance would keep this one from beginning.
        empty_until = func.clock_timestamp() + timedelta(seconds=rate.burst * rate.interval)
        spent = update(KeyRateSpent).where(KeyRateSpent.limit_key == key)
        if organization_id is not None:
            spent = spent.where(KeyRateSpent.organization_id == organization_id)
        session.execute(spent.values(spent_until=func.least(KeyRateSpent.spent_until, empty_until)))


def remove_key_limit(session: Session, key: str, *, organization_id: UUID | None) -> bool:
    """Take the limit of a key back; False when there was none."""
    statement = delete(KeyLimit).where(
        KeyLimit.organization_id == (organization_id or SYSTEM_ORGANIZATION_ID), KeyLimit.limit_key == key
    )
    return session.execute(statement.returning(KeyLimit.limit_key)).first() is not None


def key_in_force(session: Session, organization_id: UUID, key: str) -> Key:
    """What is in force of an organization's key now."""
    return _key_of(session.execute(_KEYS, _named([(organization_id, key)])).one())


def find_key_limits(session: Session) -> Sequence[KeyLimit]:
    """All of them, in the order of organization and key."""
    return session.scalars(select(KeyLimit).order_by(KeyLimit.organization_id, KeyLimit.limit_key)).all()
