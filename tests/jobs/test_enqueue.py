"""What a producer may rely on: no commit, no job; commit, and the job is there; and nobody needs a broker for it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import IntEnum
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import Strict
from sqlalchemy import select

from docworker.db.cluster import Database
from docworker.db.errors import ConfigurationError, InvalidArgumentError
from docworker.db.ledger import get
from docworker.db.models import Job
from docworker.db.models.base import new_id
from docworker.db.sessions import aio, all_jobs_session, writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.task import Attempt, job
from tests.support.project import PROJECT
from tests.support.tenants import Tenant

NOWHERE = UUID(int=1)
INDIA = timezone(timedelta(hours=5, minutes=30))


class BadZone(tzinfo):
    """One that raises."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        raise ValueError("no such place")

    dst = utcoffset

    def tzname(self, _: datetime | None) -> str:
        return "nowhere"


def nested(levels: int) -> Any:
    made: Any = []
    for _ in range(levels - 1):
        made = [made]
    return made


def doubled(levels: int) -> Any:
    """Few lists, each twice in the next one: as JSON too many to count."""
    made: Any = []
    for _ in range(levels):
        made = [made, made]
    return made


def holding_itself() -> Any:
    made: list[Any] = []
    made.append(made)
    return made


@job(name="tests.note", max_attempts=4, priority=6)
def note(attempt: Attempt, text: str = "", session: Any = None) -> None:
    """Takes what it is given."""


def jobs_of(tenant: Tenant) -> list[Job]:
    with all_jobs_session() as session:
        ours = select(Job).where(Job.organization_id == tenant.id).order_by(Job.created_at)
        return list(session.scalars(ours))


def job_of(job_id: UUID) -> Job:
    with all_jobs_session() as session:
        return get(session, job_id)


def enqueue_note(tenant: Tenant, **options: Any) -> UUID:
    with writing(tenant.id) as session:
        return enqueue(session, note, **options)


def test_a_job_has_the_defaults_of_its_kind_and_is_due_at_once(tenant: Tenant) -> None:
    made = job_of(enqueue_note(tenant, text="x"))
    assert (made.kind, made.state, made.arguments) == ("tests.note", "queued", {"text": "x", "session": None})
    assert (made.priority, made.max_attempts, made.attempt, made.parent_id) == (6, 4, 0, None)
    assert abs(made.run_at - made.created_at) < timedelta(seconds=1)


def test_every_option_ends_in_the_job(tenant: Tenant) -> None:
    run_at, job_id, parent_id = datetime.now(UTC) + timedelta(hours=1), new_id(), new_id()
    enqueue_note(tenant, run_at=run_at, priority=0, max_attempts=9, id=job_id, parent_id=parent_id)
    made = job_of(job_id)
    assert (made.run_at, made.priority, made.max_attempts, made.parent_id) == (run_at, 0, 9, parent_id)


