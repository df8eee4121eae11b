"""Rows that docworker would not have written: each is set aside with a reason, and the others go on.

Written by SQL and past the table's constraints, as an operator's hand or another program may.
"""

import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from docworker.db import ledger
from docworker.db.cluster import close_database, open_database
from docworker.db.cluster.adapters import AFTER_ALL, BEFORE_ALL, Unreadable
from docworker.db.models.ledger.schedule import ScheduleFire
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import settings
from docworker.migrations.runner import downgrade, upgrade
from tests.support.ledger import LedgerSteps, without_constraints


@pytest.fixture
def unguarded(steps: LedgerSteps) -> Iterator[LedgerSteps]:
    with without_constraints():
        yield steps


def spoil(job_id: UUID, assignments: str) -> None:
    with all_jobs_session() as session:
        session.execute(text(f"UPDATE ledger.jobs SET {assignments} WHERE id = :id"), {"id": job_id})


UNREADABLE = [
    "arguments = '[]'",
    "arguments = '7'",
    "arguments = 'null'",
    "arguments = '\"text\"'",
    f"""arguments = '{{"number": {"9" * 5000}}}'""",
    f"""arguments = '{{"deep": {"[" * 3000}{"]" * 3000}}}'""",
    "attempt = max_attempts",
    "attempt = 32767, max_attempts = 32767",
    "attempt = -1",
    "max_attempts = 0",
    "max_attempts = -5",
]
ODD = [
    "run_at = '-infinity'",
    "run_at = '4713-01-01 BC'",
    "run_at = '0001-01-01 00:00+14'",
    "created_at = 'infinity'",
    "created_at = '0044-03-15 BC', claimed_at = '10000-01-01'",
    "faults = -7",
    "dispatches = -32768",
    "dispatches = 32767",
    "dispatched_lsn = -1",
    f"""cursor = '{"[" * 3000}{"]" * 3000}'""",
    "cursor = '\"odd\"'",
    "result = '7', children = -1",
]
OTHERWISE = [
    "run_at = 'infinity'",
    "kind = ''",
    "kind = repeat('k', 50000)",
    "kind = E'\\x01\\u202e'",
    "priority = -32768",
    "state = 'unheard of'",
    "state = ''",
    "state = 'running', lease_expires_at = NULL",
    "state = 'running', lease_expires_at = 'infinity', run_until = '-infinity'",
    "state = 'running', lease_expires_at = '-infinity', claimed_by = NULL, attempt = 32767",
    "state = 'dispatched', redispatch_at = NULL",
    "state = 'dispatched', redispatch_at = 'infinity', dispatched_at = '-infinity'",
    "state = 'dispatched', redispatch_at = '-infinity', dispatched_at = 'infinity'",
    "state = 'failed', kind = repeat('k', 50000), finished_at = '-infinity', error_message = repeat('e', 10000000)",
    "unique_key = ''",
]


def look_at_everything(steps: LedgerSteps) -> None:
    """What the dispatcher, the judge and the command line read."""
    with ledger.planning() as (session, permit):
        assert permit is not None
        ledger.rescue_expired(session)
        ledger.requeue_overdue(session, waiting=3)
        ledger.load(session)
        ledger.count_live(session)
        assert math.isfinite(ledger.oldest_due(session, organizations=3).seconds)
        ledger.pauses(session)
        assert list(ledger.find(session, ledger.Filter(organization_id=steps.organization_id), limit=10))
        ledger.count_by_state(session, ledger.Filter(organization_id=steps.organization_id))


@pytest.mark.parametrize("assignments", UNREADABLE + ODD + OTHERWISE, ids=lambda text: text[:40])
def test_one_odd_row_stops_nobody(unguarded: LedgerSteps, assignments: str) -> None:
    odd, good = unguarded.enqueue(2)
    spoil(odd, assignments)
    look_at_everything(unguarded)
    for message in unguarded.dispatch(batch_size=10):
        unguarded.finish(unguarded.claim(message.job_ids, message_id=message.id))
    look_at_everything(unguarded)
    assert unguarded.job(good).state == "succeeded"
    assert unguarded.job(odd).id == odd


