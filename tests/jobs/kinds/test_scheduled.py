"""Ticks of organizations: a job in the ledger of each, once, wherever that is."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, select, text

from docworker.db.models.ledger.job import Job
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.sessions.fence import lock_key
from docworker.jobs.kinds.scheduled import enqueue_scheduled
from docworker.jobs.schedules.firing import enqueue_tick
from docworker.jobs.schedules.schedule import Schedule
from docworker.jobs.task import known_kinds
from docworker.jobs.testing import advance_clock, dispatch_due, run
from docworker.worker.app import celery_app
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.places import Model
from docworker.worker.tenants.states import suspend
from tests.support.adhoc_kinds import deliver, finish, state
from tests.support.database import reopened_database
from tests.support.tenants import Tenant
from tests.support.troubled import TROUBLES, held_lock, refused_jobs

pytestmark = pytest.mark.usefixtures("clusters")

KIND = "process_organization"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Placed(Tenant):
    def __init__(self, model: Model = Model.SHARED, cluster: str = "home") -> None:
        self.slug = f"scheduled-{datetime.now(UTC):%H%M%S%f}"
        self.id = create_tenant(self.slug, model=model, cluster=cluster).organization_id


def jobs_of(tenant: Tenant) -> list[Job]:
    with writing(tenant.id) as session:
        return list(session.scalars(select(Job).where(Job.kind == KIND, Job.organization_id == tenant.id)))


def fire(due_at: datetime = NOON, **options: Any) -> UUID:
    """As a beat does; and a worker runs what it enqueues."""
    schedule = Schedule("nightly", "0 12 * * *", KIND, **options)
    with all_jobs_session() as session:
        job_id = enqueue_tick(session, schedule, known_kinds(celery_app()), due_at)
    finish(enqueue_scheduled)
    return job_id


def again(job_id: UUID) -> None:
    """As if its worker had died after all of it was done."""
    with all_jobs_session() as session:
        session.execute(text("UPDATE ledger.jobs SET state = 'queued', attempt = 0 WHERE id = :id"), {"id": job_id})
    finish(enqueue_scheduled)


def claim(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        session.execute(
            text("UPDATE ledger.jobs SET claimed_at = clock_timestamp() WHERE kind = :kind"), {"kind": KIND}
        )


def test_a_tick_for_each_organization_is_one_job_in_the_ledger_of_each() -> None:
    tenants = [Placed(), Placed(Model.SCHEMA, "east"), Placed(Model.DATABASE)]
    idle = Placed()
    suspend(idle.slug)
    job_id = fire(each_organization=True)
    for one in tenants:
        claim(one)
    again(job_id)
    assert [len(jobs_of(one)) for one in tenants] == [1, 1, 1]
    assert (state(job_id).state, state(job_id).result) == ("succeeded", {"enqueued": 0}), "the second time"
    with all_jobs_session() as session:
        assert session.scalars(select(Job).where(Job.organization_id == idle.id)).all() == []


def test_a_tick_for_one_organization_is_its_job_alone() -> None:
    tenant, other = Placed(Model.DATABASE, "east"), Placed()
    fire(organization_id=tenant.id, priority=1)
    (job,) = jobs_of(tenant)
    assert job.priority == 1
    assert jobs_of(other) == []


def test_while_the_job_of_an_earlier_tick_waits_a_tick_adds_none_unless_all_are_wanted() -> None:
    tenant = Placed()
    for hour in (12, 13):
        fire(NOON.replace(hour=hour), organization_id=tenant.id)
    assert len(jobs_of(tenant)) == 1
    claim(tenant)
    for hour in (14, 15):
        fire(NOON.replace(hour=hour), organization_id=tenant.id, missed="all")
    assert len(jobs_of(tenant)) == 3


def test_organizations_that_cannot_be_reached_get_their_job_at_a_later_try_and_the_others_at_once() -> None:
    near, far = Placed(), Placed(Model.SHARED, "east")
    schedule = Schedule("nightly", "0 12 * * *", KIND, each_organization=True)
    with all_jobs_session() as session:
        job_id = enqueue_tick(session, schedule, known_kinds(celery_app()), NOON)
    with reopened_database(lock_timeout=0.2), all_jobs_session("east") as session:
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(far.id)})
        deliver(enqueue_scheduled)
        assert state(job_id).state == "queued"
        assert len(jobs_of(near)) == 1
    claim(near)
    advance_clock(3600)
    finish(enqueue_scheduled)
    assert state(job_id).state == "succeeded"
    assert [len(jobs_of(one)) for one in (near, far)] == [1, 1]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_is_wrong_with_one_organization_keeps_no_other_of_its_cluster_from_its_job(
    trouble: Callable[[], AbstractContextManager[UUID]],
) -> None:
    kinds = {enqueue_scheduled.kind.name: enqueue_scheduled.kind}
    schedule = Schedule("nightly", "0 12 * * *", KIND, each_organization=True)
    with all_jobs_session() as session:
        job_id = enqueue_tick(session, schedule, known_kinds(celery_app()), NOON)
    messages = dispatch_due(kinds)
    with trouble():
        behind = Placed()
        assert run(messages, kinds) == 1
        assert len(jobs_of(behind)) == 1
        expected = "failed" if trouble is refused_jobs else "queued"
        assert state(job_id).state == expected, "it is tried again for that one, where that may help"


def test_one_that_is_refused_costs_no_other_its_job_at_a_later_try() -> None:
    schedule = Schedule("nightly", "0 12 * * *", KIND, each_organization=True)
    with all_jobs_session() as session:
        job_id = enqueue_tick(session, schedule, known_kinds(celery_app()), NOON)
    with held_lock(), refused_jobs():
        deliver(enqueue_scheduled)
    assert state(job_id).state == "queued"


def test_a_suspended_or_unknown_organization_makes_a_tick_a_no_op() -> None:
    tenant = Placed()
    suspend(tenant.slug)
    for organization_id in (tenant.id, UUID(int=1)):
        job_id = fire(organization_id=organization_id)
        assert (state(job_id).state, state(job_id).result) == ("succeeded", {"enqueued": 0})


@pytest.fixture(autouse=True)
def _no_jobs(clusters: None) -> None:
    with all_jobs_session() as session:
        session.execute(delete(Job))
