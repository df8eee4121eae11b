"""`Planner`: which jobs of an organization go at its turn, and in which messages. Pure; what is read and written for it
is in `db.ledger.dispatching.dispatch`, and whose turn it is in `db.ledger.dispatching.turns`.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from docworker.db.ledger.dispatching.limiting import Book, Counts, Holding
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id

OLDEST_EVERY = 8
"""Of so many turns in a row that would go past an older job of an organization, one goes to its oldest job."""


class LaneKey(NamedTuple):
    """The queue of one organization, kind and priority. Jobs set apart (`alone`) have queues of their own."""

    organization_id: UUID
    kind: str
    alone: bool
    priority: int


class Lane(NamedTuple):
    """`due` counts the due jobs, up to the limit it was asked with; `weight` is the organization's."""

    organization_id: UUID
    kind: str
    alone: bool
    priority: int
    due: int
    oldest: datetime
    weight: float = 1.0

    @property
    def key(self) -> LaneKey:
        return LaneKey(*self[:4])


@dataclass(frozen=True)
class Load:
    """What is under way: messages sent a moment ago, and jobs dispatched or running. And what is to wait: `paused`
    holds (organization id or nil, kind or ''). `running_seconds` is for how long the running jobs of a kind have been
    at it, on average. Of an organization and a kind: `jobs` are under way, of which some are `running`, and these have
    `occupied` worker's processes for so many seconds. `is_told`: of some keys jobs have come or ended. It was counted
    at `clock`, the master's."""

    messages: int = 0
    jobs_of_organization: Counter[UUID] = field(default_factory=Counter)
    jobs_of_kind: Counter[str] = field(default_factory=Counter)
    running_seconds: Mapping[str, float] = field(default_factory=dict)
    jobs: Counter[tuple[UUID, str]] = field(default_factory=Counter)
    running: Counter[tuple[UUID, str]] = field(default_factory=Counter)
    occupied: Mapping[tuple[UUID, str], float] = field(default_factory=dict)
    paused: Collection[tuple[UUID, str]] = ()
    is_told: bool = False
    clock: datetime | None = None

    def is_paused(self, lane: Lane) -> bool:
        organization_id, kind = lane.organization_id, lane.kind
        places = ((organization_id, kind), (organization_id, ""), (SYSTEM_ORGANIZATION_ID, kind))
        return any(place in self.paused for place in places)


class Size(NamedTuple):
    """How many jobs of a kind an organization sends at one turn, and how many fit into one message."""

    share: int
    room: int


@dataclass(frozen=True)
class Limits:
    """`size_of` a kind is None where the dispatcher does not know it. `largest` is the largest size of `batch_kinds`,
    those that take batches, `largest_single` that of the others, of which `concurrent_kinds` run the jobs of a message
    at the same time."""

    size_of: Callable[[str], Size | None]
    largest: int = 200
    largest_single: int = 20
    batch_kinds: Collection[str] = ()
    concurrent_kinds: Collection[str] = ()
    cap_of_kind: Callable[[str], int | None] = lambda _kind: None
    cap_of_organization: int | None = None
    book: Book = field(default_factory=Book)
    """What is in force besides, by the table of limits."""


class Hold(Enum):
    """Why the jobs of a lane may not go, whoever's turn it is."""

    UNKNOWN_KIND = "unknown_kind"
    LEFT_OUT = "left_out"
    """The server has refused to change its rows a moment ago, or somebody holds them."""
    PAUSED = "paused"
    ORGANIZATION_AT_CAP = "organization_at_cap"
    KIND_AT_CAP = "kind_at_cap"
    LIMIT = "limit"
    """As many run as a limit of the table lets; `Planner.holding_of` says which."""
    RATE = "rate"
    """The rate of one is spent for now."""


class Turn(Enum):
    SERVED = "served"
    NO_ROOM = "no room"
    """There is something to send, and no message left that could take it."""
    NOTHING = "nothing"


@dataclass(eq=False)
class _Draft:
    id: UUID
    kind: str
    room: int
    of_organization: Counter[UUID] = field(default_factory=Counter)


