"""Which jobs go to the broker next, fairly across organizations, and no more than it should hold.

A lane is the queue of one (organization, kind, set apart or not, priority). The lanes are found by hopping from one to
the next through the partial index on queued jobs, so the price depends on the number of lanes and never on the number
of jobs. `plan` is pure; one dispatcher plans at a time, so that caps and fairness hold exactly.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.models.base import SYSTEM_ORGANIZATION_ID, new_id

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


class Lane(NamedTuple):
    """`due` counts the due jobs, up to the limit it was asked with."""

    organization_id: UUID
    kind: str
    alone: bool
    priority: int
    due: int
    oldest: datetime


# There must be no other index on the queued jobs that begins with or is ordered by `run_at`: the planner would walk all
# tenants' jobs in that order to find one tenant's.
_HOPS = """
WITH RECURSIVE lane AS (
    (SELECT organization_id, kind, alone, priority FROM ledger.jobs WHERE state = 'queued'
     ORDER BY organization_id, kind, alone, priority LIMIT 1)
    UNION ALL
    SELECT following.* FROM lane CROSS JOIN LATERAL (
        SELECT job.organization_id, job.kind, job.alone, job.priority FROM ledger.jobs AS job
        WHERE job.state = 'queued'
          AND (job.organization_id, job.kind, job.alone, job.priority)
            > (lane.organization_id, lane.kind, lane.alone, lane.priority)
        ORDER BY job.organization_id, job.kind, job.alone, job.priority LIMIT 1
    ) AS following
)
"""
_LANES = text(f"""{_HOPS}
SELECT lane.organization_id, lane.kind, lane.alone, lane.priority, head.due, head.oldest
FROM lane CROSS JOIN LATERAL (
    SELECT count(*) AS due, min(run_at) AS oldest FROM (
        SELECT job.run_at FROM ledger.jobs AS job
        WHERE job.state = 'queued' AND job.organization_id = lane.organization_id AND job.kind = lane.kind
          AND job.alone = lane.alone AND job.priority = lane.priority
          AND job.run_at <= (SELECT clock_timestamp())
        ORDER BY job.run_at, job.id LIMIT :most
    ) AS job
) AS head
WHERE head.due > 0
""")  # noqa: S608


def lanes(session: Session, *, most: int) -> list[Lane]:
    """The lanes with jobs that are due now; `most` bounds the count of each."""
    return [Lane(*row) for row in session.execute(_LANES, {"most": most})]


@dataclass(frozen=True)
class Load:
    """What is under way: messages sent a moment ago, and jobs dispatched or running. And what is to wait: `paused`
    holds (organization id or nil, kind or '')."""

    messages: int = 0
    messages_of: Counter[UUID] = field(default_factory=Counter)
    jobs_of_organization: Counter[UUID] = field(default_factory=Counter)
    jobs_of_kind: Counter[str] = field(default_factory=Counter)
    paused: Collection[tuple[UUID, str]] = ()


JUST_SENT_SECONDS = 2
"""So long a message may be on its way to or from the broker. Then it waits there, where it is counted, or is lost, and
must not take up room until its jobs are dispatched again."""

_LOAD = text("""
SELECT organization_id, kind,
       count(DISTINCT message_id) FILTER (WHERE dispatched_at > clock_timestamp() - :just_sent * interval '1 second'),
       count(*) AS jobs