def test_arguments_may_be_called_like_the_functions_own(tenant: Tenant) -> None:
    assert job_of(enqueue_note(tenant, session="a session")).arguments["session"] == "a session"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"run_at": datetime(2030, 1, 1)}, "run_at needs a time zone, got 2030-01-01T00:00:00"),  # noqa: DTZ001
        ({"run_at": "tomorrow"}, "run_at is a datetime with a time zone, got 'tomorrow'"),
        ({"priority": 10}, "priority goes from 0 .first. to 9, got 10"),
        ({"priority": -1}, "got -1"),
        ({"max_attempts": 0}, "max_attempts goes from 1 to 1000, got 0"),
        ({"max_attempts": 40_000}, "got 40000"),
        ({"unique_key": ""}, "a unique_key has 1 to 500 characters, got 0"),
        ({"unique_key": "x" * 501}, "got 501: hash long ones"),
        ({"unique_key": "x", "id": new_id()}, "give an id or a unique_key, not both"),
        ({"text": 7}, "tests.note cannot take these arguments: text: Input should be a valid string"),
        ({"txet": "x"}, "txet: Extra inputs are not permitted"),
        ({"text": "a\x00b"}, "a text in them holds a NUL character"),
        ({"text": "\ud800"}, "cannot be kept as JSON|valid string"),
        ({"session": float("nan")}, "cannot be kept as JSON"),
        ({"run_at": datetime.min.replace(tzinfo=INDIA)}, "run_at lies between 1900-01-01 and 9900-01-01"),
        ({"run_at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))}, "run_at lies between"),
        ({"run_at": datetime.max.replace(tzinfo=UTC)}, "run_at lies between"),
        ({"run_at": datetime(1899, 12, 31, tzinfo=UTC)}, "got datetime.datetime.1899"),
        ({"run_at": datetime(2030, 1, 1, tzinfo=BadZone())}, "run_at lies between"),
        ({"run_at": float("inf")}, "run_at is a datetime with a time zone, got inf"),
        ({"run_at": datetime(2030, 1, 1, tzinfo=UTC).date()}, "run_at is a datetime"),
        ({"priority": "1"}, "priority is a whole number from 0 .first. to 9, got '1'"),
        ({"priority": 1.5}, "priority is a whole number"),
        ({"priority": True}, "priority is a whole number from 0 .first. to 9, got True"),
        ({"priority": 10**5000}, "priority goes from 0"),
        ({"max_attempts": 2.5}, "max_attempts is a whole number from 1 to 1000, got 2.5"),
        ({"max_attempts": "3"}, "max_attempts is a whole number"),
        ({"max_attempts": False}, "max_attempts is a whole number"),
        ({"unique_key": "a\x00b"}, "a unique_key 'a.x00b' holds a NUL character"),
        ({"unique_key": "\udfff"}, "a unique_key .* holds half of a character"),
        ({"unique_key": b"k"}, "a unique_key is a text, got b'k'"),
        ({"unique_key": 7}, "a unique_key is a text, got 7"),
        ({"id": "x"}, "id is a UUID, got 'x'"),
        ({"id": str(NOWHERE)}, "id is a UUID"),
        ({"parent_id": "x"}, "parent_id is a UUID, got 'x'"),
        ({"parent_id": NOWHERE.int}, "parent_id is a UUID"),
        ({"text": b"\xff"}, "text: Input should be a valid string"),
        ({"session": b"\xff"}, "cannot be kept as JSON"),
        ({"session": object()}, "cannot be kept as JSON"),
        ({"session": {"a": {1, object()}}}, "cannot be kept as JSON"),
        ({"session": nested(5000)}, "nested more than 100 levels deep"),
        ({"session": nested(101)}, "nested more than 100 levels deep"),
        ({"session": {"a": [float("-inf")]}}, "cannot be kept as JSON"),
        ({"session": 10**300}, "a number has more than 300 digits"),
        ({"session": [-(10**5000)]}, "cannot be kept as JSON|more than 300 digits"),
        ({"session": {1: "a", "1": "b"}}, "its keys would be kept as other ones"),
        ({"session": [{"a": {None: 1}}]}, "keys"),
        ({"session": {"a\x00": 1}}, "a text in them holds a NUL character"),
        ({"session": {"\ud800": 1}}, "cannot be kept as JSON|half of a character"),
        ({"session": "x" * (8 * 1024 * 1024)}, "have 8388.* bytes as JSON, the most is 8388608"),
        ({"session": holding_itself()}, "nested more than 100 levels deep, or hold themselves"),
        ({"session": doubled(90)}, "have more than 4194304 parts"),
    ],
)
def test_what_cannot_be_is_told_and_costs_the_producer_nothing(
    tenant: Tenant, options: dict[str, Any], complaint: str
) -> None:
    with writing(tenant.id) as session:
        with pytest.raises(InvalidArgumentError, match=complaint):
            enqueue(session, note, **options)
        enqueue(session, note, text="the transaction is still good")
    assert len(jobs_of(tenant)) == 1


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"arguments": [{}, 7]}, "tests.note takes a mapping of names to arguments, got 7"),
        ({"arguments": [{}, None]}, "got None"),
        ({"arguments": {"text": "x"}}, "takes a mapping of names to arguments, got 'text'"),
        ({"arguments": 7}, "arguments come one for each job, in a sequence; got 7"),
        ({"unique_keys": 7}, "unique_keys come one for each job"),
        ({"unique_keys": ["a", None]}, "a unique_key is a text, got None"),
        ({"unique_keys": ["a", "b\x00"]}, "holds a NUL"),
        ({"ids": [NOWHERE, "x"]}, "id is a UUID, got 'x'"),
        ({"ids": NOWHERE}, "ids come one for each job"),
        ({"ids": [NOWHERE, NOWHERE], "arguments": [{"text": "a"}, {"text": "b"}]}, "given twice with different"),
        ({"arguments": [{}, {"session": nested(5000)}]}, "nested more than 100"),
        ({"priority": "1"}, "priority is a whole number"),
        ({"run_at": datetime.min.replace(tzinfo=INDIA)}, "run_at lies between"),
        ({"parent_id": "x"}, "parent_id is a UUID"),
    ],
)
def test_what_many_cannot_be_is_told_and_costs_the_producer_nothing(
    tenant: Tenant, given: dict[str, Any], complaint: str
) -> None:
    with writing(tenant.id) as session:
        with pytest.raises(InvalidArgumentError, match=complaint):
            enqueue_many(session, note, **({"arguments": [{}, {}]} | given))
        enqueue(session, note, text="the transaction is still good")
    assert len(jobs_of(tenant)) == 1


