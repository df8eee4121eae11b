"""Jobs go to the broker, fairly and no more than it should hold: what the ledger is asked and told.

A lane is the queue of one (organization, kind, set apart or not, priority). Lanes are found by hopping from one to the
next through the partial index on the ready jobs, so the price does not depend on how many wait. Whose turn it is, and
how much of it, is decided in `db.ledger.planning`; one dispatcher plans at a time, so that caps and fairness hold
exactly.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate, groupby
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.faults import Fault, classify
from docworker.db.ledger.claim import UNBEGUN
from docworker.db.ledger.planning import Lane, LaneKey, Limits, Load, Planner, Turn, Turns, Walk
from docworker.db.ledger.shortcuts import Floor, KnownLanes, Shortcuts, UnderWay, beginning, entries_of
from docworker.db.models.job import ARRIVED, JOBS, PAUSES, READY

# What the dispatcher asks is always answered by a few entries of an index, in its order. A planner whose statistics are
# older than a backlog believes that there are no such jobs, and that reading and sorting them all costs nothing.
# No COMMIT of a planner waits for the disk: what it decides follows from the ledger, and is decided again when it was
# lost with the server. A message of a dispatch that was lost claims nothing; a claim is in the log behind the dispatch
# or the rescue that it follows, and does wait for the disk, so neither can be lost alone.
_MAY_PLAN = text("""
SELECT pg_try_advisory_xact_lock(hashtext('docworker'), hashtext('dispatcher')),
       set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true),
       set_config('synchronous_commit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
       set_config('idle_in_transaction_session_timeout', '3000', true),
       set_config('plan_cache_mode', 'force_generic_plan', true)
""")


def may_plan(session: Session) -> bool:
    """Whether this transaction is the one that plans now; false while another one does."""
    return bool(session.scalar(_MAY_PLAN))


_LANE = "organization_id, kind, alone, priority"
_Came = list[tuple[LaneKey, datetime]]
"""Jobs that have got into lanes, each with its `run_at`."""


class _Change:
    """What the dispatcher changes of the jobs of a certain state, a few thousand at a time and without those that the
    server has refused to change before: one such row must neither keep the others from going on, nor the dispatcher.
    They are found by `index`."""

    MOST, MOST_APART = 4000, 100

    def __init__(self, chosen: str, order: str, change: str, index: str) -> None:
        others = f"{chosen} AND id <> ALL(CAST(:without AS uuid[]))"
        which = f"SELECT ctid, id FROM {JOBS} AS job WHERE {others} ORDER BY {order} LIMIT :most"
        change = f"UPDATE {JOBS} AS job SET {change}"
        entries = entries_of(index)
        self._choose = text(which)
        self._change = text(f"""
            WITH before AS MATERIALIZED (
                SELECT clock_timestamp() AS clock, {entries} AS entries
            ), chosen AS MATERIALIZED ({which} FOR NO KEY UPDATE SKIP LOCKED), changed AS (
                {change} FROM chosen WHERE job.ctid = chosen.ctid RETURNING {_LANE}, run_at
            )
            SELECT {_LANE}, run_at, clock, {entries} - entries AS passed FROM before LEFT JOIN changed ON true
        """)
        self._change_one = text(f"{change} WHERE ctid = CAST(:ctid AS tid) AND {chosen}")

    def make(self, session: Session, without: Collection[UUID], **parameters: Any) -> tuple[_Came, datetime, int]:
        """Returns the jobs that were changed, the master's time before that, and how many dead entries lay on the way;
        raises what the server refuses."""
        rows = session.execute(self._change, {"without": list(without), "most": self.MOST, **parameters}).all()
        changed = [(LaneKey(*row[:4]), row.run_at) for row in rows if row.organization_id is not None]
        return changed, rows[0].clock, max(row.passed for row in rows) - len(changed)

    def make_apart(self, session: Session, without: Collection[UUID], **parameters: Any) -> dict[UUID, Exception]:
        """One by one, and only the first ones; returns the jobs that the server refuses to change, and why."""
        refused: dict[UUID, Exception] = {}
        choice = {"without": list(without), "most": self.MOST_APART, **parameters}
        for ctid, job_id in session.execute(self._choose, choice).all():
            try:
                with session.begin_nested():
                    session.execute(self._change_one, {"ctid": ctid, **parameters})
            except Exception as error:
                if not is_refused(error):
                    raise
                refused[job_id] = error
        return refused


_DUE_LATER = "state = 'queued' AND later AND run_at <= (SELECT clock_timestamp())"
PROMOTE = _Change(
    f"{_DUE_LATER} AND run_at >= coalesce(CAST(:since AS timestamptz), '-infinity')",
    "run_at",
    "later = false",
    "ix_jobs_later",
)
"""Jobs whose time has come get into their lanes."""
_PROMOTED_LATE = timedelta(seconds=2)
"""So late one may commit that is due, where walking them all is dear."""

_ARRIVALS = text(f"""
WITH now AS MATERIALIZED (SELECT clock_timestamp() AS clock)
SELECT {_LANE}, run_at, created_at, jobs, clock FROM now LEFT JOIN (
    SELECT {_LANE}, min(run_at) AS run_at, max(created_at) AS created_at, count(*) AS jobs FROM (
        SELECT {_LANE}, run_at, least(created_at, clock_timestamp()) AS created_at FROM {JOBS} AS job
        WHERE {READY} AND {ARRIVED}
          AND created_at > (SELECT coalesce(CAST(:since AS timestamptz), clock_timestamp() - interval '2 seconds'))
        ORDER BY job.created_at LIMIT :most
    ) AS job
    GROUP BY {_LANE}
) AS came ON true
ORDER BY created_at
""")
_COMMITTED_LATE = timedelta(seconds=1)
"""So late one may commit and is still found by when it was made, where walking all lanes is dear."""


def arrivals(
    session: Session, *, since: datetime | None, most: int = 1000, known: KnownLanes | None = None
) -> tuple[list[UUID], datetime | None]:
    """The organizations that have got jobs since then, the latest at the end, and until when that is known; without
    `since` in the last two seconds. What commits late is not seen, and waits for its turn."""
    rows = session.execute(_ARRIVALS, {"since": since, "most": most}).all()
    came = [row for row in rows if row.organization_id is not None]
    until = max((row.created_at for row in came), default=since)
    if known is not None and known.is_dear:
        known.came((LaneKey(*row[:4]), row.run_at) for row in came)
        if sum(row.jobs for row in came) < most:  # there are no others, and the dead are passed but once
            until = rows[0].clock - _COMMITTED_LATE
    return list(dict.fromkeys(row.organization_id for row in reversed(came)))[::-1], until


def _first(columns: str, condition: str) -> str:
    """The first ready job by the index of lanes."""
    selected = f"SELECT {columns} FROM {JOBS} AS job WHERE {READY} AND {condition}"
    return f"({selected} ORDER BY {columns} LIMIT 1)"


_HEAD = f"{_LANE}, run_at"
_NEXT_LANE = _first(
    _HEAD,
    "organization_id = lane.organization_id AND (kind, alone, priority) > (lane.kind, lane.alone, lane.priority)",
)
_FOLLOWING_LANE = _first(_HEAD, f"({_LANE}) > (lane.organization_id, lane.kind, lane.alone, lane.priority)")


def _head(floor: str) -> str:
    """How many due jobs a lane has from a floor on, up to a limit, and since when the first of them is due."""
    return f"""(
        SELECT count(*) AS due, coalesce(min(run_at), clock_timestamp()) AS oldest FROM (
            SELECT job.run_at FROM {JOBS} AS job
            WHERE {READY} AND job.organization_id = lane.organization_id AND job.kind = lane.kind
              AND job.alone = lane.alone AND job.priority = lane.priority
              AND job.run_at >= {floor} AND job.run_at <= (SELECT clock_timestamp())
            ORDER BY job.run_at, job.id
            LIMIT CASE WHEN lane.kind = ANY(CAST(:batch_kinds AS text[])) THEN :due_in_batches ELSE :due END
        ) AS job
    )"""


# Each organization and each lane is one hop through the index, whatever number of jobs lies between.
_LANES = text(f"""
WITH RECURSIVE before AS MATERIALIZED (
    SELECT {entries_of("ix_jobs_ready")} AS entries
), ahead AS (
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
              FROM unnest(CAST(:named AS uuid[])) WITH ORDINALITY AS named (organization_id, place)
), lane AS (
    SELECT tenant.place, first.*
    FROM tenant CROSS JOIN LATERAL {_first(_HEAD, "organization_id = tenant.organization_id")} AS first
    UNION ALL
    SELECT lane.place, following.*
    FROM lane CROSS JOIN LATERAL
         {_NEXT_LANE} AS following
)
SELECT found.*, {entries_of("ix_jobs_ready")} - before.entries AS passed
FROM before LEFT JOIN (
    SELECT lane.place, lane.organization_id, lane.kind, lane.alone, lane.priority, head.due, head.oldest
    FROM lane CROSS JOIN LATERAL {_head("lane.run_at")} AS head
    ORDER BY lane.place
) AS found ON true
""")
# The lanes are known, and from which `run_at` on each has jobs.
_KNOWN_LANES = text(f"""
WITH before AS MATERIALIZED (SELECT {entries_of("ix_jobs_ready")} AS entries)
SELECT found.*, {entries_of("ix_jobs_ready")} - before.entries AS passed
FROM before LEFT JOIN (
    SELECT lane.organization_id, lane.kind, lane.alone, lane.priority, head.due, head.oldest
    FROM unnest(CAST(:organizations AS uuid[]), CAST(:kinds AS text[]), CAST(:alone AS boolean[]),
                CAST(:priorities AS smallint[]), CAST(:floors AS timestamptz[]))
         AS lane (organization_id, kind, alone, priority, run_at)
    CROSS JOIN LATERAL {_head("coalesce(lane.run_at, '-infinity')")} AS head
) AS found ON true
""")
_SURVEY = text(f"""
WITH RECURSIVE before AS MATERIALIZED (
    SELECT {entries_of("ix_jobs_ready")} AS entries
), lane AS (
    SELECT first.* FROM {_first(_HEAD, "true")} AS first
    UNION ALL
    SELECT following.* FROM lane CROSS JOIN LATERAL {_FOLLOWING_LANE} AS following
)
SELECT found.*, {entries_of("ix_jobs_ready")} - before.entries AS passed
FROM before LEFT JOIN (SELECT * FROM lane LIMIT :most) AS found ON true
""")


class Stretch(NamedTuple):
    """Organizations with ready jobs, each by its lanes; one may have none that is due. `named` are those that were
    asked for by their ids, `ring` those that follow on the ring, where `passed` were looked at."""

    named: dict[UUID, list[Lane]]
    ring: list[list[Lane]]
    passed: int
    is_last: bool


class Due(NamedTuple):
    """Up to how many due jobs of a lane are counted."""

    jobs: int
    jobs_in_batches: int
    batch_kinds: Collection[str]


def lanes(session: Session, *, after: UUID, most: int, due: Due, named: Collection[UUID] = ()) -> tuple[Stretch, int]:
    """The lanes of at most `most` organizations that follow `after`, and of the `named` ones, and how many dead entries
    lay on the way."""
    parameters = {"after": after, "most": most, "named": list(named), **_limits(due)}
    rows = session.execute(_LANES, parameters).all()
    of_named: dict[UUID, list[Lane]] = {}
    ring: list[list[Lane]] = []
    for place, some in groupby((row for row in rows if row.place is not None), attrgetter("place")):
        found_here = [Lane(*row[1:7]) for row in some]
        if place > 0:
            ring.append(found_here)
        else:
            of_named[found_here[0].organization_id] = found_here
    dead = max(row.passed for row in rows) - sum(row.due or 0 for row in rows) - _ENTRIES_OF_A_HOP * (len(rows) + 1)
    return Stretch(of_named, ring, len(ring), len(ring) < most), dead


_PASSES = 3
"""So often a walk for lanes passes the same dead entry, at most: for the organization, its lane, and none behind it."""
_ENTRIES_OF_A_HOP = 3
"""At most: to an organization, to its lane, and to none behind it."""


def _limits(due: Due) -> dict[str, Any]:
    return {"due": due.jobs, "due_in_batches": due.jobs_in_batches, "batch_kinds": list(due.batch_kinds)}


class _Looking:
    """Finds the lanes for one look: in the ledger, or those that are known. As many entries as one look sends, `usual`,
    may be dead also when they can be removed: nobody has passed them since."""

    def __init__(self, session: Session, known: KnownLanes, after: UUID, *, usual: int) -> None:
        self._session, self._known, self._after, self._usual = session, known, after, usual
        self._passed = 0
        known.tidy()
        if known.is_survey_due:
            self._survey()
        self._is_dear = known.is_dear

    def _survey(self) -> None:
        started = time.monotonic()
        rows = self._session.execute(_SURVEY, {"most": self._known.MOST}).all()
        heads = {LaneKey(*row[:4]): row.run_at for row in rows if row.organization_id is not None}
        dead = max(row.passed for row in rows) - _ENTRIES_OF_A_HOP * (len(heads) + 1)
        self._known.surveyed(heads, dead=dead - self._usual, seconds=time.monotonic() - started)

    def find(self, *, seen_until: UUID, most: int, due: Due, named: Collection[UUID]) -> Stretch:
        """The next stretch of the ring, and the lanes of the `named`."""
        if not self._is_dear:
            stretch, dead = lanes(self._session, after=seen_until, most=most, due=due, named=named)
            self._known.walked(dead=dead - _PASSES * self._usual)
            return stretch
        section = self._known.section(after=self._after, passed=self._passed, most=most)
        self._passed += section.passed
        of_named = self._known.lanes_of(named)
        found = self._ask(section.lanes | of_named, due)
        return Stretch(
            {one: some for one, some in _by_organization(found, of_named)},  # noqa: C416
            [some for _, some in _by_organization(found, section.lanes)],
            section.passed,
            section.is_last,
        )

    def _ask(self, floors: Mapping[LaneKey, datetime], due: Due) -> dict[LaneKey, Lane]:
        if not floors:
            return {}
        parameters = (
            _lanes_as_arrays(floors) | {"floors": [beginning(floor) for floor in floors.values()]} | _limits(due)
        )
        rows = self._session.execute(_KNOWN_LANES, parameters).all()
        found = [Lane(*row[:6]) for row in rows if row.due]
        dead = max(row.passed for row in rows) - sum(lane.due for lane in found)
        self._known.asked(floors, {lane.key: lane.oldest for lane in found}, dead=dead)
        return {lane.key: lane for lane in found}


def _by_organization(found: Mapping[LaneKey, Lane], asked: Iterable[LaneKey]) -> Iterable[tuple[UUID, list[Lane]]]:
    some = [found[key] for key in asked if key in found]
    return [(one, list(own)) for one, own in groupby(some, attrgetter("organization_id"))]


def _lanes_as_arrays(keys: Iterable[LaneKey]) -> dict[str, Any]:
    organizations, kinds, alone, priorities = zip(*keys, strict=True)
    return {
        "organizations": list(organizations),
        "kinds": list(kinds),
        "alone": list(alone),
        "priorities": list(priorities),
    }


JUST_SENT_SECONDS = 2
"""So long a message may be on its way to or from the broker. Then it waits there, where it is counted, or is lost, and
must not take up room until its jobs are dispatched again."""

_UNDER_WAY = entries_of("ix_jobs_dispatched", "ix_jobs_running")
# The floors: a job that is dispatched from now on is overdue no sooner than set, or one second from now where it is
# folded into; one that is claimed from now on was dispatched before, and its lease is no shorter than the shortest.
_LOAD = text(f"""
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
       CAST(NULL AS timestamptz) AS running
UNION ALL
SELECT 'dispatched', organization_id, kind, count(*), NULL, NULL, NULL, NULL, NULL FROM sent
GROUP BY organization_id, kind
UNION ALL
SELECT 'running', organization_id, kind, count(*),
       CAST(sum(extract(epoch FROM clock_timestamp() - claimed_at)) AS double precision), NULL, NULL, NULL, NULL
FROM running GROUP BY organization_id, kind
UNION ALL
SELECT 'paused', organization_id, kind, NULL, NULL, NULL, NULL, NULL, NULL FROM {PAUSES}
UNION ALL
SELECT 'messages', NULL, NULL, count(DISTINCT message_id), NULL, NULL, NULL, NULL, NULL FROM sent
WHERE dispatched_at > clock_timestamp() - :just_sent * interval '1 second'
  AND NOT coalesce(message_id = ANY(ARRAY(SELECT message_id FROM running)), false)
UNION ALL
SELECT 'after', NULL, NULL, {_UNDER_WAY}, NULL, now.clock,
       least(living.overdue, now.clock + least(:redispatch_after, 600) * interval '1 second'),
       least(living.overdue, now.clock + least(:redispatch_after, 1) * interval '1 second'),
       least(living.lease_over, living.sent + :shortest_lease * interval '1 second',
             now.clock + :shortest_lease * interval '1 second')
FROM (
    SELECT (SELECT least(min(redispatch_at), min(dispatched_at) FILTER (WHERE folds) + interval '1 second') FROM sent)
               AS overdue,
           (SELECT min(dispatched_at) FROM sent) AS sent,
           (SELECT min(lease_expires_at) FROM running) AS lease_over
) AS living, (SELECT clock_timestamp() AS clock) AS now
""")


def load(session: Session, shortcuts: Shortcuts | None = None) -> Load:
    """Count what is under way; the counts read small partial indexes."""
    shortcuts = shortcuts or Shortcuts()
    of_organization: Counter[UUID] = Counter()
    of_kind: Counter[str] = Counter()
    running: Counter[str] = Counter()
    run_seconds: Counter[str] = Counter()
    paused: set[tuple[UUID, str]] = set()
    sent = 0
    passed = 0
    floor = shortcuts.under_way.begin()
    parameters = {
        "just_sent": JUST_SENT_SECONDS,
        "redispatch_after": shortcuts.redispatch_after_seconds,
        "shortest_lease": shortcuts.shortest_lease_seconds,
        **_from(floor),
    }
    rows = session.execute(_LOAD, parameters).all()
    for what, organization_id, kind, counted, seconds, *_ in rows:
        match what:
            case "paused":
                paused.add((organization_id, kind))
            case "messages":
                sent = counted
            case "dispatched" | "running":
                of_organization[organization_id] += counted
                of_kind[kind] += counted
                passed -= counted
                if seconds is not None:
                    running[kind] += counted
                    run_seconds[kind] += seconds
            case _:
                passed += counted if what == "after" else -counted
    after = rows[-1]
    shortcuts.under_way.ended(UnderWay(after.dispatched, after.foldable, after.running), clock=after.clock, dead=passed)
    averages = {kind: run_seconds[kind] / jobs for kind, jobs in running.items()}
    return Load(sent, of_organization, of_kind, averages, paused)


def _from(floor: UnderWay | None) -> dict[str, datetime | None]:
    """The parameters of where the jobs under way begin."""
    return {
        "dispatched": None if floor is None else beginning(floor.dispatched),
        "running": None if floor is None else beginning(floor.running),
    }


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
    redispatch_after_seconds: float,
    left_out: Collection[LaneKey] = frozenset(),
    is_apart: bool = False,
    shortcuts: Shortcuts | None = None,
) -> Dispatched:
    """`queued -> dispatched` for the jobs whose turn it is, as many as fit into `capacity` messages.

    The turns are taken (`turns.take`) by the caller, once this is committed. Raises what the server refuses
    (`is_refused`); with `is_apart`, which costs a statement for each lane, the others go on.
    """
    shortcuts = shortcuts or Shortcuts()
    planner = Planner(under_way, limits, capacity=capacity, left_out=left_out, queues=turns.queues)
    walk = Walk(turns, planner)
    looking = _Looking(session, shortcuts.lanes, turns.after, usual=capacity * limits.largest)
    newest, heads = turns.newest(_FIRST_STRETCH), turns.heads(planner)
    named, most = {*newest, *(one for _, one in heads)}, _FIRST_STRETCH
    due = Due(capacity * limits.largest_single, capacity * limits.largest, limits.batch_kinds)
    named_lanes: dict[UUID, list[Lane]] = {}
    while not walk.is_over:
        found = looking.find(seen_until=walk.seen_until, most=most, due=due, named=named)
        if named:
            named_lanes = found.named
            heads = admit(planner, heads, named_lanes, most=turns.share_of_heads(capacity))
            walk.meet(named_lanes[one] for one in newest if one in named_lanes)
        walk.go_along(found.ring, is_last=found.is_last)
        # Where there are so many, none of them sends much.
        named, most = set(), min(4 * most, _LONGEST_STRETCH)
        due = Due(limits.largest_single, limits.largest, limits.batch_kinds)
    admit(planner, heads, named_lanes, most=capacity)
    dispatched = Dispatched(walk, planner.unknown)
    picks = list(planner.picks.items())
    if is_apart:
        rows: Sequence[Any] = _mark_apart(dispatched, session, picks, planner.heads, redispatch_after_seconds)
    else:
        rows = mark(session, picks, redispatch_after_seconds, planner.heads)
    if any(row.folds for row in rows):
        _expect_folds(shortcuts.under_way)
    _gather(dispatched, planner, rows)
    return dispatched


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
                CAST(:priorities AS smallint[]), CAST(:sizes AS integer[]), CAST(:starts AS integer[]),
                CAST(:heads AS timestamptz[]))
         AS lane (organization_id, kind, alone, priority, size, start, head)
    CROSS JOIN LATERAL (
        SELECT locked.ctid, CAST(row_number() OVER () AS integer) AS position FROM (
            SELECT job.ctid FROM {JOBS} AS job
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
RETURNING picked.position, picked.message_id, job.organization_id, job.id, job.kind, job.alone, job.priority,
          job.unique_key IS NOT NULL AND job.claimed_at IS NULL AS folds
""")


