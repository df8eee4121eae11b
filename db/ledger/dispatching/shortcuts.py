"""`Shortcuts`: where a planner's walks through the indexes of the queue may begin, while walking past dead entries is
dear.

While anybody holds an old snapshot (an open transaction, a standby's feedback, a slot, a prepared transaction), nothing
that is dead can be removed. Each job leaves dead entries in the indexes of the states it has passed through, and they
lie before the living ones. A walk then begins where the one before it has found the first living entry. Only for a
share of the time is an index walked from its beginning, for what came to life before that: committed late, handed back,
changed by hand. As long as that is cheap, it is always done.

How many entries a walk has passed, the server counts itself. Everything here is in memory: a new planner walks it all.
"""

import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from docworker.db.cluster.adapters import BEFORE_ALL
from docworker.db.ledger.dispatching.planning import LaneKey
from docworker.db.ledger.waiting.told import Told

DEAR = 2000
"""Dead entries: about half a millisecond."""
SHARE_OF_TIME = 0.03
"""For walks from the beginning, where these are dear, of each of the few kinds of walks."""

T = TypeVar("T")


def entries_of(*indexes: str) -> str:
    """SQL for how many entries of these indexes this transaction, and some before it, have passed, dead or not."""
    return " + ".join(f"pg_stat_get_xact_tuples_returned(CAST('ledger.{name}' AS regclass))" for name in indexes)


def beginning(at: datetime | None) -> datetime | None:
    """None, for the beginning, also where a time was too early to be read as it is."""
    return None if at is None or at <= BEFORE_ALL else at


class Floor(Generic[T]):
    """Below it nothing was alive in an index that is ordered by time, and nothing comes to life but by exception.

    `begin` before each walk, `ended` after it.
    """

    def __init__(self) -> None:
        self.is_dear = False
        self._at: T | None = None
        self._clock: datetime | None = None
        self._is_whole = True
        self._began_at = 0.0
        self._whole_again_at = float("-inf")

    @property
    def known(self) -> T | None:
        """Where to begin when something else is looked for there; None for the beginning."""
        return self._at if self.is_dear else None

    def begin(self) -> T | None:
        """Where to begin; None for the beginning."""
        self._began_at = time.monotonic()
        self._is_whole = self.known is None or self._began_at >= self._whole_again_at
        return None if self._is_whole else self._at

    def ended(self, at: T, *, clock: datetime, dead: int) -> None:
        """`at` is the new floor, by the master's `clock`. After a clock that was set back no floor holds."""
        if self._is_whole:
            self.is_dear = dead > DEAR
            now = time.monotonic()
            self._whole_again_at = now + (now - self._began_at) / SHARE_OF_TIME
        was_set_back = self._clock is not None and clock < self._clock
        self._at, self._clock = None if was_set_back else at, clock

    def lower(self, at: T) -> None:
        if self._at is not None:
            self._at = at


class UnderWay(NamedTuple):
    """From where on the dispatched jobs lie in the order of `redispatch_at`, and the running ones in that of
    `lease_expires_at`. `foldable_dispatched` holds where jobs are dispatched that may be folded into."""

    dispatched: datetime
    foldable_dispatched: datetime
    running: datetime


class Section(NamedTuple):
    """Lanes of the ring, each with the floor of its `run_at`; `passed` organizations were looked at."""

    lanes: dict[LaneKey, datetime]
    passed: int
    is_last: bool