def test_what_a_generator_of_arguments_raises_costs_the_producer_nothing(tenant: Tenant) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"text": "first"}
        raise ZeroDivisionError

    with writing(tenant.id) as session:
        with pytest.raises(ZeroDivisionError):
            enqueue_many(session, note, rows())
        enqueue(session, note, text="the transaction is still good")
    assert len(jobs_of(tenant)) == 1


class Level(IntEnum):
    URGENT = 1


class OwnTime(datetime):
    """As libraries have them."""


@pytest.mark.parametrize(
    "run_at",
    [
        datetime(1900, 1, 1, tzinfo=UTC),
        datetime(9899, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=-23, minutes=-59))),
        OwnTime(2030, 1, 1, tzinfo=UTC),
    ],
)
def test_what_is_accepted_is_read_back(tenant: Tenant, run_at: datetime) -> None:
    arguments = {"session": {"deep": nested(97), "large": 10**300 - 1, "small": 5e-324, "text": "\U0001f600\\u0000"}}
    made = job_of(
        enqueue_note(tenant, run_at=run_at, priority=Level.URGENT, unique_key="\U0001f600" * 500, **arguments)
    )
    assert (made.run_at, made.priority) == (run_at, 1)
    assert made.arguments["session"] == arguments["session"]


@job(name="tests.strict")
def strict(attempt: Attempt, document_id: Annotated[UUID, Strict()]) -> None:
    """Accepts what an attempt, which gets it from JSON, will not."""


def test_arguments_that_an_attempt_could_not_read_back_are_refused(tenant: Tenant) -> None:
    with writing(tenant.id) as session, pytest.raises(InvalidArgumentError, match="document_id: Input should be an"):
        enqueue(session, strict, document_id=new_id())


def test_a_plain_call_that_cannot_be_kept_ends_and_the_next_one_enters(tenant: Tenant) -> None:
    def call(job_id: object, **arguments: Any) -> Any:
        return note.apply(kwargs={"organization_id": str(tenant.id), **arguments}, task_id=str(job_id))  # type: ignore[no-untyped-call]

    for wrong in ({"session": nested(300)}, {"text": nested(300)}, {"text": "a\x00"}, {"unheard_of": "a\x00"}):
        assert isinstance(call(new_id(), **wrong).result, InvalidArgumentError)
    assert call(new_id(), text="right").successful()
    assert [made.arguments["text"] for made in jobs_of(tenant)] == ["right"]


