"""Who was held up does not judge others: whatever stalls, the living keep their jobs, and the dead lose theirs soon."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Event, Thread, Timer
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from structlog.testing import capture_logs

from docworker.db import ledger
from docworker.db.cluster.engines import owner_engine
from docworker.db.errors import DocworkerError
from docworker.db.ledger import Claimed
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import settings
from docworker.jobs.execution.leases import leases
from docworker.worker.dispatcher.judge import Judge
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.owner import owning
from tests.support.database import opened_database
from tests.support.faults import freeze, thaw
from tests.support.ledger import LedgerSteps
from tests.support.refusals import refusing_jobs
from tests.support.stack import InForce, OwnStack
from tests.support.waiting import eventually

LEASE = 3.0
"""Longer than the two seconds that count as prompt."""


@pytest.fixture
def steps(own_stack: OwnStack, in_force: InForce) -> Iterator[tuple[LedgerSteps, LocalStack]]:
    """A ledger on a server of its own, to be stalled."""
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    with opened_database():
        yield LedgerSteps(), stack


@contextmanager
def judging(judge: Judge) -> Iterator[Judge]:
    judge.start()
    try:
        yield judge
    finally:
        judge.stop()
        judge.raise_failure()


@contextmanager
def living(steps: LedgerSteps, claimed: list[Claimed]) -> Iterator[None]:
    """A worker that renews as often as it can, whatever the master does meanwhile."""
    gone = Event()

    def renew() -> None:
        while not gone.wait(LEASE / 6):
            with suppress(SQLAlchemyError, DocworkerError), writing(steps.organization_id) as session:
                ledger.renew(session, claimed, lease_seconds=LEASE)

    thread = Thread(target=renew, daemon=True)
    thread.start()
    yield
    gone.set()
    thread.join()


def watched_for(judge: Judge, seconds: float) -> Callable[[], bool]:
    return lambda: judge._continuity.seconds(time.monotonic()) >= seconds


def frozen_master(stack: LocalStack) -> None:
    freeze(stack.master)
    time.sleep(2 * LEASE)
    thaw(stack.master)


def locked_jobs(_: LocalStack) -> None:
    with owner_engine(settings()).begin() as connection:
        connection.execute(text("LOCK TABLE ledger.jobs IN SHARE MODE"))
        connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": 2 * LEASE})


@pytest.mark.parametrize("stall", [frozen_master, locked_jobs])
def test_after_a_stall_of_the_master_the_living_keep_their_jobs_and_the_dead_lose_theirs(
    steps: tuple[LedgerSteps, LocalStack], stall: Callable[[LocalStack], None]
) -> None:
    mine, stack = steps
    (alive,), (dead,) = mine.run(max_attempts=1), mine.run(max_attempts=1)
    with judging(Judge(LEASE)) as judge, living(mine, [alive]):
        renewed_until(mine, alive)
        eventually(watched_for(judge, LEASE), within_seconds=20, what="the judge to be trusted")
        renewed_until(mine, dead)
        stall(stack)
        eventually(lambda: mine.job(dead.id).state == "failed", within_seconds=20, what="the dead one's job to fail")
        assert mine.job(alive.id).state == "running"
        assert mine.finish([alive]) == {alive.id}


def renewed_until(steps: LedgerSteps, claimed: Claimed) -> None:
    with writing(steps.organization_id) as session:
        assert ledger.renew(session, [claimed], lease_seconds=LEASE) == {claimed.id}


def has_ended(steps: LedgerSteps, claimed: Claimed) -> bool:
    with all_jobs_session() as session:
        ended = text("SELECT lease_expires_at <= clock_timestamp() FROM ledger.jobs WHERE id = :id")
        return bool(session.scalar(ended, {"id": claimed.id}))


def test_without_a_stall_a_lease_that_has_ended_is_taken_at_once(steps: tuple[LedgerSteps, LocalStack]) -> None:
    mine, _ = steps
    with judging(Judge(LEASE)) as judge:
        eventually(watched_for(judge, LEASE), within_seconds=20, what="the judge to be trusted")
        (dead,) = mine.run()
        mine.expire([dead.id])
        eventually(lambda: mine.job(dead.id).state == "queued", within_seconds=LEASE - 1, what="the rescue")
        assert watched_for(judge, LEASE)()


def test_who_has_just_begun_takes_no_lease_that_ended_before(steps: tuple[LedgerSteps, LocalStack]) -> None:
    mine, _ = steps
    (claimed,) = mine.run()
    mine.expire([claimed.id])
    judge = Judge(lease_seconds=LEASE)
    looks = 0

    def rescued() -> bool:
        nonlocal looks
        looks += 1
        time.sleep(0.2)
        return bool(judge.look())

    began = time.monotonic()
    eventually(rescued, within_seconds=20, what="the rescue")
    assert time.monotonic() - began >= LEASE
    assert looks > 2


def test_a_judge_that_was_frozen_between_its_decision_and_its_statement_takes_nothing_newer(
    steps: tuple[LedgerSteps, LocalStack], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it decided holds for the leases that had ended then."""
    mine, _ = steps
    (claimed,) = mine.run()
    judge = Judge(lease_seconds=0.5)
    eventually(lambda: judge.look() == [] and watched_for(judge, 0.5)(), what="the judge to be trusted")

    def frozen_first(session: object) -> None:
        with writing(mine.organization_id) as mine_session:
            ledger.renew(mine_session, [claimed], lease_seconds=1)
        eventually(lambda: has_ended(mine, claimed), what="the lease to end")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "begin_judging", frozen_first)
        judge.look()
    assert mine.job(claimed.id).state == "running"


