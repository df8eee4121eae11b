"""`LimitsInForce`: the limits as a planner knows them from look to look, read anew when somebody has changed them.

One row counts the changes. A planner looks at it in the statement by which it becomes the planner, so limits that
nobody changes cost no statement, and one that is changed is in force at the next look, whichever dispatcher plans.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.ledger.dispatching.limiting import Book, Bucket, Rule, Rules
from docworker.db.ledger.waiting.rates import rate_in
from docworker.db.models.ledger.backlog import BACKLOGS
from docworker.db.models.ledger.limit import LIMIT_CHANGES, LIMITS, RATES_SPENT


class Permit(NamedTuple):
    """To plan: how often the rules and what is spent of their rates have changed, the master's time, in seconds, and
    whether any backlog is bounded."""

    rules: int
    spends: int
    now: float
    has_bounds: bool


PERMIT = f"""(SELECT rules FROM {LIMIT_CHANGES}), (SELECT spends FROM {LIMIT_CHANGES}),
       CAST(extract(epoch FROM clock_timestamp()) AS double precision), EXISTS (SELECT FROM {BACKLOGS})"""
"""The columns of a Permit."""

_RULES = text(f"""
SELECT organization_id, kind, is_each, max_running, rate_jobs, rate_seconds, rate_burst FROM {LIMITS}
""")
_SPENT = text(f"""
SELECT organization_id, kind, CAST(extract(epoch FROM spent_until) AS double precision) FROM {RATES_SPENT}
WHERE spent_until > clock_timestamp()
""")
_SPEND = text(f"""
WITH spent AS (
    INSERT INTO {RATES_SPENT} AS before (organization_id, kind, spent_until)
    SELECT * FROM unnest(CAST(:organizations AS uuid[]), CAST(:kinds AS text[]), CAST(:until AS timestamptz[]))
    ON CONFLICT (organization_id, kind) DO UPDATE SET spent_until = excluded.spent_until
)
UPDATE {LIMIT_CHANGES} SET spends = spends + 1 RETURNING spends
""")


_PERMIT = text(f"SELECT {PERMIT}")


def book_of(session: Session) -> Book:
    """The limits of this ledger as they are, for who looks and does not plan."""
    in_force = LimitsInForce()
    in_force.refresh(session, Permit(*session.execute(_PERMIT).one()))
    return in_force.book()


class LimitsInForce:
    """Of one ledger."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """What it has noted was not committed."""
        self._known: Permit | None = None
        self._rules = Rules()
        self._spent: dict[Bucket, float] = {}

    def refresh(self, session: Session, permit: Permit) -> None:
        known = self._known
        if known is None or known.rules != permit.rules:
            self._rules = Rules(_rule_of(row) for row in session.execute(_RULES))
        if self._rules.has_rates and (known is None or known.spends != permit.spends or known.rules != permit.rules):
            self._spent = {Bucket(*row[:2]): row[2] for row in session.execute(_SPENT)}
        self._known = permit

    def book(self) -> Book:
        return Book(self._rules, self._spent, 0.0 if self._known is None else self._known.now)

    def spend(self, session: Session, spent: dict[Bucket, float]) -> None:
        """Note in the transaction that dispatches until when these are spent."""
        if not spent or self._known is None:
            return
        ordered = sorted(spent)
        spends = session.scalar(
            _SPEND,
            {
                "organizations": [one.organization_id for one in ordered],
                "kinds": [one.kind for one in ordered],
                "until": [_moment(spent[one]) for one in ordered],
            },
        )
        self._spent |= spent
        self._known = self._known._replace(spends=spends)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _rule_of(row: Any) -> Rule:
    return Rule(row.organization_id, row.kind, row.is_each, row.max_running, rate_in(row))