_Picks = Sequence[tuple[LaneKey, Sequence[UUID]]]


def mark(
    session: Session, picks: _Picks, redispatch_after_seconds: float, heads: Mapping[LaneKey, datetime]
) -> Sequence[Any]:
    """The first jobs of each lane from its head on. Each further dispatch of an unclaimed job waits twice as long, up
    to ten minutes."""
    if not picks:
        return ()
    return session.execute(_DISPATCH, _picked(picks, heads) | {"redispatch_after": redispatch_after_seconds}).all()


def _mark_apart(
    dispatched: Dispatched,
    session: Session,
    picks: _Picks,
    heads: Mapping[LaneKey, datetime],
    redispatch_after_seconds: float,
) -> list[Any]:
    rows: list[Any] = []
    for pick in picks:
        try:
            with session.begin_nested():
                rows += mark(session, [pick], redispatch_after_seconds, heads)
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


def _picked(picks: _Picks, heads: Mapping[LaneKey, datetime]) -> dict[str, Any]:
    """The parameters of lanes and of the messages of their jobs."""
    sizes = [len(ids) for _, ids in picks]
    return _lanes_as_arrays(lane for lane, _ in picks) | {
        "sizes": sizes,
        "starts": [0, *accumulate(sizes[:-1])],
        "messages": [one for _, ids in picks for one in ids],
        "heads": [beginning(heads[lane]) for lane, _ in picks],
    }


