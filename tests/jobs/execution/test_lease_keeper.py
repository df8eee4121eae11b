"""Leases are renewed where their organization is, also after it has moved, and whatever becomes of those of others."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select, text, update
from structlog.testing import capture_logs

from docworker.db.catalog import AT_HOME, SHARED_SCHEMA, Place
from docworker.db.ledger import Claimed, ClaimKey
from docworker.db.models import Job, Placement
from docworker.db.models.base import new_id
from docworker.db.sessions.opening import writing_at
from docworker.db.settings import HOME, settings
from docworker.jobs.execution.lease_board import Board, record_of
from docworker.jobs.execution.lease_board import Place as BoardPlace
from docworker.jobs.execution.lease_keeper import Keeper
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.owner import owning, set_placement
from tests.support.database import reopened_database
from tests.support.ledger import LedgerSteps
from tests.support.moved import EAST
from tests.support.refusals import refusing_jobs
from tests.support.tenants import entered, is_served
from tests.support.troubled import own_database, shut
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("clusters")


def arrive_at_east(claimed: Claimed) -> None:
    """Its organization has moved, and the job was claimed there."""
    with writing_at(AT_HOME, claimed.organization_id) as session:
        job = session.get_one(Job, (claimed.organization_id, claimed.id))
        values = {column.key: getattr(job, column.key) for column in Job.__table__.c}
        session.execute(delete(Job).where(Job.id == claimed.id))
    with writing_at(EAST, claimed.organization_id) as session:
        session.add(Job(**values))
    with owning() as owner:
        owner.execute(
            update(Placement).where(Placement.organization_id == claimed.organization_id).values(cluster=EAST.cluster)
        )


def keeper_of(*claimed: Claimed | ClaimKey) -> tuple[Keeper, BoardPlace]:
    """Of a process that holds these."""
    board = Board.private(places=1, claims=len(claimed))
    (place,) = board.places
    place.enter()
    for number, one in enumerate(claimed):
        place.write(number, record_of(one))
    return Keeper(board, [place]), place


def run_and_expire(steps: LedgerSteps) -> Claimed:
    (claimed,) = steps.run(1)
    steps.expire([claimed.id])
    return claimed


def is_kept(steps: LedgerSteps, claimed: Claimed) -> bool:
    lease_expires_at = steps.job(claimed.id).lease_expires_at
    return lease_expires_at is not None and lease_expires_at > datetime.now(UTC) + timedelta(seconds=3)


@pytest.fixture
def own(stack: LocalStack, template: str) -> Iterator[str]:
    """The database of a single organization."""
    with own_database(stack, template) as name:
        yield name


def test_a_claim_at_the_new_place_is_kept_there_and_not_taken_for_lost() -> None:
    steps = LedgerSteps()
    (claimed,) = steps.run(1)
    keeper, place = keeper_of(claimed)
    keeper.tick()
    arrive_at_east(claimed)
    with writing_at(EAST, claimed.organization_id) as session:
        session.execute(text("UPDATE ledger.jobs SET lease_expires_at = clock_timestamp()"))

    def is_renewed() -> bool:
        keeper.tick()
        with writing_at(EAST, claimed.organization_id) as session:
            left = select(Job.lease_expires_at > text("clock_timestamp() + interval '3 seconds'"))
            return bool(session.scalar(left))

    eventually(is_renewed, within_seconds=3 * settings().lease)
    assert not place.is_lost(0, claimed.claim_token.bytes)


def test_the_leases_of_others_are_renewed_where_the_database_of_one_was_lost(own: str) -> None:
    lost = ClaimKey(entered(at=Place(HOME, SHARED_SCHEMA, "lost")), new_id(), new_id())
    all_steps = [LedgerSteps(), LedgerSteps(database=own)]
    claims = [run_and_expire(one) for one in all_steps]
    keeper, place = keeper_of(lost, *claims)

    def are_kept() -> bool:
        keeper.tick()
        return all(map(is_kept, all_steps, claims))

    with capture_logs() as logs:
        eventually(are_kept, within_seconds=20)
    told = [one["organization"] for one in logs if one["event"] == "leases.not_renewed"]
    assert told == [str(lost.organization_id)]
    assert len(place.kept()) == 3, "nobody knows what has become of it"


def test_the_leases_of_others_do_not_wait_for_a_lock_in_the_database_of_one(own: str) -> None:
    with reopened_database(lock_timeout=60.0):
        locked, other = LedgerSteps(database=own), LedgerSteps()
        claims = [run_and_expire(one) for one in (locked, other)]
        keeper, _ = keeper_of(*claims)
        with owning(Place(HOME, SHARED_SCHEMA, own)) as owner:
            owner.execute(text("LOCK TABLE ledger.jobs"))
            began = time.monotonic()
            keeper.tick()
            assert is_kept(other, claims[1])
            assert time.monotonic() - began < 30


def test_a_database_that_answers_again_has_its_leases_renewed_soon(own: str, stack: LocalStack) -> None:
    with reopened_database(lease=60.0):
        steps = LedgerSteps(database=own)
        claimed = run_and_expire(steps)
        keeper, _ = keeper_of(claimed)
        with shut(stack, own), capture_logs() as logs:
            keeper.tick()
        assert [one["event"] for one in logs if one["event"] == "leases.not_renewed"] == ["leases.not_renewed"]

        def is_renewed() -> bool:
            keeper.tick()
            return is_kept(steps, claimed)

        eventually(is_renewed, within_seconds=15, what="before a third of a lease is over")


def test_a_row_that_the_server_refuses_to_change_keeps_no_others_from_being_renewed() -> None:
    steps, other = LedgerSteps(), LedgerSteps()
    claims = [run_and_expire(one) for one in (steps, steps, other)]
    keeper, place = keeper_of(*claims)
    with refusing_jobs(but=f"id <> '{claims[0].id}'"):
        keeper.tick()
    assert [is_kept(*one) for one in zip((steps, steps, other), claims, strict=True)] == [False, True, True]
    assert len(place.kept()) == 3, "it is not lost"


def test_one_at_a_revision_of_another_release_keeps_no_others_from_being_renewed() -> None:
    newer, other = LedgerSteps(), LedgerSteps()
    claims = [run_and_expire(one) for one in (newer, other)]
    set_placement(newer.organization_id, revision="9999")
    eventually(lambda: not is_served(newer.organization_id))
    keeper, _ = keeper_of(*claims)
    keeper.tick()
    assert [is_kept(*one) for one in zip((newer, other), claims, strict=True)] == [True, True]