def test_a_rescue_whose_writes_were_held_up_is_taken_back(steps: tuple[LedgerSteps, LocalStack]) -> None:
    """A disk that stands still stops those who write, also the living; who only reads does not notice."""
    mine, _ = steps
    judge = Judge(lease_seconds=0.5)
    eventually(lambda: judge.look() == [] and watched_for(judge, 0.5)(), what="the judge to be trusted")
    (claimed,) = mine.run()
    mine.expire([claimed.id])
    with owner_engine(settings()).begin() as connection:
        connection.execute(text(_SLOW_WRITES))
    assert judge.look() == []
    assert mine.job(claimed.id).state == "running"
    assert not watched_for(judge, 0.5)()
    with owner_engine(settings()).begin() as connection:
        connection.execute(text("DROP TRIGGER slow ON ledger.jobs"))
    eventually(lambda: bool(judge.look()), within_seconds=20, what="the rescue")


def test_a_judge_that_begins_while_nobody_can_renew_knows_nothing_of_the_dead(
    steps: tuple[LedgerSteps, LocalStack],
) -> None:
    """The master tells it the time all the while."""
    mine, _ = steps
    (claimed,) = mine.run()
    mine.expire([claimed.id])
    judge = Judge(LEASE)
    rescued: list[object] = []
    with owner_engine(settings()).begin() as connection:
        connection.execute(text("LOCK TABLE ledger.jobs IN EXCLUSIVE MODE"))
        unlock = Timer(LEASE + 0.5, connection.rollback)
        unlock.start()
        while unlock.is_alive():
            rescued += judge.look()
            time.sleep(0.1)
    assert rescued == []
    assert judge.look() == []


@pytest.fixture
def settable(own_stack: OwnStack, in_force: InForce) -> Iterator[tuple[LedgerSteps, LocalStack]]:
    """A ledger on a server whose clock can be set."""
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    stack.master.execute(_SETTABLE_CLOCK, database="docworker")
    with opened_database():
        yield LedgerSteps(), stack


@pytest.mark.parametrize("ahead", [30, -3600])
def test_when_the_masters_clock_is_set_the_living_renew_first(
    settable: tuple[LedgerSteps, LocalStack], ahead: float
) -> None:
    mine, stack = settable
    judge = Judge(LEASE)
    eventually(lambda: judge.look() == [] and watched_for(judge, LEASE)(), what="the judge to be trusted")
    (alive,), (dead,) = mine.run(), mine.run()
    stack.master.execute("UPDATE public.clock SET ahead = %s", [ahead], database="docworker")
    assert has_ended(mine, alive) == (ahead > 0)
    assert [judge.look() for _ in range(3)] == [[]] * 3
    assert not watched_for(judge, LEASE)()

    def rescued() -> list[UUID]:
        renewed_until(mine, alive)
        return [one.id for one in judge.look()]

    if ahead > 0:
        assert eventually(rescued, within_seconds=20, what="the dead one's job to be rescued") == [dead.id]
    assert mine.finish([alive]) == {alive.id}


def test_a_clock_set_beyond_the_time_that_a_job_may_run_takes_it_from_nobody_who_lives(
    settable: tuple[LedgerSteps, LocalStack],
) -> None:
    mine, stack = settable
    judge = Judge(LEASE)
    (alive,), (dead,) = mine.run(), mine.run()
    with leases().holding([alive]):
        eventually(lambda: judge.look() == [] and watched_for(judge, LEASE)(), what="the judge to be trusted")
        stack.master.execute("UPDATE public.clock SET ahead = 86400", database="docworker")
        rescued = eventually(judge.look, within_seconds=30, what="a rescue")
        assert [one.id for one in rescued] == [dead.id]
        assert leases().held(alive)
        assert not has_ended(mine, alive)
    assert mine.finish([alive]) == {alive.id}


@pytest.fixture
def quick_judge(fresh_environment: dict[str, str]) -> Iterator[Judge]:
    """It is trusted already."""
    with opened_database():
        judge = Judge(lease_seconds=0.5)
        eventually(lambda: judge.look() == [] and watched_for(judge, 0.5)(), what="the judge to be trusted")
        yield judge


def lost_job(steps: LedgerSteps, **options: Any) -> UUID:
    (claimed,) = steps.run(**options)
    steps.expire([claimed.id])
    return claimed.id


