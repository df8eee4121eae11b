"""`Window` and `Caps`: what all ledgers take from, the broker's room and the places of kinds with a cap, and how they
share it.

Each ledger is planned by itself, in a thread of its own. Before it plans it is told how much it may take, and after
that it says how much it took. With one ledger nothing is shared, and it takes all there is.

Algorithm: start-time fair queueing (Goyal, Vin and Cheng, 1996); the weight of a ledger is the number of its
organizations that wait. A ledger that does not answer has no share for longer than it takes to notice.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from docworker.db.ledger import Book
from docworker.jobs.kind import Kind

WANTS_SECONDS = 2.0
"""So long a share is kept for a ledger that wanted more at its latest look."""

Clock = Callable[[], float]


@dataclass
class _Taker:
    start: float
    """The virtual time at which it is served next."""
    weight: int = 1
    wants_until: float = float("-inf")
    held: int = 0
    held_until: float = float("-inf")

    def holds(self, now: float) -> int:
        """What it may be taking just now."""
        return self.held if now < self.held_until else 0


class Shares:
    """One thing that ledgers, by name, take from. What one may take it holds until it has said what it took, for at
    most `hold_seconds`."""

    def __init__(self, hold_seconds: float, clock: Clock = time.monotonic) -> None:
        self._hold_seconds = hold_seconds
        self._clock = clock
        self._takers: dict[str, _Taker] = {}
        self._virtual = 0.0

    def take(self, name: str, free: int) -> int:
        """How many of those that are `free`, and held by nobody, this ledger may take now."""
        now = self._clock()
        self._forget(now)
        mine = self._takers.setdefault(name, _Taker(self._virtual))
        others = {other: one for other, one in self._takers.items() if other != name}
        free -= sum(one.holds(now) for one in others.values())
        wanting = {other: one for other, one in others.items() if now < one.wants_until and not one.holds(now)}
        mine.held = self._divide(name, {name: mine, **wanting}, free) if wanting else free
        mine.held_until = now + self._hold_seconds
        return mine.held

    def _divide(self, name: str, takers: Mapping[str, _Taker], free: int) -> int:
        starts = {one: max(taker.start, self._virtual) for one, taker in takers.items()}
        taken = 0
        for _ in range(free):
            first = min(starts, key=lambda one: starts[one])
            taken += first == name
            starts[first] += 1 / takers[first].weight
        return taken

    def took(self, name: str, taken: int, *, waiting: int, wants_seconds: float = WANTS_SECONDS) -> None:
        """What this ledger took, and how many organizations wait for more, for which it comes again that soon."""
        mine = self._takers.setdefault(name, _Taker(self._virtual))
        if taken:
            start = max(mine.start, self._virtual)
            self._virtual = start + (taken - 1) / mine.weight
            mine.start = start + taken / mine.weight
        mine.held = 0
        mine.weight = max(1, waiting)
        mine.wants_until = self._clock() + wants_seconds if waiting else float("-inf")

    def leave(self, name: str) -> None:
        """It does not come again."""
        self._takers.pop(name, None)

    def of(self, name: str, whole: int) -> int:
        """Its share of the whole as things are, at least one."""
        now = self._clock()
        weights = {one: taker.weight for one, taker in self._takers.items() if one == name or now < taker.wants_until}
        return max(1, round(whole * weights.get(name, 1) / max(1, sum(weights.values()))))

    def _forget(self, now: float) -> None:
        """Those that would begin anew just as well."""
        for name, one in list(self._takers.items()):
            if now >= one.wants_until and not one.holds(now) and one.start <= self._virtual:
                del self._takers[name]


class Window:
    """The messages that may wait at the broker. Safe in threads."""

    HOLD_SECONDS = 2.0
    MOST_REMEMBERED = 10_000

    def __init__(self, messages: int, clock: Clock = time.monotonic) -> None:
        self._messages = messages
        self._clock = clock
        self._guard = threading.Lock()
        self._shares = Shares(self.HOLD_SECONDS, clock)
        self._names: set[str] = set()
        self._sent: deque[tuple[float, str]] = deque(maxlen=self.MOST_REMEMBERED)
        """When a message was sent, and out of which ledger."""

    @property
    def is_shared(self) -> bool:
        return len(self._names) > 1

    def join(self, name: str) -> None:
        """From now on this ledger takes part."""
        with self._guard:
            self._names = {*self._names, name}

    def leave(self, name: str) -> None:
        with self._guard:
            self._names = self._names - {name}
            self._shares.leave(name)

    def take(self, name: str, *, depth: int, just_sent: int, asked_at: float) -> int:
        """How many messages this ledger may send now, where `depth` waited at the broker at `asked_at`, and `just_sent`
        messages of its own may be on their way."""
        free = self._messages - max(just_sent, depth)
        if not self.is_shared:
            return free
        with self._guard:
            free -= sum(1 for one in self._since(asked_at) if one != name)
            return self._shares.take(name, free)

    def took(self, name: str, messages: int, *, waiting: int, wants_seconds: float = WANTS_SECONDS) -> None:
        """This ledger has sent so many, and so many of its organizations wait for their turn, within that time."""
        if self.is_shared:
            now = self._clock()
            with self._guard:
                self._sent.extend([(now, name)] * messages)
                self._shares.took(name, messages, waiting=waiting, wants_seconds=wants_seconds)

    def share_of(self, name: str) -> int:
        """How many messages of the window are this ledger's as things are."""
        if not self.is_shared:
            return self._messages
        with self._guard:
            return self._shares.of(name, self._messages)

    def waiting(self, name: str, *, depth: int, asked_at: float, sent: int) -> int:
        """How many messages of this ledger may be at the broker, where `depth` waited in all at `asked_at`, and this
        ledger has `sent` some since: the newest ones wait, and whose they are is remembered."""
        if not self.is_shared:
            return depth + sent
        with self._guard:
            newest = depth + len(self._since(asked_at))
            known = [one for _, one in islice(reversed(self._sent), newest)]
            return known.count(name) + newest - len(known)

    def _since(self, moment: float) -> list[str]:
        found = []
        for sent_at, name in reversed(self._sent):
            if sent_at < moment:
                break
            found.append(name)
        return found


