"""`Turns` and `Walk`: whose turn it is. Pure; what is sent at a turn: `db.ledger.dispatching.planning`.

The organizations with due jobs stand in a ring, in the order of their ids, and each is visited once in every round. A
look walks along the ring from where the one before it stopped, until there is no room left, so it costs what it sends,
however many wait. A round of many thousands takes long: who has only just come is visited early, every other time.
How many turns a visit is worth follows from weights and costs (`db.ledger.dispatching.costs`): one, where those are
equal.

Algorithm: deficit round robin (Shreedhar and Varghese, 1995) with new flows served early, after FQ-CoDel (RFC 8290);
here no flow is visited twice in one round, however it came to the first.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from uuid import UUID

from docworker.db.ledger.dispatching.costs import Accounts, Bill
from docworker.db.ledger.dispatching.planning import Lane, Limits, Planner, Turn
from docworker.db.ledger.dispatching.samples import Samples
from docworker.db.ledger.message import Message
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID

MOST_VISITED = 1000
"""Organizations that one look visits, whether they may send something or not."""


class Turns:
    """Whose turn it is, from look to look. In memory: a new dispatcher begins a new round."""

    MOST_REMEMBERED = 100_000
    MOST_NEW = 1000

    def __init__(self) -> None:
        self.after = SYSTEM_ORGANIZATION_ID
        """The organization after which the next look begins."""
        self.is_round_begun = False
        """Whether those behind the end of the ring have begun the round already: the first of them found no room."""
        self.is_long = False
        """Whether the latest look did not see the whole ring."""
        self.queues: dict[str, dict[UUID, None]] = {}
        """Who waits for a kind that was at its cap, first come, first served: else always the same ones would
        come by when something is free."""
        self.passed: dict[tuple[UUID, str], int] = {}
        """As `Planner.passed`."""
        self.accounts = Accounts()
        self.samples = Samples()
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
        self.is_round_begun = walk.is_round_begun
        self.is_long = not walk.saw_all
        if walk.is_new_round:
            self._served_in_last_round = walk.served_in_last_round
            self._served.clear()
        if len(self._served) < self.MOST_REMEMBERED:
            self._served |= walk.served
        for one in walk.came_to:
            self._new.pop(one, None)
        planner = walk.planner
        self.accounts.take(walk.bill)
        for kind, one in planner.admitted:
            self.queues.get(kind, {}).pop(one, None)
        again = [one for one in planner.admitted if one in planner.denied]
        for kind, one in [*(one for one in planner.denied if one not in planner.admitted), *again]:
            self.queues.setdefault(kind, {}).setdefault(one)
        self.queues = {kind: queue for kind, queue in self.queues.items() if queue}
        for place, passed in planner.passed.items():
            self.passed.pop(place, None)
            if passed:
                self.passed[place] = passed
        while len(self.passed) > self.MOST_REMEMBERED:
            del self.passed[next(iter(self.passed))]
        if planner.had_queues:
            self._queues_first = not planner.admitted

    def sent(self, messages: Sequence[Message], limits: Limits, sent_at: datetime | None) -> None:
        """These are the messages of what has been taken, marked no sooner than `sent_at` by the master's clock."""
        places = {(part.organization_id, message.kind) for message in messages for part in message.parts}
        self.samples.follow(messages, self.accounts.charges(places), limits, sent_at)


class Walk:
    """One look's way along the ring."""

    def __init__(self, turns: Turns, planner: Planner) -> None:
        self.served: set[UUID] = set()
        """In the round that it ends in."""
        self.came_to: set[UUID] = set()
        """In whatever round."""
        self.is_new_round = False
        self.served_in_last_round = 0
        self.saw_all = False
        self.next_after = turns.after
        self.is_round_begun = self._has_begun = turns.is_round_begun
        self._turns = turns
        self.planner = planner
        self.bill = Bill(turns.accounts)
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
        weights = {one: lanes[0].weight for one, lanes in self._ring.items()}
        while (sends or self.bill.pass_rounds(weights)) and not self._is_stuck:
            sends = False
            for lanes in self._ring.values():
                sends |= self._visit(lanes) is Turn.SERVED
                if self.is_over:
                    return

    def _visit(self, lanes: Sequence[Lane]) -> Turn:
        organization_id = lanes[0].organization_id
        if organization_id <= self._last and self._has_begun:
            self._has_begun = False
        elif organization_id <= self._last:
            if self._is_stuck:  # somebody waits in this round: it must not end
                self._is_over = True
                return Turn.NOTHING
            self.served_in_last_round = len(self.served) + (0 if self.is_new_round else self._turns.served)
            self.is_new_round = self.is_round_begun = True
            self.served.clear()
            self.bill.begin_round()
        if self._new:
            self._serve(self._new.popleft())
        turn = self._serve(lanes)
        self._last = organization_id
        self._is_stuck |= turn is Turn.NO_ROOM
        if not self._is_stuck:
            self.next_after = organization_id
            self.is_round_begun = False
        return turn

    def _serve(self, lanes: Sequence[Lane]) -> Turn:
        organization_id = lanes[0].organization_id
        if organization_id in self.served or (not self.is_new_round and self._turns.was_served(organization_id)):
            return Turn.NOTHING
        self.bill.visit(organization_id, lanes[0].weight, self._price(lanes))
        turn = Turn.NOTHING
        while self.bill.is_owed(organization_id):
            latest = self.planner.serve(lanes)
            if latest is Turn.NO_ROOM:
                return Turn.NO_ROOM
            if latest is Turn.NOTHING:
                self.bill.wants_no_more(organization_id)
                break
            turn = Turn.SERVED
            self.bill.charge(organization_id, *self.planner.latest)
        if turn is Turn.SERVED:
            self.served.add(organization_id)
            self.came_to.add(organization_id)
        return turn

    def _price(self, lanes: Sequence[Lane]) -> float | None:
        """About what a turn costs."""
        lane = self.planner.in_order(lanes)[0]
        return self._turns.accounts.cost(lane.organization_id, lane.kind, self.planner.share_of(lane))
