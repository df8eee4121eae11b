"""`LaneSearch` and `arrivals`: how lanes are found, the queues of one (organization, kind, set apart or not, priority)
each.

They are found by hopping from one to the next through the partial index on the ready jobs, so the price does not depend
on how many wait; where dead entries lie on the way, by what is known of them (`db.ledger.dispatching.shortcuts`).
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.cluster.prepared import Statement
from docworker.db.ledger.dispatching.planning import Lane, LaneKey
from docworker.db.ledger.dispatching.shortcuts import KnownLanes, beginning, entries_of
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.models.ledger.job import ARRIVED, JOBS, READY, WEIGHTS
from docworker.db.sessions.statements import Call, Row, ask

LANE = "organization_id, kind, alone, priority"
Came = list[tuple[LaneKey, datetime]]
"""Jobs that have got into lanes, each with its `run_at`."""
DUE_LATER = "state = 'queued' AND later AND run_at <= (SELECT clock_timestamp())"


def first(columns: str, condition: str) -> str:
    """The first ready job by the index of lanes."""
    selected = f"SELECT {columns} FROM {JOBS} AS job WHERE {READY} AND {condition}"
    return f"({selected} ORDER BY {columns} LIMIT 1)"


HEAD = f"{LANE}, run_at"
_WEIGHT = f"(SELECT weight FROM {WEIGHTS} AS own WHERE own.organization_id = lane.organization_id)"
_NEXT_LANE = first(
    HEAD,
    "organization_id = lane.organization_id AND (kind, alone, priority) > (lane.kind, lane.alone, lane.priority)",
)
FOLLOWING_LANE = first(HEAD, f"({LANE}) > (lane.organization_id, lane.kind, lane.alone, lane.priority)")


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
_LANES = Statement(
    "docworker_lanes",
    f"""
