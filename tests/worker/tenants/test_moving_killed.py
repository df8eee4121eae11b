"""A move that was killed at any step goes on, or is taken back; until then it is served, but at the very end."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import psycopg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from docworker.db.errors import MovingOrganizationError
from docworker.db.models import Document, Placement, PlacementState
from docworker.db.sessions import reading, writing
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.moving import Wanted, abort_move, move_tenant
from docworker.worker.tenants.owner import owning, placement_of
from tests.support.commands import docworker
from tests.support.ledger import LedgerSteps
from tests.support.moved import EAST, MovedTenant, waits_for_a_lock
from tests.support.processes import Processes
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("clusters")

Reached = Callable[[], bool]


def placement(tenant: MovedTenant) -> Placement:
    return placement_of(tenant.slug)


def is_(tenant: MovedTenant, state: PlacementState) -> bool:
    return placement(tenant).state == state


# Each holds a move up at one step, and says when it has got there.


@contextmanager
def while_it_copies(tenant: MovedTenant, stack: LocalStack) -> Iterator[Reached]:
    with owning(EAST) as owner:
        owner.exec_driver_sql("LOCK TABLE app.document_versions IN ACCESS EXCLUSIVE MODE")
        yield lambda: waits_for_a_lock(EAST)


@contextmanager
def while_a_job_runs(tenant: MovedTenant, stack: LocalStack) -> Iterator[Reached]:
    steps = LedgerSteps(tenant.id)
    claimed = steps.run(1)
    home = tenant.place
    yield lambda: tenant.is_suspended(home)
    steps.finish(claimed)


@contextmanager
def while_somebody_writes(tenant: MovedTenant, stack: LocalStack) -> Iterator[Reached]:
    with writing(tenant.id) as session:
        session.scalar(text("SELECT 1"))
        yield lambda: is_(tenant, PlacementState.LEAVING)


@contextmanager
def after_the_switch(tenant: MovedTenant, stack: LocalStack) -> Iterator[Reached]:
    row = {"id": tenant.id}
    with owning(EAST) as owner:
        owner.execute(text("INSERT INTO ledger.suspensions (organization_id) VALUES (:id)"), row)
    with owning(EAST) as owner:
        owner.execute(text("SELECT 1 FROM ledger.suspensions WHERE organization_id = :id FOR UPDATE"), row)
        yield lambda: (placement(tenant).move or {}).get("phase") == "arrived"


Step = Callable[[MovedTenant, LocalStack], AbstractContextManager[Reached]]
BEFORE_THE_STOP: list[Step] = [while_it_copies, while_a_job_runs, while_somebody_writes]


@pytest.fixture
def tenant() -> Iterator[MovedTenant]:
    tenant = MovedTenant()
    tenant.fill()
    yield tenant
    drop_tenant(tenant.slug)


def kill(tenant: MovedTenant, step: Step, stack: LocalStack, processes: Processes) -> None:
    with step(tenant, stack) as reached:
        command = processes.start("tenants", "move", tenant.slug, "--cluster", "east")
        eventually(lambda: reached() or not command.running, within_seconds=40)
        assert command.running, command.log
        command.kill9()


@pytest.mark.parametrize("step", BEFORE_THE_STOP)
def test_killed_before_the_stop_it_is_served_and_the_next_run_goes_on(
    tenant: MovedTenant, step: Step, stack: LocalStack, processes: Processes
) -> None:
    home = tenant.place
    kill(tenant, step, stack, processes)
    tenant.write("/meanwhile.txt", "text")
    before = tenant.rows(home)
    answer = docworker("tenants", "move", tenant.slug, "--cluster", "east", "--json")
    assert answer.exit_code == 0, answer.err
    assert tenant.place == EAST
    assert tenant.rows() == before
    assert not tenant.is_suspended(EAST)


@pytest.mark.parametrize("step", BEFORE_THE_STOP)
def test_killed_before_the_stop_it_can_be_taken_back(
    tenant: MovedTenant, step: Step, stack: LocalStack, processes: Processes
) -> None:
    home, before = tenant.place, tenant.rows()
    kill(tenant, step, stack, processes)
    assert abort_move(tenant.slug) == home
    assert {**tenant.rows(), "jobs": []} == {**before, "jobs": []}
    assert not any(tenant.rows(EAST).values())
    assert not tenant.is_suspended(home)
    assert (placement(tenant).move, placement(tenant).state) == (None, PlacementState.ACTIVE)


def test_after_a_server_has_cut_the_link_it_is_served_and_the_next_run_goes_on(
    tenant: MovedTenant, stack: LocalStack
) -> None:
    before, home = tenant.rows(), tenant.place
    with ThreadPoolExecutor(1) as pool, while_it_copies(tenant, stack) as reached:
        moving = pool.submit(move_tenant, tenant.slug, Wanted(cluster="east"))
        eventually(reached, within_seconds=20)
        stack.master.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname LIKE 'east%'"
        )
        with pytest.raises((psycopg.OperationalError, DBAPIError)):
            moving.result(20)
    assert (tenant.place, placement(tenant).state) == (home, PlacementState.ACTIVE)
    assert not tenant.is_suspended(home)
    move_tenant(tenant.slug, Wanted(cluster="east"))
    assert tenant.rows() == before


def test_the_next_run_has_its_jobs_go_on_while_it_copies_again(
    tenant: MovedTenant, stack: LocalStack, processes: Processes
) -> None:
    home = tenant.place
    kill(tenant, while_somebody_writes, stack, processes)
    assert tenant.is_suspended(home)
    tenant.write("/to-copy.txt", "text")
    with while_it_copies(tenant, stack) as waits:
        command = processes.start("tenants", "move", tenant.slug, "--cluster", "east")
        eventually(lambda: waits() or not command.running, within_seconds=40)
        assert command.running, command.log
        assert (placement(tenant).state, tenant.is_suspended(home)) == (PlacementState.ACTIVE, False)
        command.kill9()
    move_tenant(tenant.slug, Wanted(cluster="east"))


@pytest.mark.parametrize("back", [False, True])
def test_killed_while_nobody_may_write_it_can_be_read_and_then_goes_on_or_back(
    tenant: MovedTenant, back: bool, stack: LocalStack, processes: Processes
) -> None:
    """The replica of east stands still from when it is leaving on, so the stop lasts until it is given up."""
    home, before = tenant.place, tenant.rows()
    replica = stack.replicas[0]
    try:
        with writing(tenant.id) as session:
            session.scalar(text("SELECT 1"))
            command = processes.start("tenants", "move", tenant.slug, "--cluster", "east")
            eventually(lambda: is_(tenant, PlacementState.LEAVING) or not command.running, within_seconds=40)
            replica.execute("SELECT pg_wal_replay_pause()")
        eventually(lambda: is_(tenant, PlacementState.MOVING) or not command.running, within_seconds=40)
        assert command.running, command.log
        command.kill9()
    finally:
        replica.execute("SELECT pg_wal_replay_resume()")
    with reading(tenant.id, source="master") as session:
        assert session.scalars(select(Document.id)).all()
    with pytest.raises(MovingOrganizationError, match="run `docworker tenants move` again"), writing(tenant.id):
        pass
    if back:
        assert abort_move(tenant.slug) == home
    else:
        move_tenant(tenant.slug, Wanted(cluster="east"))
    assert tenant.place == (home if back else EAST)
    assert tenant.rows() == before
    assert not tenant.is_suspended(tenant.place)
    tenant.write("/later.txt", "text")


def test_killed_after_the_switch_it_is_served_there_and_the_next_run_finishes(
    tenant: MovedTenant, stack: LocalStack, processes: Processes
) -> None:
    home, before = tenant.place, tenant.rows()
    kill(tenant, after_the_switch, stack, processes)
    assert tenant.place == EAST
    assert tenant.is_suspended(EAST)
    tenant.write("/later.txt", "text")
    move_tenant(tenant.slug, Wanted(cluster="east"))
    assert not tenant.is_suspended(EAST)
    assert (tenant.rows()["jobs"], tenant.rows(home)["jobs"]) == (before["jobs"], [])
    assert placement(tenant).move is None
