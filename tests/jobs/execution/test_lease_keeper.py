"""Leases are renewed where their organization is, also after it has moved."""

import pytest
from sqlalchemy import delete, select, text, update

from docworker.db.catalog import AT_HOME
from docworker.db.ledger import Claimed
from docworker.db.models import Job, Placement
from docworker.db.sessions.opening import writing_at
from docworker.db.settings import settings
from docworker.jobs.execution.lease_board import Board, record_of
from docworker.jobs.execution.lease_keeper import Keeper
from docworker.worker.tenants.owner import owning
from tests.support.ledger import LedgerSteps
from tests.support.moved import EAST
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


def test_a_claim_at_the_new_place_is_kept_there_and_not_taken_for_lost() -> None:
    steps = LedgerSteps()
    (claimed,) = steps.run(1)
    board = Board.private(places=1, claims=1)
    (place,) = board.places
    place.enter()
    place.write(0, record_of(claimed))
    keeper = Keeper(board, [place])
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
