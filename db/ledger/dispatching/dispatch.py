"""`planning`, then `dispatch_due`: jobs go to the broker, fairly and no more than it should hold. `plan` alone says
what would go.

Whose turn it is, and how much of it, is decided in `db.ledger.dispatching.planning`; one dispatcher plans at a time, so
that caps and fairness hold exactly.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from docworker.db.cluster.prepared import Statement
from docworker.db.ledger.dispatching.buckets import PERMIT, LimitsInForce, Permit
from docworker.db.ledger.dispatching.lanes import Ahead, Due, LaneSearch, WantedLanes, lanes_as_arrays
from docworker.db.ledger.dispatching.planning import Lane, LaneKey, Limits, Load, Planner, Turn
from docworker.db.ledger.dispatching.requeue import is_refused
from docworker.db.ledger.dispatching.shortcuts import Floor, Shortcuts, UnderWay, beginning
from docworker.db.ledger.dispatching.turns import Turns, Walk
from docworker.db.ledger.message import Message, Part
from docworker.db.ledger.waiting.keys import OWES, spend_rates
from docworker.db.ledger.waiting.keys import admit as admit_by_limits
from docworker.db.ledger.waiting.order import admit as admit_next
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.models.ledger.job import JOBS, READY
from docworker.db.sessions import TenantSession, all_jobs_session
from docworker.db.sessions.statements import Call, ask
from docworker.db.settings import HOME

# What the dispatcher asks is always answered by a few entries of an index, in its order. A planner whose statistics are
# older than a backlog believes that there are no such jobs, and that reading and sorting them all costs nothing.
# No COMMIT of a planner waits for the disk: what it decides follows from the ledger, and is decided again when it was
# lost with the server. A message of a dispatch that was lost claims nothing; a claim is in the log behind the dispatch
# or the rescue that it follows, and does wait for the disk, so neither can be lost alone.
_MAY_PLAN = Statement(
    "docworker_may_plan",
    f"""