class Planner:
    """Fills at most `capacity` messages, each with jobs of one kind. They are begun before they are filled, so that
    idle workers share what there is. Jobs set apart travel alone, and so do those of slow rates."""

    def __init__(
        self,
        under_way: Load,
        limits: Limits,
        *,
        capacity: int,
        left_out: Collection[LaneKey] = frozenset(),
        queues: Mapping[str, Collection[UUID]] = MappingProxyType({}),
        passed: Mapping[tuple[UUID, str], int] = MappingProxyType({}),
    ) -> None:
        self.picks: dict[LaneKey, list[UUID]] = {}
        """For each job that a lane sends, in their order, the id of its message."""
        self.heads: dict[LaneKey, datetime] = {}
        """Of each of these lanes, since when its first job is due."""
        self.kind_of: dict[UUID, str] = {}
        """Of each message."""
        self.unknown: set[LaneKey] = set()
        self.denied: dict[tuple[str, UUID], None] = {}
        """Kind and organization, where the kind is at its cap or others wait for it, in their order."""
        self.admitted: dict[tuple[str, UUID], None] = {}
        """Kind and organization, where it has had its turn or wants none any more, in their order."""
        self.had_queues = False
        """Whether there was anybody whom something free was due to."""
        self.passed: dict[tuple[UUID, str], int] = {}
        """Of each organization that sends something, how many turns in a row have now gone past an older job of it;
        with a kind, of the turns that it had at the cap of that."""
        self._passed_before = passed
        self._queues = queues
        self._ahead = Counter({kind: len(queue) for kind, queue in queues.items()})
        self._under_way = under_way
        self._limits = limits
        self._capacity = capacity
        self._left_out = left_out
        self._of_organization = Counter(under_way.jobs_of_organization)
        self._of_kind = Counter(under_way.jobs_of_kind)
        self._of_both = Counter(under_way.jobs)
        self._book = limits.book
        self._counts = Counts(self._of_organization, self._of_kind, self._of_both)
        self._open: dict[str, deque[_Draft]] = {}
        self.latest: tuple[str, int] = ("", 0)
        """The kind, and how many jobs of it, that were sent last."""

    @property
    def is_full(self) -> bool:
        return len(self.kind_of) >= self._capacity and not self._open

    @property
    def jobs_of_kind(self) -> Counter[str]:
        """How many are to be sent."""
        return self._of_kind - self._under_way.jobs_of_kind

    def serve(self, lanes: Sequence[Lane]) -> Turn:
        """One turn of the organization with these lanes: of the jobs that may go the first ones in order. Where there
        is no room for them, others do not go instead: they would always find some."""
        self.unknown |= {lane.key for lane in lanes if self._limits.size_of(lane.kind) is None}
        for lane in self.in_order(lanes):
            most = self._may_send(lane)
            if most > 0 and self._must_queue(lane.kind):
                self._deny(lane.kind, lane.organization_id)
            elif most > 0:
                turn = self._take(lane, most)
                if turn is Turn.SERVED:
                    self._note(lane, lanes)
                return turn
        return Turn.NOTHING

    def in_order(self, lanes: Sequence[Lane], kind: str = "") -> list[Lane]:
        """The lanes of an organization as its jobs would go: the most urgent ones first, then the oldest; at every
        `OLDEST_EVERY`th turn that would go past older ones the oldest of all."""
        if self._is_for_oldest(lanes[0].organization_id, kind):
            return sorted(lanes, key=lambda lane: (lane.oldest, lane.priority))
        return sorted(lanes, key=lambda lane: (lane.priority, lane.oldest))

    def _is_for_oldest(self, organization_id: UUID, kind: str) -> bool:
        return self._passed(organization_id, kind) >= OLDEST_EVERY - 1

    def _passed(self, organization_id: UUID, kind: str) -> int:
        place = (organization_id, kind)
        return self.passed.get(place, self._passed_before.get(place, 0))

    def _note(self, served: Lane, lanes: Sequence[Lane], kind: str = "") -> None:
        """Whether this turn has gone past older jobs. One for the oldest is over, also where these may not go."""
        one = served.organization_id
        goes_past = served.oldest > min(lane.oldest for lane in lanes) and not self._is_for_oldest(one, kind)
        if goes_past or self._passed(one, kind):
            self.passed[one, kind] = self._passed(one, kind) + 1 if goes_past else 0

    def share_of(self, lane: Lane) -> int:
        """How many jobs of a lane are one turn."""
        size = self._limits.size_of(lane.kind)
        return 1 if lane.alone or size is None else min(size.share, lane.due)

    def free(self, kind: str) -> int:
        """How many more jobs of a kind that is limited as a whole may go."""
        cap, of_rate = self._limits.cap_of_kind(kind), self._book.free_of_kind(kind)
        free = [] if cap is None else [cap - self._of_kind[kind]]
        return min(free if of_rate is None else [*free, of_rate], default=0)

    def admit(self, kind: str, organization_id: UUID, lanes: Sequence[Lane]) -> Turn:
        """Who stands first in the queue for a kind with a cap gets what is free of it."""
        turn = Turn.NOTHING
        of_kind = [lane for lane in lanes if lane.kind == kind]
        for lane in self.in_order(of_kind, kind) if of_kind else ():
            if min(most := self._may_send(lane), self.free(kind)) > 0:
                turn = self._take(lane, most)
                if turn is Turn.SERVED:
                    self._note(lane, of_kind, kind)
                break
        if turn is not Turn.NO_ROOM:
            self.admitted[kind, organization_id] = None
            self._ahead[kind] -= 1
        return turn

    def _must_queue(self, kind: str) -> bool:
        return self._is_scarce(kind) and (self._ahead[kind] > 0 or self.free(kind) <= 0)

    def _is_scarce(self, kind: str) -> bool:
        return self._limits.cap_of_kind(kind) is not None or self._book.is_scarce(kind)

    def _deny(self, kind: str, organization_id: UUID) -> None:
        if organization_id not in self._queues.get(kind, ()) and (kind, organization_id) not in self.denied:
            self._ahead[kind] += 1
        self.denied[kind, organization_id] = None

    def _take(self, lane: Lane, most: int) -> Turn:
        if self._is_scarce(lane.kind):
            most = min(most, self.free(lane.kind))
        draft = self._draft_for(lane)
        if draft is None:
            return Turn.NO_ROOM
        self._send(lane, draft, min(most, draft.room))
        return Turn.SERVED

    def hold_of(self, lane: Lane) -> Hold | None:
        """What keeps its jobs from being sent, apart from turns and room."""
        if (held := self._hold_of(lane)) is not None:
            return held
        cap = self._limits.cap_of_organization
        is_over = self._book.is_over(lane.organization_id)
        if cap is not None and not is_over and self._of_organization[lane.organization_id] >= cap:
            return Hold.ORGANIZATION_AT_CAP
        if (holding := self.holding_of(lane)) is not None:
            return Hold.RATE if holding.is_rate else Hold.LIMIT
        is_capped = self._limits.cap_of_kind(lane.kind) is not None
        return Hold.KIND_AT_CAP if is_capped and self.free(lane.kind) <= 0 else None

    def holding_of(self, lane: Lane) -> Holding | None:
        """The limit of the table that keeps its jobs from being sent."""
        return self._book.holding(lane.organization_id, lane.kind, self._counts)

    def _hold_of(self, lane: Lane) -> Hold | None:
        if self._limits.size_of(lane.kind) is None:
            return Hold.UNKNOWN_KIND
        if lane.key in self._left_out:
            return Hold.LEFT_OUT
        return Hold.PAUSED if self._under_way.is_paused(lane) else None

    def _may_send(self, lane: Lane) -> int:
        """Whether a kind is at its cap is another question."""
        size = self._limits.size_of(lane.kind)
        if size is None or self._hold_of(lane) is not None:
            return 0
        may = [1 if lane.alone else size.share, lane.due - len(self.picks.get(lane.key, ()))]
        cap = self._limits.cap_of_organization
        if cap is not None and not self._book.is_over(lane.organization_id):
            may.append(cap - self._of_organization[lane.organization_id])
        if self._book and (free := self._book.free(lane.organization_id, lane.kind, self._counts)) is not None:
            may.append(free)
        return min(may)

    def _draft_for(self, lane: Lane) -> _Draft | None:
        together = 0 if lane.alone else self._together(lane)
        if len(self.kind_of) < self._capacity:
            draft = _Draft(new_id(), lane.kind, self._room_for(lane) if together else 1)
            self.kind_of[draft.id] = lane.kind
            return draft
        is_open = self._open.get(lane.kind, deque())
        fits = next((one for one in is_open if one.of_organization[lane.organization_id] < together), None)
        if fits is not None:
            is_open.remove(fits)
        return fits

    def _together(self, lane: Lane) -> float:
        """How many of a lane's jobs may share a message. What is handed back has spent of its rates, so there is a
        bound where the jobs of a message run one by one."""
        together = self._book.together(lane.organization_id, lane.kind) if self._is_one_by_one(lane.kind) else None
        return math.inf if together is None else together

    def _room_for(self, lane: Lane) -> int:
        size = self._limits.size_of(lane.kind)
        room = 1 if size is None else size.room
        together = self._book.together_of_kind(lane.kind) if self._is_one_by_one(lane.kind) else None
        return room if together is None else min(room, together)

    def _is_one_by_one(self, kind: str) -> bool:
        return kind not in self._limits.batch_kinds and kind not in self._limits.concurrent_kinds

    def _send(self, lane: Lane, draft: _Draft, jobs: int) -> None:
        self.picks.setdefault(lane.key, []).extend([draft.id] * jobs)
        self.heads[lane.key] = lane.oldest
        self.latest = lane.kind, jobs
        self._of_organization[lane.organization_id] += jobs
        self._of_kind[lane.kind] += jobs
        self._of_both[lane.organization_id, lane.kind] += jobs
        self._book.take(lane.organization_id, lane.kind, jobs)
        draft.room -= jobs
        draft.of_organization[lane.organization_id] += jobs
        is_open = self._open.setdefault(lane.kind, deque())
        if draft.room:
            is_open.append(draft)
        if not is_open:
            del self._open[lane.kind]