@pytest.mark.parametrize("assignments", UNREADABLE, ids=lambda text: text[:40])
def test_a_job_that_cannot_be_run_fails_with_the_reason_and_its_batch_runs(
    unguarded: LedgerSteps, assignments: str
) -> None:
    bad, *good = unguarded.enqueue(3)
    spoil(bad, assignments)
    (message,) = unguarded.dispatch()
    claimed = unguarded.claim(message.job_ids, message_id=message.id)
    assert {one.id for one in claimed} == set(good)
    job = unguarded.job(bad)
    assert (job.state, job.error_class) == ("failed", "UnreadableJob")
    assert "past docworker" in str(job.error_message)
    assert unguarded.finish(claimed) == set(good)
    with all_jobs_session() as session:
        assert ledger.retry_failed(session, ledger.Filter(), [bad]) == [bad]


@pytest.mark.parametrize("assignments", ODD, ids=lambda text: text[:40])
def test_a_job_that_is_only_odd_runs(unguarded: LedgerSteps, assignments: str) -> None:
    (odd,) = unguarded.enqueue()
    spoil(odd, assignments)
    (message,) = unguarded.dispatch()
    (claimed,) = unguarded.claim(message.job_ids, message_id=message.id)
    assert math.isfinite(claimed.queued_seconds)
    assert unguarded.finish([claimed]) == {odd}


def test_a_job_that_was_put_back_by_hand_after_its_last_attempt_fails_alone(steps: LedgerSteps) -> None:
    """The constraints allow it, and a claim of the batch would break on them."""
    spent, good = steps.run(2, max_attempts=1)
    by_hand = "state = 'queued', claim_token = NULL, lease_expires_at = NULL, run_until = NULL"
    for one in (spent, good):
        spoil(one.id, by_hand)
    spoil(good.id, "attempt = 0")
    (message,) = steps.dispatch()
    assert [one.id for one in steps.claim(message.job_ids, message_id=message.id)] == [good.id]
    assert "after attempt 1 of 1" in str(steps.job(spent.id).error_message)


def read(expression: str) -> Any:
    with all_jobs_session() as session:
        return session.scalar(text(f"SELECT {expression}"))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'infinity'::timestamptz", AFTER_ALL),
        ("'-infinity'::timestamptz", BEFORE_ALL),
        ("'0044-03-15 BC'::timestamptz", BEFORE_ALL),
        ("'294276-12-31'::timestamptz", AFTER_ALL),
        ("'2026-01-02 03:04:05.678901+00'::timestamptz", datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)),
        ("NULL::timestamptz", None),
        ("""'{"a": [1, null]}'::jsonb""", {"a": [1, None]}),
        ("'7'::json", 7),
    ],
)
def test_what_python_cannot_hold_is_read_as_the_nearest(steps: LedgerSteps, expression: str, expected: object) -> None:
    found = read(expression)
    assert found == expected
    if isinstance(found, datetime):
        for hours in (-14, 0, 14):
            assert found + timedelta(hours=hours)


def test_json_that_cannot_be_read_says_why(steps: LedgerSteps) -> None:
    deep = read(f"""'{"[" * 3000}{"]" * 3000}'::jsonb""")
    assert isinstance(deep, Unreadable)
    assert deep.startswith("cannot be read: ")


REFUSED = [
    "arguments = '[]'",
    "arguments = 'null'",
    "attempt = -1",
    "max_attempts = 0",
    "run_at = '-infinity'",
    "run_at = 'infinity'",
    "run_at = '4713-01-01 BC'",
    "run_at = '10000-01-01'",
    "created_at = 'infinity'",
    "claimed_at = '10000-01-01'",
    "faults = -7",
    "dispatches = -32768",
    "children = -1",
    "cursor = '\"odd\"'",
    "result = '7'",
    "kind = ''",
    "kind = repeat('k', 201)",
    "unique_key = ''",
    "unique_key = repeat('k', 501)",
    "priority = -32768",
    "state = 'unheard of'",
    "state = 'running', claim_token = id, lease_expires_at = 'infinity', run_until = '-infinity'",
    "state = 'dispatched', redispatch_at = 'infinity'",
]


