"""`assert_enqueued`, `drain`, `advance_clock`: for the tests of applications that enqueue jobs.

Everything goes through the real ledger; only the broker and the worker processes are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from celery import current_app
from pydantic_core import to_jsonable_python
from sqlalchemy import select
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.ledger import Message
from docworker.db.models import Job
from docworker.db.models.ledger.job import LIVE_STATES
from docworker.db.sessions import all_jobs_session
from docworker.db.tenants.ledgers import LedgerPlace, ledgers
from docworker.jobs.dispatch_limits import limits_of
from docworker.jobs.enqueue import kind_of
from docworker.jobs.execution.message import run_message
from docworker.jobs.kind import Kind
from docworker.jobs.task import known_kinds


def assert_enqueued(session: Session, task: Any, *, count: int | None = None, **arguments: Any) -> list[Job]:
    """The session's live jobs of `task` whose arguments include these; raises AssertionError when there are none, or
    not `count` of them."""
    kind = kind_of(task)
    jobs = session.scalars(select(Job).where(Job.kind == kind.name, Job.state.in_(LIVE_STATES)).order_by(Job.id)).all()
    wanted = {name: _as_kept(kind, name, value) for name, value in arguments.items()}
    matching = [job for job in jobs if wanted.items() <= job.arguments.items()]
    expected = "at least one" if count is None else str(count)
    if (count is None and not matching) or (count is not None and len(matching) != count):
        others = "".join(f"\n  {job.arguments}" for job in jobs if job not in matching)
        raise AssertionError(
            f"expected {expected} live job(s) of {kind.name} with {wanted}, found {len(matching)}; "
            + (f"the others:{others}" if others else "there are no others")
        )
    return matching


def _as_kept(kind: Kind, name: str, value: Any) -> Any:
    """A value as the ledger keeps it: an id as a string, a time in ISO format."""
    if name not in kind.arguments.model_fields:
        known = ", ".join(kind.arguments.model_fields) or "none"
        raise AssertionError(f"{kind.name} has no argument {name!r}; it has: {known}")
    return to_jsonable_python(value)


_UNBOUNDED = 1_000_000
"""No broker's queue has to be kept short here."""


def dispatch_due(kinds: Mapping[str, Kind] | None = None) -> list[Message]:
    """Plan and mark what is due now, as a dispatcher does, and return the messages instead of publishing them.

    Without `kinds`: all that are imported. Raises AssertionError when a due job is of none of them.
    """
    known = known_kinds(current_app) if kinds is None else kinds
    unknown: set[str] = set()
    messages: list[Message] = []
    for place in ledgers():
        dispatched = _dispatch_due_in(place, known)
        unknown |= {lane.kind for lane in dispatched.unknown}
        messages += dispatched.messages
    if unknown and kinds is None:
        raise AssertionError(f"jobs are due of kinds that nobody has imported here: {', '.join(sorted(unknown))}")
    return messages


def _dispatch_due_in(place: LedgerPlace, known: Mapping[str, Kind]) -> ledger.Dispatched:
    settings = database().settings
    with all_jobs_session(*place) as session:
        ledger.rescue_expired(session)
        ledger.requeue_overdue(session)
        while ledger.promote(session):
            pass
        under_way = ledger.load(session)
        return ledger.dispatch_due(
            session,
            ledger.Turns(),
            under_way,
            limits_of(known, settings, under_way),
            capacity=_UNBOUNDED,
            redispatch_after_seconds=settings.redispatch_after,
        )


def run(messages: Sequence[Message], kinds: Mapping[str, Kind] | None = None) -> int:
    """Deliver messages to this process; returns how many jobs were claimed."""
    known = known_kinds(current_app) if kinds is None else kinds
    return sum(run_message(known[one.kind], one.parts, one.id) for one in messages)


def drain(kinds: Mapping[str, Kind] | None = None, *, most: int = 10_000) -> int:
    """Run due jobs in this process, and the jobs they enqueue, until none is due; returns how many attempts ran.

    Jobs that wait for a later time stay: `advance_clock` brings them on. Raises AssertionError after `most` attempts:
    a job that always enqueues another would never let it end.
    """
    total = 0
    while messages := dispatch_due(kinds):
        if total >= most:
            due = sorted({message.kind for message in messages})
            raise AssertionError(f"{total} attempts ran and jobs are still due, of {', '.join(due)}")
        total += run(messages, kinds)
    return total


def advance_clock(seconds: float) -> None:
    """Let time pass for every job. The servers' clocks stay; the ledger's times move into the past instead, which is
    the same for everything that compares them with now. A live lease or a pending retry ends as it would."""
    for place in ledgers():
        with all_jobs_session(*place) as session:
            ledger.let_pass(session, seconds)
