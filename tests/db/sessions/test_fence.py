"""No transaction writes where its organization has been moved away from, whenever it was stopped."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from docworker import aio
from docworker.db.catalog import AT_HOME, Place, place_of
from docworker.db.cluster import Database
from docworker.db.cluster.engines import owner_engine
from docworker.db.cluster.prepared import Statement
from docworker.db.errors import ApartError, MovingOrganizationError
from docworker.db.models import Organization, Placement, PlacementState
from docworker.db.sessions import reading, writing
from docworker.db.sessions.exchanges import transact
from docworker.db.sessions.fence import lock_key
from docworker.db.sessions.routing import RoutingSession
from docworker.db.sessions.statements import Call
from docworker.db.settings import settings
from tests.support.database import reopened_database
from tests.support.tenants import entered
from tests.support.waiting import eventually

EAST = Place("east", "app")
WHERE = Statement("where_am_i", "SELECT current_database()", {})
_WAITING = text("""
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND (classid::bigint << 32 | objid::bigint) = :key AND NOT granted
""")


@pytest.fixture
def patient(clusters: None) -> Iterator[Database]:
    """A process that believes what it has read for as long as a test takes."""
    with reopened_database(catalog_ttl=10) as opened:
        yield opened


@pytest.fixture
def curious(clusters: None) -> Iterator[Database]:
    """A process for which what it has read is out of date at once."""
    with reopened_database(catalog_ttl=0.001) as opened:
        yield opened


def put(organization_id: UUID, place: Place, state: PlacementState = PlacementState.ACTIVE) -> None:
    values = {"cluster": place.cluster, "schema": place.schema, "database": place.database, "state": state}
    with owner_engine(settings()).begin() as owner:
        owner.execute(update(Placement).where(Placement.organization_id == organization_id).values(values))


def database_of(session: Session) -> str:
    return str(session.scalar(text("SELECT current_database()")))


def add(session: Session, organization_id: UUID) -> None:
    session.add(Organization(id=organization_id, slug=f"o{organization_id.hex}", name="x"))
    session.flush()


@contextmanager
def locked(organization_id: UUID) -> Iterator[None]:
    """By who moves it away from home."""
    with owner_engine(settings()).begin() as owner:
        owner.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(organization_id)})
        yield


def is_waited_for(organization_id: UUID) -> bool:
    with owner_engine(settings()).begin() as owner:
        return bool(owner.scalar(_WAITING, {"key": lock_key(organization_id)}) == 2)


def test_a_session_that_was_opened_before_the_move_does_not_write_at_the_old_place(curious: Database) -> None:
    organization_id = entered()
    with RoutingSession(organization_id) as session:
        put(organization_id, EAST)
        with pytest.raises(MovingOrganizationError, match=r"has left its place \(home, app\)"):
            add(session, organization_id)
    with writing(organization_id) as session:
        assert database_of(session).startswith("east")


def test_a_session_that_is_still_at_its_place_goes_on_when_its_answer_is_out_of_date(curious: Database) -> None:
    for state in (PlacementState.ACTIVE, PlacementState.LEAVING):
        organization_id = entered()
        with RoutingSession(organization_id) as session:
            put(organization_id, AT_HOME, state)
            add(session, organization_id)
            session.commit()


def test_the_next_transaction_of_a_session_asks_again(curious: Database) -> None:
    organization_id = entered()
    with pytest.raises(MovingOrganizationError), writing(organization_id) as session:  # noqa: PT012
        add(session, organization_id)
        session.commit()
        put(organization_id, EAST)
        session.scalar(text("SELECT 1"))


def test_a_transaction_keeps_the_place_locked_to_its_end(patient: Database) -> None:
    organization_id = entered()
    with owner_engine(settings()).begin() as mover:
        lock = text("SELECT pg_try_advisory_xact_lock(:key)")
        with writing(organization_id) as session:
            add(session, organization_id)
            assert not mover.scalar(lock, {"key": lock_key(organization_id)})
        assert mover.scalar(lock, {"key": lock_key(organization_id)})


def test_who_waits_at_the_old_place_writes_at_the_new_one(patient: Database) -> None:
    organization_id = entered()
    put(organization_id, AT_HOME, PlacementState.LEAVING)

    def write() -> str:
        with writing(organization_id) as session:
            return database_of(session)

    with ThreadPoolExecutor(2) as pool:
        with locked(organization_id):
            writer = pool.submit(write)
            single = pool.submit(transact, [Call(organization_id, WHERE, {})])
            eventually(lambda: is_waited_for(organization_id))
            put(organization_id, EAST)
        assert writer.result(20).startswith("east")
        with pytest.raises(MovingOrganizationError):
            single.result(20)


def test_while_it_arrives_writers_wait_and_readers_read(patient: Database) -> None:
    organization_id = entered()
    put(organization_id, AT_HOME, PlacementState.LEAVING)
    with writing(organization_id) as session:
        add(session, organization_id)
    put(organization_id, AT_HOME, PlacementState.MOVING)
    with ThreadPoolExecutor(1) as pool:

        def write() -> str:
            with writing(organization_id) as session:
                return database_of(session)

        waiting = pool.submit(write)
        with reading(organization_id, source="master") as session:
            assert session.get_one(Organization, organization_id).name == "x"
        assert not waiting.done()
        put(organization_id, EAST)
        assert waiting.result(20).startswith("east")


def test_a_move_that_does_not_end_is_told(patient: Database) -> None:
    organization_id = entered()
    put(organization_id, AT_HOME, PlacementState.MOVING)
    with (
        pytest.raises(MovingOrganizationError, match="is moving: try again when it has arrived"),
        writing(organization_id),
    ):
        pass


def test_of_one_that_is_about_to_move_nobody_remembers_the_place(patient: Database) -> None:
    organization_id = entered()
    put(organization_id, AT_HOME, PlacementState.LEAVING)
    assert place_of(organization_id, patient) == AT_HOME
    put(organization_id, EAST)
    assert place_of(organization_id, patient) == EAST


def test_one_exchange_for_two_organizations_needs_both_in_one_database(patient: Database) -> None:
    here, there = entered(), entered(at=EAST)
    with pytest.raises(ApartError, match="no longer in one database"):
        transact([Call(here, WHERE, {}), Call(there, WHERE, {})])
    schema = entered()
    assert len(transact([Call(here, WHERE, {}), Call(schema, WHERE, {})]).rows) == 2


async def _write_async(organization_id: UUID) -> str:
    async with await aio.open_database(), aio.writing(organization_id) as session:
        return str(await session.scalar(text("SELECT current_database()")))


def test_the_asynchronous_twin_waits_as_well(patient: Database) -> None:
    organization_id = entered()
    put(organization_id, AT_HOME, PlacementState.MOVING)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: asyncio.run(_write_async(organization_id)))
        put(organization_id, EAST)
        assert waiting.result(20).startswith("east")


def test_a_connection_goes_on_whose_first_transaction_waited_for_the_lock_in_vain(clusters: None) -> None:
    """What was prepared on the way stays so at the server, which would prepare it no second time."""
    organization_id = entered()
    where_am_i = Call(organization_id, WHERE, {})
    with reopened_database(pool_size=1, lock_timeout=0.2):
        with owner_engine(settings()).begin() as owner:
            owner.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(organization_id)})
            with pytest.raises(OperationalError, match="lock timeout"), writing(organization_id):
                pass
            with pytest.raises(OperationalError, match="lock timeout"):
                transact([where_am_i])
        assert len(transact([where_am_i]).rows[0]) == 1
        with writing(organization_id) as session:
            assert database_of(session)