@pytest.mark.parametrize("assignments", REFUSED)
def test_the_table_refuses_what_no_reader_could_read(steps: LedgerSteps, assignments: str) -> None:
    (job_id,) = steps.enqueue()
    with pytest.raises(IntegrityError):
        spoil(job_id, assignments)


LARGE = {
    "compressed": "SELECT jsonb_agg(0) FROM generate_series(1, 20000)",
    "stored apart": "SELECT jsonb_agg(md5(number::text)) FROM generate_series(1, 20000) AS number",
}


@pytest.mark.parametrize("large", LARGE.values(), ids=LARGE.keys())
def test_large_arguments_that_are_no_object_are_set_aside_when_they_are_claimed(steps: LedgerSteps, large: str) -> None:
    """The table does not fetch them at each change of a row only to see what they are."""
    odd, good = steps.enqueue(2)
    spoil(odd, f"arguments = ({large})")
    spoil(odd, "faults = 0")
    (message,) = steps.dispatch()
    assert [one.id for one in steps.claim(message.job_ids, message_id=message.id)] == [good]
    assert (steps.job(odd).state, steps.job(odd).error_class) == ("failed", "UnreadableJob")


def test_a_change_of_a_job_reads_nothing_of_its_large_arguments(steps: LedgerSteps) -> None:
    (job_id,) = steps.enqueue()
    spoil(job_id, f"arguments = jsonb_build_object('large', ({LARGE['stored apart']}))")
    change, look = "faults = 1", "faults = length(left(arguments::text, 10))"
    assert blocks_touched(job_id, look) - blocks_touched(job_id, change) > 50
    assert blocks_touched(job_id, change) < 40


def blocks_touched(job_id: UUID, assignments: str) -> int:
    explained = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) UPDATE ledger.jobs SET {assignments} WHERE id = :id"
    with all_jobs_session() as session:
        plan = session.scalars(text(explained), {"id": job_id}).one()[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.usefixtures("fresh_environment")
def test_a_migration_sets_aside_what_is_there_already_and_lets_the_rest_run() -> None:
    open_database(settings(), application_name="tests")
    steps = LedgerSteps()
    good, ended, *bad = steps.enqueue(len(REFUSED) + 2)
    downgrade("0002")
    spoil(ended, "state = 'succeeded', finished_at = '-infinity', result = '7'")
    kept = 0
    for job_id, assignments in zip(bad, REFUSED, strict=True):
        try:
            spoil(job_id, assignments)
        except IntegrityError:
            kept += 1  # refused by a constraint that was there before
    with all_jobs_session() as session:
        session.add(ScheduleFire(schedule="s", due_at=datetime.now(UTC), job_id=good))
        session.execute(
            text("INSERT INTO ledger.schedule_fires VALUES ('s', 'infinity', '-infinity', gen_random_uuid())")
        )
    upgrade()
    look_at_everything(steps)
    assert steps.job(good).state == "queued"
    assert (steps.job(ended).state, steps.job(ended).error_class) == ("succeeded", "UnreadableJob")
    ends = Counter((steps.job(one).state, steps.job(one).error_class) for one in bad)
    assert ends == {("failed", "UnreadableJob"): len(bad) - kept, ("queued", None): kept}
    assert kept < 5
    with all_jobs_session() as session:
        assert len(session.scalars(select(ScheduleFire)).all()) == 1
        assert ledger.retry_failed(session, ledger.Filter())
        forced = "SELECT relforcerowsecurity FROM pg_class WHERE oid = 'ledger.jobs'::regclass"
        assert session.scalar(text(forced)) is True
        unvalidated = "SELECT count(*) FROM pg_constraint WHERE NOT convalidated"
        assert session.scalar(text(unvalidated)) == 0
    close_database()
