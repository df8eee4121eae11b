"""Jobs go to the broker, fairly and no more than it should hold: what the ledger is asked and told.

A lane is the queue of one (organization, kind, set apart or not, priority). Lanes are found by hopping from one to the
next through the partial index on the ready jobs, so the price does not depend on how many wait. Whose turn it is, and
how much of it, is decided in `db.ledger.planning`; one dispatcher plans at a time, so that caps and fairness hold
exactly.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate, groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.faults import Fault, classify
from db.ledger.planning import Lane, LaneKey, Limits, Load, Planner, Turns, Walk
from db.models.job import ARRIVED, READY

# What the dispatcher asks is always answered by a few entries of an index, in its order. A planner whose statistics are
# older than a backlog believes that there are no such jobs, and that reading and sorting them all costs nothing.
# No COMMIT of a planner waits for the disk: what it decides follows from the ledger, and is decided again when it was
# lost with the server. A message of a dispatch that was lost claims nothing; a claim is in the log behind the dispatch
# or the rescue that it follows, and does wait for the disk, so neither can be lost alone.
_MAY_PLAN = text("""
SELECT pg_try_advisory_xact_lock(hashtext('docworker'), hashtext('dispatcher')),
       set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true),
       set_config('synchronous_commit', 'off', true),
       set_config('idle_in_transaction_session_timeout', '3000', true)
