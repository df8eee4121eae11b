"""Programs that enqueue by SQL elsewhere than at home leave no job where an organization was, however isolated."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from uuid import UUID

import pytest
from sqlalchemy import Connection, delete, func, select, text
from sqlalchemy.exc import DBAPIError

from docworker.db.catalog import Place
from docworker.db.cluster.engines import owner_engine
from docworker.db.faults import sqlstate_of
from docworker.db.models import Job, Organization, Suspension, User
from docworker.db.sessions import writing
from docworker.db.settings import settings
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.moving import Wanted, move_tenant
from docworker.worker.tenants.owner import become, find_placement, owning
from docworker.worker.tenants.places import Model
from docworker.worker.tenants.states import let_jobs_wait
from tests.support.moved import EAST, MovedTenant, waits_for_a_lock
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("clusters")

COMMITTED, REPEATABLE, SERIALIZABLE = "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"


@contextmanager
def program_at(place: Place, isolation: str, *, lock_timeout: str = "30s") -> Iterator[Connection]:
    """Its transaction has begun, and has a snapshot."""
    engine = owner_engine(settings(), place.cluster, place.database)
    with engine.connect() as program:
        program.execute(text(f"SET TRANSACTION ISOLATION LEVEL {isolation}"))
        program.execute(text(f"SET LOCAL lock_timeout = '{lock_timeout}'"))
        program.execute(text("SELECT count(*) FROM pg_class"))
        yield program
    engine.dispose()


def enqueue(program: Connection, tenant: MovedTenant) -> str | None:
    """The SQLSTATE of what is refused, None for a job that has been enqueued."""
    try:
        program.execute(text("SELECT ledger.enqueue(:id, 'x')"), {"id": tenant.id})
    except DBAPIError as error:
        return sqlstate_of(error)
    program.commit()
    return None


def enqueue_at(place: Place, tenant: MovedTenant) -> str | None:
    with program_at(place, COMMITTED) as program:
        return enqueue(program, tenant)


def jobs_at(place: Place, organization_id: UUID) -> int:
    with owning(place) as owner:
        become(owner, organization_id)
        return owner.scalar(select(func.count()).select_from(Job).where(Job.organization_id == organization_id)) or 0


def leaves(tenant: MovedTenant) -> None:
    move_tenant(tenant.slug, Wanted(model=Model.SHARED, cluster="home"))


def is_dropped(tenant: MovedTenant) -> None:
    drop_tenant(tenant.slug)


@pytest.mark.parametrize("isolation", [REPEATABLE, SERIALIZABLE])
@pytest.mark.parametrize(
    ("model", "cluster", "goes"),
    [
        (Model.SHARED, "east", leaves),
        (Model.SCHEMA, "east", leaves),
        (Model.DATABASE, "home", leaves),
        (Model.SHARED, "east", is_dropped),
        (Model.SCHEMA, "east", is_dropped),
    ],
)
def test_who_looked_before_it_went_has_a_serialization_failure(
    model: Model, cluster: str, goes: Callable[[MovedTenant], None], isolation: str
) -> None:
    tenant = MovedTenant(model, cluster)
    place = tenant.place
    with program_at(place, isolation) as program:
        goes(tenant)
        assert enqueue(program, tenant) == "40001"
    assert jobs_at(place, tenant.id) == 0
    assert enqueue_at(place, tenant) == ("55000" if goes is leaves else "P0002"), "what it gets when it begins anew"
    if find_placement(tenant.slug) is not None:
        drop_tenant(tenant.slug)


@pytest.mark.parametrize("model", [Model.SHARED, Model.SCHEMA])
def test_nobody_is_told_that_a_job_is_enqueued_where_everything_goes_just_now(model: Model) -> None:
    tenant = MovedTenant(model, "east")
    tenant.write("/a.txt", "text")
    place = tenant.place
    with ThreadPoolExecutor(2) as threads, program_at(place, REPEATABLE) as program:
        with owning(place) as other:
            become(other, tenant.id)
            other.execute(text(f"SELECT FROM {place.schema}.documents FOR UPDATE"))
            dropped = threads.submit(drop_tenant, tenant.slug)
            eventually(lambda: dropped.done() or waits_for_a_lock(place), within_seconds=30, what="it to be dropped")
            answer = threads.submit(enqueue, program, tenant)
            # Behind who drops the schema, it waits.
            eventually(lambda: answer.done() or waits_for_a_lock(place, sessions=2), within_seconds=30)
        assert answer.result() == "40001"
        dropped.result()


def test_a_drop_that_is_committed_between_a_programs_looks_is_seen() -> None:
    tenant = MovedTenant(cluster="east")
    let_jobs_wait(EAST, tenant.id)
    with ThreadPoolExecutor(1) as threads:
        with owning(EAST) as dropping:
            dropping.exec_driver_sql(f"LOCK TABLE {Suspension.__table__} IN ACCESS EXCLUSIVE MODE")
            answer = threads.submit(enqueue_at, EAST, tenant)
            eventually(lambda: answer.done() or waits_for_a_lock(EAST), within_seconds=30, what="the program to look")
            become(dropping, tenant.id)
            dropping.execute(delete(Organization).where(Organization.id == tenant.id))
            dropping.execute(delete(Suspension).where(Suspension.organization_id == tenant.id))
        assert answer.result() == "P0002"
    assert jobs_at(EAST, tenant.id) == 0
    drop_tenant(tenant.slug)


@pytest.mark.parametrize("model", [Model.SHARED, Model.SCHEMA])
def test_programs_do_not_wait_for_each_other_nor_for_ours(model: Model) -> None:
    tenant = MovedTenant(model, "east")
    levels = [REPEATABLE, COMMITTED, SERIALIZABLE, REPEATABLE]
    programs: list[Connection] = []
    with ExitStack() as transactions:
        for isolation in levels:
            program = transactions.enter_context(program_at(tenant.place, isolation, lock_timeout="1s"))
            program.execute(text("SELECT ledger.enqueue(:id, 'x')"), {"id": tenant.id})
            programs.append(program)
        with writing(tenant.id) as session:
            session.execute(text("SET LOCAL lock_timeout = '1s'"))
            session.add(User(organization_id=tenant.id, email="a@b.example", display_name="a"))
        for program in programs:
            program.commit()
    assert jobs_at(tenant.place, tenant.id) == len(levels)
    drop_tenant(tenant.slug)


def test_writers_wait_for_no_move_that_waits_for_who_holds_the_organizations_row() -> None:
    tenant = MovedTenant(cluster="east")
    with owning(EAST) as other:
        become(other, tenant.id)
        other.execute(text("SELECT FROM app.organizations WHERE id = :id FOR NO KEY UPDATE"), {"id": tenant.id})
        with ThreadPoolExecutor(1) as threads, pytest.raises(DBAPIError, match="lock timeout"):
            threads.submit(leaves, tenant).result(60)
        tenant.write("/a.txt", "text")
    leaves(tenant)
    drop_tenant(tenant.slug)


def test_what_has_lost_its_schema_can_be_dropped() -> None:
    tenant = MovedTenant(Model.SCHEMA, "east")
    with owning(EAST) as owner:
        owner.exec_driver_sql(f"DROP SCHEMA {tenant.place.schema} CASCADE")
    drop_tenant(tenant.slug)
    assert find_placement(tenant.slug) is None
