"""`Book`: how many more jobs may go by the limits in force, and what has been spent of their rates. Pure; they are read
and written in `db.ledger.dispatching.buckets`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from docworker.db.ledger.waiting.rates import Rate
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID

TOGETHER_SECONDS = 10.0
"""No more jobs that a rate counts share a message than it lets go in this time: what a message has not come to is
handed back, and has spent of it. Those of a slower rate travel alone."""


class Bucket(NamedTuple):
    """Whose and of which kind the jobs are that a rate counts together; the nil organization and '' stand for all."""

    organization_id: UUID
    kind: str


class Rule(NamedTuple):
    """A limit of the jobs of a kind, of an organization, or of one kind of it; the nil organization and '' stand for
    all, together, or with `is_each` for each organization that has no limit of its own for that kind."""

    organization_id: UUID
    kind: str
    is_each: bool
    max_running: int | None = None
    rate: Rate | None = None


class Holding(NamedTuple):
    """Why a lane may not send: what is in force, and whether it is the rate of it or the number that runs."""

    rule: Rule
    is_rate: bool


@dataclass(frozen=True)
class Counts:
    """Jobs that are dispatched or running."""

    of_organization: Mapping[UUID, int]
    of_kind: Mapping[str, int]
    of_both: Mapping[tuple[UUID, str], int]

    def of(self, bucket: Bucket) -> int:
        if bucket.organization_id == SYSTEM_ORGANIZATION_ID:
            return self.of_kind.get(bucket.kind, 0) if bucket.kind else sum(self.of_kind.values())
        if not bucket.kind:
            return self.of_organization.get(bucket.organization_id, 0)
        return self.of_both.get((bucket.organization_id, bucket.kind), 0)


class Rules(dict[tuple[UUID, str, bool], Rule]):
    """All rules of a ledger, by what they are of. Made once for each change of them: there may be some for each of
    many organizations."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        super().__init__({(rule.organization_id, rule.kind, rule.is_each): rule for rule in rules})
        self.has_rates = any(rule.rate is not None for rule in self.values())


_NO_RULES, _NOTHING_SPENT = Rules(), MappingProxyType[Bucket, float]({})


class Book:
    """The rules in force at `now`, in seconds since 1970 by the master's clock, and until when each bucket is spent. To
    open one costs the same, however many there are."""

    def __init__(
        self, rules: Rules = _NO_RULES, spent: Mapping[Bucket, float] = _NOTHING_SPENT, now: float = 0.0
    ) -> None:
        self._rules = rules
        self._before = spent
        self._since: dict[Bucket, float] = {}
        self._now = now

    def __bool__(self) -> bool:
        return bool(self._rules)

    def cap_of_kind(self, kind: str, default: int | None) -> int | None:
        """How many jobs of a kind may run in all; `default` is the kind's own cap, for which a rule may stand in."""
        rule = self._rules.get((SYSTEM_ORGANIZATION_ID, kind, False))
        return default if rule is None or rule.max_running is None else rule.max_running

    def is_scarce(self, kind: str) -> bool:
        """Whether there is a rule for the kind as a whole, so that organizations wait in line for it."""
        return (SYSTEM_ORGANIZATION_ID, kind, False) in self._rules

    def together(self, organization_id: UUID, kind: str) -> int | None:
        """How many jobs of an organization and kind that run one by one may share a message; None where no rate counts
        them. 0: each travels alone."""
        return self._together(self._all(organization_id, kind))

    def together_of_kind(self, kind: str) -> int | None:
        """The same of all organizations, by the rates that count them together."""
        return self._together(self._of_all(kind))

    def _together(self, rules: Iterable[tuple[Bucket, Rule]]) -> int | None:
        if not self._rules.has_rates:
            return None
        each = [int(TOGETHER_SECONDS / rule.rate.interval) for _, rule in rules if rule.rate is not None]
        return min(each, default=None)

    def is_over(self, organization_id: UUID) -> bool:
        """Whether a rule stands in for the setting of how many jobs an organization may run."""
        own, each = (organization_id, "", False), (SYSTEM_ORGANIZATION_ID, "", True)
        rule = self._rules.get(own) or self._rules.get(each)
        return rule is not None and rule.max_running is not None

    def free_of_kind(self, kind: str) -> int | None:
        """How many more the rate of the kind lets go now; None where it has none."""
        bucket = Bucket(SYSTEM_ORGANIZATION_ID, kind)
        rule = self._rules.get((*bucket, False))
        return None if rule is None or rule.rate is None else self._tokens(bucket, rule.rate)

    def free(self, organization_id: UUID, kind: str, counts: Counts) -> int | None:
        """How many more jobs of a kind an organization may send; None where no limit is in force. The limits of the
        kind as a whole are `cap_of_kind` and `free_of_kind`."""
        return min(self._frees(organization_id, kind, counts), default=None)

    def holding(self, organization_id: UUID, kind: str, counts: Counts) -> Holding | None:
        """What keeps an organization from sending another job of the kind; None if it may."""
        for bucket, rule in self._all(organization_id, kind):
            if rule.max_running is not None and counts.of(bucket) >= rule.max_running:
                return Holding(rule, is_rate=False)
            if rule.rate is not None and self._tokens(bucket, rule.rate) < 1:
                return Holding(rule, is_rate=True)
        return None

    def take(self, organization_id: UUID, kind: str, jobs: int) -> None:
        """So many of them go."""
        for bucket, rule in self._all(organization_id, kind):
            if rule.rate is not None:
                self._since[bucket] = rule.rate.spend(self._spent_until(bucket), self._now, jobs)

    def spent_by(self, sent: Counter[tuple[UUID, str]]) -> dict[Bucket, float]:
        """Until when which buckets are spent, if just these jobs have gone since the book was opened."""
        book = Book(self._rules, self._before, self._now)
        for (organization_id, kind), jobs in sent.items():
            book.take(organization_id, kind, jobs)
        return book._since

    def _all(self, organization_id: UUID, kind: str) -> Iterator[tuple[Bucket, Rule]]:
        yield from self._of_organization(organization_id, kind)
        yield from self._of_all(kind)

    def _of_all(self, kind: str) -> Iterator[tuple[Bucket, Rule]]:
        for one in (kind, ""):
            if (rule := self._rules.get((SYSTEM_ORGANIZATION_ID, one, False))) is not None:
                yield Bucket(SYSTEM_ORGANIZATION_ID, one), rule

    def _of_organization(self, organization_id: UUID, kind: str) -> Iterator[tuple[Bucket, Rule]]:
        for one in (kind, ""):
            rule = self._rules.get((organization_id, one, False)) or self._rules.get(
                (SYSTEM_ORGANIZATION_ID, one, True)
            )
            if rule is not None:
                yield Bucket(organization_id, one), rule

    def _frees(self, organization_id: UUID, kind: str, counts: Counts) -> Iterator[int]:
        applied = [*self._of_organization(organization_id, kind)]
        if (rule := self._rules.get((SYSTEM_ORGANIZATION_ID, "", False))) is not None:
            applied.append((Bucket(SYSTEM_ORGANIZATION_ID, ""), rule))
        for bucket, rule in applied:
            if rule.max_running is not None:
                yield rule.max_running - counts.of(bucket)
            if rule.rate is not None:
                yield self._tokens(bucket, rule.rate)

    def _tokens(self, bucket: Bucket, rate: Rate) -> int:
        return rate.free(self._spent_until(bucket), self._now)

    def _spent_until(self, bucket: Bucket) -> float:
        return self._since.get(bucket, self._before.get(bucket, 0.0))