""")


def may_plan(session: Session) -> bool:
    """Whether this transaction is the one that plans now; false while another one does."""
    return bool(session.scalar(_MAY_PLAN))


_PROMOTE = text("""
WITH due AS MATERIALIZED (
    SELECT ctid FROM ledger.jobs
    WHERE state = 'queued' AND later AND run_at <= (SELECT clock_timestamp())
    ORDER BY run_at LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE ledger.jobs AS job SET later = false FROM due WHERE job.ctid = due.ctid
RETURNING job.organization_id
""")


def promote(session: Session, *, most: int = 1000) -> set[UUID]:
    """Let jobs whose time has come into their lanes; returns their organizations."""
    return set(session.scalars(_PROMOTE, {"most": most}))


_ARRIVALS = text(f"""
SELECT organization_id, created_at FROM ledger.jobs
WHERE {READY} AND {ARRIVED}
  AND created_at > coalesce(CAST(:since AS timestamptz), clock_timestamp() - interval '2 seconds')
ORDER BY created_at LIMIT :most
""")  # noqa: S608


def arrivals(session: Session, *, since: datetime | None, most: int = 1000) -> tuple[list[UUID], datetime | None]:
    """The organizations that have got jobs since then, in that order, and until when that is known; without `since` in
    the last two seconds. What commits late is not seen, and waits for its turn."""
    rows = session.execute(_ARRIVALS, {"since": since, "most": most}).all()
    return [row.organization_id for row in rows], rows[-1].created_at if rows else since


def _first(columns: str, condition: str) -> str:
    """The first ready job by the index of lanes."""
    selected = f"SELECT {columns} FROM ledger.jobs AS job WHERE {READY} AND {condition}"  # noqa: S608
    return f"({selected} ORDER BY {columns} LIMIT 1)"


_LANE = "organization_id, kind, alone, priority"
_AFTER_IT = "(kind, alone, priority) > (lane.kind, lane.alone, lane.priority)"
# Each organization and each lane is one hop through the index, whatever number of jobs lies between.
_LANES = text(f"""
WITH RECURSIVE ahead AS (
    SELECT organization_id, 1 AS place FROM {_first("organization_id", "organization_id > :after")} AS first
    UNION ALL
    SELECT following.organization_id, ahead.place + 1
    FROM ahead CROSS JOIN LATERAL
         {_first("organization_id", "organization_id > ahead.organization_id")} AS following
    WHERE ahead.place < :most
), behind AS (
    SELECT organization_id, 1 + (SELECT CAST(count(*) AS integer) FROM ahead) AS place
    FROM {_first("organization_id", "organization_id <= :after")} AS first
    WHERE (SELECT count(*) FROM ahead) < :most
    UNION ALL
    SELECT following.organization_id, behind.place + 1
    FROM behind CROSS JOIN LATERAL
         {_first("organization_id", "organization_id > behind.organization_id AND organization_id <= :after")}
         AS following
    WHERE behind.place < :most
), tenant AS (
    SELECT organization_id, place FROM ahead
    UNION ALL SELECT organization_id, place FROM behind
    UNION ALL SELECT organization_id, CAST(-place AS integer)
              FROM unnest(CAST(:newest AS uuid[])) WITH ORDINALITY AS newest (organization_id, place)
), lane AS (
    SELECT tenant.place, first.*
    FROM tenant CROSS JOIN LATERAL {_first(_LANE, "organization_id = tenant.organization_id")} AS first
    UNION ALL
    SELECT lane.place, following.*
    FROM lane CROSS JOIN LATERAL
         {
    _first(
        _LANE,
        f"organization_id = lane.organization_id AND {_AFTER_IT}",
    )
} AS following
)
SELECT lane.place, lane.organization_id, lane.kind, lane.alone, lane.priority, head.due, head.oldest
FROM lane CROSS JOIN LATERAL (
    SELECT count(*) AS due, coalesce(min(run_at), clock_timestamp()) AS oldest FROM (
        SELECT job.run_at FROM ledger.jobs AS job
        WHERE {READY} AND job.organization_id = lane.organization_id AND job.kind = lane.kind
          AND job.alone = lane.alone AND job.priority = lane.priority
          AND job.run_at <= (SELECT clock_timestamp())
        ORDER BY job.run_at, job.id LIMIT :due
    ) AS job
) AS head
ORDER BY lane.place
""")  # noqa: S608


class Stretch(NamedTuple):
    """Organizations with ready jobs, each by its lanes; one may have none that is due. `newest` are those that were
    asked for by name, `ring` those that follow on the ring."""

    newest: list[list[Lane]]
    ring: list[list[Lane]]


def lanes(session: Session, *, after: UUID, most: int, due: int, newest: Collection[UUID] = ()) -> Stretch:
    """The lanes of at most `most` organizations that follow `after`, and of the `newest`; at most `due` jobs of each
    are counted."""
    parameters = {"after": after, "most": most, "due": due, "newest": list(newest)}
    found = Stretch([], [])
    for place, rows in groupby(session.execute(_LANES, parameters), itemgetter(0)):
        (found.ring if place > 0 else found.newest).append([Lane(*row[1:]) for row in rows])
    found.newest.reverse()
    return found


JUST_SENT_SECONDS = 2
"""So long a message may be on its way to or from the broker. Then it waits there, where it is counted, or is lost, and
must not take up room until its jobs are dispatched again."""

_LOAD = text("""
SELECT organization_id, kind, count(*) AS jobs,
       CAST(NULL AS double precision) AS seconds, CAST(NULL AS bigint) AS messages
FROM ledger.jobs WHERE state = 'dispatched' GROUP BY organization_id, kind
UNION ALL
SELECT organization_id, kind, count(*),
       CAST(sum(extract(epoch FROM clock_timestamp() - claimed_at)) AS double precision), NULL
FROM ledger.jobs WHERE state = 'running' GROUP BY organization_id, kind
UNION ALL
SELECT organization_id, kind, NULL, NULL, NULL FROM ledger.pauses
UNION ALL
SELECT NULL, NULL, NULL, NULL, count(DISTINCT message_id) FROM ledger.jobs
WHERE state = 'dispatched' AND dispatched_at > clock_timestamp() - :just_sent * interval '1 second'
""")


def load(session: Session) -> Load:
    """Count what is under way; the counts read small partial indexes."""
    of_organization: Counter[UUID] = Counter()
    of_kind: Counter[str] = Counter()
    running: Counter[str] = Counter()
    run_seconds: Counter[str] = Counter()
    paused: set[tuple[UUID, str]] = set()
    sent = 0
    for organization_id, kind, jobs, seconds, messages in session.execute(_LOAD, {"just_sent": JUST_SENT_SECONDS}):
        if messages is not None:
            sent = messages
        elif jobs is None:
            paused.add((organization_id, kind))
        else:
            of_organization[organization_id] += jobs
            of_kind[kind] += jobs
            if seconds is not None:
                running[kind] += jobs
                run_seconds[kind] += seconds
    averages = {kind: run_seconds[kind] / jobs for kind, jobs in running.items()}
    return Load(sent, of_organization, of_kind, averages, paused)


class Part(NamedTuple):
    """The jobs of one organization in a message."""

    organization_id: UUID
    job_ids: tuple[UUID, ...]


@dataclass(frozen=True)
class Message:
    """What travels to the broker: jobs of one kind."""

    id: UUID
    kind: str
    parts: tuple[Part, ...]

    @property
    def job_ids(self) -> tuple[UUID, ...]:
        return tuple(one for part in self.parts for one in part.job_ids)


@dataclass(frozen=True)
class Dispatched:
    """What one look has marked. Of the `short` lanes less could be had than was planned: somebody has locked jobs. The
    rows of `refused` ones the server does not change."""

    walk: Walk
    unknown: set[LaneKey]
    messages: list[Message] = field(default_factory=list)
    short: set[LaneKey] = field(default_factory=set)
    refused: dict[LaneKey, Exception] = field(default_factory=dict)


_FIRST_STRETCH, _LONGEST_STRETCH = 16, 256


def dispatch_due(
    session: Session,
    turns: Turns,
    under_way: Load,
    limits: Limits,
    *,
    capacity: int,
    most_due: int,
    redispatch_after_seconds: float,
    left_out: Collection[LaneKey] = frozenset(),
    is_apart: bool = False,
) -> Dispatched:
    """`queued -> dispatched` for the jobs whose turn it is, as many as fit into `capacity` messages.

    The turns are taken (`turns.take`) by the caller, once this is committed. Raises what the server refuses
    (`is_refused`); with `is_apart`, which costs a statement for each lane, the others go on.
    """
    planner = Planner(under_way, limits, capacity=capacity, left_out=left_out)
    walk = Walk(turns, planner)
    newest, most, due = turns.newest(_FIRST_STRETCH), _FIRST_STRETCH, most_due
    while not walk.is_over:
        found = lanes(session, after=walk.seen_until, most=most, due=due, newest=newest)
        walk.meet(found.newest)
        walk.go_along(found.ring, is_last=len(found.ring) < most)
        # Where there are so many, none of them sends much.
        newest, most, due = [], min(4 * most, _LONGEST_STRETCH), max(1, most_due // capacity)
    dispatched = Dispatched(walk, planner.unknown)
    picks = list(planner.picks.items())
    if is_apart:
        rows: Sequence[Any] = _mark_apart(dispatched, session, picks, redispatch_after_seconds)
    else:
        rows = mark(session, picks, redispatch_after_seconds)
    _gather(dispatched, planner, rows)
    return dispatched


def is_refused(error: Exception) -> bool:
    """Whether the server takes exception to what was written, rather than being in trouble itself."""
    return classify(error) in (Fault.BAD_INPUT, Fault.UNKNOWN)


# By ctid: exactly the row that was locked, whatever the planner believes of a queue's statistics. One that changed
# between the snapshot and the lock is left for the next look. SKIP LOCKED: a job being cancelled or folded into right
# now can wait for the next look, the dispatcher cannot. The messages of a lane's jobs lie one behind the other from
# `start` on, those of all lanes in one array.
_DISPATCH = text(f"""
WITH picked AS MATERIALIZED (
    SELECT job.ctid, job.position,
           (CAST(:messages AS uuid[]))[lane.start + job.position] AS message_id
    FROM unnest(CAST(:organizations AS uuid[]), CAST(:kinds AS text[]), CAST(:alone AS boolean[]),
                CAST(:priorities AS smallint[]), CAST(:sizes AS integer[]), CAST(:starts AS integer[]))
         AS lane (organization_id, kind, alone, priority, size, start)
    CROSS JOIN LATERAL (
        SELECT locked.ctid, CAST(row_number() OVER () AS integer) AS position FROM (
            SELECT job.ctid FROM ledger.jobs AS job
            WHERE {READY} AND job.organization_id = lane.organization_id AND job.kind = lane.kind
              AND job.alone = lane.alone AND job.priority = lane.priority
              AND job.run_at <= (SELECT clock_timestamp())
            ORDER BY job.run_at, job.id LIMIT lane.size FOR NO KEY UPDATE SKIP LOCKED
        ) AS locked
    ) AS job
)
UPDATE ledger.jobs AS job
SET state = 'dispatched', message_id = picked.message_id, dispatches = greatest(1, least(job.dispatches + 1, 100)),
    dispatched_at = clock_timestamp(), dispatched_lsn = pg_current_wal_flush_lsn() - '0/0',
    redispatch_at = clock_timestamp()
                    + least(:redispatch_after * power(2, greatest(0, least(job.dispatches, 20))), 600)
                      * interval '1 second'
FROM picked
WHERE job.ctid = picked.ctid
RETURNING picked.position, picked.message_id, job.organization_id, job.id, job.kind, job.alone, job.priority
""")  # noqa: S608


_Picks = Sequence[tuple[LaneKey, Sequence[UUID]]]


def mark(session: Session, picks: _Picks, redispatch_after_seconds: float) -> Sequence[Any]:
    """Each further dispatch of an unclaimed job waits twice as long, up to ten minutes."""
    if not picks:
        return ()
    return session.execute(_DISPATCH, _picked(picks) | {"redispatch_after": redispatch_after_seconds}).all()


def _mark_apart(dispatched: Dispatched, session: Session, picks: _Picks, redispatch_after_seconds: float) -> list[Any]:
    rows: list[Any] = []
    for pick in picks:
        try:
            with session.begin_nested():
                rows += mark(session, [pick], redispatch_after_seconds)
        except Exception as error:
            if not is_refused(error):
                raise
            dispatched.refused[pick[0]] = error
    return rows


def _gather(dispatched: Dispatched, planner: Planner, rows: Sequence[Any]) -> None:
    """The messages of the jobs that could be marked, and the lanes that gave less than was planned."""
    marked = Counter(LaneKey(row.organization_id, row.kind, row.alone, row.priority) for row in rows)
    dispatched.short.update(
        lane for lane, ids in planner.picks.items() if marked[lane] < len(ids) and lane not in dispatched.refused
    )
    jobs_of: dict[UUID, dict[UUID, list[UUID]]] = {}
    for row in sorted(rows, key=attrgetter("position")):
        jobs_of.setdefault(row.message_id, {}).setdefault(row.organization_id, []).append(row.id)
    for message_id, kind in planner.kind_of.items():
        parts = tuple(Part(one, tuple(ids)) for one, ids in jobs_of.get(message_id, {}).items())
        if parts:
            dispatched.messages.append(Message(message_id, kind, parts))


def _picked(picks: _Picks) -> dict[str, Any]:
    """The parameters of lanes and of the messages of their jobs."""
    organizations, kinds, alone, priorities = zip(*(lane for lane, _ in picks), strict=True)
    sizes = [len(ids) for _, ids in picks]
    return {
        "organizations": list(organizations),
        "kinds": list(kinds),
        "alone": list(alone),
        "priorities": list(priorities),
        "sizes": sizes,
        "starts": [0, *accumulate(sizes[:-1])],
        "messages": [one for _, ids in picks for one in ids],
    }


WAITS_AT_MOST_SECONDS = 3600
"""So long a message is believed to wait at the broker. What waits there is counted, not read: messages whose jobs are
over by now could hide for ever that another one was lost."""

# The broker's queue is first in, first out: of the messages that nobody has claimed, the newest are those that still
# wait there, as many as it holds.
_REQUEUE_OVERDUE = text("""
WITH waiting AS MATERIALIZED (
    SELECT message_id FROM ledger.jobs
    WHERE state = 'dispatched' AND dispatched_at > clock_timestamp() - :waits_at_most * interval '1 second'
    GROUP BY message_id ORDER BY max(dispatched_at) DESC LIMIT :waiting
), overdue AS MATERIALIZED (
    SELECT ctid FROM ledger.jobs
    WHERE state = 'dispatched' AND redispatch_at <= (SELECT clock_timestamp())
      AND NOT coalesce(message_id = ANY(ARRAY(SELECT message_id FROM waiting)), false)
    ORDER BY organization_id, id LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE ledger.jobs AS job SET state = 'queued', redispatch_at = NULL, message_id = NULL
FROM overdue
WHERE job.ctid = overdue.ctid
RETURNING job.id
""")


def requeue_overdue(session: Session, *, waiting: int = 0, most: int = 10_000) -> int:
    """`dispatched -> queued` for jobs whose message nobody has claimed in time; returns how many.

    `waiting` messages are still at the broker. Those wait for their turn behind slow work, and are not overdue.
    """
    parameters = {"waiting": waiting, "waits_at_most": WAITS_AT_MOST_SECONDS, "most": most}
    return len(session.execute(_REQUEUE_OVERDUE, parameters).all())


# The jobs of a message run one after another. What comes behind a slow one is for others to run.
_REQUEUE_HELD_UP = text("""
WITH slow AS MATERIALIZED (
    SELECT DISTINCT message_id FROM ledger.jobs
    WHERE state = 'running' AND claimed_at < clock_timestamp() - :after * interval '1 second'
), held_up AS MATERIALIZED (
    SELECT ctid FROM ledger.jobs
    WHERE state = 'dispatched' AND message_id = ANY(ARRAY(SELECT message_id FROM slow))
    ORDER BY organization_id, id LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE ledger.jobs AS job
SET state = 'queued', redispatch_at = NULL, message_id = NULL, dispatches = greatest(job.dispatches - 1, 0)
FROM held_up
WHERE job.ctid = held_up.ctid
RETURNING job.id
""")


def requeue_held_up(session: Session, *, after_seconds: float = 1.0, most: int = 10_000) -> int:
    """`dispatched -> queued` for the jobs of messages whose current job has been running for so long; returns how
    many."""
    return len(session.execute(_REQUEUE_HELD_UP, {"after": after_seconds, "most": most}).all())


_UNDISPATCH = text("""
WITH unsent AS MATERIALIZED (
    SELECT ctid FROM ledger.jobs
    WHERE message_id = ANY(:message_ids) AND state = 'dispatched'
    ORDER BY organization_id, id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE ledger.jobs AS job
SET state = 'queued', redispatch_at = NULL, message_id = NULL, dispatches = greatest(job.dispatches - 1, 0)
FROM unsent
WHERE job.ctid = unsent.ctid
""")


def undispatch(session: Session, messages: Sequence[Message]) -> None:
    """`dispatched -> queued` for messages that the broker did not take."""
    session.execute(_UNDISPATCH, {"message_ids": [message.id for message in messages]})


_COUNT_LIVE = text(f"""
SELECT left(kind, 200), state, count(*) FROM ledger.jobs WHERE {READY} GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM ledger.jobs WHERE state = 'queued' AND later GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM ledger.jobs WHERE state = 'dispatched' GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM ledger.jobs WHERE state = 'running' GROUP BY kind, state
""")  # noqa: S608
_OLDEST_DUE = text(f"""
WITH RECURSIVE lane AS (
    SELECT first.* FROM {_first(_LANE, "true")} AS first
    UNION ALL
    SELECT following.* FROM lane CROSS JOIN LATERAL
         {_first(_LANE, f"({_LANE}) > (lane.organization_id, lane.kind, lane.alone, lane.priority)")}
         AS following
)
SELECT CAST(extract(epoch FROM clock_timestamp() - greatest(min(head.run_at), '1900-01-01')) AS double precision)
FROM lane CROSS JOIN LATERAL (
    SELECT job.run_at FROM ledger.jobs AS job
    WHERE {READY} AND job.organization_id = lane.organization_id AND job.kind = lane.kind
      AND job.alone = lane.alone AND job.priority = lane.priority
    ORDER BY job.run_at, job.id LIMIT 1
) AS head
""")  # noqa: S608


def count_live(session: Session) -> list[tuple[str, str, int]]:
    """Live jobs as (kind, state, jobs); each part reads its partial index."""
    return [(kind, state, jobs) for kind, state, jobs in session.execute(_COUNT_LIVE)]


def oldest_due_seconds(session: Session) -> float:
    """How long the job that is due the longest has been waiting in the queue; 0 when none is due."""
    return max(0.0, session.scalar(_OLDEST_DUE) or 0.0)
