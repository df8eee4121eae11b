"""The worked example of docs/migrations.md, from a number to a UUID as key, on a table that is read and written."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from docworker.db import ledger
from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue_many
from docworker.jobs.kinds.backfill import Backfilled, find_backfill, progress_of, start
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.testing import drain
from docworker.worker.local.stack import LocalStack
from tests.support.database import opened_database
from tests.support.orders import Shop
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually

UIDS = find_backfill("order_uids")
ROWS = 500


@pytest.fixture
def shop(stack: LocalStack, fresh_environment: dict[str, str]) -> Iterator[Shop]:
    name = psycopg.conninfo.conninfo_to_dict(fresh_environment["DOCWORKER_MASTER_URL"])["dbname"]
    made = Shop(stack, str(name))
    with opened_database():
        yield made


class Clients:
    """A reader and a writer of one organization's orders, who ask by number until they are told of the UUID. What they
    see of an order's UUID must never change, and what they write must be there."""

    def __init__(self, shop: Shop, organization_id: UUID) -> None:
        self.key = "id"
        self.has_uid = False
        self.look = "SELECT note, uid FROM shop.orders WHERE uid IS NOT NULL"
        self.uids: dict[str, UUID] = {}
        self.notes: dict[str, str] = {}
        self.counts = {"read": 0, "written": 0}
        self._shop, self._organization_id = shop, organization_id
        self._stopped = threading.Event()
        self._errors: list[BaseException] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._loop, args=(work,)) for work in (self._read, self._write)]
        for one in threads:
            one.start()
        try:
            yield
        finally:
            self._stopped.set()
            for one in threads:
                one.join()
        if self._errors:
            raise self._errors[0]

    def _loop(self, work: Callable[[Any], None]) -> None:
        try:
            with psycopg.connect(self._shop.url, autocommit=True, prepare_threshold=None) as connection:
                while not self._stopped.is_set():
                    work(connection)
        except BaseException as error:  # noqa: BLE001 - raised where the clients end
            self._errors.append(error)

    def _read(self, connection: Any) -> None:
        """The text of an order is its name here: neither key lasts from the beginning to the end."""
        if not self.has_uid:
            connection.execute("SELECT note FROM shop.orders").fetchall()
        else:
            for note, uid in connection.execute(self.look).fetchall():
                assert self.uids.setdefault(note.split(" |")[0], uid) == uid, f"{note} had another UUID"
        self.counts["read"] += 1

    def _write(self, connection: Any) -> None:
        name = f"new {self.counts['written']}"
        key = self.key
        (made,) = connection.execute(
            f"INSERT INTO shop.orders (organization_id, note) VALUES (%s, %s) RETURNING {key}",
            (self._organization_id, name),
        ).fetchone()
        note = f"{name} | {random.random()}"
        connection.execute(f"UPDATE shop.orders SET note = %s WHERE {key} = %s", (note, made))
        if self.counts["written"] % 5 == 0:
            connection.execute(f"DELETE FROM shop.orders WHERE {key} = %s", (made,))
        else:
            self.notes[name] = note
        self.counts["written"] += 1


def test_each_phase_goes_up_and_down_under_a_reader_and_a_writer(shop: Shop) -> None:
    tenant = Tenant()
    shop.fill(tenant.id, ROWS)
    clients = Clients(shop, tenant.id)
    with clients.running():
        for phase in ("Expand", "Dual"):
            shop.up(phase)
            shop.down(phase)
            shop.up(phase)
        clients.has_uid = True
        with pytest.raises(psycopg.errors.CheckViolation, match="orders_have_uid"):
            shop.up("Validate")
        shop.execute("ALTER TABLE shop.orders DROP CONSTRAINT orders_have_uid", "DROP INDEX shop.orders_uid")
        start(UIDS, tenant.id)
        drain()
        found = progress_of(UIDS, tenant.id)
        assert found is not None
        assert found[0].state == "succeeded"
        for phase in ("Validate", "Switch"):
            shop.up(phase)
            shop.down(phase)
            shop.up(phase)
        clients.key = "uid"
        before = clients.counts["written"]
        eventually(lambda: clients.counts["written"] > before + 1)
        for step in (shop.up, shop.down, shop.up):
            step("Contract")
    left = shop.rows("SELECT note, uid FROM shop.orders")
    assert len({uid for _, uid in left}) == len(left)
    assert {note for note, _ in left if note.startswith("new")} == set(clients.notes.values())
    assert sum(note.startswith("note") for note, _ in left) == ROWS
    assert min(clients.counts.values()) > 10


