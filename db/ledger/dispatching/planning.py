"""`Planner` and `Walk`: whose jobs go next, by turns of organizations and their shares of messages. Pure; what is read
and written for it is in `db.ledger.dispatching.dispatch`.

The organizations with due jobs stand in a ring, in the order of their ids, and each gets one turn in every round. A
look walks along the ring from where the one before it stopped, until there is no room left, so it costs what it sends,
however many wait. A round of many thousands takes long: who has only just come gets its turn early, every other one.

Algorithm: round robin with new flows served early, after FQ-CoDel (RFC 8290); here no flow gets a second turn in one
round, however it came to the first.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id

MOST_VISITED = 1000
"""Organizations that one look visits, whether they may send something or not."""


class LaneKey(NamedTuple):
    """The queue of one organization, kind and priority. Jobs set apart (`alone`) have queues of their own."""

    organization_id: UUID
    kind: str
    alone: bool
    priority: int


class Lane(NamedTuple):
    """`due` counts the due jobs, up to the limit it was asked with."""

    organization_id: UUID
    kind: str
    alone: bool
    priority: int
    due: int
    oldest: datetime

    @property
    def key(self) -> LaneKey:
        return LaneKey(*self[:4])


@dataclass(frozen=True)
class Load:
    """What is under way: messages sent a moment ago, and jobs dispatched or running. And what is to wait: `paused`
    holds (organization id or nil, kind or ''). `running_seconds` is for how long the running jobs of a kind have been
    at it, on average. `is_told`: of some keys jobs have come or ended."""

    messages: int = 0
    jobs_of_organization: Counter[UUID] = field(default_factory=Counter)
    jobs_of_kind: Counter[str] = field(default_factory=Counter)
    running_seconds: Mapping[str, float] = field(default_factory=dict)
    paused: Collection[tuple[UUID, str]] = ()
    is_told: bool = False

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
    those that take batches, `largest_single` that of the others."""

    size_of: Callable[[str], Size | None]
    largest: int = 200
    largest_single: int = 20
    batch_kinds: Collection[str] = ()
    cap_of_kind: Callable[[str], int | None] = lambda _kind: None
    cap_of_organization: int | None = None


class Hold(Enum):
    """Why the jobs of a lane may not go, whoever's turn it is."""

    UNKNOWN_KIND = "unknown_kind"
    LEFT_OUT = "left_out"
    """The server has refused to change its rows a moment ago, or somebody holds them."""
    PAUSED = "paused"
    ORGANIZATION_AT_CAP = "organization_at_cap"
    KIND_AT_CAP = "kind_at_cap"


class Turn(Enum):
    SERVED = "served"
    NO_ROOM = "no room"
    """There is something to send, and no message left that could take it."""
    NOTHING = "nothing"


@dataclass
class _Draft:
    id: UUID
    kind: str
    room: int


