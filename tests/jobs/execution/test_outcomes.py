"""How attempts end, whatever a job does: what counts, what is given back, and what is kept of the reason."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, Reject, Retry, WorkerShutdown, WorkerTerminate
from structlog.testing import capture_logs

from docworker.db import ledger
from docworker.db.errors import BadInputError, InvalidArgumentError, RetryLaterError
from docworker.db.sessions import writing
from docworker.jobs.execution.leases import clear_stop, leases, request_stop
from docworker.jobs.task import Attempt, Batch
from docworker.jobs.testing import advance_clock
from tests.support.adhoc_kinds import batched, deliver, enter, enter_batch, raising, single, state
from tests.support.database import reopened_database, somebody_waits
from tests.support.tenants import Tenant
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _no_stop() -> Iterator[None]:
    yield
    clear_stop()


class Panic(BaseException):
    """As an extension written in another language raises it."""


def deliver_although(task: Any) -> None:
    """KeyboardInterrupt is passed on to whoever runs jobs in the foreground."""
    with suppress(KeyboardInterrupt):
        deliver(task)


@pytest.mark.parametrize(
    "error",
    [
        Panic("a panic"),
        SystemExit(0),
        SystemExit("enough"),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
        MemoryError(),
        RecursionError("too deep"),
        StopIteration(),
        ExceptionGroup("several", [ValueError("one"), TypeError("two")]),
        BaseExceptionGroup("several", [Panic("one"), SystemExit(1)]),
        WorkerShutdown(0),
        WorkerTerminate(1),
        Retry("later"),
        Reject("not here", requeue=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_job_raises_uses_an_attempt_and_leaves_its_reason(tenant: Tenant, error: BaseException) -> None:
    task = single(raising(error), max_attempts=2)
    job_id = enter(tenant, task)
    deliver_although(task)
    waiting = state(job_id)
    assert (waiting.state, waiting.attempt, waiting.error_class) == ("queued", 1, type(error).__name__)
    assert waiting.error_message
    assert type(error).__name__ in (waiting.error_traceback or "")
    advance_clock(60)
    deliver_although(task)
    assert (state(job_id).state, state(job_id).attempt) == ("failed", 2)


def test_a_job_that_says_when_to_try_again_is_due_then_and_uses_up_its_attempts(tenant: Tenant) -> None:
    task = single(raising(RetryLaterError("the service is closed until tomorrow", seconds=86400)), max_attempts=2)
    job_id = enter(tenant, task)
    assert deliver(task) == 1
    waiting = state(job_id)
    assert (waiting.state, waiting.attempt, waiting.later) == ("queued", 1, True)
    assert waiting.claimed_at is not None
    assert 86400 <= (waiting.run_at - waiting.claimed_at).total_seconds() < 86400 + 60
    advance_clock(86000)
    assert deliver(task) == 0
    advance_clock(400)
    assert deliver(task) == 1
    assert (state(job_id).state, state(job_id).error_message) == ("failed", "the service is closed until tomorrow")


def test_nobody_can_ask_for_a_delay_that_the_ledger_could_not_keep() -> None:
    for seconds in (-1, 400 * 86400, float("nan")):
        with pytest.raises(InvalidArgumentError, match="0 seconds to a year"):
            RetryLaterError("later", seconds=seconds)


def test_ctrl_c_in_a_program_that_runs_jobs_itself_ends_it(tenant: Tenant) -> None:
    task = single(raising(KeyboardInterrupt()))
    enter(tenant, task)
    with pytest.raises(KeyboardInterrupt):
        deliver(task)


@pytest.mark.parametrize("error", [Ignore(), Reject("not here", requeue=False)])
def test_celerys_ways_to_drop_a_message_fail_the_job_and_say_what_to_do(tenant: Tenant, error: Exception) -> None:
    task = single(raising(error))
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, state(job_id).attempt) == ("failed", 1)
    assert "return to succeed, raise BadInputError to fail" in (state(job_id).error_message or "")


class MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError("nothing to say")

    __repr__ = __str__


class FatalError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class NotTextError(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class Deceiver(str):
    def __getattribute__(self, name: str) -> Any:
        raise Panic(name)

    __len__ = __iter__ = __add__ = __format__ = __getattribute__  # type: ignore[assignment]


class DeceivingError(Exception):
    def __str__(self) -> str:
        return Deceiver("a text that cannot be used")


class Unnamed(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__"):
            raise Panic(name)
        return super().__getattribute__(name)


class NamelessError(Exception, metaclass=Unnamed):
    pass


class DisguisedError(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise Panic("no class")


class NotesError(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise Panic("no notes")


class UncausedError(Exception):
    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        raise Panic("no cause")

    __context__ = __suppress_context__ = __traceback__ = __cause__  # type: ignore[assignment]


def in_a_circle() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def with_many_causes() -> Exception:
    error = ValueError("the first of all")
    for number in range(50_000):
        following = ValueError(f"number {number}")
        following.__context__ = error
        error = following
    return error


def with_bad_notes() -> Exception:
    error = ValueError("noted")
    error.__notes__ = ["a \x00 note", 7, "x" * 10_000_000, *["more"] * 100_000]  # type: ignore[list-item]
    return error


def nested_groups() -> Exception:
    error: Exception = ValueError("the innermost")
    for _ in range(500):
        error = ExceptionGroup("nested", [error] * 3)
    return error


def unpicklable() -> Exception:
    error = ValueError("holds a function")
    error.hold = lambda: None  # type: ignore[attr-defined]
    return error


def of_a_huge_class() -> Exception:
    kind = type("x" * 1_000_000, (Exception,), {"__module__": 7})
    return kind("\x00\ud800" * 5_000_000)  # type: ignore[no-any-return]


HOSTILE: list[Callable[[], BaseException]] = [
    MuteError,
    FatalError,
    NotTextError,
    DeceivingError,
    NamelessError,
    DisguisedError,
    NotesError,
    UncausedError,
    in_a_circle,
    with_many_causes,
    with_bad_notes,
    nested_groups,
    unpicklable,
    of_a_huge_class,
]


@pytest.mark.parametrize("make", HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_an_exception_that_cannot_be_told_is_kept_all_the_same(
    tenant: Tenant, make: Callable[[], BaseException]
) -> None:
    def do(attempt: Attempt) -> None:
        raise make()

    task = single(do)
    job_id = enter(tenant, task)
    with capture_logs() as logs:
        deliver(task)
    waiting = state(job_id)
    assert (waiting.state, waiting.attempt) == ("queued", 1)
    assert 0 < len(waiting.error_class or "") <= 200
    assert 0 < len(waiting.error_message or "") <= 20_000
    assert 0 < len(waiting.error_traceback or "") <= 20_200
    (line,) = [one for one in logs if one["event"] == "attempt.ended"]
    assert len(str(line)) < 1_500


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (MuteError, "<no message: asking the exception for it failed: ValueError>"),
        (FatalError, "<no message: asking the exception for it failed: SystemExit>"),
        (DeceivingError, "a text that cannot be used"),
    ],
)
def test_what_an_exception_cannot_say_is_a_placeholder(
    tenant: Tenant, make: Callable[[], BaseException], said: str
) -> None:
    task = single(raising(make()))
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).error_class, state(job_id).error_message) == (make.__name__, said)


def test_equal_failures_read_alike_wherever_their_objects_were_in_memory(tenant: Tenant) -> None:
    task = single(raising(BadInputError(f"cannot read {object()}, nor {Event()}")))
    job_id = enter(tenant, task)
    deliver(task)
    assert state(job_id).error_message == "cannot read <object object>, nor <threading.Event: unset>"


def dive(depth: int) -> None:
    if depth:
        return surface(depth - 1)
    raise ValueError("at the bottom\n" + "with many words\n" * 100_000)


def surface(depth: int) -> None:
    return dive(depth)


def test_a_deep_traceback_is_cut_in_its_middle(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(20_000)
        try:
            dive(5_000)
        finally:
            sys.setrecursionlimit(limit)

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    kept = state(job_id).error_traceback or ""
    assert kept.startswith("Traceback (most recent call last):")
    assert "frames are left out here" in kept
    assert "\nValueError: at the bottom\n" in kept[-3_000:]
    assert "in dive\n    raise ValueError" in kept[-3_000:]


def test_of_many_causes_the_first_and_the_last_ones_are_kept(tenant: Tenant) -> None:
    task = single(raising(with_many_causes()))
    job_id = enter(tenant, task)
    deliver(task)
    kept = state(job_id).error_traceback or ""
    assert kept.startswith("ValueError: the first of all\n\nDuring handling of the above exception")
    assert "… 49989 causes are left out here …" in kept
    assert kept.endswith("ValueError: number 49999\n")


def test_an_error_after_the_end_is_told_shortly(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        attempt.finish()
        raise Panic("x" * 1_000_000)

    task = single(do)
    job_id = enter(tenant, task)
    with capture_logs() as logs:
        deliver(task)
    assert state(job_id).state == "succeeded"
    (line,) = [one for one in logs if one["event"] == "task.failed_after_its_jobs_ended"]
    assert len(str(line)) < 1_000


def test_the_reason_is_kept_although_the_soft_limit_strikes_while_it_is_written(tenant: Tenant) -> None:
    def fail(attempt: Attempt) -> None:
        locked = Event()
        pool.submit(hold_until_struck, attempt, locked)
        assert locked.wait(10)
        raise BadInputError("cannot be read")

    def hold_until_struck(attempt: Attempt, locked: Event) -> None:
        with writing(attempt.organization_id) as session:
            ledger.lock_owned(session, [attempt.claimed])
            locked.set()
            eventually(somebody_waits, what="the end to be written")
            os.kill(os.getpid(), signal.SIGUSR1)
            eventually(struck.is_set, what="the soft limit")

    task = single(fail)
    job_id = enter(tenant, task)
    with soft_limit_at(signal.SIGUSR1) as struck, ThreadPoolExecutor(1) as pool:
        deliver(task)
    assert struck.is_set()
    assert (state(job_id).state, state(job_id).error_message) == ("failed", "cannot be read")


@contextmanager
def soft_limit_at(number: signal.Signals) -> Iterator[Event]:
    """As billiard's children do it: the exception is raised wherever the main thread is."""
    struck = Event()

    def strike(*_: object) -> None:
        struck.set()
        raise SoftTimeLimitExceeded

    before = signal.signal(number, strike)
    try:
        yield struck
    finally:
        signal.signal(number, before)