def broken_constraint(organization_id: UUID) -> AbstractContextManager[None]:
    return refusing_jobs(but=f"organization_id <> '{organization_id}'")


def raising_trigger(organization_id: UUID) -> AbstractContextManager[None]:
    return triggered(
        "CREATE TRIGGER refuse BEFORE UPDATE ON ledger.jobs"
        f" FOR EACH ROW WHEN (NEW.organization_id = '{organization_id}')",
        "RAISE EXCEPTION 'not this one'",
    )


def raising_at_commit(organization_id: UUID) -> AbstractContextManager[None]:
    return triggered(
        "CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON ledger.jobs DEFERRABLE INITIALLY DEFERRED"
        f" FOR EACH ROW WHEN (NEW.organization_id = '{organization_id}')",
        "RAISE EXCEPTION 'not this one' USING ERRCODE = '23514'",
    )


@contextmanager
def triggered(when: str, does: str) -> Iterator[None]:
    with owning() as owner:
        owner.exec_driver_sql(
            f"CREATE FUNCTION ledger.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; RETURN NEW; END $$"
        )
        owner.exec_driver_sql(f"{when} EXECUTE FUNCTION ledger.refuse()")
    try:
        yield
    finally:
        with owning() as owner:
            owner.exec_driver_sql("DROP FUNCTION ledger.refuse() CASCADE")


@pytest.mark.parametrize("refusing", [broken_constraint, raising_trigger, raising_at_commit])
def test_a_job_that_the_server_refuses_to_change_keeps_no_other_from_its_rescue(
    quick_judge: Judge, refusing: Callable[[UUID], AbstractContextManager[None]]
) -> None:
    refused, other = LedgerSteps(), LedgerSteps()
    left, taken = lost_job(refused), lost_job(other)
    with refusing(refused.organization_id), capture_logs() as logs:
        assert [one.id for one in quick_judge.look()] == [taken]
        later = lost_job(other)
        assert [one.id for one in quick_judge.look()] == [later]
        assert quick_judge.look() == []
        assert watched_for(quick_judge, 0.5)(), "a server that refuses has answered"
    (told,) = [one for one in logs if one["event"] == "job.set_aside"]
    assert told["job"] == str(left)
    assert "refused" in told["error"] or "not this one" in told["error"]
    assert refused.job(left).state == "running"
    quick_judge._set_aside[left] = time.monotonic()
    assert [one.id for one in quick_judge.look()] == [left]


def test_a_job_of_whose_end_cannot_be_told_keeps_no_other_from_its_rescue(quick_judge: Judge) -> None:
    untold, other = LedgerSteps(), LedgerSteps()
    untold.kind = "process_document"
    left, taken = lost_job(untold, kind=untold.kind, max_attempts=1), lost_job(other)
    with triggered("CREATE TRIGGER refuse BEFORE INSERT ON ledger.jobs FOR EACH ROW", "RAISE EXCEPTION 'none more'"):
        assert [one.id for one in quick_judge.look()] == [taken]
    assert untold.job(left).state == "running"


def test_one_that_is_locked_is_not_waited_for_while_they_are_rescued_one_by_one(quick_judge: Judge) -> None:
    refused, other = LedgerSteps(), LedgerSteps()
    lost_job(refused)
    locked, free = lost_job(other), lost_job(other)
    with broken_constraint(refused.organization_id), all_jobs_session() as session:
        session.execute(text("SELECT FROM ledger.jobs WHERE id = :id FOR UPDATE"), {"id": locked})
        assert [one.id for one in quick_judge.look()] == [free]


def test_many_that_are_rescued_one_by_one_are_not_taken_back(quick_judge: Judge) -> None:
    """Each look takes as many as it has time for."""
    refused, other = LedgerSteps(UUID(int=1)), LedgerSteps(UUID(int=2))
    left = lost_job(refused)
    other.expire([one.id for one in other.run(9)])

    def some() -> bool:
        quick_judge._set_aside.clear()
        return bool(quick_judge.look())

    slow = f"PERFORM pg_sleep(0.2); IF NEW.id = '{left}' THEN RAISE EXCEPTION 'not this one'; END IF"
    with triggered("CREATE TRIGGER refuse BEFORE UPDATE ON ledger.jobs FOR EACH ROW", slow):
        eventually(some, within_seconds=20, what="the rescue of some")


_SETTABLE_CLOCK = """
SET allow_system_table_mods = on;
CREATE TABLE public.clock AS SELECT 0::float8 AS ahead;
ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO true_clock_timestamp;
CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql SECURITY DEFINER
AS 'SELECT pg_catalog.true_clock_timestamp() + ahead * interval ''1 second'' FROM public.clock'
"""
_SLOW_WRITES = """
CREATE FUNCTION ledger.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(2.5); RETURN NEW; END';
CREATE TRIGGER slow BEFORE UPDATE ON ledger.jobs FOR EACH ROW EXECUTE FUNCTION ledger.slow()
"""