def test_a_backslash_before_u0000_is_no_nul(tenant: Tenant) -> None:
    assert job_of(enqueue_note(tenant, text="\\u0000 \\\\")).arguments["text"] == "\\u0000 \\\\"


def test_required_arguments_are_required(tenant: Tenant) -> None:
    with writing(tenant.id) as session, pytest.raises(InvalidArgumentError, match="document_id: Field required"):
        enqueue(session, process_document)


def test_a_plain_function_is_not_a_job(tenant: Tenant) -> None:
    with writing(tenant.id) as session, pytest.raises(InvalidArgumentError, match="is not a job: make it with @job"):
        enqueue(session, print)


def test_a_session_of_no_organization_is_refused(opened: Database) -> None:
    with writing(None) as session, pytest.raises(ConfigurationError, match="belongs to no organization"):
        enqueue(session, note)


def test_the_same_id_again_is_the_same_job(tenant: Tenant) -> None:
    job_id = new_id()
    assert [enqueue_note(tenant, id=job_id, text=text) for text in ("first", "second")] == [job_id, job_id]
    (only,) = jobs_of(tenant)
    assert only.arguments["text"] == "first"


def test_equal_ids_of_two_organizations_are_two_jobs(tenant: Tenant) -> None:
    other, job_id = Tenant(), new_id()
    for one in (tenant, other):
        enqueue_note(one, id=job_id, text=one.slug)
    assert [[made.arguments["text"] for made in jobs_of(one)] for one in (tenant, other)] == [
        [tenant.slug],
        [other.slug],
    ]


def test_equal_keys_fold_and_the_latest_arguments_and_most_urgent_options_stay(tenant: Tenant) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    first = enqueue_note(tenant, unique_key="k", text="first", priority=3, run_at=later)
    assert enqueue_note(tenant, unique_key="k", text="second", priority=8) == first
    (only,) = jobs_of(tenant)
    assert (only.arguments["text"], only.priority) == ("second", 3)
    assert only.run_at < later
    enqueue_note(tenant, unique_key="k", text="third", priority=1, run_at=later)
    (again,) = jobs_of(tenant)
    assert (again.arguments["text"], again.priority, again.run_at) == ("third", 1, only.run_at)


def test_keys_fold_within_one_kind_and_one_organization_only(tenant: Tenant) -> None:
    other = Tenant()
    with writing(tenant.id) as session:
        ours = {
            enqueue(session, note, unique_key="k"),
            enqueue(session, process_document, unique_key="k", document_id=new_id()),
        }
    assert len({*ours, enqueue_note(other, unique_key="k")}) == 3


def test_many_get_their_ids_in_the_order_of_the_call(tenant: Tenant) -> None:
    texts = [str(number) for number in range(50)]
    with writing(tenant.id) as session:
        ids = enqueue_many(session, note, ({"text": text} for text in texts))
    assert [job_of(one).arguments["text"] for one in ids] == texts


def test_many_take_given_ids_and_leave_those_that_are_there(tenant: Tenant) -> None:
    ids = [new_id() for _ in range(3)]
    enqueue_note(tenant, id=ids[1], text="before")
    with writing(tenant.id) as session:
        rows = [{"text": name} for name in "abcc"]
        assert enqueue_many(session, note, rows, ids=[*reversed(ids), ids[0]]) == [*reversed(ids), ids[0]]
    assert [job_of(one).arguments["text"] for one in ids] == ["c", "before", "a"]


def test_many_fold_among_themselves_and_into_what_waits(tenant: Tenant) -> None:
    waiting = enqueue_note(tenant, unique_key="b", text="waiting")
    with writing(tenant.id) as session:
        rows = [{"text": text} for text in ("a1", "b1", "c1", "a2")]
        ids = enqueue_many(session, note, rows, unique_keys="abca", priority=2)
    assert (ids[0], ids[1]) == (ids[3], waiting)
    assert sorted(made.arguments["text"] for made in jobs_of(tenant)) == ["a2", "b1", "c1"]