SELECT pg_try_advisory_xact_lock(hashtext('docworker'), hashtext('dispatcher')), {PERMIT},
       set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true),
       set_config('synchronous_commit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
       set_config('idle_in_transaction_session_timeout', '3000', true),
       set_config('plan_cache_mode', 'force_generic_plan', true)""",
    {},
)


@contextmanager
def planning(
    cluster: str = HOME, database_name: str | None = None, *, asking: Sequence[Call] = ()
) -> Iterator[tuple[TenantSession, Permit | None]]:
    """A session as `all_jobs_session` opens it, and what one has to know to plan in it; None while another one plans.
    That is asked for with the BEGIN, and so are the calls `asking`, whose answers are the last `first_rows`."""
    first = [Call(SYSTEM_ORGANIZATION_ID, _MAY_PLAN, {}), *asking]
    with all_jobs_session(cluster, database_name, first=first) as session:
        may, *permit = session.first_rows[0][0][: 1 + len(Permit._fields)]
        yield session, Permit(*permit) if may else None


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
    redispatch_after_seconds: float,
    left_out: Collection[LaneKey] = frozenset(),
    is_apart: bool = False,
    shortcuts: Shortcuts | None = None,
    in_force: LimitsInForce | None = None,
    ahead: Ahead | None = None,
) -> Dispatched:
    """`queued -> dispatched` for the jobs whose turn it is, as many as fit into `capacity` messages; those that are the
    next of their order keys, or that the limits of their keys let go, come into their lanes first.

    The turns are taken (`turns.take`) by the caller, once this is committed. Raises what the server refuses
    (`is_refused`); with `is_apart`, which costs a statement for each lane, the others go on. What is spent of rates is
    noted by `in_force`, of which `limits` has its book. What was asked `ahead` is not asked again.
    """
    shortcuts = shortcuts or Shortcuts()
    if under_way.is_told:
        admitted = [*admit_next(session, shortcuts.order_told), *admit_by_limits(session, shortcuts.keys_told)]
        shortcuts.lanes.came(
            (LaneKey(one.organization_id, one.kind, one.alone, one.priority), one.run_at) for one in admitted
        )
        turns.came({one.organization_id for one in admitted})
    walk = plan(
        session, turns, under_way, limits, capacity=capacity, left_out=left_out, shortcuts=shortcuts, ahead=ahead
    )
    planner = walk.planner
    dispatched = Dispatched(walk, planner.unknown)
    picks = list(planner.picks.items())
    if is_apart:
        rows = _mark_apart(dispatched, session, picks, planner.heads, redispatch_after_seconds)
    else:
        rows = mark(session, picks, redispatch_after_seconds, planner.heads)
    if any(row.folds for row in rows):
        _expect_folds(shortcuts.under_way)
    _gather(dispatched, planner, rows)
    spend_rates(session, Counter((row.organization_id, row.spends_of) for row in rows if row.spends_of is not None))
    if in_force is not None and limits.book:
        in_force.spend(session, limits.book.spent_by(Counter((row.organization_id, row.kind) for row in rows)))
    return dispatched


def plan(
    session: Session,
    turns: Turns,
    under_way: Load,
    limits: Limits,
    *,
    capacity: int,
    left_out: Collection[LaneKey] = frozenset(),
    shortcuts: Shortcuts,
    ahead: Ahead | None = None,
) -> Walk:
    """Walk along the ring until what may go fills so many messages; changes nothing."""
    planner = Planner(under_way, limits, capacity=capacity, left_out=left_out, queues=turns.queues, passed=turns.passed)
    walk = Walk(turns, planner)
    search = LaneSearch(session, shortcuts.lanes, turns.after, usual=capacity * limits.largest, ahead=ahead)
    newest, heads = turns.newest(_FIRST_STRETCH), turns.heads(planner)
    named, most = {*newest, *(one for _, one in heads)}, _FIRST_STRETCH
    due = _due_in(capacity, limits)
    named_lanes: dict[UUID, list[Lane]] = {}
    while not walk.is_over:
        found = search.find(seen_until=walk.seen_until, most=most, due=due, named=named)
        if named:
            named_lanes = found.named
            heads = admit(planner, heads, named_lanes, most=turns.share_of_heads(capacity))
            walk.meet(named_lanes[one] for one in newest if one in named_lanes)
        walk.go_along(found.ring, is_last=found.is_last)
        # Where there are so many, none of them sends more than it may at one visit.
        named, most = set(), min(4 * most, _LONGEST_STRETCH)
        each = min(capacity, turns.accounts.turns_of_a_visit)
        due = _due_in(each, limits)
    admit(planner, heads, named_lanes, most=capacity)
    return walk


def first_wanted(turns: Turns, shortcuts: Shortcuts, limits: Limits, *, capacity: int) -> WantedLanes | None:
    """The lanes that `plan` begins with, for as many messages or fewer; None where other things come before that. Those
    whose jobs come into their lanes meanwhile are asked for by name."""
    if turns.is_long or turns.newest(1) or turns.queues or shortcuts.lanes.is_dear:
        return None
    return WantedLanes(turns.after, _FIRST_STRETCH, _due_in(capacity, limits))


def _due_in(messages: int, limits: Limits) -> Due:
    return Due(messages * limits.largest_single, messages * limits.largest, limits.batch_kinds)


def admit(
    planner: Planner, heads: Sequence[tuple[str, UUID]], lanes_of: Mapping[UUID, Sequence[Lane]], *, most: int
) -> list[tuple[str, UUID]]:
    """Let them take what is free of their kinds until there are so many messages; returns those that found no room."""
    left = []
    for kind, one in heads:
        has_room = len(planner.kind_of) < most
        if not has_room or planner.admit(kind, one, lanes_of.get(one, ())) is Turn.NO_ROOM:
            left.append((kind, one))
    return left


# By ctid: exactly the row that was locked, whatever the planner believes of a queue's statistics. One that changed
# between the snapshot and the lock is left for the next look. SKIP LOCKED: a job being cancelled or folded into right
# now can wait for the next look, the dispatcher cannot. The messages of a lane's jobs lie one behind the other from
# `start` on, those of all lanes in one array.
_DISPATCH = Statement(
    "docworker_dispatch",
    f"""
WITH picked AS MATERIALIZED (
    SELECT job.ctid, job.position, job.spends_of,
           (CAST(:messages AS uuid[]))[lane.start + job.position] AS message_id
    FROM unnest(CAST(:organizations AS uuid[]), CAST(:kinds AS text[]), CAST(:alone AS boolean[]),
                CAST(:priorities AS smallint[]), CAST(:sizes AS integer[]), CAST(:starts AS integer[]),
                CAST(:heads AS timestamptz[]))
         AS lane (organization_id, kind, alone, priority, size, start, head)
    CROSS JOIN LATERAL (
        SELECT locked.ctid, locked.spends_of, CAST(row_number() OVER () AS integer) AS position FROM (
            SELECT job.ctid, CASE WHEN {OWES} THEN job.limit_key END AS spends_of FROM {JOBS} AS job
            WHERE {READY} AND job.organization_id = lane.organization_id AND job.kind = lane.kind
              AND job.alone = lane.alone AND job.priority = lane.priority
              AND job.run_at >= coalesce(lane.head, '-infinity') AND job.run_at <= (SELECT clock_timestamp())
            ORDER BY job.run_at, job.id LIMIT lane.size FOR NO KEY UPDATE SKIP LOCKED
        ) AS locked
    ) AS job
)
UPDATE {JOBS} AS job
SET state = 'dispatched', message_id = picked.message_id, dispatches = greatest(1, least(job.dispatches + 1, 100)),
    dispatched_at = clock_timestamp(), dispatched_lsn = pg_current_wal_flush_lsn() - '0/0',
    redispatch_at = clock_timestamp()
                    + least(:redispatch_after * power(2, greatest(0, least(job.dispatches, 20))), 600)
                      * interval '1 second'
FROM picked
WHERE job.ctid = picked.ctid
RETURNING picked.position, picked.message_id, picked.spends_of, job.organization_id, job.id, job.kind, job.alone,
          job.priority, job.unique_key IS NOT NULL AND job.claimed_at IS NULL, job.traceparent""",
    {
        "messages": "uuid[]",
        "organizations": "uuid[]",
        "kinds": "text[]",
        "alone": "boolean[]",
        "priorities": "smallint[]",
        "sizes": "integer[]",
        "starts": "integer[]",
        "heads": "timestamptz[]",
        "redispatch_after": "float8",
    },
)


class Marked(NamedTuple):
    """A job that goes, at its `position` among those of its lane. `folds`: others may be folded into it on its way."""

    position: int
    message_id: UUID
    spends_of: str | None
    organization_id: UUID
    id: UUID
    kind: str
    alone: bool
    priority: int
    folds: bool
    traceparent: str | None


_Picks = Sequence[tuple[LaneKey, Sequence[UUID]]]


def mark(
    session: Session, picks: _Picks, redispatch_after_seconds: float, heads: Mapping[LaneKey, datetime]
) -> list[Marked]:
    """The first jobs of each lane from its head on. Each further dispatch of an unclaimed job waits twice as long, up
    to ten minutes."""
    if not picks:
        return []
    values = _picked(picks, heads) | {"redispatch_after": redispatch_after_seconds}
    return [Marked(*row) for row in ask(session, Call(SYSTEM_ORGANIZATION_ID, _DISPATCH, values))]


def _mark_apart(
    dispatched: Dispatched,
    session: Session,
    picks: _Picks,
    heads: Mapping[LaneKey, datetime],
    redispatch_after_seconds: float,
) -> list[Marked]:
    rows: list[Marked] = []
    for pick in picks:
        try:
            with session.begin_nested():
                rows += mark(session, [pick], redispatch_after_seconds, heads)
        except Exception as error:
            if not is_refused(error):
                raise
            dispatched.refused[pick[0]] = error
    return rows


def _gather(dispatched: Dispatched, planner: Planner, rows: Sequence[Marked]) -> None:
    """The messages of the jobs that could be marked, and the lanes that gave less than was planned."""
    marked = Counter(LaneKey(row.organization_id, row.kind, row.alone, row.priority) for row in rows)
    dispatched.short.update(
        lane for lane, ids in planner.picks.items() if marked[lane] < len(ids) and lane not in dispatched.refused
    )
    jobs_of: dict[UUID, dict[UUID, list[UUID]]] = {}
    traces_of: dict[UUID, dict[str, None]] = {}
    for row in sorted(rows, key=attrgetter("position")):
        jobs_of.setdefault(row.message_id, {}).setdefault(row.organization_id, []).append(row.id)
        if row.traceparent is not None:
            traces_of.setdefault(row.message_id, {})[row.traceparent] = None
    for message_id, kind in planner.kind_of.items():
        parts = tuple(Part(one, tuple(ids)) for one, ids in jobs_of.get(message_id, {}).items())
        if parts:
            dispatched.messages.append(Message(message_id, kind, parts, tuple(traces_of.get(message_id, ()))))


def _picked(picks: _Picks, heads: Mapping[LaneKey, datetime]) -> dict[str, Any]:
    """The parameters of lanes and of the messages of their jobs."""
    sizes = [len(ids) for _, ids in picks]
    return lanes_as_arrays(lane for lane, _ in picks) | {
        "sizes": sizes,
        "starts": [0, *accumulate(sizes[:-1])],
        "messages": [one for _, ids in picks for one in ids],
        "heads": [beginning(heads[lane]) for lane, _ in picks],
    }


def _expect_folds(floor: Floor[UnderWay]) -> None:
    """A job has been dispatched that may be folded into, and is overdue soon after that."""
    if (at := floor.known) is not None:
        floor.lower(at._replace(dispatched=min(at.dispatched, at.foldable_dispatched)))