MANY = 1_000_000
_LAG = """SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0)::bigint,
coalesce(max(extract(epoch FROM replay_lag)), 0)::float FROM pg_stat_replication"""


class Rates:
    """Documents a second, and how far the replicas were behind at most."""

    def __init__(self, stack: LocalStack, tenant: Tenant) -> None:
        self.lag_bytes, self.lag_seconds = 0, 0.0
        self._stack, self._tenant = stack, tenant

    def done(self) -> int:
        with all_jobs_session() as session:
            counts = ledger.count_by_state(session, ledger.Filter(organization_id=self._tenant.id))
        return sum(one.jobs for one in counts if one.kind == "process_document" and one.state == "succeeded")

    def during(self, over: Callable[[], bool], *, within_seconds: float) -> float:
        begun_at, before = time.monotonic(), self.done()

        def look() -> bool:
            ((lag_bytes, lag_seconds),) = self._stack.master.execute(_LAG)
            self.lag_bytes, self.lag_seconds = max(self.lag_bytes, lag_bytes), max(self.lag_seconds, lag_seconds)
            return over()

        eventually(look, within_seconds=within_seconds, what="it is over")
        return (self.done() - before) / (time.monotonic() - begun_at)


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_a_million_rows_are_filled_while_jobs_run_and_workers_are_killed(
    shop: Shop, stack: LocalStack, processes: Processes, tmp_path: Path
) -> None:
    tenant, busy = Tenant(), Tenant()
    shop.fill(tenant.id, MANY)
    shop.execute("VACUUM ANALYZE shop.orders")
    shop.up("Expand")
    shop.up("Dual")
    for _ in range(60):
        with writing(busy.id) as session:
            enqueue_many(session, process_document, [{"document_id": one} for one in busy.add(*["some text"] * 2000)])
    install_user_package(tmp_path / "processes", "tests.support.orders")
    processes.start("dispatcher")
    worker = processes.start("worker", environment={"DOCWORKER_WORKER_PROCESSES": "3"})
    worker.wait_for_log("worker.ready", within_seconds=60)
    rates, clients = Rates(stack, busy), Clients(shop, tenant.id)
    clients.has_uid, clients.look = True, f"{clients.look} AND id < 2000"

    def job() -> tuple[Job, Backfilled]:
        found = progress_of(UIDS, tenant.id)
        assert found is not None
        return found

    with clients.running():
        eventually(lambda: rates.done() > 100, within_seconds=60)
        until = time.monotonic() + 15
        alone = rates.during(lambda: time.monotonic() > until, within_seconds=60)
        start(UIDS, tenant.id)
        began_at = time.monotonic()
        beside = rates.during(lambda: job()[1].rows > MANY * 0.4, within_seconds=600)
        for child in worker.children:
            os.kill(child, signal.SIGKILL)
        at_kill = job()[1].rows
        rates.during(lambda: job()[0].state == "succeeded", within_seconds=900)
    shop.up("Validate")
    end, done = job()
    print(  # noqa: T201 - these are figures
        f"alone {alone:.0f}/s, beside {beside:.0f}/s, ratio {beside / alone:.2f}; "
        f"{time.monotonic() - began_at:.0f} s, killed at {at_kill}, attempts {end.attempt}; "
        f"lag at most {rates.lag_seconds:.2f} s, {rates.lag_bytes / 2**20:.1f} MiB; {clients.counts}; {done}"
    )
    assert end.attempt == 2
    assert done.changed == MANY, "each row that had none was given one, once"
    assert rates.lag_seconds < 10
    assert beside > alone / 4