def test_none_at_all_is_no_job(tenant: Tenant) -> None:
    with writing(tenant.id) as session:
        assert enqueue_many(session, note, []) == []
    assert jobs_of(tenant) == []


@pytest.mark.parametrize("name", ["ids", "unique_keys"])
def test_many_want_one_id_or_key_for_each(tenant: Tenant, name: str) -> None:
    given: dict[str, Any] = {"ids": [new_id()], "unique_keys": ["a"]}
    with writing(tenant.id) as session, pytest.raises(InvalidArgumentError, match=f"1 {name} for 2 jobs"):
        enqueue_many(session, note, [{}, {}], **{name: given[name]})


def test_one_wrong_row_of_many_enters_none(tenant: Tenant) -> None:
    with writing(tenant.id) as session, pytest.raises(InvalidArgumentError, match="text"):
        enqueue_many(session, note, [{"text": "good"}, {"text": 7}])
    assert jobs_of(tenant) == []


def test_what_is_rolled_back_was_never_enqueued(tenant: Tenant) -> None:
    with suppress(ZeroDivisionError), writing(tenant.id) as session:
        enqueue(session, note)
        enqueue_many(session, note, [{}, {}])
        raise ZeroDivisionError
    assert jobs_of(tenant) == []


def test_an_asyncio_producer_enqueues_in_its_own_transaction(tenant: Tenant) -> None:
    async def produce() -> list[UUID]:
        await aio.open_database(settings())
        try:
            async with aio.writing(tenant.id) as session:
                ids = [await enqueue(session, note, text="one")]
                ids += await enqueue_many(session, note, [{"text": "two"}, {"text": "three"}], unique_keys="ab")
                with pytest.raises(InvalidArgumentError):
                    enqueue(session, note, text=7)
            with suppress(ZeroDivisionError):
                async with aio.writing(tenant.id) as session:
                    await enqueue(session, note, text="rolled back")
                    raise ZeroDivisionError
        finally:
            await aio.close_database()
        return ids

    ids = asyncio.run(produce())
    assert [job_of(one).arguments["text"] for one in ids] == ["one", "two", "three"]
    assert len(jobs_of(tenant)) == 3


def produce(program: str, tenant: Tenant, *, broker_port: int) -> subprocess.CompletedProcess[str]:
    """Run a producer of its own, for which the broker is at this port."""
    prelude = f"""
        import os, signal, sys
        from uuid import UUID
        from docworker.db.cluster.engines import open_database
        from docworker.db.sessions.opening import writing
        from docworker.db.settings import settings
        from docworker.jobs.kinds.documents import process_document
        from docworker.jobs.enqueue import enqueue
        tenant = UUID({str(tenant.id)!r})
        open_database(settings())
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(program)],
        cwd=PROJECT,
        env={**os.environ, "DOCWORKER_BROKER_URL": f"redis://127.0.0.1:{broker_port}/0"},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_producer_killed_right_after_its_commit_has_enqueued(tenant: Tenant) -> None:
    done = produce(
        """
        with writing(tenant) as session:
            enqueue(session, process_document, document_id=tenant)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tenant,
        broker_port=1,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [made.state for made in jobs_of(tenant)] == ["queued"]


def test_a_producer_killed_right_before_its_commit_has_not(tenant: Tenant) -> None:
    done = produce(
        """
        with writing(tenant) as session:
            enqueue(session, process_document, document_id=tenant)
            session.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tenant,
        broker_port=1,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert jobs_of(tenant) == []


def test_a_producer_never_talks_to_the_broker(tenant: Tenant) -> None:
    with socket.create_server(("127.0.0.1", 0)) as broker:
        broker.setblocking(False)
        done = produce(
            """
            with writing(tenant) as session:
                enqueue(session, process_document, document_id=tenant)
            print([name for name in sys.modules if name == "worker" or name.startswith("worker.")])
            """,
            tenant,
            broker_port=broker.getsockname()[1],
        )
        with pytest.raises(BlockingIOError):
            broker.accept()
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert len(jobs_of(tenant)) == 1
