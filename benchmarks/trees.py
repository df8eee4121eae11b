"""One job with many children and a callback for all of them, step by step and without workers: what each step takes,
and what looking at it takes. Then a chain of jobs, each after the one before.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from benchmarks import backlog
from benchmarks.kinds import do_nothing
from benchmarks.usage import resident_bytes
from docworker.db import ledger
from docworker.db.ledger import Claimed
from docworker.db.ledger.telling.processes import processes
from docworker.db.ledger.telling.why import why
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.worker.local.stack import LocalStack

CHUNK = 1000
LINKS = 1000
KIND = do_nothing.kind.name
LOOK = ledger.Size(CHUNK, CHUNK)
LIMITS = ledger.Limits(lambda _: LOOK, largest=CHUNK, largest_single=CHUNK)


def measure_tree(servers: LocalStack, children: int) -> None:
    """A line for each step, and for each look at the tree before its children have run."""
    (tenant,) = backlog.make_tenants(servers, 1)
    begun = resident_bytes(os.getpid())
    with writing(tenant) as session:
        parent = enqueue(session, do_nothing)
        callback = enqueue(session, do_nothing, after_children_of=parent)
    (running,) = claim(tenant, dispatch())
    with timed(f"entering {children:,} children, {CHUNK:,} in a transaction"):
        for number in range(0, children, CHUNK):
            with writing(tenant) as session:
                enqueue_many(session, do_nothing, [{}] * min(CHUNK, children - number), parent_id=parent)
    with timed("the end of their parent"):
        succeed(tenant, [running])
    look_at(parent, callback)
    change("cancelling the tree", ledger.cancel_tree, parent)
    change("running it again", ledger.retry_tree, parent)
    with timed("running the children, a thousand in a transaction"):
        while ids := [one for one in dispatch() if one != callback]:
            succeed(tenant, claim(tenant, ids))
    (running,) = claim(tenant, [callback])
    with timed("reading the results of all, a thousand at a time"):
        read_results(running)
    with timed("the callback's end"):
        succeed(tenant, [running])
    print(f"{'this process grew by, MB':60}{(resident_bytes(os.getpid()) - begun) / 1e6:>10.0f}")
    measure_chain(tenant)


def measure_chain(tenant: UUID) -> None:
    """So many jobs, each after the one before it."""
    with timed(f"entering a chain of {LINKS:,}"), writing(tenant) as session:
        first = latest = enqueue(session, do_nothing)
        for _ in range(LINKS - 1):
            latest = enqueue(session, do_nothing, after=[latest])
    change("cancelling the chain", ledger.cancel_tree, first)
    change("running it again", ledger.retry_tree, first)


def look_at(parent: UUID, callback: UUID) -> None:
    """What the commands ask of the ledger, without the time that a process takes to begin."""
    for what, job_id in (("parent", parent), ("callback", callback)):
        with timed(f"docworker jobs show, of the {what}"), all_jobs_session() as session:
            ledger.told_of(session, ledger.get(session, job_id))
        with timed(f"docworker jobs why, of the {what}"), all_jobs_session() as session:
            why(session, ledger.get(session, job_id), processes(session))
    with timed("docworker jobs watch, its first view"), all_jobs_session() as session:
        job = ledger.get(session, parent)
        ledger.count_by_state(session, ledger.Filter(organization_id=job.organization_id, parent_id=job.id))


def dispatch() -> list[UUID]:
    """One look of a dispatcher; what it sends."""
    with all_jobs_session() as session:
        looked = ledger.dispatch_due(
            session, ledger.Turns(), ledger.load(session), LIMITS, capacity=1, redispatch_after_seconds=600
        )
    return [one for message in looked.messages for part in message.parts for one in part.job_ids]


def claim(tenant: UUID, ids: Sequence[UUID]) -> list[Claimed]:
    with writing(tenant) as session:
        return ledger.claim(
            session, KIND, ids, message_id=None, worker="benchmark", lease_seconds=600, max_run_seconds=600
        ).jobs


def succeed(tenant: UUID, claimed: Sequence[Claimed]) -> None:
    with writing(tenant) as session:
        ledger.lock_owned(session, claimed)
        ledger.succeed(session, [(one, None) for one in claimed])


def read_results(callback: Claimed) -> None:
    """As `attempt.awaited_jobs()` does."""
    behind: UUID | None = None
    while True:
        with writing(callback.organization_id) as session:
            page = ledger.awaited_jobs(session, callback.id, behind=behind)
        if not page:
            return
        behind = page[-1].id


def change(what: str, by: Callable[..., Iterator[list[UUID]]], tree: UUID) -> None:
    """By transactions, of which the longest is told as well."""
    begun = latest = time.monotonic()
    longest, jobs = 0.0, 0
    for chunk in by(all_jobs_session, tree):
        now = time.monotonic()
        longest, latest, jobs = max(longest, now - latest), now, jobs + len(chunk)
    tell(f"{what}, {jobs:,} jobs", latest - begun, f"   {longest:.2f} s the longest transaction")


@contextmanager
def timed(what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    tell(what, time.monotonic() - begun)


def tell(what: str, seconds: float, more: str = "") -> None:
    print(f"{what + ', s':60}{seconds:>10.2f}{more}", flush=True)