@dataclass
class _Known:
    """The jobs of kinds with a cap that were under way in a ledger."""

    jobs: Counter[str] = field(default_factory=Counter)
    until: float = float("inf")


class Caps:
    """The places of kinds with a cap (`Kind.max_running`, or a rule that stands in for it), for all ledgers together.
    Safe in threads.

    Of another ledger the latest known load counts; of one that has not answered for `lapse_seconds` (of a lease) none
    does, because its jobs are nobody's any more.
    """

    HOLD_SECONDS = 5.0
    """Who plans for longer gives back what it has planned."""

    def __init__(self, kinds: Mapping[str, Kind], lapse_seconds: float, clock: Clock = time.monotonic) -> None:
        self._kinds = kinds
        self._book = Book()
        self._lapse_seconds = lapse_seconds
        self._clock = clock
        self._guard = threading.Lock()
        self._shares: dict[str, Shares] = {}
        self._known: dict[str, _Known] = {}
        self._unknown: dict[str, float] = {}
        """Ledgers that nothing is known of yet, and until when they are waited for."""

    def join(self, name: str) -> None:
        """From now on this ledger takes part."""
        with self._guard:
            self._unknown[name] = self._clock() + self._lapse_seconds

    def limit(self, book: Book) -> None:
        """From now on these rules stand in for the kinds' own caps."""
        with self._guard:
            self._book = book

    def take(self, name: str, under_way: Mapping[str, int]) -> Callable[[str], int | None]:
        """The cap of each kind for this ledger just now, which has so many jobs of them `under_way`."""
        self.know(name, under_way)
        now = self._clock()
        caps: dict[str, int] = {}
        with self._guard:
            others = [one for other, one in self._known.items() if other != name]
            all_are_known = all(now >= until for until in self._unknown.values())
            for kind, cap in self._capped():
                mine = under_way.get(kind, 0)
                free = cap - mine - sum(one.jobs[kind] for one in others) if all_are_known else 0
                caps[kind] = mine + self._shares_of(kind).take(name, free)
        return caps.get

    def took(self, name: str, taken: Mapping[str, int], waiting: Mapping[str, int]) -> bool:
        """So many jobs of these kinds were planned, and so many organizations wait for more of them. Returns whether
        there were any of a kind with a cap."""
        any_taken = False
        with self._guard:
            known = self._known.setdefault(name, _Known())
            for kind, _ in self._capped():
                jobs = taken.get(kind, 0)
                known.jobs[kind] += jobs
                self._shares_of(kind).took(name, jobs, waiting=waiting.get(kind, 0))
                any_taken |= jobs > 0
        return any_taken

    def know(self, name: str, under_way: Mapping[str, int]) -> None:
        """So many jobs of each kind are under way in this ledger."""
        now = self._clock()
        with self._guard:
            jobs = Counter({kind: under_way.get(kind, 0) for kind, _ in self._capped()})
            self._known[name] = _Known(jobs, now + self._lapse_seconds)
            self._unknown.pop(name, None)
            self._known = {other: one for other, one in self._known.items() if now < one.until}

    def _capped(self) -> list[tuple[str, int]]:
        caps = ((name, self._book.cap_of_kind(name, kind.max_running)) for name, kind in self._kinds.items())
        return [(name, cap) for name, cap in caps if cap is not None]

    def _shares_of(self, kind: str) -> Shares:
        return self._shares.setdefault(kind, Shares(self.HOLD_SECONDS, self._clock))
