"""Jobs in databases of single organizations: found by a ring or by looking, judged, with few connections."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text, update

from docworker.db import ledger
from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.cluster import database
from docworker.db.cluster.engines import owner_engine
from docworker.db.ledger import Claimed
from docworker.db.models import Placement, PlacementState
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import HOME, settings
from docworker.jobs.execution.continuity import PROMPT_SECONDS, Continuity
from docworker.worker.app import build_app
from docworker.worker.dispatcher.judge import Judge
from docworker.worker.dispatcher.loop import Dispatcher, Shared
from docworker.worker.dispatcher.tenant_ledgers import TenantLedgers
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.owner import owning
from tests.support.database import opened_database
from tests.support.dispatchers import Broker, kind, running
from tests.support.ledger import LedgerSteps
from tests.support.refusals import refusing_jobs
from tests.support.stack import fresh_database, unique_name
from tests.support.waiting import eventually

LEASE = 3.0


@pytest.fixture
def tenants(fresh_environment: dict[str, str], stack: LocalStack, template: str) -> Iterator[list[LedgerSteps]]:
    """Three organizations, each with a database of its own."""
    with ExitStack() as stacked:
        names = [
            stacked.enter_context(fresh_database(stack, unique_name("tenant"), template=template)) for _ in range(3)
        ]
        stacked.enter_context(opened_database(databases_open=1))
        yield [LedgerSteps(database=name) for name in names]


def visits(**changed: object) -> TenantLedgers:
    configured = settings().model_copy(update={"databases_open": 1, **changed})
    known = {LedgerSteps.kind: kind()}
    shared = Shared(configured, known)
    shared.join(HOME)
    return TenantLedgers(configured, build_app(configured), known, HOME, shared)


def test_a_commit_in_a_database_of_its_own_rings_the_dispatcher(tenants: list[LedgerSteps]) -> None:
    broker = Broker()
    with running(database_poll=600.0) as served:
        seen = served._databases[HOME]._visits
        eventually(lambda: len(seen) == 3 and all(one.dispatcher is None for one in seen.values()))
        eventually(lambda: served._home._listener.is_open, what="it to listen")
        eventually(lambda: min(one.next_at for one in seen.values()) > 0)
        tenants[1].enqueue()
        eventually(lambda: broker.depth() == 1, within_seconds=5, what="the job to be dispatched")
        ((steps, claimed),) = claim(broker, tenants)
        steps.finish([claimed])
        eventually(lambda: all(one.dispatcher is None for one in seen.values()), what="it to rest")


def claim(broker: Broker, tenants: list[LedgerSteps]) -> list[tuple[LedgerSteps, Claimed]]:
    taken = broker.take()
    assert taken is not None
    (steps,) = [one for one in tenants if str(one.organization_id) == taken["organization_id"]]
    return [(steps, one) for one in steps.claim([UUID(job) for job in taken["job_ids"]], message_id=taken["id"])]


def test_one_that_is_about_to_move_is_visited(tenants: list[LedgerSteps]) -> None:
    with owning() as owner:
        owner.execute(update(Placement).values(state=PlacementState.LEAVING))
    found = visits()
    found.look()
    assert set(found._visits) == {steps.where[1] for steps in tenants}


def test_what_nobody_rang_for_is_found_by_looking(tenants: list[LedgerSteps]) -> None:
    broker, found = Broker(), visits(database_poll=0.5)
    (job_id,) = tenants[0].enqueue()
    with all_jobs_session(*tenants[0].where) as session:
        session.execute(text("UPDATE ledger.jobs SET state = 'cancelled'"))
    found.look()
    assert broker.depth() == 0
    with all_jobs_session(*tenants[0].where) as session:
        session.execute(text("UPDATE ledger.jobs SET state = 'queued', run_at = now()"))
    eventually(lambda: found.look() is not None and broker.depth() == 1, what="the job to be found")
    assert [one.id for _, one in claim(broker, tenants)] == [job_id]


@contextmanager
def watched(found: TenantLedgers, seconds: float) -> Iterator[Continuity]:
    """The judge of home watches the server, and has for so long."""
    continuity = found._shared.continuity[HOME]
    judge = Judge(LEASE, continuity=continuity)
    judge.start()
    try:
        eventually(lambda: continuity.seconds(time.monotonic()) >= seconds, what="the judge to be trusted")
        yield continuity
    finally:
        judge.stop()


def visit_seldom(found: TenantLedgers, times: int) -> None:
    """So much else is to be done that visits are further apart than what counts as a watch without a break."""
    for number in range(times):
        if number:
            time.sleep(PROMPT_SECONDS + 0.2)
        for one in found._visits.values():
            one.next_at = one.judge_at = 0
        found.look()


def test_jobs_of_dead_workers_are_rescued_there_however_seldom_a_database_is_visited(
    tenants: list[LedgerSteps],
) -> None:
    found = visits(lease=LEASE)
    (claimed,) = tenants[2].run()
    with watched(found, LEASE):
        visit_seldom(found, 1)
        tenants[2].expire([claimed.id], seconds_ago=0)
        visit_seldom(found, 1)
        assert tenants[2].states() == {"running": 1}  # it had not ended at the visit before
        visit_seldom(found, 1)
        assert tenants[2].states() == {"running": 1}  # whoever lives has had no time since
        time.sleep(PROMPT_SECONDS + 0.2)
        visit_seldom(found, 1)
        assert tenants[2].job(claimed.id).alone


def test_a_job_that_is_refused_there_keeps_no_other_from_its_rescue(tenants: list[LedgerSteps]) -> None:
    found, steps = visits(lease=LEASE), tenants[2]
    left, taken = steps.run(2)
    steps.expire([left.id, taken.id])
    place = Place(HOME, SHARED_SCHEMA, steps.where[1])
    with watched(found, LEASE), refusing_jobs(f"id <> '{left.id}'", place=place):
        visit_seldom(found, 2)
    assert steps.job(taken.id).alone
    assert steps.job(left.id).state == "running"


def test_no_lease_is_taken_there_unless_the_server_has_been_watched(tenants: list[LedgerSteps]) -> None:
    found = visits(lease=LEASE)
    (claimed,) = tenants[2].run()
    tenants[2].expire([claimed.id])
    visit_seldom(found, 2)
    assert tenants[2].job(claimed.id).state == "running"


def test_after_a_stall_of_one_database_alone_the_living_renew_first(tenants: list[LedgerSteps]) -> None:
    found, mine = visits(lease=LEASE), tenants[0]
    (alive,), (dead,) = mine.run(), mine.run()
    with watched(found, LEASE) as continuity:
        visit_seldom(found, 1)
        mine.expire([alive.id, dead.id], seconds_ago=0)
        with owner_engine(settings(), *mine.where).begin() as connection:
            connection.execute(text("LOCK TABLE ledger.jobs IN SHARE MODE"))
            time.sleep(LEASE + 0.5)
        assert continuity.seconds(time.monotonic()) > LEASE
        visit_seldom(found, 1)
        with writing(mine.organization_id) as session:
            assert ledger.renew(session, [alive], lease_seconds=60) == {alive.id}
        visit_seldom(found, 3)
    assert mine.job(alive.id).state == "running"
    assert mine.job(dead.id).alone


def test_the_gauges_of_a_cluster_count_the_databases_with_its_own_ledger(tenants: list[LedgerSteps]) -> None:
    found = visits()
    found._shared.gauges[HOME].organizations = 2
    own = LedgerSteps()
    dispatcher = Dispatcher(
        found._settings, build_app(found._settings), {LedgerSteps.kind: kind()}, shared=found._shared
    )
    own.enqueue(2)
    tenants[0].enqueue(3)
    tenants[1].enqueue(4)
    with all_jobs_session(*tenants[1].where) as session:
        session.execute(text("UPDATE ledger.jobs SET run_at = now() - interval '100 seconds'"))
    for one in (own, *tenants[:2]):  # or they would be dispatched
        with all_jobs_session(*one.where) as session:
            ledger.pause(session, kind=LedgerSteps.kind, organization_id=None)
    dispatcher.tick()
    found.look()
    assert gauge("docworker_ledger_jobs", kind=LedgerSteps.kind, state="queued") == 9
    assert 100 <= (gauge("docworker_ledger_oldest_due_seconds") or 0) < 200
    assert 100 <= (gauge("docworker_ledger_oldest_due_of_kind_seconds", kind=LedgerSteps.kind) or 0) < 200
    told = [gauge(OF_ORGANIZATION, organization=str(one.organization_id)) for one in (own, *tenants[:2])]
    assert 100 <= (told[2] or 0) < 200
    assert told.count(None) == 1, "two of the three are told"
    for one in tenants[:2]:
        with all_jobs_session(*one.where) as session:
            session.execute(text("UPDATE ledger.jobs SET state = 'cancelled'"))
    visit_seldom(found, 1)
    assert gauge("docworker_ledger_jobs", kind=LedgerSteps.kind, state="queued") == 2
    assert (gauge("docworker_ledger_oldest_due_seconds") or 0) < 100
    told = [gauge(OF_ORGANIZATION, organization=str(one.organization_id)) for one in (own, *tenants[:2])]
    assert [one is None for one in told] == [False, True, True]


OF_ORGANIZATION = "docworker_ledger_oldest_due_of_organization_seconds"


def gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"cluster": HOME, **labels})


def test_who_rings_is_visited_before_those_whose_time_has_come(tenants: list[LedgerSteps]) -> None:
    broker, found = Broker(), visits()
    found.look()
    for number, one in enumerate(tenants):
        one.enqueue()
        found._visits[str(one.where[1])].next_at = number
    found.ring(str(tenants[2].where[1]))
    found.look()
    order = [(broker.take() or {})["organization_id"] for _ in tenants]
    assert order == [str(tenants[number].organization_id) for number in (2, 0, 1)]


def test_no_more_databases_are_connected_to_than_allowed_and_idle_ones_not_at_all(tenants: list[LedgerSteps]) -> None:
    broker, found = Broker(), visits(database_poll=600.0)
    for one in tenants:
        one.enqueue()
    most = 0

    def all_sent() -> bool:
        nonlocal most
        found.look()
        most = max(most, len(connected_to()))
        return broker.depth() == 3

    eventually(all_sent, what="all jobs to be dispatched")
    assert most <= 1
    for one in tenants:
        with all_jobs_session(*one.where) as session:
            session.execute(text("UPDATE ledger.jobs SET state = 'cancelled', redispatch_at = NULL"))
    eventually(lambda: found.look() > 1 and not connected_to(), what="no connection to be left")


def connected_to() -> set[str]:
    """Databases of organizations that this process has connections to."""
    opened = database()._tenants.open()
    return {str(one) for one in opened if any(engine.pool.checkedin() for engine in one.engines)}  # type: ignore[attr-defined]
