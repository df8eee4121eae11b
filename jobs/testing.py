"""For the tests of applications that enqueue jobs: what was enqueued, run it here and now, let time pass.

Everything goes through the real ledger; only the broker and the worker processes are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from celery import current_app
from pydantic_core import to_jsonable_python
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db import ledger
from db.engines import database
from db.ledger import Message
from db.models import Job
from db.models.job import LIVE_STATES
from db.sessions import overseeing
from jobs.enqueue import kind_of
from jobs.kinds import Kind
from jobs.messages import run_message
from jobs.planning import limits_of
from jobs.task import known_kinds


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
    settings = database().settings
    with overseeing() as session:
        ledger.rescue_expired(session)
        ledger.requeue_overdue(session)
        while ledger.promote(session):
            pass
        under_way = ledger.load(session)
        dispatched = ledger.dispatch_due(
            session,
            ledger.Turns(),
            under_way,
            limits_of(known, settings, under_way),
            capacity=_UNBOUNDED,
            redispatch_after_seconds=settings.redispatch_after,
        )
        unknown = sorted({lane.kind for lane in dispatched.unknown})
        if unknown and kinds is None:
            raise AssertionError(f"jobs are due of kinds that nobody has imported here: {', '.join(unknown)}")
    return dispatched.messages


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


_ADVANCE = text("""
UPDATE ledger.jobs SET run_at = run_at - :by * interval '1 second',
    created_at = created_at - :by * interval '1 second',
    claimed_at = claimed_at - :by * interval '1 second',
    finished_at = finished_at - :by * interval '1 second',
    dispatched_at = dispatched_at - :by * interval '1 second',
    redispatch_at = redispatch_at - :by * interval '1 second',
    lease_expires_at = lease_expires_at - :by * interval '1 second',
    run_until = run_until - :by * interval '1 second'
""")


def advance_clock(seconds: float) -> None:
    """Let time pass for every job. The servers' clocks stay; the ledger's times move into the past instead, which is
    the same for everything that compares them with now. A live lease or a pending retry ends as it would."""
    with overseeing() as session:
        session.execute(_ADVANCE, {"by": seconds})