def test_a_function_that_returned_has_succeeded_also_during_a_stop(tenant: Tenant) -> None:
    task = single(lambda _: request_stop(60))
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, state(job_id).attempt) == ("succeeded", 1)


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded(), Panic(), SystemExit()])
def test_a_job_that_catches_everything_and_returns_has_succeeded(tenant: Tenant, error: BaseException) -> None:
    def do(attempt: Attempt) -> None:
        with suppress(BaseException):
            raise error

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    assert state(job_id).state == "succeeded"


def test_a_job_that_swallows_what_its_effect_raised_has_not_succeeded(tenant: Tenant) -> None:
    def effect(_: object) -> None:
        raise Panic("half way")

    def do(attempt: Attempt) -> None:
        with suppress(BaseException):
            attempt.finish(effect)

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, state(job_id).attempt, state(job_id).error_message) == ("queued", 1, "half way")


def test_a_second_finish_makes_good_for_the_first(tenant: Tenant) -> None:
    def effect(_: object) -> None:
        raise RuntimeError("half way")

    def do(attempt: Attempt) -> None:
        with suppress(RuntimeError):
            attempt.finish(effect)
        attempt.finish(lambda _: {"instead": True})

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, state(job_id).result) == ("succeeded", {"instead": True})


@pytest.mark.parametrize("error", [None, RuntimeError("stopped in the middle"), Panic()])
def test_a_job_that_saw_the_stop_is_given_back_however_it_ends(tenant: Tenant, error: BaseException | None) -> None:
    def do(attempt: Attempt) -> None:
        request_stop(60)
        assert attempt.should_stop
        if error is not None:
            raise error

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, state(job_id).attempt, state(job_id).given_back) == ("queued", 0, 1)