class Planner:
    """Fills at most `capacity` messages, each with jobs of one kind. They are begun before they are filled, so that
    idle workers share what there is. Jobs set apart travel alone."""

    def __init__(
        self,
        under_way: Load,
        limits: Limits,
        *,
        capacity: int,
        left_out: Collection[LaneKey] = frozenset(),
        queues: Mapping[str, Collection[UUID]] = MappingProxyType({}),
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
        self._queues = queues
        self._ahead = Counter({kind: len(queue) for kind, queue in queues.items()})
        self._under_way = under_way
        self._limits = limits
        self._capacity = capacity
        self._left_out = left_out
        self._of_organization = Counter(under_way.jobs_of_organization)
        self._of_kind = Counter(under_way.jobs_of_kind)
        self._open: dict[str, deque[_Draft]] = {}

    @property
    def is_full(self) -> bool:
        return len(self.kind_of) >= self._capacity and not self._open

    @property
    def jobs_of_kind(self) -> Counter[str]:
        """How many are to be sent."""
        return self._of_kind - self._under_way.jobs_of_kind

    def serve(self, lanes: Sequence[Lane]) -> Turn:
        """One turn of the organization with these lanes: of the jobs that may go the most urgent ones, then the oldest.
        Where there is no room for them, others do not go instead: they would always find some."""
        self.unknown |= {lane.key for lane in lanes if self._limits.size_of(lane.kind) is None}
        for lane in sorted(lanes, key=lambda lane: (lane.priority, lane.oldest)):
            most = self._may_send(lane)
            if most > 0 and self._must_queue(lane.kind):
                self._deny(lane.kind, lane.organization_id)
            elif most > 0:
                return self._take(lane, most)
        return Turn.NOTHING

    def free(self, kind: str) -> int:
        """How many more jobs of a kind with a cap may run."""
        cap = self._limits.cap_of_kind(kind)
        return 0 if cap is None else cap - self._of_kind[kind]

    def admit(self, kind: str, organization_id: UUID, lanes: Sequence[Lane]) -> Turn:
        """Who stands first in the queue for a kind with a cap gets what is free of it."""
        turn = Turn.NOTHING
        for lane in sorted(lanes, key=lambda lane: (lane.priority, lane.oldest)):
            if lane.kind == kind and min(most := self._may_send(lane), self.free(kind)) > 0:
                turn = self._take(lane, most)
                break
        if turn is not Turn.NO_ROOM:
            self.admitted[kind, organization_id] = None
            self._ahead[kind] -= 1
        return turn

    def _must_queue(self, kind: str) -> bool:
        return self._limits.cap_of_kind(kind) is not None and (self._ahead[kind] > 0 or self.free(kind) <= 0)

    def _deny(self, kind: str, organization_id: UUID) -> None:
        if organization_id not in self._queues.get(kind, ()) and (kind, organization_id) not in self.denied:
            self._ahead[kind] += 1
        self.denied[kind, organization_id] = None

    def _take(self, lane: Lane, most: int) -> Turn:
        if self._limits.cap_of_kind(lane.kind) is not None:
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
        if cap is not None and self._of_organization[lane.organization_id] >= cap:
            return Hold.ORGANIZATION_AT_CAP
        is_capped = self._limits.cap_of_kind(lane.kind) is not None
        return Hold.KIND_AT_CAP if is_capped and self.free(lane.kind) <= 0 else None

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
        if self._limits.cap_of_organization is not None:
            may.append(self._limits.cap_of_organization - self._of_organization[lane.organization_id])
        return min(may)

    def _draft_for(self, lane: Lane) -> _Draft | None:
        if len(self.kind_of) < self._capacity:
            size = self._limits.size_of(lane.kind)
            draft = _Draft(new_id(), lane.kind, 1 if lane.alone or size is None else size.room)
            self.kind_of[draft.id] = lane.kind
            return draft
        is_open = self._open.get(lane.kind)
        return None if lane.alone or not is_open else is_open.popleft()

    def _send(self, lane: Lane, draft: _Draft, jobs: int) -> None:
        self.picks.setdefault(lane.key, []).extend([draft.id] * jobs)
        self.heads[lane.key] = lane.oldest
        self._of_organization[lane.organization_id] += jobs
        self._of_kind[lane.kind] += jobs
        draft.room -= jobs
        is_open = self._open.setdefault(lane.kind, deque())
        if draft.room:
            is_open.append(draft)
        if not is_open:
            del self._open[lane.kind]


class Turns:
    """Whose turn it is, from look to look. In memory: a new dispatcher begins a new round."""

    MOST_REMEMBERED = 100_000
    MOST_NEW = 1000

    def __init__(self) -> None:
        self.after = SYSTEM_ORGANIZATION_ID
        """The organization after which the next look begins."""
        self.is_long = False
        """Whether the latest look did not see the whole ring."""
        self.queues: dict[str, dict[UUID, None]] = {}
        """Who waits for a kind that was at its cap, first come, first served: else always the same ones would
        come by when something is free."""
        self._queues_first = True
        self._served: set[UUID] = set()
        self._served_in_last_round = 0
        self._new: dict[UUID, None] = {}

    @property
    def organizations(self) -> int:
        """About how many take turns: as many as had one in the round before, or in this one so far."""
        return max(1, self._served_in_last_round, len(self._served))

    def heads(self, planner: Planner) -> list[tuple[str, UUID]]:
        """Kind and organization of those whom the free places of kinds with a cap are due to."""
        found = [
            (kind, one) for kind, queue in self.queues.items() for one in islice(queue, max(0, planner.free(kind)))
        ]
        planner.had_queues = bool(found)
        return found

    def queued(self, planner: Planner) -> Counter[str]:
        """How many take turns at each kind with a cap, where any will wait for it after this look."""
        queued = {(kind, one) for kind, queue in self.queues.items() for one in queue}
        left = {kind for kind, _ in (queued - planner.admitted.keys()) | planner.denied.keys()}
        return Counter(kind for kind, _ in queued | planner.denied.keys() if kind in left)

    def share_of_heads(self, capacity: int) -> int:
        """Half of the messages, and of an odd one every other time that there are any."""
        return (capacity + self._queues_first) // 2

    @property
    def served(self) -> int:
        """How many have had their turn in this round."""
        return len(self._served)

    def was_served(self, organization_id: UUID) -> bool:
        """In this round."""
        return organization_id in self._served

    def came(self, organizations: Iterable[UUID]) -> None:
        """They have got new jobs, the latest at the end."""
        for one in organizations:
            if one not in self._served:
                self._new.pop(one, None)
                self._new[one] = None
        while len(self._new) > self.MOST_NEW:
            del self._new[next(iter(self._new))]

    def newest(self, most: int) -> list[UUID]:
        """Who came last and has had no turn in this round, the latest first. Nobody, where a round has too many to
        know who has had one."""
        if len(self._served) >= self.MOST_REMEMBERED:
            return []
        return list(self._new)[: -most - 1 : -1]

    def take(self, walk: "Walk") -> None:
        """What the walk has planned is committed."""
        self.after = walk.next_after
        self.is_long = not walk.saw_all
        if walk.is_new_round:
            self._served_in_last_round = walk.served_in_last_round
            self._served.clear()
        if len(self._served) < self.MOST_REMEMBERED:
            self._served |= walk.served
        for one in walk.served:
            self._new.pop(one, None)
        planner = walk.planner
        for kind, one in planner.admitted:
            self.queues.get(kind, {}).pop(one, None)
        again = [one for one in planner.admitted if one in planner.denied]
        for kind, one in [*(one for one in planner.denied if one not in planner.admitted), *again]:
            self.queues.setdefault(kind, {}).setdefault(one)
        self.queues = {kind: queue for kind, queue in self.queues.items() if queue}
        if planner.had_queues:
            self._queues_first = not planner.admitted


class Walk:
    """One look's way along the ring."""

    def __init__(self, turns: Turns, planner: Planner) -> None:
        self.served: set[UUID] = set()
        """In the round that it ends in."""
        self.is_new_round = False
        self.served_in_last_round = 0
        self.saw_all = False
        self.next_after = turns.after
        self._turns = turns
        self.planner = planner
        self._last = turns.after
        self._is_stuck = False
        self._is_over = False
        self._ring: dict[UUID, Sequence[Lane]] = {}
        self._new: deque[Sequence[Lane]] = deque()

    @property
    def is_over(self) -> bool:
        return self._is_over or self.planner.is_full

    @property
    def seen_until(self) -> UUID:
        """Whose followers on the ring it has not seen yet."""
        return next(reversed(self._ring), self._turns.after)

    def meet(self, newcomers: Iterable[Sequence[Lane]]) -> None:
        """Those that have come last, the latest first; they get every other turn."""
        self._new.extend(newcomers)

    def go_along(self, stretch: Sequence[Sequence[Lane]], *, is_last: bool) -> None:
        """Visit the next organizations on the ring, each given by its lanes."""
        for lanes in stretch:
            if lanes[0].organization_id in self._ring:
                is_last = True
                break
            self._ring[lanes[0].organization_id] = lanes
            self._visit(lanes)
            if self.is_over:
                return
        self.saw_all = is_last
        if is_last:
            self._go_round()
        self._is_over = is_last or len(self._ring) >= MOST_VISITED

    def _go_round(self) -> None:
        """All have had their turn, and there is room left."""
        sends = True
        while sends and not self._is_stuck:
            sends = False
            for lanes in self._ring.values():
                sends |= self._visit(lanes) is Turn.SERVED
                if self.is_over:
                    return

    def _visit(self, lanes: Sequence[Lane]) -> Turn:
        organization_id = lanes[0].organization_id
        if organization_id <= self._last:
            if self._is_stuck:  # somebody waits in this round: it must not end
                self._is_over = True
                return Turn.NOTHING
            self.served_in_last_round = len(self.served) + (0 if self.is_new_round else self._turns.served)
            self.is_new_round = True
            self.served.clear()
        if self._new:
            self._serve(self._new.popleft())
        turn = self._serve(lanes)
        self._last = organization_id
        self._is_stuck |= turn is Turn.NO_ROOM
        if not self._is_stuck:
            self.next_after = organization_id
        return turn

    def _serve(self, lanes: Sequence[Lane]) -> Turn:
        organization_id = lanes[0].organization_id
        if organization_id in self.served or (not self.is_new_round and self._turns.was_served(organization_id)):
            return Turn.NOTHING
        turn = self.planner.serve(lanes)
        if turn is Turn.SERVED:
            self.served.add(organization_id)
        return turn
