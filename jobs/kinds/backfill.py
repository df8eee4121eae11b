"""`@backfill`: a kind of job that fills or rewrites a column over many rows, in pages, beside the running system.

One job for each organization, in a worker, as the worker's role under row-level security: so the rows are those of
whoever the job is of, in whichever place, and no program holds more rights than any job does. A page, what was done to
its rows and the job's cursor commit together under the job's token: killed, it goes on behind the last page committed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid5

from psycopg.sql import Identifier
from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.errors import ConfigurationError, NotFoundError
from docworker.db.ledger import AttemptEnd
from docworker.db.models import Job
from docworker.db.sessions import organization_of, reading, writing
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.pages import PagedRun, PageProgress
from docworker.jobs.task import Attempt, LedgerTask, job

Fill = Callable[[Session, Sequence[Any]], int]

_NAMES = UUID("6f3d0a5e-3c0b-4b44-9d55-6c2a0f7b8f01")


@dataclass(frozen=True)
class Backfilled(PageProgress):
    """How far a backfill is in one organization; kept as the job's cursor, and at the end as its result.

    `rows` is what was walked over and `changed` what was changed of it; `estimate` is the planner's, of all rows.
    """

    rows: int = 0
    changed: int = 0
    estimate: int = 0

    @property
    def seconds_left(self) -> float | None:
        """By its speed so far; None while it has none."""
        return self.seconds / self.rows * max(0, self.estimate - self.rows) if self.rows else None


@dataclass(frozen=True)
class Backfill:
    """Over the rows of `table` ("schema.table", which has an `organization_id`) by their `key`."""

    table: str
    key: str
    task: Any

    @property
    def name(self) -> str:
        return str(self.task.kind.name)


_backfills: dict[str, Backfill] = {}


def backfill(*, table: str, key: str) -> Callable[[Fill], LedgerTask]:
    """Make a kind of job of `function(session, keys)`, which changes the rows of these keys and returns how many.

    The rows are locked, and of the session's organization. The key must be unique within the organization, not change,
    and be something JSON has, such as a number or a text. Each row that is there from the beginning to the end is
    given to the function once; one that comes meanwhile may be or not, so it is the writers' to fill, and the
    function's to leave alone what is filled.
    """
    if table.count(".") != 1:
        raise ConfigurationError(f"a backfill's table is given with its schema, such as 'shop.orders'; got {table!r}")

    def decorate(function: Fill) -> LedgerTask:
        pages = _Pages(table, key)

        def run(attempt: Attempt) -> None:
            _Run(attempt, table, pages, function).go()

        run.__module__, run.__qualname__ = function.__module__, function.__qualname__
        task = job(name=function.__name__, priority=8, soft_limit_seconds=1500, hard_limit_seconds=1800)(run)
        _backfills[function.__name__] = Backfill(table, key, task)
        return task

    return decorate


def backfills() -> dict[str, Backfill]:
    """By name; those of the modules that are imported."""
    return dict(_backfills)


def find_backfill(name: str) -> Backfill:
    """Raises NotFoundError."""
    try:
        return _backfills[name]
    except KeyError:
        known = ", ".join(sorted(_backfills)) or "none"
        raise NotFoundError(
            f"no backfill is called {name!r}; there are: {known}. It is made by @backfill in a module of the entry "
            "point group docworker.tasks"
        ) from None


def job_id_of(one: Backfill, organization_id: UUID) -> UUID:
    """There is one job of a backfill for each organization, whoever starts it how often."""
    return uuid5(_NAMES, f"{one.name} {organization_id}")


def start(one: Backfill, organization_id: UUID) -> UUID:
    """Begin it for an organization; one that was cancelled or has failed goes on, one that is done stays done."""
    job_id = job_id_of(one, organization_id)
    with writing(organization_id) as session:
        enqueue(session, one.task, id=job_id)
    return job_id


def progress_of(one: Backfill, organization_id: UUID) -> tuple[Job, Backfilled] | None:
    """The job, on the master's word, and how far it is; None where it was never begun."""
    with reading(organization_id, source="master") as session:
        found = session.get(Job, (organization_id, job_id_of(one, organization_id)))
    return None if found is None else (found, Backfilled(**(found.result or found.cursor or {})))


class _Pages:
    """The statements that walk a table by its key."""

    def __init__(self, table: str, key: str) -> None:
        schema, name = table.split(".")
        rows, column = Identifier(schema, name).as_string(), Identifier(key).as_string()
        ours = f"FROM {rows} WHERE organization_id = :organization_id"
        page = f"ORDER BY {column} LIMIT :most FOR NO KEY UPDATE"
        self._first = text(f"SELECT {column} {ours} {page}")
        self._next = text(f"SELECT {column} {ours} AND {column} > :after {page}")
        self._is_more = text(f"SELECT EXISTS (SELECT {ours} AND {column} > :after)")
        self._plan = text(f"EXPLAIN (FORMAT JSON) SELECT {ours}")

    def lock(self, session: Session, after: Any, most: int) -> Sequence[Any]:
        """The keys of the next page, in order; none when there are no more. Rows that others delete while this waits
        for them are passed over by the lock, below the LIMIT, so they do not make a page short."""
        given = {"organization_id": organization_of(session), "after": after, "most": most}
        return session.scalars(self._first if after is None else self._next, given).all()

    def estimate(self, session: Session) -> int:
        """How many rows the planner expects: to count them would read all of them."""
        (plan,) = session.scalars(self._plan, {"organization_id": organization_of(session)}).one()
        return int(plan["Plan"]["Plan Rows"])


class _Run(PagedRun[Backfilled]):
    def __init__(self, attempt: Attempt, table: str, pages: _Pages, fill: Fill) -> None:
        super().__init__(attempt, table, Backfilled(**(attempt.claimed.cursor or {})))
        self._pages, self._fill = pages, fill
        if not self.done.estimate:
            self.done = replace(self.done, estimate=attempt.read(pages.estimate))

    def page(self, most: int) -> None:
        with writing(self.attempt.organization_id) as session:
            if not self.is_owned(session):
                return
            keys = self._pages.lock(session, self.done.after, most)
            done = self.timed(self.done)
            if keys:
                changed = self._fill(session, keys)
                done = replace(
                    done, after=_as_json(keys[-1]), rows=done.rows + len(keys), changed=done.changed + changed
                )
            (self.advance if keys else self.finish)(session, done)
        self.keep(done)
        if not keys:
            self.attempt.settle(AttemptEnd.SUCCEEDED)


def _as_json(key: Any) -> Any:
    return key if isinstance(key, int | str) else str(key)