def _expect_folds(floor: Floor[UnderWay]) -> None:
    """A job has been dispatched that may be folded into, and is overdue soon after that."""
    if (at := floor.known) is not None:
        floor.lower(at._replace(dispatched=min(at.dispatched, at.foldable_dispatched)))


WAITS_AT_MOST_SECONDS = 3600
"""So long a message is believed to wait at the broker. What waits there is counted, not read: messages whose jobs are
over by now could hide for ever that another one was lost."""

_DISPATCHED = "state = 'dispatched' AND redispatch_at >= coalesce(CAST(:dispatched AS timestamptz), '-infinity')"
# The broker's queue is first in, first out: of the messages that nobody has claimed, the newest are those that still
# wait there, as many as it holds.
REQUEUE_OVERDUE = _Change(
    f"""{_DISPATCHED} AND redispatch_at <= (SELECT clock_timestamp())
       AND NOT coalesce(message_id = ANY(ARRAY(
           SELECT message_id FROM {JOBS}
           WHERE {_DISPATCHED} AND dispatched_at > clock_timestamp() - :waits_at_most * interval '1 second'
           GROUP BY message_id ORDER BY max(dispatched_at) DESC LIMIT :waiting)), false)""",
    "organization_id, id",
    "state = 'queued', redispatch_at = NULL, message_id = NULL",
    "ix_jobs_dispatched",
)
"""`dispatched -> queued` for jobs whose message nobody has claimed in time. `waiting` messages are still at the broker.
Those wait for their turn behind slow work, and are not overdue."""