class KnownLanes:
    """The lanes with ready jobs, in the order of the ring, each with a `run_at` below which it had none."""

    MOST = 200_000
    """With more lanes than this they are found in the ledger only."""
    KEPT_SECONDS = 10.0
    KEPT_ORGANIZATIONS = 256
    """A ring that is not longer keeps lanes for a while that are empty: jobs on their way may come back to them."""

    def __init__(self) -> None:
        self.is_dear = False
        """Whether to look here rather than in the ledger. Only a survey says so: it knows all lanes."""
        self._is_survey_wanted = False
        self._survey_at = float("-inf")
        self._floors: dict[UUID, dict[LaneKey, datetime]] = {}
        self._ring: list[UUID] = []
        self._empty_since: dict[LaneKey, float] = {}

    @property
    def is_survey_due(self) -> bool:
        return (self.is_dear or self._is_survey_wanted) and time.monotonic() >= self._survey_at

    def walked(self, *, dead: int) -> None:
        """The ledger was asked for some lanes."""
        self._is_survey_wanted |= dead > DEAR

    def surveyed(self, heads: Mapping[LaneKey, datetime], *, dead: int, seconds: float) -> None:
        """These are all lanes, up to MOST, each with its first job's `run_at`."""
        self._survey_at = time.monotonic() + seconds / SHARE_OF_TIME
        self._is_survey_wanted = False
        self.is_dear = dead > DEAR and len(heads) < self.MOST
        self._floors, self._ring, self._empty_since = {}, [], {}
        if self.is_dear:
            for lane, run_at in heads.items():
                self._floors.setdefault(lane.organization_id, {})[lane] = run_at
            self._ring = sorted(self._floors)

    def came(self, jobs: Iterable[tuple[LaneKey, datetime]]) -> None:
        """Some jobs have got into these lanes, the first with this `run_at`."""
        if not self.is_dear:
            return
        for lane, run_at in jobs:
            lanes = self._floors.get(lane.organization_id)
            if lanes is None:
                lanes = self._floors[lane.organization_id] = {}
                insort(self._ring, lane.organization_id)
            lanes[lane] = min(run_at, lanes.get(lane, run_at))
            self._empty_since.pop(lane, None)

    def section(self, *, after: UUID, passed: int, most: int) -> Section:
        """The next organizations of the ring, after `after` and so many that have been passed."""
        first, size = bisect_right(self._ring, after) + passed, len(self._ring)
        taken = min(most, size - passed)
        some = [self._ring[(first + number) % size] for number in range(taken)]
        return Section(self.lanes_of(some), taken, passed + taken >= size)

    def lanes_of(self, organizations: Iterable[UUID]) -> dict[LaneKey, datetime]:
        return {lane: floor for one in organizations for lane, floor in self._floors.get(one, {}).items()}

    def asked(self, lanes: Iterable[LaneKey], oldest: Mapping[LaneKey, datetime], *, dead: int) -> None:
        """Those with due jobs have an `oldest`. A floor rises where walking from it has become dear."""
        now = time.monotonic()
        for lane in lanes:
            if lane in oldest:
                self._empty_since.pop(lane, None)
            else:
                self._empty_since.setdefault(lane, now)
        if dead > DEAR:
            for lane, run_at in oldest.items():
                self._floors[lane.organization_id][lane] = run_at

    def tidy(self) -> None:
        """Forget lanes that are empty. Not while a look goes along the ring."""
        since = float("inf")
        if len(self._ring) <= self.KEPT_ORGANIZATIONS:
            since = time.monotonic() - self.KEPT_SECONDS
        for lane in [lane for lane, empty_since in self._empty_since.items() if empty_since < since]:
            del self._empty_since[lane]
            lanes = self._floors[lane.organization_id]
            del lanes[lane]
            if not lanes:
                del self._floors[lane.organization_id]
                del self._ring[bisect_left(self._ring, lane.organization_id)]


class Shortcuts:
    """What one planner remembers."""

    def __init__(self, *, redispatch_after_seconds: float = 0.0, shortest_lease_seconds: float = 0.0) -> None:
        self.redispatch_after_seconds = redispatch_after_seconds
        self.shortest_lease_seconds = shortest_lease_seconds
        """No worker claims a job for less."""
        self.under_way = Floor[UnderWay]()
        self.later = Floor[datetime]()
        self.lanes = KnownLanes()
        self.order_told = Told()
        self.keys_told = Told()