FROM ledger.jobs WHERE state = 'dispatched' GROUP BY organization_id, kind
UNION ALL
SELECT organization_id, kind, 0, count(*)
FROM ledger.jobs WHERE state = 'running' GROUP BY organization_id, kind
UNION ALL
SELECT organization_id, kind, 0, NULL FROM ledger.pauses
""")


def load(session: Session) -> Load:
    """Count what is under way; both counts read small partial indexes."""
    messages = 0
    messages_of: Counter[UUID] = Counter()
    of_organization: Counter[UUID] = Counter()
    of_kind: Counter[str] = Counter()
    paused: set[tuple[UUID, str]] = set()
    for organization_id, kind, sent, jobs in session.execute(_LOAD, {"just_sent": JUST_SENT_SECONDS}):
        if jobs is None:
            paused.add((organization_id, kind))
            continue
        messages += sent
        messages_of[organization_id] += sent
        of_organization[organization_id] += jobs
        of_kind[kind] += jobs
    return Load(messages, messages_of, of_organization, of_kind, paused)


@dataclass(frozen=True)
class Message:
    """What will travel to the broker: up to `size` jobs of one lane, later their ids."""

    id: UUID
    lane: Lane
    size: int
    job_ids: tuple[UUID, ...] = ()


def plan(
    waiting: Iterable[Lane],
    under_way: Load,
    *,
    capacity: int,
    batch_size: Callable[[str], int],
    cap_of_kind: Callable[[str], int | None] = lambda _kind: None,
    cap_of_organization: int | None = None,
    last_turns: Mapping[UUID, int] = MappingProxyType({}),
) -> list[Message]:
    """At most `capacity` messages: the organization with the fewest on their way goes first, then the one whose last
    turn is longest ago, then the more urgent priority, then the older job. Jobs set apart travel alone.

    Without the turns, the organizations with the oldest jobs would share all room as it comes free one by one.

    Algorithm: a heap of lanes keyed by (messages of the organization, its last turn, priority, oldest). Take the
    first, give it one message, put it back with what is left; entries whose organization has got a message meanwhile
    are keyed anew.
    """
    messages_of = Counter(under_way.messages_of)
    of_organization = Counter(under_way.jobs_of_organization)
    of_kind = Counter(under_way.jobs_of_kind)
    heap: list[tuple[int, tuple[int, int, datetime, int], Lane]] = []
    for number, lane in enumerate(waiting):
        if not _is_paused(lane, under_way.paused):
            turn = last_turns.get(lane.organization_id, 0)
            rank = (turn, lane.priority, lane.oldest, number)
            heapq.heappush(heap, (messages_of[lane.organization_id], rank, lane))
    messages: list[Message] = []
    while heap and len(messages) < capacity:
        sent, rank, lane = heapq.heappop(heap)
        if sent != messages_of[lane.organization_id]:
            heapq.heappush(heap, (messages_of[lane.organization_id], rank, lane))
            continue
        room = [1 if lane.alone else batch_size(lane.kind), lane.due]
        if cap_of_organization is not None:
            room.append(cap_of_organization - of_organization[lane.organization_id])
        cap = cap_of_kind(lane.kind)
        if cap is not None:
            room.append(cap - of_kind[lane.kind])
        size = min(room)
        if size <= 0:
            continue
        messages.append(Message(new_id(), lane, size))
        messages_of[lane.organization_id] += 1
        of_organization[lane.organization_id] += size
        of_kind[lane.kind] += size
        left = lane._replace(due=lane.due - size)
        if left.due:
            heapq.heappush(heap, (messages_of[lane.organization_id], rank, left))
    return messages


def _is_paused(lane: Lane, paused: Collection[tuple[UUID, str]]) -> bool:
    return any(
        place in paused
        for place in (
            (lane.organization_id, lane.kind),
            (lane.organization_id, ""),
            (SYSTEM_ORGANIZATION_ID, lane.kind),
        )
    )


# By ctid: exactly the row that was locked, whatever the planner believes of a queue's statistics. One that changed
# between the snapshot and the lock is left for the next look. SKIP LOCKED: a job being cancelled or folded into right
# now can wait for the next look, the dispatcher cannot.
_DISPATCH = text("""
WITH picked AS MATERIALIZED (
    SELECT ctid FROM ledger.jobs
    WHERE state = 'queued' AND organization_id = :organization_id AND kind = :kind AND alone = :alone
      AND priority = :priority AND run_at <= (SELECT clock_timestamp())
    ORDER BY run_at, id LIMIT :size FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE ledger.jobs AS job
SET state = 'dispatched', message_id = :message_id, dispatches = greatest(1, least(job.dispatches + 1, 100)),
    dispatched_at = clock_timestamp(), dispatched_lsn = pg_current_wal_flush_lsn() - '0/0',
    redispatch_at = clock_timestamp()
                    + least(:redispatch_after * power(2, greatest(0, least(job.dispatches, 20))), 600)
                      * interval '1 second'
FROM picked
WHERE job.ctid = picked.ctid
RETURNING job.id
""")


def dispatch(session: Session, message: Message, *, redispatch_after_seconds: float) -> Message:
    """`queued -> dispatched` for the jobs of one message; returns it with their ids, possibly none. Each further
    dispatch of an unclaimed job waits twice as long, up to ten minutes."""
    lane = message.lane
    parameters = {
        "organization_id": lane.organization_id,
        "kind": lane.kind,
        "alone": lane.alone,
        "priority": lane.priority,
        "size": message.size,
        "message_id": message.id,
        "redispatch_after": redispatch_after_seconds,
    }
    ids = session.scalars(_DISPATCH, parameters).all()
    return Message(message.id, lane, message.size, tuple(ids))


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


_COUNT_LIVE = text("""
SELECT left(kind, 200), state, count(*) FROM ledger.jobs WHERE state = 'queued' GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM ledger.jobs WHERE state = 'dispatched' GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM ledger.jobs WHERE state = 'running' GROUP BY kind, state
""")
_OLDEST_DUE = text(f"""{_HOPS}
SELECT CAST(extract(epoch FROM clock_timestamp() - greatest(min(head.run_at), '1900-01-01')) AS double precision)
FROM lane CROSS JOIN LATERAL (
    SELECT job.run_at FROM ledger.jobs AS job
    WHERE job.state = 'queued' AND job.organization_id = lane.organization_id AND job.kind = lane.kind
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