# The jobs of a message run one after another. What comes behind a slow one is for others to run.
REQUEUE_HELD_UP = _Change(
    f"""{_DISPATCHED} AND message_id = ANY(ARRAY(
           SELECT message_id FROM {JOBS}
           WHERE state = 'running' AND lease_expires_at >= coalesce(CAST(:running AS timestamptz), '-infinity')
             AND claimed_at < clock_timestamp() - :held_up_after * interval '1 second'))""",
    "organization_id, id",
    UNBEGUN,
    "ix_jobs_dispatched",
)
"""`dispatched -> queued` for the jobs of messages whose current job has been running for long."""

HELD_UP_AFTER_SECONDS = 1.0


def promote(session: Session, without: Collection[UUID] = (), shortcuts: Shortcuts | None = None) -> set[UUID]:
    """PROMOTE; returns the organizations."""
    shortcuts = shortcuts or Shortcuts()
    since = shortcuts.later.begin()
    came, clock, dead = PROMOTE.make(session, without, since=since)
    seen_until = clock if len(came) < PROMOTE.MOST else max(run_at for _, run_at in came)
    shortcuts.later.ended(min(seen_until, clock - _PROMOTED_LATE), clock=clock, dead=dead)
    shortcuts.lanes.came(came)
    return {lane.organization_id for lane, _ in came}


