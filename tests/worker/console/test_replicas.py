"""Pages from a replica: never older than what the same browser has been shown and has done, and from the master where
no replica will do."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text

from docworker.db import metrics
from docworker.db.sessions import TenantSession, read_all_jobs
from docworker.db.settings import Addresses, settings
from docworker.migrations.runner import upgrade
from docworker.worker.console import console_app
from docworker.worker.doctor.postgres import Servers
from docworker.worker.heartbeat import Heartbeat
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.stack import LocalStack
from tests.support.console import SETTINGS, Browser, served, serving_console
from tests.support.database import opened_database
from tests.support.faults import freeze, pause_replay, resume_replay, thaw
from tests.support.ledger import LedgerSteps
from tests.support.stack import applied, isolated_settings, temporary_stack
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(120)

SETTINGS_HERE = SETTINGS | {
    "DOCWORKER_REPLICA_SAMPLE_INTERVAL": "0.1",
    "DOCWORKER_REPLICA_WAIT": "0.1",
    "DOCWORKER_REPLICA_MAX_LAG": "3600",
}
SEEN = "docworker_console_seen"
TOLD = 'id="behind"'


@pytest.fixture(scope="module")
def servers() -> Iterator[LocalStack]:
    with temporary_stack(replicas=2) as stack:
        with applied(stack.environment()):
            upgrade()
        yield stack


class Seat:
    """Somebody at a console that reads from the first replica, and an organization with jobs."""

    def __init__(self, servers: LocalStack, url: str) -> None:
        self._servers = servers
        self.replica, self.other = servers.replicas
        self.tenant = Tenant()
        self.steps = LedgerSteps(self.tenant.id)
        self._url = url
        self._browsers: list[Browser] = []
        self.browser = self.another()
        eventually(lambda: replicas_read_for(lambda: self.browser.page("/jobs")), within_seconds=20)

    def another(self) -> Browser:
        """A browser that has seen nothing yet."""
        self._browsers.append(Browser(self._url).log_in("operator"))
        return self._browsers[-1]

    def close(self) -> None:
        for one in self._browsers:
            one.close()

    def pause_replay(self) -> None:
        """From now on the replica knows of nothing more, and it has all that this browser has seen."""
        self._servers.wait_for_replicas()
        pause_replay(self.replica)
        assert replicas_read_for(lambda: self.browser.page("/jobs"))

    def enqueue(self) -> UUID:
        (job_id,) = self.steps.enqueue(1)
        return job_id

    def is_listed(self, job_id: UUID, query: str = "") -> bool:
        return f"/jobs/{job_id}" in self.browser.page(f"/jobs{query}")


def replicas_read_for(work: Callable[[], object]) -> float:
    """How many sessions on replicas it takes."""
    before = _reads_of_replicas()
    work()
    return _reads_of_replicas() - before


def _reads_of_replicas() -> float:
    (family,) = metrics.READS.collect()
    return sum(one.value for one in family.samples if one.name.endswith("_total") and one.labels["target"] == "replica")


@pytest.fixture
def sit(servers: LocalStack, tmp_path: Path) -> Iterator[Callable[..., Seat]]:
    """Makes a seat at a new console, with these settings changed; at the end the replica is there and replays."""
    with ExitStack() as opened:

        def sit(**changed: str) -> Seat:
            values = isolated_settings(servers, "docworker", tmp_path) | SETTINGS_HERE
            values["DOCWORKER_REPLICA_URLS"] = values["DOCWORKER_REPLICA_URLS"].split()[0]
            values |= changed
            opened.enter_context(applied(values))
            opened.enter_context(opened_database())
            seat = Seat(servers, opened.enter_context(served(console_app())))
            opened.callback(seat.close)
            return seat

        yield sit
    for replica in servers.replicas:
        thaw(replica)
        if not replica.running:
            replica.start()
        resume_replay(replica)
    servers.wait_for_replicas()


def test_lists_and_counts_are_read_from_a_replica(sit: Callable[..., Seat]) -> None:
    seat = sit()
    seat.pause_replay()
    job_id = seat.enqueue()
    assert not seat.is_listed(job_id)
    for path in ("/", "/failures", "/backlog", "/fanouts"):
        assert replicas_read_for(lambda path=path: seat.browser.page(path)), path  # type: ignore[misc]
    assert not seat.is_listed(job_id)
    resume_replay(seat.replica)
    eventually(lambda: seat.is_listed(job_id))


def test_what_was_done_shows_in_the_same_browser_at_once(sit: Callable[..., Seat]) -> None:
    seat = sit()
    job_id = seat.enqueue()
    seat.pause_replay()
    cancelled = f"?state=cancelled&organization={seat.tenant.slug}"
    assert not seat.is_listed(job_id, cancelled)
    shown = seat.browser.cookie(SEEN)
    assert seat.browser.act(f"/jobs/{job_id}/cancel").status_code == 303
    seat.browser.set_cookie(SEEN, shown)  # as a page that was asked for before and comes after it
    assert seat.is_listed(job_id, cancelled)


def test_what_was_written_in_the_application_around_it_shows(sit: Callable[..., Seat]) -> None:
    seat = sit()
    seat.pause_replay()
    job_id = seat.enqueue()
    with serving_console() as url:  # in an application that remembers what was written so far
        assert f"/jobs/{job_id}" in Browser(url).log_in("viewer").page("/jobs")


def test_no_page_is_older_than_the_one_before(sit: Callable[..., Seat]) -> None:
    seat = sit()
    seat.pause_replay()
    job_id = seat.enqueue()
    assert not seat.is_listed(job_id)
    seat.browser.page(f"/jobs/{job_id}")
    assert seat.is_listed(job_id)
    assert seat.is_listed(job_id)


def test_no_page_is_older_than_the_one_before_from_another_server(
    sit: Callable[..., Seat], servers: LocalStack
) -> None:
    both = servers.environment()["DOCWORKER_REPLICA_URLS"]
    seat = sit(DOCWORKER_REPLICA_URLS=both)
    seat.pause_replay()
    job_id = seat.enqueue()
    seat.other.wait_for(servers.master, within_seconds=20)
    pause_replay(seat.other)
    eventually(lambda: seat.is_listed(job_id))
    assert all(seat.is_listed(job_id) for _ in range(12))
    freeze(seat.other)
    freeze(seat.replica)
    later_id = seat.enqueue()
    assert seat.is_listed(later_id)
    thaw(seat.other)
    eventually(lambda: replicas_read_for(lambda: seat.another().page("/jobs")), within_seconds=20)
    assert seat.is_listed(later_id)


def test_what_one_decides_by_is_read_from_the_master(sit: Callable[..., Seat]) -> None:
    seat = sit()
    seat.pause_replay()
    assert "no worker lives" in seat.browser.page("/")
    heartbeat = Heartbeat("worker", dict)
    heartbeat.tick()
    assert "no worker lives" not in seat.browser.page("/")
    seat.steps.enqueue(3, kind="decided")
    assert "<b>3" in seat.browser.page("/jobs/change?change=cancel&kind=decided")
    heartbeat.leave()


def test_a_page_says_how_old_it_is_when_that_is_more_than_a_few_seconds(sit: Callable[..., Seat]) -> None:
    begun = time.monotonic()
    seat = sit()
    assert TOLD not in seat.browser.page("/jobs")
    seat.pause_replay()
    job_id = seat.enqueue()
    page = eventually(lambda: told if TOLD in (told := seat.browser.page("/jobs")) else "", within_seconds=30)
    assert f"/jobs/{job_id}" not in page
    told = re.search(r"as it was ([0-9.]+) s ago", page)
    assert told is not None
    assert 3 <= float(told[1]) <= time.monotonic() - begun + 1
    assert TOLD in seat.browser.page("/")
    assert TOLD not in seat.browser.page(f"/jobs/{job_id}")
    assert TOLD not in seat.browser.page("/jobs")  # from the master, as the page before


def test_a_replica_too_far_behind_is_not_read_whatever_the_browser_has_seen(sit: Callable[..., Seat]) -> None:
    seat = sit(DOCWORKER_REPLICA_MAX_LAG="1")
    seat.pause_replay()
    job_id = seat.enqueue()
    eventually(lambda: seat.is_listed(job_id), within_seconds=20)


@pytest.mark.parametrize("harm", [PostgresServer.kill, freeze])
def test_a_replica_that_dies_is_answered_for_by_the_master(
    sit: Callable[..., Seat], harm: Callable[[PostgresServer], None]
) -> None:
    seat = sit()
    harm(seat.replica)
    job_id = seat.enqueue()
    assert seat.is_listed(job_id)
    assert "no worker lives" in seat.browser.page("/")


def test_a_read_that_loses_its_replica_is_done_again(sit: Callable[..., Seat]) -> None:
    seat = sit()
    tried: list[str] = []

    def load(session: TenantSession) -> int:
        assert session.choice is not None
        tried.append(session.choice.target)
        if len(tried) == 1:
            seat.replica.kill()
        return int(session.scalar(text("SELECT 1")) or 0)

    assert read_all_jobs(load) == 1
    assert tried[0] == "replica"
    assert tried[-1] == "master"


def test_where_a_replica_does_not_let_the_dispatchers_role_in_the_master_answers_and_doctor_says_so(
    sit: Callable[..., Seat],
) -> None:
    seat = sit()
    access = seat.replica.home / f"{seat.replica.name}.access"
    let_in = access.read_text()
    assert not [one.fault for one in Servers(settings()).examine() if "dispatcher" in one.fault]
    access.write_text(f"host all docworker_dispatcher all reject\n{let_in}")
    try:
        seat.replica.execute("SELECT pg_reload_conf()")
        eventually(lambda: any("does not let in" in one.fault for one in Servers(settings()).examine()))
        close_connections(seat.replica)
        job_id = seat.enqueue()
        assert seat.is_listed(job_id)
    finally:
        access.write_text(let_in)
        seat.replica.execute("SELECT pg_reload_conf()")


def close_connections(server: PostgresServer) -> None:
    """Of the dispatcher's role."""
    server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'docworker_dispatcher'")


def test_the_dispatchers_login_is_that_of_its_own_address() -> None:
    addresses = Addresses(
        master_url="postgresql://worker:hidden@master/docworker",
        replica_urls=("postgresql://worker:hidden@replica:5433/docworker?sslmode=verify-full&sslcert=worker.pem",),
        dispatcher_url="postgresql://dispatcher@master/docworker?sslcert=dispatcher.pem&sslmode=prefer",
    )
    (found,) = addresses.dispatcher_replica_urls
    assert conninfo_to_dict(found) == {
        "user": "dispatcher",
        "host": "replica",
        "port": "5433",
        "dbname": "docworker",
        "sslmode": "verify-full",
        "sslcert": "dispatcher.pem",
    }
