"""Backfills: each row once, whatever is killed, cancelled or changed meanwhile."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster import open_database
from docworker.db.governor import Governor
from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import settings
from docworker.jobs.kinds import backfill as backfills
from docworker.jobs.kinds import pages
from docworker.jobs.kinds.backfill import Backfilled, find_backfill, progress_of, start
from docworker.jobs.testing import advance_clock, dispatch_due, drain, run
from docworker.worker.cli.jobs.backfill import backfill as command
from docworker.worker.local.stack import LocalStack
from tests.support.database import opened_database, somebody_waits
from tests.support.orders import Shop
from tests.support.project import PROJECT
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

ROWS = 35
UIDS = find_backfill("order_uids")


@pytest.fixture(scope="module")
def shop(stack: LocalStack, environment: dict[str, str], database_name: str) -> Iterator[Shop]:
    """Its table, expanded, and a note of each uid that was ever given to a row that had none."""
    made = Shop(stack, database_name)
    made.up("Expand")
    made.up("Dual")
    made.execute(
        "CREATE TABLE shop.given (id bigint)",
        "CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " 'BEGIN INSERT INTO shop.given VALUES (NEW.id); RETURN NEW; END'",
        "CREATE TRIGGER note AFTER UPDATE OF uid ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.note()",
    )
    with opened_database():
        yield made


@pytest.fixture
def tenant(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    """With orders that have no uid; pages have ten rows."""
    monkeypatch.setattr("docworker.db.governor.FIRST_SIZE", 10)
    monkeypatch.setattr("docworker.db.governor.next_size", lambda size, *_, **__: size)
    made = Tenant()
    shop.fill(made.id, ROWS)
    shop.execute(
        "ALTER TABLE shop.orders DISABLE TRIGGER note",
        f"UPDATE shop.orders SET uid = NULL WHERE organization_id = '{made.id}'",
        "ALTER TABLE shop.orders ENABLE TRIGGER note",
    )
    return made


@pytest.fixture
def before_page(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Let something happen just before the rows of the n-th page are locked."""

    def use(number: int, happen: Callable[[], None]) -> None:
        lock, begun = backfills._Pages.lock, []

        def interrupted(walked: Any, session: Session, after: Any, most: int) -> Sequence[Any]:
            begun.append(after)
            if len(begun) == number:
                happen()
            return lock(walked, session, after, most)

        monkeypatch.setattr(backfills._Pages, "lock", interrupted)

    return use


def ids(shop: Shop, tenant: Tenant, condition: str = "true") -> list[int]:
    found = shop.rows(f"SELECT id FROM shop.orders WHERE organization_id = '{tenant.id}' AND {condition} ORDER BY id")
    return [one for (one,) in found]


def given(shop: Shop, tenant: Tenant) -> list[int]:
    """The orders that were given a uid, as often as they were."""
    found = shop.rows(
        f"SELECT id FROM shop.given JOIN shop.orders USING (id) WHERE organization_id = '{tenant.id}' ORDER BY id"
    )
    return [one for (one,) in found]


def progress(tenant: Tenant) -> tuple[Job, Backfilled]:
    found = progress_of(UIDS, tenant.id)
    assert found is not None
    return found


def test_each_row_of_one_organization_is_given_once_and_the_others_are_left_alone(shop: Shop, tenant: Tenant) -> None:
    other = Tenant()
    shop.fill(other.id, 3)
    shop.execute(f"UPDATE shop.orders SET uid = NULL WHERE organization_id = '{other.id}'", "DELETE FROM shop.given")
    start(UIDS, tenant.id)
    drain()
    assert given(shop, tenant) == ids(shop, tenant)
    assert given(shop, other) == []
    job, done = progress(tenant)
    assert (job.state, done.rows, done.changed) == ("succeeded", ROWS, ROWS)
    assert done.seconds_left is not None


def test_it_runs_once_however_often_it_is_begun(shop: Shop, tenant: Tenant) -> None:
    assert start(UIDS, tenant.id) == start(UIDS, tenant.id)
    drain()
    start(UIDS, tenant.id)
    assert drain() == 0


