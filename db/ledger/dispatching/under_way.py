"""`load`: what is dispatched, running and paused, counted for whoever plans."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db.cluster.prepared import Statement
from docworker.db.ledger.dispatching.planning import Load
from docworker.db.ledger.dispatching.shortcuts import Shortcuts, UnderWay, beginning, entries_of
from docworker.db.ledger.waiting.told import OLDEST_WRITER
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.models.ledger.gate import ORDER_EVENTS
from docworker.db.models.ledger.job import JOBS, PAUSES, SUSPENSIONS
from docworker.db.models.ledger.key import KEY_EVENTS, KEY_RATES_SPENT
from docworker.db.sessions.statements import Call, Row, ask

JUST_SENT_SECONDS = 2
"""So long a message may be on its way to or from the broker. Then it waits there, where it is counted, or is lost, and
must not take up room until its jobs are dispatched again."""

_UNDER_WAY = entries_of("ix_jobs_dispatched", "ix_jobs_running")
# The floors: a job that is dispatched from now on is overdue no sooner than set, or one second from now where it is
# folded into; one that is claimed from now on was dispatched before, and its lease is no shorter than the shortest.
_LOAD = Statement(
    "docworker_load",
    f"""
WITH sent AS MATERIALIZED (
    SELECT organization_id, kind, message_id, coalesce(dispatched_at, '1900-01-01') AS dispatched_at, redispatch_at,
           unique_key IS NOT NULL AND claimed_at IS NULL AS folds
    FROM {JOBS}
    WHERE state = 'dispatched' AND redispatch_at >= coalesce(CAST(:dispatched AS timestamptz), '-infinity')
), running AS MATERIALIZED (
    SELECT organization_id, kind, message_id, claimed_at, lease_expires_at FROM {JOBS}
    WHERE state = 'running' AND lease_expires_at >= coalesce(CAST(:running AS timestamptz), '-infinity')
)
SELECT 'before' AS what, CAST(NULL AS uuid) AS organization_id, NULL AS kind, {_UNDER_WAY} AS counted,
       CAST(NULL AS double precision) AS seconds, CAST(NULL AS timestamptz) AS clock,
       CAST(NULL AS timestamptz) AS dispatched, CAST(NULL AS timestamptz) AS foldable,
       CAST(NULL AS timestamptz) AS running, CAST(NULL AS bigint) AS busy
UNION ALL
SELECT 'dispatched', organization_id, kind, count(*), NULL, NULL, NULL, NULL, NULL, NULL FROM sent
GROUP BY organization_id, kind
UNION ALL
SELECT 'running', organization_id, kind, count(*),
       CAST(sum(extract(epoch FROM clock_timestamp() - claimed_at)) AS double precision), NULL, NULL, NULL, NULL,
       count(DISTINCT message_id)
FROM running GROUP BY organization_id, kind
UNION ALL
SELECT 'paused', organization_id, kind, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM {PAUSES}
UNION ALL
SELECT 'paused', organization_id, '', NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM {SUSPENSIONS}
UNION ALL
SELECT 'told', NULL, 'order', CASE WHEN NOT EXISTS (SELECT FROM {ORDER_EVENTS} WHERE told_by >= :order_since)
                                   THEN {OLDEST_WRITER} END, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
SELECT 'told', NULL, 'keys', CASE WHEN NOT EXISTS (SELECT FROM {KEY_EVENTS} WHERE told_by >= :keys_since)
                                   AND NOT EXISTS (SELECT FROM {KEY_RATES_SPENT}
                                                   WHERE look_at <= (SELECT clock_timestamp()))
                                  THEN {OLDEST_WRITER} END, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
SELECT 'messages', NULL, NULL, count(DISTINCT message_id), NULL, NULL, NULL, NULL, NULL, NULL FROM sent
WHERE dispatched_at > clock_timestamp() - :just_sent * interval '1 second'
  AND NOT coalesce(message_id = ANY(ARRAY(SELECT message_id FROM running)), false)