def requeue_overdue(
    session: Session, *, waiting: int = 0, without: Collection[UUID] = (), shortcuts: Shortcuts | None = None
) -> int:
    """REQUEUE_OVERDUE; returns how many."""
    return _requeue(REQUEUE_OVERDUE, session, without, shortcuts, waiting=waiting, waits_at_most=WAITS_AT_MOST_SECONDS)


def requeue_held_up(session: Session, without: Collection[UUID] = (), shortcuts: Shortcuts | None = None) -> int:
    """REQUEUE_HELD_UP; returns how many."""
    return _requeue(REQUEUE_HELD_UP, session, without, shortcuts, held_up_after=HELD_UP_AFTER_SECONDS)


def _requeue(
    change: _Change, session: Session, without: Collection[UUID], shortcuts: Shortcuts | None, **parameters: Any
) -> int:
    shortcuts = shortcuts or Shortcuts()
    came, _, _ = change.make(session, without, **_from(shortcuts.under_way.known), **parameters)
    shortcuts.lanes.came(came)
    return len(came)


def find_refused(session: Session, *, waiting: int, without: Collection[UUID]) -> dict[UUID, Exception]:
    """After one of these was refused: make the changes one by one, the first ones at least, and return the jobs that
    the server does not let change, and why."""
    whole = _from(None)
    return (
        PROMOTE.make_apart(session, without, since=None)
        | REQUEUE_OVERDUE.make_apart(session, without, waiting=waiting, waits_at_most=WAITS_AT_MOST_SECONDS, **whole)
        | REQUEUE_HELD_UP.make_apart(session, without, held_up_after=HELD_UP_AFTER_SECONDS, **whole)
    )