def test_a_job_that_looked_before_the_stop_and_fails_after_it_uses_an_attempt(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        assert not attempt.should_stop
        request_stop(60)
        raise RuntimeError("unheard of")

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, state(job_id).attempt) == ("queued", 1)


def test_a_job_is_given_back_a_bounded_number_of_times(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        request_stop(60)
        assert attempt.should_stop

    task = single(do, max_attempts=2)
    job_id = enter(tenant, task)
    seen = []
    with reopened_database(max_given_back=2):
        for _ in range(6):
            deliver(task)
            now = state(job_id)
            seen.append((now.state, now.attempt, now.given_back))
    assert seen == [
        ("queued", 0, 1),
        ("queued", 0, 2),
        ("queued", 1, 0),
        ("queued", 1, 1),
        ("queued", 1, 2),
        ("failed", 2, 0),
    ]
    assert (state(job_id).error_class, state(job_id).finished_at is not None) == ("GivenBack", True)
    assert "given back 2 times in a row" in (state(job_id).error_message or "")


def test_another_end_starts_the_count_of_what_is_given_back_again(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        if attempt.claimed.attempt == 1 and next(rounds) == 1:
            raise RuntimeError("unheard of")
        request_stop(60)
        assert attempt.should_stop

    rounds = iter(range(100))
    task = single(do)
    job_id = enter(tenant, task)
    seen = []
    for _ in range(3):
        deliver(task)
        seen.append(state(job_id).given_back)
        advance_clock(60)
    assert seen == [1, 0, 1]


def test_a_batch_pays_for_what_it_began_and_left_and_not_for_what_it_never_came_to(tenant: Tenant) -> None:
    def do(batch: Batch) -> None:
        for attempt in batch.starting():
            number = attempt.claimed.arguments["number"]
            if number == 0:
                attempt.finish()
            if number == 2:
                return

    task = batched(do)
    ids = enter_batch(tenant, task, 4)
    deliver(task)
    ended = [state(one) for one in ids]
    assert [(one.state, one.attempt, one.error_class) for one in ended] == [
        ("succeeded", 1, None),
        ("queued", 1, "LeftUnsettled"),
        ("queued", 1, "LeftUnsettled"),
        ("queued", 0, None),
    ]
    assert "settle each attempt of a batch" in (ended[1].error_message or "")


def test_looking_at_a_batch_begins_nothing_and_changes_nothing(tenant: Tenant) -> None:
    """However often, and whoever looks: what a failure is held against is what was begun."""

    def do(batch: Batch) -> None:
        assert [attempt.id for attempt in batch] == [attempt.id for attempt in batch] == ids
        assert (len(batch), len(list(batch)), batch.begun) == (3, 3, [])
        first = next(batch.starting())
        assert batch.begun == [first]
        assert len(list(batch)) == 3
        raise RuntimeError("of the first one")

    task = batched(do)
    ids = enter_batch(tenant, task, 3)
    deliver(task)
    assert [(state(one).attempt, state(one).error_class) for one in ids] == [(1, "RuntimeError"), (0, None), (0, None)]


def test_a_batch_function_that_takes_none_of_its_jobs_pays_for_all(tenant: Tenant) -> None:
    def do(batch: Batch) -> None: ...

    task = batched(do, max_attempts=1)
    ids = enter_batch(tenant, task, 3)
    deliver(task)
    assert [(state(one).state, state(one).error_class) for one in ids] == [("failed", "LeftUnsettled")] * 3


@pytest.mark.parametrize("error", [None, RuntimeError("amid a stop")])
def test_a_batch_that_ends_early_because_of_a_stop_is_given_back(tenant: Tenant, error: Exception | None) -> None:
    def do(batch: Batch) -> None:
        for number, attempt in enumerate(batch.starting()):
            if number == 0:
                attempt.finish()
            if number == 1:
                request_stop(60)
        if error is not None:
            raise error

    task = batched(do)
    ids = enter_batch(tenant, task, 4)
    deliver(task)
    assert [(state(one).state, state(one).attempt) for one in ids] == [("succeeded", 1)] + [("queued", 0)] * 3


def until_taken_away(attempt: Attempt) -> None:
    eventually(lambda: not leases().held(attempt.claimed), what="the deadline")


def test_at_the_deadline_a_job_that_never_looked_pays(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        request_stop(0.1)
        until_taken_away(attempt)

    task = single(do, max_attempts=2)
    job_id = enter(tenant, task)
    deliver(task)
    waiting = state(job_id)
    assert (waiting.state, waiting.attempt, waiting.error_class) == ("queued", 1, "WorkerStopped")
    assert "its worker shut down and the job did not stop in time" in (waiting.error_message or "")
    deliver(task)
    assert (state(job_id).state, state(job_id).attempt) == ("failed", 2)


def test_at_the_deadline_a_job_that_saw_the_stop_pays_nothing(tenant: Tenant) -> None:
    def do(attempt: Attempt) -> None:
        request_stop(0.1)
        assert attempt.should_stop
        until_taken_away(attempt)

    task = single(do)
    job_id = enter(tenant, task)
    deliver(task)
    assert (state(job_id).state, state(job_id).attempt) == ("queued", 0)


def test_at_the_deadline_jobs_of_a_batch_that_were_not_begun_pay_nothing(tenant: Tenant) -> None:
    def do(batch: Batch) -> None:
        for attempt in batch.starting():
            request_stop(0.1)
            until_taken_away(attempt)

    task = batched(do)
    ids = enter_batch(tenant, task, 3)
    deliver(task)
    assert [(state(one).state, state(one).attempt) for one in ids] == [("queued", 1), ("queued", 0), ("queued", 0)]
