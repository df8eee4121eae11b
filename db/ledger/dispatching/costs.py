"""`Accounts` and `Bill`: what turns cost, in seconds of a worker's process, and what each organization is owed. Pure.

What a job of an organization and a kind costs on average is known from jobs that have ended
(`db.ledger.dispatching.samples`). A turn is charged what its jobs cost on average, when they are sent. By how much that
was too little or too much is found out when they end, or while they run for longer, and goes into the next turns'
charges, a little in each.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple
from uuid import UUID

from docworker.db.ledger.dispatching.planning import Load
from docworker.db.ledger.dispatching.samples import Ended

_CORRECTED_AT_ONCE = 0.25
_CHEAPEST_JOB_SECONDS = 0.0005
_FORGET_AFTER_JOBS = 50
"""Then what was measured counts half."""
_KNOWN_AFTER_JOBS, _KNOWN_AFTER_SECONDS = 10, 60.0
"""Before so many jobs of a kind have ended, or one has run for so long, or several have together, all cost the same."""
_MOST_TURNS = 16
_ROUNDING = 1e-9


class _Running(NamedTuple):
    """How many jobs run, and how many worker-seconds they have taken so far."""

    jobs: int = 0
    seconds: float = 0.0

    def plus(self, other: "_Running") -> "_Running":
        return _Running(self.jobs + other.jobs, self.seconds + other.seconds)


_NOTHING_RUNS = _Running()


@dataclass
class _Measured:
    seconds: float = 0.0
    jobs: float = 0.0
    ended: float = 0.0
    """Each of which may stand for several jobs."""

    def add(self, end: Ended) -> None:
        self.seconds += end.jobs * end.seconds
        self.jobs += end.jobs
        self.ended += 1
        if self.ended > _FORGET_AFTER_JOBS:
            self.seconds, self.jobs, self.ended = self.seconds / 2, self.jobs / 2, self.ended / 2

    def is_known(self, running: _Running) -> bool:
        return self.ended >= _KNOWN_AFTER_JOBS or self.seconds + running.seconds >= _KNOWN_AFTER_SECONDS

    def mean(self, running: _Running) -> float | None:
        """Seconds of a job; those that run count as if they ended now."""
        jobs = self.jobs + running.jobs
        return max(_CHEAPEST_JOB_SECONDS, (self.seconds + running.seconds) / jobs) if jobs else None


_NOTHING_ENDED = _Measured()


class Account(NamedTuple):
    """`credit` is what an organization may still send, in worker-seconds, when it was last visited, in this `round`;
    its latest turn has cost `turn`."""

    credit: float
    round: int
    turn: float


class Prices(NamedTuple):
    """Of the visits in a round: the sum of weight / cost of a turn, over how many, and the most turns that one was
    worth."""

    rate: float = 0.0
    visits: int = 0
    most_turns: int = 1


class Accounts:
    """What is remembered from look to look, in memory: a new dispatcher begins with nothing."""

    MOST_REMEMBERED = 100_000

    def __init__(self) -> None:
        self.quantum: float | None = None
        """What a visit at weight 1 is worth, in worker-seconds; None until a cost is known. Then all turns cost one."""
        self.round = 0
        self.prices = self.prices_before = Prices()
        """In this round so far, and in the one before."""
        self.of: dict[UUID, Account] = {}
        self._of_kind: dict[str, _Measured] = {}
        self._of_lane: dict[tuple[UUID, str], _Measured] = {}
        self._running: dict[tuple[UUID, str], _Running] = {}
        self._running_of_kind: dict[str, _Running] = {}
        self._arrears: dict[UUID, float] = {}
        """By how much what was charged for ended jobs was too little, and has not been corrected."""
        self._overdrawn: dict[UUID, float] = {}
        """By how much those that run have already taken longer than they were charged."""
        self._charged: dict[tuple[UUID, str], float] = {}
        """For what is planned, and not sent yet."""

    @property
    def turns_of_a_visit(self) -> int:
        """No organization of a large ring is looked up for more turns than that."""
        return max(self.prices.most_turns, self.prices_before.most_turns)

    def measure(self, load: Load, ended: Iterable[Ended] = ()) -> None:
        """This is under way, and these have ended since the look before."""
        for end in ended:
            if end.seconds > 0:  # not handed back before it began
                self._of_kind.setdefault(end.kind, _Measured()).add(end)
                self._of_lane.setdefault((end.organization_id, end.kind), _Measured()).add(end)
            self._owe(end.organization_id, end.jobs * (end.seconds - end.charged))
        _forget_oldest(self._of_lane, self.MOST_REMEMBERED)
        self._running, self._running_of_kind = {}, {}
        for place, seconds in load.occupied.items():
            self._running[place] = running = _Running(load.running[place], seconds)
            self._running_of_kind[place[1]] = self._running_of_kind.get(place[1], _NOTHING_RUNS).plus(running)
        self._overdrawn = {}
        for (one, kind), running in self._running.items():
            cost = self.cost(one, kind, running.jobs)
            if cost is not None and running.seconds > cost:
                self._overdrawn[one] = self._overdrawn.get(one, 0.0) + running.seconds - cost

    def correction(self, organization_id: UUID, cost: float, corrected: float) -> float:
        """What a turn of that cost is charged besides, where `corrected` has been charged since the latest measure: a
        part of what was charged too little before, at most as much again, or too much, at most nine tenths of it."""
        owed = self._arrears.get(organization_id, 0.0) + self._overdrawn.get(organization_id, 0.0) - corrected
        return min(cost, max(-0.9 * cost, owed * _CORRECTED_AT_ONCE))

    def cost(self, organization_id: UUID, kind: str, jobs: int) -> float | None:
        """What so many jobs cost, in worker-seconds; None while that is not known. An organization of which little was
        measured is taken for one like the others."""
        of_kind, running = self._of_kind.get(kind, _NOTHING_ENDED), self._running_of_kind.get(kind, _NOTHING_RUNS)
        usual = of_kind.mean(running)
        if usual is None or not of_kind.is_known(running):
            return None
        place = organization_id, kind
        own, running = self._of_lane.get(place, _NOTHING_ENDED), self._running.get(place, _NOTHING_RUNS)
        mean = own.mean(running)
        if mean is None:
            return usual * jobs
        known = own.ended + running.jobs
        return (known * mean + usual) / (known + 1) * jobs

    def usual_seconds(self, kind: str) -> float:
        """What a job of the kind takes on average, whoever's it is; 0 while that is not known."""
        of_kind = self._of_kind.get(kind, _NOTHING_ENDED)
        return (of_kind.mean(_NOTHING_RUNS) or 0.0) if of_kind.is_known(_NOTHING_RUNS) else 0.0

    def take(self, bill: "Bill") -> None:
        """What was planned by this bill is committed."""
        if bill.is_anew:
            self.of.clear()
        self.quantum, self.round = bill.quantum, bill.round
        self.prices, self.prices_before = bill.prices, bill.prices_before
        for one, account in bill.changed.items():
            self.of.pop(one, None)
            self.of[one] = account
        _forget_oldest(self.of, self.MOST_REMEMBERED)
        for one, corrected in bill.corrected.items():
            self._owe(one, -corrected)
        for place, charged in bill.charged.items():
            self._charged[place] = self._charged.get(place, 0.0) + charged

    def charges(self, sent: Collection[tuple[UUID, str]]) -> dict[tuple[UUID, str], float]:
        """What was charged for jobs of these organizations and kinds, which are sent now. What was charged for others,
        which could not be had, is owed to them."""
        charged, self._charged = self._charged, {}
        for place in charged.keys() - set(sent):
            self._owe(place[0], -charged.pop(place))
        return charged

    def _owe(self, organization_id: UUID, seconds: float) -> None:
        self._arrears[organization_id] = self._arrears.pop(organization_id, 0.0) + seconds
        _forget_oldest(self._arrears, self.MOST_REMEMBERED)


