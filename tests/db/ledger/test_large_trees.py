"""Trees of many thousand jobs."""

import pytest

from docworker.db.cluster import Database
from tests.support.ledger import LedgerSteps


@pytest.mark.soak
def test_a_parent_of_ten_thousand_that_are_waited_for_ends_within_the_time_of_a_statement(opened: Database) -> None:
    steps = LedgerSteps()
    (parent,) = steps.run()
    callback = steps.enqueue_after(tree=parent.id)
    children = [one for _ in range(10) for one in steps.enqueue(1000, parent_id=parent.id)]
    steps.finish([parent])
    assert (steps.awaited(callback), steps.job(callback).state) == ((len(children), 1, 0, 0), "waiting")