@pytest.mark.parametrize("moment", ["between two pages", "before the commit of one"])
def test_killed_it_goes_on_behind_the_last_page_committed(shop: Shop, tenant: Tenant, moment: str) -> None:
    start(UIDS, tenant.id)
    program = f"""
        import os, signal
        from docworker.db import governor
        from docworker.db.cluster import open_database
        from docworker.db.settings import settings
        from docworker.jobs.kinds import backfill, pages
        from docworker.jobs.testing import dispatch_due, run
        from tests.support import orders

        governor.FIRST_SIZE, governor.next_size = 10, lambda size, *_, **__: size
        lock, record = backfill._Pages.lock, pages.ledger.record_cursor
        begun = []

        def lock_or_die(self, session, after, most):
            begun.append(after)
            if {moment == "between two pages"} and len(begun) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return lock(self, session, after, most)

        def record_or_die(session, claimed, cursor, **more):
            if {moment != "between two pages"} and len(begun) == 3:
                session.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return record(session, claimed, cursor, **more)

        backfill._Pages.lock, pages.ledger.record_cursor = lock_or_die, record_or_die
        open_database(settings())
        run(dispatch_due())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=PROJECT, env=os.environ, capture_output=True, timeout=30
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert given(shop, tenant) == ids(shop, tenant)[:20]
    advance_clock(3600)
    drain()
    assert given(shop, tenant) == ids(shop, tenant)
    job, now = progress(tenant)
    assert (job.state, job.attempt, now.rows, now.changed) == ("succeeded", 2, ROWS, ROWS)


def test_cancelled_it_stops_at_the_next_page_and_goes_on_where_it_was(shop: Shop, tenant: Tenant) -> None:
    job_id = start(UIDS, tenant.id)

    def cancel() -> None:
        # From outside, since the page's transaction holds the job.
        with all_jobs_session() as session:
            ledger.cancel(session, ledger.Filter(), [job_id])

    wait = Governor.wait
    looks: list[int] = []

    def wait_and_cancel(governor: Any, should_stop: Any) -> bool:
        looks.append(1)
        if len(looks) == 3:
            cancel()
        return wait(governor, should_stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Governor, "wait", wait_and_cancel)
        run(dispatch_due())
    assert (progress(tenant)[0].state, progress(tenant)[1].rows) == ("cancelled", 20)
    assert given(shop, tenant) == ids(shop, tenant)[:20]
    with all_jobs_session() as session:
        ledger.retry_failed(session, ledger.Filter(), [job_id])
    drain()
    assert given(shop, tenant) == ids(shop, tenant)


def test_rows_that_come_go_and_change_meanwhile(shop: Shop, tenant: Tenant, before_page: Any) -> None:
    """A whole page is deleted while its rows are waited for, and others change and come."""
    before = ids(shop, tenant)
    start(UIDS, tenant.id)
    deleting = psycopg.connect(shop.url)

    def commit_when_waited_for() -> None:
        eventually(somebody_waits, what="the page waits for its rows")
        deleting.commit()

    committing = threading.Thread(target=commit_when_waited_for)

    def happen() -> None:
        deleting.execute(f"DELETE FROM shop.orders WHERE id BETWEEN {before[10]} AND {before[19]}")
        committing.start()
        shop.execute(
            f"UPDATE shop.orders SET note = 'changed' WHERE id = {before[25]}",
            f"UPDATE shop.orders SET uid = gen_random_uuid() WHERE id = {before[26]}",
            f"INSERT INTO shop.orders (organization_id, note) VALUES ('{tenant.id}', 'new')",
        )

    before_page(2, happen)
    drain()
    committing.join()
    deleting.close()
    assert ids(shop, tenant, "uid IS NULL") == []
    assert given(shop, tenant) == before[:10] + before[20:], "not the new one, which has its own"
    assert ids(shop, tenant, "note = 'changed'") == [before[25]]
    assert progress(tenant)[0].state == "succeeded"


def test_who_looks_at_the_job_sees_what_it_waits_for(shop: Shop, tenant: Tenant) -> None:
    start(UIDS, tenant.id)
    seen: list[Backfilled] = []

    def look_once(governor: Any, reason: str | None) -> None:
        governor._on_wait("replica_lag")
        seen.append(progress(tenant)[1])
        governor._on_wait(None)

    with pytest.MonkeyPatch.context() as patch:
        wait = Governor.wait

        def wait_after_a_word(governor: Any, should_stop: Any) -> bool:
            if not seen:
                look_once(governor, None)
            return wait(governor, should_stop)

        patch.setattr(Governor, "wait", wait_after_a_word)
        drain()
    assert seen[0].waits_for == "replica_lag"
    assert (progress(tenant)[0].state, progress(tenant)[1].waits_for) == ("succeeded", None)
    assert given(shop, tenant) == ids(shop, tenant)


def test_after_its_turn_it_is_given_back_and_loses_no_attempt(
    shop: Shop, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "TURN_SECONDS", 0.0)
    start(UIDS, tenant.id)
    run(dispatch_due())
    assert (progress(tenant)[0].state, progress(tenant)[0].attempt) == ("queued", 0)
    monkeypatch.undo()
    drain()
    assert progress(tenant)[0].state == "succeeded"


def test_the_command_begins_shows_and_cancels(shop: Shop, tenant: Tenant) -> None:
    def answer(*arguments: str) -> str:
        done = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
        open_database(settings(), application_name="tests")  # the command has closed it
        assert done.exit_code == 0, done.output
        return done.stdout

    def state() -> dict[str, Any]:
        (found,) = json.loads(answer("status", "order_uids", "-o", tenant.slug, "--json"))
        assert isinstance(found, dict)
        return found

    assert state()["state"] is None
    assert "1 organizations begin or go on" in answer("run", "order_uids", "-o", tenant.slug)
    assert "cancelled in 1" in answer("cancel", "order_uids", "-o", tenant.slug)
    assert state()["state"] == "cancelled"
    assert "1 organizations begin or go on" in answer("run", "order_uids", "-o", tenant.slug)
    drain()
    assert (state()["state"], state()["rows"]) == ("succeeded", ROWS)
    assert "0 organizations begin or go on, 1 are done" in answer("run", "order_uids", "-o", tenant.slug)
    assert drain() == 0
    assert ["order_uids", "shop.orders", "id"] in [line.split() for line in answer("list").splitlines()]