_UNDISPATCH = text(f"""
WITH unsent AS MATERIALIZED (
    SELECT ctid FROM {JOBS}
    WHERE message_id = ANY(:message_ids) AND {_DISPATCHED}
    ORDER BY organization_id, id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {JOBS} AS job SET {UNBEGUN} FROM unsent
WHERE job.ctid = unsent.ctid
RETURNING {_LANE}, run_at
""")


def undispatch(session: Session, messages: Sequence[Message], shortcuts: Shortcuts | None = None) -> None:
    """`dispatched -> queued` for messages that the broker did not take."""
    shortcuts = shortcuts or Shortcuts()
    parameters = {"message_ids": [message.id for message in messages], **_from(shortcuts.under_way.known)}
    rows = session.execute(_UNDISPATCH, parameters).all()
    shortcuts.lanes.came((LaneKey(*row[:4]), row.run_at) for row in rows)


_COUNT_LIVE = text(f"""
SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE {READY} GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE state = 'queued' AND later GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE state = 'dispatched' GROUP BY kind, state
UNION ALL SELECT left(kind, 200), state, count(*) FROM {JOBS} WHERE state = 'running' GROUP BY kind, state
""")
_OLDEST_DUE = text(f"""
WITH RECURSIVE lane AS (
    SELECT first.* FROM {_first(_HEAD, "true")} AS first
    UNION ALL
    SELECT following.* FROM lane CROSS JOIN LATERAL {_FOLLOWING_LANE} AS following
)
SELECT CAST(extract(epoch FROM clock_timestamp() - greatest(least(min(run_at), (
    SELECT run_at FROM {JOBS} AS job WHERE {_DUE_LATER} ORDER BY run_at LIMIT 1
)), '1900-01-01')) AS double precision)
FROM lane
""")


def count_live(session: Session) -> list[tuple[str, str, int]]:
    """Live jobs as (kind, state, jobs); each part reads its partial index."""
    return [(kind, state, jobs) for kind, state, jobs in session.execute(_COUNT_LIVE)]


def oldest_due_seconds(session: Session) -> float:
    """How long the job that is due the longest has been waiting in the queue; 0 when none is due."""
    return max(0.0, session.scalar(_OLDEST_DUE) or 0.0)