WITH RECURSIVE before AS MATERIALIZED (
    SELECT {entries_of("ix_jobs_ready")} AS entries
), ahead AS (
    SELECT organization_id, 1 AS place FROM {first("organization_id", "organization_id > :after")} AS first
    UNION ALL
    SELECT following.organization_id, ahead.place + 1
    FROM ahead CROSS JOIN LATERAL
         {first("organization_id", "organization_id > ahead.organization_id")} AS following
    WHERE ahead.place < :most
), behind AS (
    SELECT organization_id, 1 + (SELECT CAST(count(*) AS integer) FROM ahead) AS place
    FROM {first("organization_id", "organization_id <= :after")} AS first
    WHERE (SELECT count(*) FROM ahead) < :most
    UNION ALL
    SELECT following.organization_id, behind.place + 1
    FROM behind CROSS JOIN LATERAL
         {first("organization_id", "organization_id > behind.organization_id AND organization_id <= :after")}
         AS following
    WHERE behind.place < :most
), tenant AS (
    SELECT organization_id, place FROM ahead
    UNION ALL SELECT organization_id, place FROM behind
    UNION ALL SELECT organization_id, CAST(-place AS integer)
              FROM unnest(CAST(:named AS uuid[])) WITH ORDINALITY AS named (organization_id, place)
), lane AS (
    SELECT tenant.place, first.*
    FROM tenant CROSS JOIN LATERAL {first(HEAD, "organization_id = tenant.organization_id")} AS first
    UNION ALL
    SELECT lane.place, following.*
    FROM lane CROSS JOIN LATERAL
         {_NEXT_LANE} AS following
)
SELECT found.*, {entries_of("ix_jobs_ready")} - before.entries AS passed
FROM before LEFT JOIN (
    SELECT lane.place, lane.organization_id, lane.kind, lane.alone, lane.priority, head.due, head.oldest,
           coalesce({_WEIGHT}, 1) AS weight
    FROM lane CROSS JOIN LATERAL {_head("lane.run_at")} AS head
    ORDER BY lane.place
) AS found ON true""",
    {
        "after": "uuid",
        "most": "integer",
        "named": "uuid[]",
        "due": "bigint",
        "due_in_batches": "bigint",
        "batch_kinds": "text[]",
    },
)
# The lanes are known, and from which `run_at` on each has jobs.
_KNOWN_LANES = text(f"""
WITH before AS MATERIALIZED (SELECT {entries_of("ix_jobs_ready")} AS entries)
SELECT found.*, {entries_of("ix_jobs_ready")} - before.entries AS passed
FROM before LEFT JOIN (
    SELECT lane.organization_id, lane.kind, lane.alone, lane.priority, head.due, head.oldest,
           coalesce({_WEIGHT}, 1) AS weight
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
    SELECT first.* FROM {first(HEAD, "true")} AS first
    UNION ALL
    SELECT following.* FROM lane CROSS JOIN LATERAL {FOLLOWING_LANE} AS following
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

    def covers(self, other: "Due") -> bool:
        return (
            self.jobs >= other.jobs
            and self.jobs_in_batches >= other.jobs_in_batches
            and self.batch_kinds == other.batch_kinds
        )


class WantedLanes(NamedTuple):
    """The lanes of at most `most` organizations that follow `after`, and of the `named` ones."""

    after: UUID
    most: int
    due: Due
    named: Collection[UUID] = frozenset()

    @property
    def call(self) -> Call:
        values = {"after": self.after, "most": self.most, "named": list(self.named), **_limits(self.due)}
        return Call(SYSTEM_ORGANIZATION_ID, _LANES, values)

    def found(self, rows: Sequence[Row]) -> tuple[Stretch, int]:
        """What the call has returned, and how many dead entries lay on the way."""
        of_named: dict[UUID, list[Lane]] = {}
        ring: list[list[Lane]] = []
        due = 0
        for place, some in groupby((row for row in rows if row[0] is not None), itemgetter(0)):
            found_here = [Lane(*row[1:8]) for row in some]
            due += sum(lane.due for lane in found_here)
            if place > 0:
                ring.append(found_here)
            else:
                of_named[found_here[0].organization_id] = found_here
        dead = max(row[-1] for row in rows) - due - _ENTRIES_OF_A_HOP * (len(rows) + 1)
        return Stretch(of_named, ring, len(ring), len(ring) < self.most), dead

    def covers(self, other: "WantedLanes") -> bool:
        """Whether who knows these knows the other ones: the same lanes, as many of their jobs or more."""
        return other == self._replace(due=other.due) and self.due.covers(other.due)


class Ahead(NamedTuple):
    """What travelled with a planner's BEGIN: the rows of `load_call`, and of the lanes that are `wanted`."""

    under_way: Sequence[Row]
    lanes: Sequence[Row]
    wanted: WantedLanes


_PASSES = 3
"""So often a walk for lanes passes the same dead entry, at most: for the organization, its lane, and none behind it."""
_ENTRIES_OF_A_HOP = 3
"""At most: to an organization, to its lane, and to none behind it."""


def _limits(due: Due) -> dict[str, Any]:
    return {"due": due.jobs, "due_in_batches": due.jobs_in_batches, "batch_kinds": list(due.batch_kinds)}


class LaneSearch:
    """Finds the lanes for one look: in the ledger, or those that are known. As many entries as one look sends, `usual`,
    may be dead also when they can be removed: nobody has passed them since."""

    def __init__(
        self, session: Session, known: KnownLanes, after: UUID, *, usual: int, ahead: Ahead | None = None
    ) -> None:
        self._session, self._known, self._after, self._usual, self._ahead = session, known, after, usual, ahead
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
            wanted, ahead = WantedLanes(seen_until, most, due, named), self._ahead
            rows = ahead.lanes if ahead and ahead.wanted.covers(wanted) else ask(self._session, wanted.call)
            stretch, dead = wanted.found(rows)
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
            lanes_as_arrays(floors) | {"floors": [beginning(floor) for floor in floors.values()]} | _limits(due)
        )
        rows = self._session.execute(_KNOWN_LANES, parameters).all()
        found = [Lane(*row[:7]) for row in rows if row.due]
        dead = max(row.passed for row in rows) - sum(lane.due for lane in found)
        self._known.asked(floors, {lane.key: lane.oldest for lane in found}, dead=dead)
        return {lane.key: lane for lane in found}


def _by_organization(found: Mapping[LaneKey, Lane], asked: Iterable[LaneKey]) -> Iterable[tuple[UUID, list[Lane]]]:
    some = [found[key] for key in asked if key in found]
    return [(one, list(own)) for one, own in groupby(some, attrgetter("organization_id"))]


def lanes_as_arrays(keys: Iterable[LaneKey]) -> dict[str, Any]:
    organizations, kinds, alone, priorities = zip(*keys, strict=True)
    return {
        "organizations": list(organizations),
        "kinds": list(kinds),
        "alone": list(alone),
        "priorities": list(priorities),
    }


_ARRIVALS = text(f"""
WITH now AS MATERIALIZED (SELECT clock_timestamp() AS clock)
SELECT {LANE}, run_at, created_at, jobs, clock FROM now LEFT JOIN (
    SELECT {LANE}, min(run_at) AS run_at, max(created_at) AS created_at, count(*) AS jobs FROM (
        SELECT {LANE}, run_at, least(created_at, clock_timestamp()) AS created_at FROM {JOBS} AS job
        WHERE {READY} AND {ARRIVED}
          AND created_at > (SELECT coalesce(CAST(:since AS timestamptz), clock_timestamp() - interval '2 seconds'))
        ORDER BY job.created_at LIMIT :most
    ) AS job
    GROUP BY {LANE}
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
