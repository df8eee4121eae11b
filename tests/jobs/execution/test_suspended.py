"""Jobs that run, or whose message arrives, while their organization is suspended: they wait, and nothing is charged."""

from collections.abc import Callable

import pytest

from docworker.db.catalog import place_of
from docworker.db.cluster import database
from docworker.db.errors import MovingOrganizationError
from docworker.db.models import PlacementState
from docworker.jobs.task import Attempt, Batch
from docworker.jobs.testing import dispatch_due, run
from docworker.worker.tenants.states import resume, suspend
from tests.support.adhoc_kinds import batched, deliver, enter, enter_batch, single, state
from tests.support.tenants import Tenant, is_served
from tests.support.waiting import eventually


def suspended(tenant: Tenant) -> None:
    suspend(tenant.slug)
    eventually(lambda: not is_served(tenant.id), within_seconds=10)


def resumed(tenant: Tenant) -> None:
    resume(tenant.slug)
    eventually(lambda: is_served(tenant.id), within_seconds=10)


def finish_without_effect(attempt: Attempt) -> None:
    attempt.finish()


def finish_with_effect(attempt: Attempt) -> None:
    attempt.finish(lambda _: {"done": True})


def read_something(attempt: Attempt) -> None:
    attempt.read(lambda _: None)


def return_at_once(attempt: Attempt) -> None: ...


def fail(attempt: Attempt) -> None:
    raise ValueError("its own fault")


ENDS: list[Callable[[Attempt], None]] = [finish_without_effect, finish_with_effect, read_something, return_at_once]


@pytest.mark.parametrize("ending", ENDS)
def test_a_job_that_cannot_end_because_its_organization_is_suspended_is_given_back(
    tenant: Tenant, ending: Callable[[Attempt], None]
) -> None:
    runs = []

    def do(attempt: Attempt) -> None:
        runs.append(attempt.claimed.attempt)
        if len(runs) == 1:
            suspended(tenant)
        ending(attempt)

    task = single(do, max_attempts=1)
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, deliver(task)) == ("queued", 0), "it waits"
    resumed(tenant)
    assert deliver(task) == 1
    assert (state(job_id).state, runs) == ("succeeded", [1, 1])


def test_a_job_that_fails_by_itself_meanwhile_has_failed(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        suspended(tenant)
        fail(attempt)

    task = single(do, max_attempts=1)
    job_id = enter(tenant, task)
    deliver(task)
    assert state(job_id).state == "failed"
    resumed(tenant)


def test_all_jobs_of_a_batch_are_given_back(tenant: Tenant) -> None:
    runs = []

    def do(batch: Batch) -> None:
        for attempt in batch.starting():
            runs.append(attempt.id)
            if len(runs) == 1:
                suspended(tenant)
            attempt.finish(lambda _: None)

    task = batched(do, max_attempts=1)
    ids = enter_batch(tenant, task, 3)
    deliver(task)
    assert [state(one).state for one in ids] == ["queued"] * 3
    resumed(tenant)
    assert deliver(task) == 3
    assert [state(one).state for one in ids] == ["succeeded"] * 3


@pytest.mark.parametrize("takes_batches", [False, True])
def test_jobs_of_a_message_that_arrives_meanwhile_wait_in_the_ledger(tenant: Tenant, takes_batches: bool) -> None:
    def do(batch: Batch) -> None:
        raise AssertionError("nothing of it runs")

    task = batched(do) if takes_batches else single(finish_without_effect)
    kinds = {task.kind.name: task.kind}
    (job_id,) = enter_batch(tenant, task, 1) if takes_batches else [enter(tenant, task)]
    messages = dispatch_due(kinds)
    suspended(tenant)
    assert run(messages, kinds) == 0
    assert (state(job_id).state, dispatch_due(kinds)) == ("queued", [])
    resumed(tenant)
    assert len(dispatch_due(kinds)) == 1


def test_who_would_end_a_job_past_a_suspension_that_is_over_is_told_to_ask_again(tenant: Tenant) -> None:
    with pytest.raises(MovingOrganizationError, match="active again"):
        place_of(tenant.id, database(), states=[PlacementState.SUSPENDED])
