"""Trees of many thousand jobs end, are cancelled and are run again in times that grow as they do."""

import time
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from docworker.db import ledger
from docworker.db.cluster import Database
from docworker.db.ledger.waiting.trees import Sessions
from docworker.db.sessions import all_jobs_session
from tests.support.ledger import LedgerSteps

Change = Callable[[Sessions, UUID], Iterator[list[UUID]]]


def change(tree: UUID, by: Change) -> int:
    """How many jobs of a tree were changed."""
    begun = latest = time.monotonic()
    jobs, longest = 0, 0.0
    for chunk in by(all_jobs_session, tree):
        now = time.monotonic()
        jobs, longest, latest = jobs + len(chunk), max(longest, now - latest), now
    print(  # noqa: T201 -- the measurement
        f"{by.__name__}: {jobs} jobs in {latest - begun:.1f} s, {longest:.2f} s at a time at most"
    )
    return jobs


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("thousands", [10])
def test_the_end_of_a_parent_is_no_statement_that_takes_too_long_nor_is_the_end_of_its_tree(
    opened: Database, thousands: int
) -> None:
    steps = LedgerSteps()
    (parent,) = steps.run()
    callback = steps.enqueue_after(tree=parent.id)
    children = [one for _ in range(thousands) for one in steps.enqueue(1000, parent_id=parent.id)]
    begun = time.monotonic()
    steps.finish([parent])
    print(  # noqa: T201 -- the measurement
        f"\nthe end of a parent of {len(children)}: {time.monotonic() - begun:.1f} s"
    )
    assert steps.awaited(callback) == (len(children), 1, 0, 0)
    assert change(parent.id, ledger.cancel_tree) == len(children) + 1
    assert steps.awaited(callback) == (0, 1, 0, len(children))
    assert change(parent.id, ledger.retry_tree) == len(children) + 1
    assert (steps.awaited(callback), steps.job(callback).state) == ((len(children), 1, 0, 0), "waiting")
