"""Lists of all jobs come from a replica, and have all that was there when they were asked for."""

from uuid import UUID

import pytest

from docworker.worker.local.servers.postgres import PostgresServer
from tests.support.commands import ask
from tests.support.database import opened_database
from tests.support.faults import pause_replay
from tests.support.ledger import LedgerSteps
from tests.support.stack import InForce, OwnStack
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(120)


def test_a_list_is_read_from_a_replica_that_has_everything_else_from_the_master(
    own_stack: OwnStack, in_force: InForce
) -> None:
    stack = own_stack(migrated=True)
    in_force(stack)
    (replica,) = stack.replicas
    with opened_database():
        steps = LedgerSteps()
        known = steps.enqueue(3)
    stack.wait_for_replicas()
    before = looks(replica)
    assert listed() == set(known)
    eventually(lambda: looks(replica) > before, what="the replica has been asked")
    pause_replay(replica)
    with opened_database():
        known += steps.enqueue(1)
    assert listed() == set(known)


def listed() -> set[UUID]:
    return {UUID(one["id"]) for one in ask("jobs", "list", "--json").json}


def looks(server: PostgresServer) -> int:
    """How often the jobs on a server have been looked through, by its own statistics."""
    rows = server.execute(
        "SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'jobs'",
        database="docworker",
    )
    return int(rows[0][0])
