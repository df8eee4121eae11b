"""How a job ends: what each class of error means for its state, attempts and time; and what makes a kind."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any
from uuid import UUID

import psycopg
import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from docworker.db import ledger
from docworker.db.documents.reading import Unprocessed
from docworker.db.errors import BadInputError, ConfigurationError, ConflictError, NotFoundError, StoreError
from docworker.db.sessions import writing
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.execution.leases import clear_stop, leases, request_stop
from docworker.jobs.execution.outcomes import backoff_seconds, settle_error
from docworker.jobs.kinds.documents import ProcessDocument, process_documents
from docworker.jobs.kinds.processing import process
from docworker.jobs.task import Attempt, Batch, batch_job, job
from docworker.jobs.testing import advance_clock
from tests.support.adhoc_kinds import (
    batched,
    deliver,
    do_nothing,
    enter,
    enter_batch,
    finish,
    numbers,
    raising,
    single,
    state,
)
from tests.support.database import reopened_database, somebody_waits
from tests.support.tenants import Tenant
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _no_stop() -> Iterator[None]:
    yield
    clear_stop()


def database_error(sqlstate: str) -> DBAPIError:
    """As psycopg and SQLAlchemy raise it for what a server said."""
    original = psycopg.errors.lookup(sqlstate)("the server's words")
    return DBAPIError("UPDATE something", {"text": "secret"}, original)


@pytest.mark.parametrize(
    "error", [BadInputError("cannot be read"), NotFoundError("not there"), database_error("22021"), UnicodeError("bad")]
)
def test_bad_input_fails_at_once(tenant: Tenant, error: Exception) -> None:
    task = single(raising(error))
    job_id = enter(tenant, task)
    deliver(task)
    ended = state(job_id)
    assert (ended.state, ended.attempt, ended.faults) == ("failed", 1, 0)
    assert ended.finished_at is not None


@pytest.mark.parametrize("error", [ConfigurationError("a setting is wrong"), database_error("42501")])
def test_our_own_bugs_fail_at_once(tenant: Tenant, error: Exception) -> None:
    task = single(raising(error))
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, state(job_id).attempt) == ("failed", 1)


@pytest.mark.parametrize(
    "error",
    [
        ConflictError("somebody was faster"),
        StoreError("the disk is full"),
        database_error("40P01"),
        database_error("57P01"),
        database_error("53300"),
    ],
)
def test_what_is_nobodys_fault_goes_back_and_uses_no_attempt(tenant: Tenant, error: Exception) -> None:
    task = single(raising(error))
    job_id = enter(tenant, task)
    deliver(task)
    waiting = state(job_id)
    assert (waiting.state, waiting.attempt, waiting.faults) == ("queued", 0, 1)
    assert waiting.run_at > datetime.now(UTC) + timedelta(seconds=0.5)
    assert deliver(task) == 0, "not before its backoff has passed"


def test_faults_have_a_bound_of_their_own(tenant: Tenant) -> None:
    task = single(raising(ConflictError("somebody was faster")))
    job_id = enter(tenant, task)
    assert finish(task) == 20
    assert (state(job_id).state, state(job_id).faults, state(job_id).attempt) == ("failed", 20, 1)


def test_anything_else_is_tried_again_until_the_attempts_are_used_up(tenant: Tenant) -> None:
    task = single(raising(RuntimeError("unheard of")), max_attempts=3)
    job_id = enter(tenant, task)
    waits = []
    for attempt in (1, 2):
        deliver(task)
        waiting = state(job_id)
        assert (waiting.state, waiting.attempt, waiting.faults) == ("queued", attempt, 0)
        waits.append((waiting.run_at - datetime.now(UTC)).total_seconds())
        advance_clock(60)
    assert 0.5 < waits[0] <= 2
    assert 1.5 < waits[1] <= 4
    deliver(task)
    assert (state(job_id).state, state(job_id).attempt) == ("failed", 3)


def test_a_job_may_have_fewer_attempts_than_its_kind(tenant: Tenant) -> None:
    task = single(raising(RuntimeError("unheard of")))
    job_id = enter(tenant, task, max_attempts=1)
    deliver(task)
    assert state(job_id).state == "failed"


def test_the_reason_is_kept_with_the_job_and_goes_when_it_succeeds(tenant: Tenant) -> None:
    errors = iter([RuntimeError("unheard of")])

    def do(attempt: Attempt) -> None:
        for error in errors:
            raise error

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    waiting = state(job_id)
    assert (waiting.error_class, waiting.error_message) == ("RuntimeError", "unheard of")
    assert "in do\n    raise error" in (waiting.error_traceback or "")
    advance_clock(60)
    deliver(task)
    ended = state(job_id)
    assert (ended.state, ended.error_class, ended.error_message, ended.error_traceback) == ("succeeded", *[None] * 3)


def test_of_a_database_error_the_servers_words_are_kept(tenant: Tenant) -> None:
    task = single(raising(database_error("22021")))
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).error_class, state(job_id).error_message) == (
        "CharacterNotInRepertoire",
        "the server's words",
    )


@pytest.mark.parametrize("message", ["", "a NUL \x00", "a surrogate \ud800", "x" * 100_000])
def test_every_message_can_be_kept(tenant: Tenant, message: str) -> None:
    task = single(raising(BadInputError(message)))
    job_id = enter(tenant, task)
    deliver(task)
    ended = state(job_id)
    assert ended.state == "failed"
    assert ended.error_message
    assert len(ended.error_message) <= 20_000


def test_a_job_that_runs_into_its_soft_limit_says_so(tenant: Tenant) -> None:
    task = single(raising(SoftTimeLimitExceeded()), soft_limit_seconds=7, hard_limit_seconds=9)
    job_id = enter(tenant, task)
    deliver(task)
    ended = state(job_id)
    assert (ended.state, ended.attempt) == ("queued", 1)
    assert (ended.error_class, ended.error_message) == (
        "SoftTimeLimitExceeded",
        "ran longer than its soft limit of 7 s",
    )


def test_an_effect_that_fails_is_rolled_back_with_the_jobs_end(tenant: Tenant) -> None:
    def effect(session: Session) -> None:
        enqueue(session, follow_up)
        raise RuntimeError("half way")

    follow_up = single(do_nothing)
    task = single(lambda attempt: attempt.finish(effect))
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, state(job_id).error_message) == ("queued", "half way")
    assert deliver(follow_up) == 0


def test_a_job_succeeds_with_what_its_effect_returns_or_by_just_returning(tenant: Tenant) -> None:
    counted, silent = single(lambda attempt: attempt.finish(lambda _: {"n": 7})), single(do_nothing)
    jobs = [enter(tenant, counted), enter(tenant, silent)]
    deliver(counted)
    deliver(silent)
    assert [(state(one).state, state(one).result) for one in jobs] == [("succeeded", {"n": 7}), ("succeeded", None)]


def test_an_error_after_the_end_changes_nothing(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        attempt.finish(lambda _: {"n": 7})
        raise RuntimeError("too late")

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, state(job_id).result) == ("succeeded", {"n": 7})


def test_an_effect_of_a_job_that_was_taken_over_is_not_written(tenant: Tenant) -> None:
    written: list[UUID] = []

    def do(attempt: Attempt) -> None:
        if not attempt.claimed.attempt > 1:
            advance_clock(3600)
            deliver(task)
        attempt.finish(lambda _: written.append(attempt.claimed.claim_token))

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    assert (len(written), state(job_id).attempt, state(job_id).state) == (1, 2, "succeeded")


@pytest.mark.parametrize("error", [BadInputError("cannot be read"), RuntimeError("unheard of")])
def test_a_failure_is_told_as_one_although_the_answer_to_its_commit_was_lost(tenant: Tenant, error: Exception) -> None:
    def do(attempt: Attempt) -> None:
        settle_error(Attempt(attempt.kind, attempt.claimed, attempt.position), error)
        raise error

    task = single(do, max_attempts=1)
    enter(tenant, task)
    with capture_logs() as logs:
        deliver(task)
    assert [one["outcome"] for one in logs if one["event"] == "attempt.ended"] == ["failed", "failed"]


def test_an_attempt_that_stops_at_a_safe_point_is_given_back(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        request_stop(60)
        assert attempt.should_stop

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    waiting = state(job_id)
    assert (waiting.state, waiting.attempt, waiting.faults, waiting.error_class) == ("queued", 0, 0, None)


def test_the_end_of_an_attempt_is_written_when_somebody_held_its_job_locked_for_too_long(tenant: Tenant) -> None:
    with reopened_database(lock_timeout=0.5), ThreadPoolExecutor(1) as pool:
        locked = Event()

        def fail(attempt: Attempt) -> None:
            pool.submit(hold_until_somebody_gave_up, attempt, locked)
            assert locked.wait(10)
            raise BadInputError("cannot be read")

        task = single(fail)
        job_id = enter(tenant, task)
        deliver(task)
        assert state(job_id).state == "failed"


def hold_until_somebody_gave_up(attempt: Attempt, locked: Event) -> None:
    with writing(attempt.organization_id) as session:
        ledger.lock_owned(session, [attempt.claimed])
        locked.set()
        eventually(somebody_waits, what="the end to be written")
        eventually(lambda: not somebody_waits(), what="the lock timeout")


def test_no_lease_is_kept_after_a_message(tenant: Tenant) -> None:
    task = single(raising(RuntimeError("unheard of")))
    enter(tenant, task)
    deliver(task)
    assert leases()._held == {}


def test_an_error_in_a_batch_is_held_against_the_jobs_it_had_begun(tenant: Tenant) -> None:
    def do(batch: Batch) -> None:
        for attempt in batch.starting():
            if attempt.claimed.arguments["number"] == 1:
                raise RuntimeError("unheard of")
            attempt.finish()

    task = batched(do)
    ids = enter_batch(tenant, task, 4)
    deliver(task)
    assert [(state(one).state, state(one).attempt) for one in ids] == [
        ("succeeded", 1),
        ("queued", 1),
        ("queued", 0),
        ("queued", 0),
    ]
    assert [state(one).error_message for one in ids] == [None, "unheard of", None, None]


def test_a_fault_of_the_servers_in_a_batch_makes_all_of_it_wait(tenant: Tenant) -> None:
    def do(batch: Batch) -> None:
        for _ in batch.starting():
            raise database_error("57P01")

    task = batched(do)
    ids = enter_batch(tenant, task, 3)
    deliver(task)
    assert [(state(one).state, state(one).attempt, state(one).faults) for one in ids] == [("queued", 0, 1)] * 3
    assert deliver(task) == 0


def test_a_batch_begins_nothing_more_after_half_of_its_soft_limit(tenant: Tenant) -> None:
    def do(batch: Batch) -> None:
        for attempt in batch.starting():
            attempt.finish()
            until = time.monotonic() + 0.06
            while time.monotonic() < until:
                pass

    task = batched(do, soft_limit_seconds=0.1, hard_limit_seconds=1)
    ids = enter_batch(tenant, task, 4)
    deliver(task)
    assert [state(one).state for one in ids] == ["succeeded", "queued", "queued", "queued"]


def test_a_processor_that_breaks_on_one_document_costs_that_one_an_attempt(tenant: Tenant) -> None:
    ids = tenant.add(*(f"text {number}" for number in range(5)))

    def work(document: Unprocessed, job_id: UUID) -> Any:
        if document.id == ids[2]:
            raise ZeroDivisionError("a processor's bug")
        return process(document, job_id)

    def do(batch: Batch) -> None:
        process_documents(batch, work)

    task = batch_job(arguments=ProcessDocument, name=f"tests.documents_{next(numbers)}")(do)
    with writing(tenant.id) as session:
        jobs = enqueue_many(session, task, [{"document_id": one} for one in ids])
    deliver(task)
    assert [(state(one).state, state(one).attempt) for one in jobs] == [
        *[("succeeded", 1)] * 2,
        ("queued", 1),
        *[("succeeded", 1)] * 2,
    ]
    assert [len(tenant.versions(one)) for one in ids] == [1, 1, 0, 1, 1]


def test_backoff_doubles_within_its_bounds() -> None:
    for rounds in (1, 2, 3, 10, 1000):
        full = min(600, 2 * 2.0 ** (rounds - 1)) if rounds < 100 else 600
        found = [backoff_seconds(rounds, base=2, most=600) for _ in range(200)]
        assert full / 2 <= min(found) <= max(found) <= full
        assert max(found) - min(found) > full / 4, "jitter"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"soft_limit_seconds": 300}, r"soft limit \(300 s\) must be positive and below the hard limit \(300 s\)"),
        ({"soft_limit_seconds": 0}, "soft limit"),
        ({"max_attempts": 0}, "max_attempts goes from 1 to 1000, got 0"),
        ({"priority": 10}, r"priority goes from 0 \(first\) to 9, got 10"),
        ({"max_running": 0}, "max_running must be at least 1, got 0; leave it out for no cap"),
    ],
)
def test_wrong_limits_of_a_kind_are_told_where_it_is_defined(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^'?tests.single_.*{complaint}"):
        single(do_nothing, **options)


def takes_nothing() -> None: ...


def yields(attempt: Attempt) -> Iterator[None]:
    yield


def takes_any(attempt: Attempt, *rest: int) -> None: ...


def takes_an_id(attempt: Attempt, id: UUID) -> None: ...


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (takes_nothing, "takes_nothing: a job takes the attempt as its first parameter"),
        (yields, "yields: a job is a function and no generator: take out `yield`"),
        (takes_any, "takes_any: a job's arguments have names; .*rest: int has none"),
        (takes_an_id, "takes_an_id: an argument cannot be called id: enqueue.. uses that name itself"),
    ],
)
def test_what_cannot_be_a_job_is_told_where_it_is_defined(function: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        job(function)


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        ({"at": object()}, "a object has no form in JSON"),
        ({"share": float("nan")}, "Out of range float"),
        ({"text": "a\x00b"}, "NUL"),
        ({"text": "\ud800"}, "half of a character"),
        ({1: "x"}, "the key 1 is no text"),
        ({"deep": json.loads("[" * 180 + "]" * 180)}, "nested more than 100 levels deep"),
        (["no", "mapping"], "no mapping of names to values"),
        ({"number": 10**300}, "more than 300 digits"),
    ],
)
def test_a_result_that_the_ledger_could_not_read_back_fails_the_job_at_once(
    tenant: Tenant, result: Any, complaint: str
) -> None:
    task = single(lambda attempt: attempt.finish(lambda _: result))
    job_id = enter(tenant, task)
    deliver(task)
    ended = state(job_id)
    assert (ended.state, ended.attempt, ended.error_class) == ("failed", 1, "InvalidArgumentError")
    assert "what the effect returns" in str(ended.error_message)
    assert complaint in str(ended.error_message)


def test_a_cursor_that_the_ledger_could_not_read_back_is_refused(tenant: Tenant) -> None:
    def move(attempt: Attempt) -> None:
        with writing(attempt.organization_id) as session:
            ledger.record_cursor(session, attempt.claimed, {"after": object()}, children_added=0, lease_seconds=10)

    task = single(move)
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, state(job_id).error_class) == ("failed", "InvalidArgumentError")
