"""`Accounts` and `Bill`: what turns cost, in seconds of a worker's process, and what each organization is owed. Pure.

What a job of an organization and a kind costs on average is measured: each look counts the messages that run, and each
of them occupies one process until the next look. A turn is charged what its jobs cost on average, when they are sent,
and what jobs that have ended were charged too little or too much goes into the next turns' charges, a little in each.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple
from uuid import UUID

from docworker.db.ledger.dispatching.planning import LaneKey, Load

LONGEST_LOOK_SECONDS = 5.0
"""For longer than this nobody knows what ran between two looks."""
_CORRECTED_AT_ONCE = 0.05
_CHEAPEST_JOB_SECONDS = 0.0005
_FORGET_AFTER_JOBS = 1000
"""Then what was measured counts half."""
_KNOWN_AFTER_JOBS, _KNOWN_AFTER_SECONDS = 10, 60.0
"""Before so many jobs of a kind have ended, or one has run for so long, or several have together, all cost the same."""
_MOST_TURNS = 16
_ROUNDING = 1e-9


@dataclass
class _Measured:
    seconds: float = 0.0
    jobs: float = 0.0
    looks: float = 0.0

    def add(self, seconds: float, looks: int, jobs: int) -> None:
        self.seconds += seconds
        self.looks += looks
        self.jobs += jobs
        if self.jobs > _FORGET_AFTER_JOBS:
            self.seconds, self.jobs, self.looks = self.seconds / 2, self.jobs / 2, self.looks / 2

    @property
    def is_known(self) -> bool:
        return self.jobs >= _KNOWN_AFTER_JOBS or self.seconds >= _KNOWN_AFTER_SECONDS

    def mean(self, running: int) -> float | None:
        """Seconds of a job; those that run count as if they ended now."""
        jobs = self.jobs + running
        return max(_CHEAPEST_JOB_SECONDS, self.seconds / jobs) if self.looks and jobs else None


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
        self._under_way: Counter[tuple[UUID, str]] = Counter()
        self._busy: Counter[tuple[UUID, str]] = Counter()
        self._busy_of_kind: Counter[str] = Counter()
        self._charged: dict[tuple[UUID, str], float] = {}
        """For what is under way."""
        self._arrears: dict[UUID, float] = {}
        """By how much what was charged for ended jobs was too little."""

    @property
    def turns_of_a_visit(self) -> int:
        """No organization of a large ring is looked up for more turns than that."""
        return max(self.prices.most_turns, self.prices_before.most_turns)

    def measure(self, load: Load, seconds: float) -> None:
        """This was under way so many seconds after what was measured before."""
        seconds = min(seconds, LONGEST_LOOK_SECONDS)
        for key in {*self._under_way, *self._busy, *load.busy}:
            spent = (self._busy[key] + load.busy[key]) / 2 * seconds
            ended = max(0, self._under_way[key] - load.jobs[key])
            for measured in (
                self._of_kind.setdefault(key[1], _Measured()),
                self._of_lane.setdefault(key, _Measured()),
            ):
                measured.add(spent, load.busy[key], ended)
            self._settle(key, spent, ended)
        self._under_way, self._busy = Counter(load.jobs), load.busy
        self._busy_of_kind = Counter()
        for (_, kind), messages in load.busy.items():
            self._busy_of_kind[kind] += messages
        for remembered in (self._of_lane, self._charged, self._arrears):
            _forget_oldest(remembered, self.MOST_REMEMBERED)

    def _settle(self, key: tuple[UUID, str], spent: float, ended: int) -> None:
        settled = self._charged.get(key, 0.0) * ended / max(ended, self._under_way[key]) if ended else 0.0
        self._arrears[key[0]] = self._arrears.get(key[0], 0.0) + spent - settled
        if self._under_way[key] > ended:
            self._charged[key] = self._charged.get(key, 0.0) - settled
        else:
            self._charged.pop(key, None)

    def charge(self, organization_id: UUID, kind: str, jobs: int) -> float | None:
        """What so many jobs are charged: their cost, and a part of what was charged too little before, at most as much
        again, or too much, at most nine tenths of it."""
        cost = self.cost(organization_id, kind, jobs)
        if cost is None:
            return None
        correction = self._arrears.get(organization_id, 0.0) * _CORRECTED_AT_ONCE
        return cost + min(cost, max(-0.9 * cost, correction))

    def cost(self, organization_id: UUID, kind: str, jobs: int) -> float | None:
        """What so many jobs cost, in worker-seconds; None while that is not known. An organization of which little was
        measured is taken for one like the others."""
        of_kind = self._of_kind.get(kind)
        if of_kind is None or not of_kind.is_known:
            return None
        usual = of_kind.mean(self._busy_of_kind[kind])
        if usual is None:
            return None
        own, running = self._of_lane.get((organization_id, kind)), self._busy[organization_id, kind]
        mean = None if own is None else own.mean(running)
        if own is None or mean is None:
            return usual * jobs
        known = min(own.looks, own.jobs + running)
        return (known * mean + usual) / (known + 1) * jobs

    def take(self, bill: "Bill", picks: Mapping[LaneKey, Collection[UUID]]) -> None:
        """What was planned by this bill is committed."""
        if bill.is_anew:
            self.of.clear()
        self.quantum, self.round = bill.quantum, bill.round
        self.prices, self.prices_before = bill.prices, bill.prices_before
        for one, account in bill.changed.items():
            self.of.pop(one, None)
            self.of[one] = account
        _forget_oldest(self.of, self.MOST_REMEMBERED)
        for lane, ids in picks.items():
            self._under_way[lane.organization_id, lane.kind] += len(ids)
        for key, charged in bill.charged.items():
            self._charged[key] = self._charged.get(key, 0.0) + charged


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
        """Worker-seconds, where they are known."""
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
        charged = self._accounts.charge(organization_id, kind, jobs)
        if charged is not None:
            self.charged[organization_id, kind] = self.charged.get((organization_id, kind), 0.0) + charged
        cost = self._unit if charged is None else charged
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