UNION ALL
SELECT 'after', NULL, NULL, {_UNDER_WAY}, NULL, now.clock,
       least(living.overdue, now.clock + least(:redispatch_after, 600) * interval '1 second'),
       least(living.overdue, now.clock + least(:redispatch_after, 1) * interval '1 second'),
       least(living.lease_over, living.sent + :shortest_lease * interval '1 second',
             now.clock + :shortest_lease * interval '1 second'),
       NULL
FROM (
    SELECT (SELECT least(min(redispatch_at), min(dispatched_at) FILTER (WHERE folds) + interval '1 second') FROM sent)
               AS overdue,
           (SELECT min(dispatched_at) FROM sent) AS sent,
           (SELECT min(lease_expires_at) FROM running) AS lease_over
) AS living, (SELECT clock_timestamp() AS clock) AS now""",
    {
        "order_since": "bigint",
        "keys_since": "bigint",
        "just_sent": "float8",
        "redispatch_after": "float8",
        "shortest_lease": "float8",
        "dispatched": "timestamptz",
        "running": "timestamptz",
    },
)


def load(session: Session, shortcuts: Shortcuts | None = None) -> Load:
    """Count what is under way; the counts read small partial indexes."""
    shortcuts = shortcuts or Shortcuts()
    return loaded(ask(session, load_call(shortcuts)), shortcuts)


def load_call(shortcuts: Shortcuts) -> Call:
    """What `load` asks; `loaded` takes the answer."""
    values = {
        "order_since": shortcuts.order_told.begin(),
        "keys_since": shortcuts.keys_told.begin(),
        "just_sent": JUST_SENT_SECONDS,
        "redispatch_after": shortcuts.redispatch_after_seconds,
        "shortest_lease": shortcuts.shortest_lease_seconds,
        **since_floor(shortcuts.under_way.begin()),
    }
    return Call(SYSTEM_ORGANIZATION_ID, _LOAD, values)


def loaded(rows: Sequence[Row], shortcuts: Shortcuts) -> Load:
    """What was counted, by the answer to `load_call`."""
    of_organization: Counter[UUID] = Counter()
    of_kind: Counter[str] = Counter()
    running: Counter[str] = Counter()
    run_seconds: Counter[str] = Counter()
    jobs: Counter[tuple[UUID, str]] = Counter()
    all_running: Counter[tuple[UUID, str]] = Counter()
    occupied: dict[tuple[UUID, str], float] = {}
    paused: set[tuple[UUID, str]] = set()
    is_told = False
    sent = 0
    passed = 0
    told = {"order": shortcuts.order_told, "keys": shortcuts.keys_told}
    for what, organization_id, kind, counted, seconds, *_, messages in rows:
        match what:
            case "paused":
                paused.add((organization_id, kind))
            case "told" if counted is None:
                is_told = True
            case "told":
                told[kind].ended(counted)
            case "messages":
                sent = counted
            case "dispatched" | "running":
                of_organization[organization_id] += counted
                of_kind[kind] += counted
                jobs[organization_id, kind] += counted
                passed -= counted
                if seconds is not None:
                    running[kind] += counted
                    run_seconds[kind] += seconds
                    all_running[organization_id, kind] = counted
                    occupied[organization_id, kind] = max(seconds, 0.0) * messages / counted
            case _:
                passed += counted if what == "after" else -counted
    clock, *ends = rows[-1][5:9]
    shortcuts.under_way.ended(UnderWay(*ends), clock=clock, dead=passed)
    averages = {kind: run_seconds[kind] / jobs for kind, jobs in running.items()}
    return Load(sent, of_organization, of_kind, averages, jobs, all_running, occupied, paused, is_told, clock=clock)


def since_floor(floor: UnderWay | None) -> dict[str, datetime | None]:
    """The parameters of where the jobs under way begin."""
    return {
        "dispatched": None if floor is None else beginning(floor.dispatched),
        "running": None if floor is None else beginning(floor.running),
    }
