"""Two releases of one kind at the same time, as a rolling deploy has them: jobs of one under the code of the other."""

import itertools
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel, field_validator
from structlog.testing import capture_logs

from docworker.db.errors import ConfigurationError
from docworker.db.models import Job
from docworker.db.models.base import new_id
from docworker.db.sessions import writing
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.kind import Arguments, Kind, arguments_of
from docworker.jobs.task import Attempt, Batch, batch_job, enter, job
from docworker.jobs.testing import advance_clock
from tests.support.adhoc_kinds import deliver, finish, state
from tests.support.tenants import Tenant

names = itertools.count()


class First(Arguments):
    number: int


class WithOneMore(Arguments):
    number: int
    colour: str


class WithOneMoreThatMayBeMissing(Arguments):
    number: int
    colour: str = "grey"


class WithoutNumber(Arguments):
    pass


class WithAnotherType(Arguments):
    number: list[UUID]


class Releases:
    """Releases of one kind, as tasks; `ran` is what their functions were given."""

    def __init__(self) -> None:
        self.name = f"tests.release_{next(names)}"
        self.ran: list[BaseModel] = []

    def of(self, arguments: type[BaseModel], **limits: Any) -> Any:
        return SimpleNamespace(kind=Kind(self.name, arguments, self._run, takes_batches=True, **limits))

    def _run(self, batch: Batch) -> None:
        for attempt in batch.starting():
            self.ran.append(attempt.arguments)
            attempt.finish()


@pytest.fixture
def releases() -> Releases:
    return Releases()


def entered(tenant: Tenant, task: Any, **arguments: Any) -> UUID:
    with writing(tenant.id) as session:
        return enqueue(session, task, **arguments)


def unaccepted(task: Any) -> float:
    return REGISTRY.get_sample_value("docworker_unaccepted_jobs_total", {"kind": task.kind.name}) or 0


def waits(job: Job) -> bool:
    return (job.state, job.attempt, job.faults) == ("queued", 0, 1)


@pytest.mark.parametrize(
    ("enqueued_by", "arguments", "run_by", "named"),
    [
        (First, {"number": 1}, WithOneMore, "colour: Field required"),
        (WithOneMore, {"number": 1, "colour": "red"}, First, "colour: Extra inputs are not permitted"),
        (First, {"number": 1}, WithoutNumber, "number: Extra inputs are not permitted"),
        (WithoutNumber, {}, First, "number: Field required"),
        (First, {"number": 1}, WithAnotherType, "number: Input should be a valid list"),
    ],
    ids=["added, old job", "added, new job", "removed, old job", "removed, new job", "retyped"],
)
def test_a_job_whose_arguments_a_release_does_not_take_waits_for_one_that_does(
    tenant: Tenant,
    releases: Releases,
    enqueued_by: type[BaseModel],
    arguments: dict[str, Any],
    run_by: type[BaseModel],
    named: str,
) -> None:
    right, wrong = releases.of(enqueued_by), releases.of(run_by)
    job_id = entered(tenant, right, **arguments)
    with capture_logs() as logs:
        deliver(wrong)
    waiting = state(job_id)
    assert waits(waiting)
    assert named in (waiting.error_message or "")
    assert "docworker jobs retry" in (waiting.error_message or "")
    assert [(one["fault"], one["outcome"]) for one in logs if one["event"] == "attempt.ended"] == [
        ("arguments", "retried")
    ]
    assert unaccepted(wrong) == 1
    assert releases.ran == []
    advance_clock(60)
    deliver(right)
    assert (state(job_id).state, state(job_id).attempt) == ("succeeded", 1)
    assert releases.ran == [enqueued_by.model_validate(arguments)]


def test_an_optional_argument_is_taken_from_both_sides_of_a_deploy(tenant: Tenant, releases: Releases) -> None:
    old, new = releases.of(First), releases.of(WithOneMoreThatMayBeMissing)
    before = entered(tenant, old, number=1)
    deliver(new)
    after = entered(tenant, new, number=2, colour="red")
    deliver(new)
    assert [state(one).state for one in (before, after)] == ["succeeded"] * 2


def test_the_others_of_a_batch_run(tenant: Tenant, releases: Releases) -> None:
    old, new = releases.of(First), releases.of(WithOneMore)
    with writing(tenant.id) as session:
        olds = enqueue_many(session, old, [{"number": 1}, {"number": 2}])
        news = enqueue_many(session, new, [{"number": 3, "colour": "red"}, {"number": 4, "colour": "blue"}])
    assert deliver(new) == 4
    assert [waits(state(one)) for one in olds] == [True, True]
    assert [state(one).state for one in news] == ["succeeded", "succeeded"]


def test_the_wait_is_bounded_and_ends_with_the_reason(tenant: Tenant, releases: Releases) -> None:
    job_id = entered(tenant, releases.of(First), number=1)
    assert finish(releases.of(WithOneMore)) == 20
    ended = state(job_id)
    assert (ended.state, ended.faults, ended.error_class) == ("failed", 20, "UnacceptedArgumentsError")
    assert "colour: Field required" in (ended.error_message or "")


def test_a_kind_of_single_jobs_waits_as_well(tenant: Tenant, releases: Releases) -> None:
    @job(name=f"{releases.name}_single")
    def newer(attempt: Attempt, number: int, colour: str) -> None: ...

    def older(attempt: Attempt, number: int) -> None: ...

    kind = newer.kind
    job_id = entered(tenant, SimpleNamespace(kind=Kind(kind.name, arguments_of(older), kind.run)), number=1)
    deliver(newer)
    assert waits(state(job_id))


def test_a_plain_call_of_another_release_waits_in_the_ledger(tenant: Tenant, releases: Releases) -> None:
    old, new = releases.of(First), releases.of(WithOneMore)
    job_id = new_id()
    enter(new.kind, tenant.id, job_id, {"number": 1})
    deliver(new)
    assert waits(state(job_id))
    advance_clock(60)
    deliver(old)
    assert state(job_id).state == "succeeded"


def test_a_validator_that_breaks_costs_its_own_job_an_attempt(tenant: Tenant, releases: Releases) -> None:
    class Picky(Arguments):
        number: int

        @field_validator("number")
        @classmethod
        def not_two(cls, number: int) -> int:
            if number == 2:
                raise SystemExit(3)
            return number

    with writing(tenant.id) as session:
        ids = enqueue_many(session, releases.of(First), [{"number": 1}, {"number": 2}])
    deliver(releases.of(Picky))
    assert [(state(one).state, state(one).error_class) for one in ids] == [
        ("succeeded", None),
        ("queued", "SystemExit"),
    ]


def test_a_model_that_would_drop_what_it_does_not_know_is_refused() -> None:
    class Forgetful(BaseModel):
        number: int

    with pytest.raises(ConfigurationError, match="Forgetful would drop arguments that it does not know"):
        batch_job(arguments=Forgetful)


def test_a_generator_is_no_job() -> None:
    def generator(attempt: Attempt) -> Any:
        yield

    with pytest.raises(ConfigurationError, match="generator: a job is a function and no generator"):
        job(generator)