class Bill:
    """What one look adds to the accounts. Each visit of an organization is worth `quantum` times its weight, and it
    sends as long as it is owed at least half of what a turn costs it.

    The quantum is the harmonic mean of cost of a turn / weight, so that a round has as many turns as visits. Who had
    nothing more to send keeps nothing of it; debts stay, and rounds that an organization misses pay them off."""

    def __init__(self, accounts: Accounts) -> None:
        self.changed: dict[UUID, Account] = {}
        self.quantum, self.round = accounts.quantum, accounts.round
        self.prices, self.prices_before = accounts.prices, accounts.prices_before
        self.is_anew = False
        """Whether costs have just become known: what was reckoned before them means nothing."""
        self.charged: dict[tuple[UUID, str], float] = {}
        """Worker-seconds."""
        self.corrected: dict[UUID, float] = {}
        """Worker-seconds that were charged besides, for what was charged too little before."""
        self._accounts = accounts
        self._has_nothing: set[UUID] = set()

    @property
    def _unit(self) -> float:
        return 1.0 if self.quantum is None else self.quantum

    def begin_round(self) -> None:
        if self.quantum is not None and self.prices.visits:
            self.quantum = self.prices.visits / self.prices.rate
        self.prices_before, self.prices = self.prices, Prices()
        self.round += 1

    def visit(self, organization_id: UUID, weight: float, price: float | None) -> None:
        """It has come to this organization, whose turn costs about `price`. Only once in a round it gets its credit."""
        if self.quantum is None and price is not None:
            self.quantum, self.is_anew = price / weight, True
            self.prices = Prices()
            self.changed.clear()
        account = self._account(organization_id)
        if account is None or account.round < self.round:
            account = self._credited(account, weight, self._unit if price is None else price)
            self.changed[organization_id] = account
            self._note_price(weight, account.turn)

    def _note_price(self, weight: float, turn: float) -> None:
        turns = min(_MOST_TURNS, ceil(self._unit * weight / turn - _ROUNDING))
        rate, visits, most_turns = self.prices
        self.prices = Prices(rate + weight / turn, visits + 1, max(most_turns, turns))

    def _credited(self, account: Account | None, weight: float, price: float) -> Account:
        share = self._unit * weight
        if account is None:
            return Account(max(share, price / 2), self.round, price)
        credit = account.credit
        if credit >= account.turn / 2:  # it could have sent more, and did not want to
            credit = 0.0
        missed = self.round - account.round - 1
        if missed:
            credit = min(0.0, credit + missed * share)
        is_new = missed > 0 and credit >= 0
        return Account(max(share, account.turn / 2) if is_new else credit + share, self.round, account.turn)

    def is_owed(self, organization_id: UUID) -> bool:
        """Whether it may send another turn."""
        account = self._account(organization_id)
        return account is not None and account.credit >= account.turn * (0.5 - _ROUNDING)

    def charge(self, organization_id: UUID, kind: str, jobs: int) -> None:
        """It sends so many jobs."""
        account = self._account(organization_id)
        assert account is not None
        cost = self._accounts.cost(organization_id, kind, jobs)
        correction = 0.0
        if cost is not None:
            corrected = self.corrected.get(organization_id, 0.0)
            correction = self._accounts.correction(organization_id, cost, corrected)
            self.corrected[organization_id] = corrected + correction
        cost = self._unit if cost is None else cost
        if self.quantum is not None:
            place = organization_id, kind
            self.charged[place] = self.charged.get(place, 0.0) + cost
        cost += correction
        self.changed[organization_id] = Account(account.credit - cost, account.round, cost)

    def wants_no_more(self, organization_id: UUID) -> None:
        """It has nothing to send, or nothing more, of what this look has found of it."""
        self._has_nothing.add(organization_id)

    def pass_rounds(self, weights: Mapping[UUID, float]) -> bool:
        """Of those with these weights, where all who have something to send are in debt, let as many rounds pass as it
        takes until the next one makes one of them owed a turn; whether there is anybody."""
        left = [(one, self._account(one), self._unit * weight) for one, weight in weights.items()]
        left = [one for one in left if one[0] not in self._has_nothing]
        owing = [(one, account, share) for one, account, share in left if account and not self.is_owed(one)]
        if not owing or len(owing) < len(left):
            return bool(left)
        rounds = min(ceil((account.turn / 2 - account.credit) / share) for _, account, share in owing) - 1
        if rounds > 0:
            self.round += rounds
            for one, account, share in owing:
                self.changed[one] = Account(account.credit + rounds * share, self.round, account.turn)
        return True

    def _account(self, organization_id: UUID) -> Account | None:
        changed = self.changed.get(organization_id)
        return changed if changed is not None or self.is_anew else self._accounts.of.get(organization_id)


def _forget_oldest(remembered: dict[Any, Any], most: int) -> None:
    while len(remembered) > most:
        del remembered[next(iter(remembered))]
