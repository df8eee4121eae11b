"""Everything is killed, halted, cut off, flushed and delivered twice under load: no job is lost, doubled or crossed.

The moments are drawn from a seed and come when that many jobs are done, so that they fall into the work on any machine.
A trigger in the database writes down every attempt that ended without success: what it cost, and whose it was.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from docworker.db.cluster import open_database
from docworker.db.models import Document, Folder
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, reading, writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue, enqueue_many
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.kinds.fanout import process_folder
from docworker.worker.app import build_app
from docworker.worker.local.stack import LocalStack
from tests.support.faults import flush
from tests.support.network import Proxy, proxy_to, stopped, through
from tests.support.processes import Process, Processes
from tests.support.stack import InForce, OwnStack
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import ODD_ENDS, odd, record
from tests.support.waiting import eventually

SEEDS = (4, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2, 3)))
TENANTS = 5
DOCUMENTS = 300
"""Of each tenant."""
IN_A_FOLDER = 50
"""Of these; they are processed by a fan-out as well."""
SINGLES = 10
"""Jobs of each tenant that travel alone and write one entry each."""
WORKERS = 2
LEASE_SECONDS = 2.0
STALL_SECONDS = 1.5 * LEASE_SECONDS
IMPATIENT = {
    "DOCWORKER_LEASE": f"{LEASE_SECONDS:g}",
    "DOCWORKER_REDISPATCH_AFTER": "2",
    "DOCWORKER_BATCH_SIZE": "8",
}
MOST_SECONDS = 160
PATIENCE = 20
"""Attempts of whatever is to succeed; so many blows fall that three would not do."""

_WATCH = (
    "CREATE TABLE public.ended (job_id uuid, state text, attempt int, charged bool, worker text, at timestamptz,"
    " error text)",
    "CREATE FUNCTION public.note_end() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
    " INSERT INTO public.ended VALUES (OLD.id, NEW.state, OLD.attempt, NEW.attempt = OLD.attempt, OLD.claimed_by,"
    " clock_timestamp(), NEW.error_class || ': ' || left(NEW.error_message, 80)); RETURN NEW; END $$",
    "CREATE TRIGGER note_end AFTER UPDATE ON ledger.jobs FOR EACH ROW"
    " WHEN (OLD.state = 'running' AND NEW.state IN ('queued', 'failed')) EXECUTE FUNCTION public.note_end()",
    "CREATE FUNCTION public.be_patient() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    f" NEW.max_attempts := {PATIENCE}; RETURN NEW; END $$",
    "CREATE TRIGGER be_patient BEFORE INSERT ON ledger.jobs FOR EACH ROW"
    " WHEN (NEW.kind NOT LIKE 'tests.%') EXECUTE FUNCTION public.be_patient()",
)


@dataclass
class Load:
    """The jobs of one tenant, and how each must end."""

    tenant: Tenant
    texts: dict[UUID, str] = field(default_factory=dict)
    singles: list[UUID] = field(default_factory=list)
    fan_out: UUID = field(default_factory=new_id)
    odd: dict[UUID, str] = field(default_factory=dict)

    def enqueue(self) -> None:
        texts = [f"document {number} of {self.tenant.slug}, {new_id()}" for number in range(DOCUMENTS)]
        self.texts = dict(zip(self.tenant.add(*texts), texts, strict=True))
        folder = Folder(organization_id=self.tenant.id, id=new_id(), name="chosen")
        with writing(self.tenant.id) as session:
            session.add(folder)
            for one in list(self.texts)[:IN_A_FOLDER]:
                session.get_one(Document, (self.tenant.id, one)).folder_id = folder.id
        with writing(self.tenant.id) as session:
            enqueue_many(session, process_document, [{"document_id": one} for one in self.texts])
            enqueue(session, process_folder, id=self.fan_out, folder_id=folder.id, force=True)
            self.singles = [enqueue(session, record, max_attempts=PATIENCE) for _ in range(SINGLES)]
            for how, succeeds in ODD_ENDS.items():
                job_id = enqueue(session, odd, how=how, max_attempts=PATIENCE if succeeds else 2)
                self.odd[job_id] = how


class World:
    """The processes with a supervisor that restarts them, and all that happens to them."""

    def __init__(self, stack: LocalStack, processes: Processes, seed: int, links: ExitStack) -> None:
        self.random = random.Random(seed)
        self.stack = stack
        self.happened: Counter[str] = Counter()
        self.victims: set[int] = set()
        """Processes that were killed or halted: whatever they ran has lost an attempt by right."""
        self.cut_off: list[tuple[datetime, datetime]] = []
        """When workers could not renew."""
        self.ended: list[Process] = []
        """Processes that ended although nobody killed them."""
        self._processes = processes
        self._worker_links = [links.enter_context(proxy_to(one)) for one in (stack.master, stack.broker)]
        self._dispatcher_links = [links.enter_context(proxy_to(one)) for one in (stack.master, stack.broker)]
        self._replica_link = links.enter_context(proxy_to(stack.replicas[0]))
        self._running = [self._start("dispatcher")] + [self._start("worker") for _ in range(WORKERS)]
        self._app = build_app(settings())
        self._plan = self._draw_moments()

    def _draw_moments(self) -> list[tuple[int, Callable[[], None]]]:
        """What happens once that many jobs are done, the next one last."""
        events = [
            *[self.kill_a_child] * 6,
            *[self.kill_a_worker] * 3,
            *[self.kill_the_dispatcher] * 3,
            *[self.flush_the_broker] * 2,
            self.restart_the_broker,
            *[self.deliver_twice] * 10,
            self.halt_the_master,
            self.halt_the_dispatcher,
            self.halt_a_worker,
            self.halt_a_child,
            self.lock_the_jobs,
            self.stall_a_link_of_the_workers,
            self.stall_a_link_of_the_dispatcher,
            self.stall_the_link_to_the_replica,
        ]
        moments = [self.random.randrange(TENANTS * DOCUMENTS * 9 // 10) for _ in events]
        return sorted(zip(moments, events, strict=True), key=lambda one: -one[0])

    def turn(self) -> bool:
        """Let happen what is due and restart what has died; True when all is over and all jobs have ended."""
        states = states_of_jobs()
        while self._plan and states["succeeded"] >= self._plan[-1][0]:
            _, event = self._plan.pop()
            event()
            self.happened[event.__name__] += 1
        for number, process in enumerate(self._running):
            if not process.running:
                if process.pid not in self.victims:
                    self.ended.append(process)
                self._running[number] = self._start(process.name)
        return not self._plan and not states.keys() & {"queued", "dispatched", "running"}

    @property
    def coming(self) -> list[str]:
        """What is yet to happen, the next one last."""
        return [event.__name__ for _, event in self._plan]

    @property
    def logs(self) -> str:
        """The ends of the logs of those that run now."""
        return "\n".join(f"{process.name} {process.pid}:\n{process.log[-6000:]}" for process in self._running)

    def _start(self, name: str) -> Process:
        links = self._worker_links if name == "worker" else self._dispatcher_links
        return self._processes.start(name, environment=IMPATIENT | through(os.environ, *links, self._replica_link))

    # What kills

    def kill_a_child(self) -> None:
        children = [child for worker in self._workers for child in worker.children]
        if children:
            chosen = self.random.choice(children)
            self.victims.add(chosen)
            with suppress(ProcessLookupError):
                os.kill(chosen, signal.SIGKILL)

    def kill_a_worker(self) -> None:
        chosen = self.random.choice(self._workers)
        with stopped(chosen.pid):  # it starts nobody that we would not know of
            self.victims |= {chosen.pid, *chosen.children}
            chosen.kill9()

    def kill_the_dispatcher(self) -> None:
        self.victims.add(self._running[0].pid)
        self._running[0].kill9()

    def flush_the_broker(self) -> None:
        flush(self.stack.broker)

    def restart_the_broker(self) -> None:
        self.stack.broker.kill()
        self.stack.broker.start()

    # What stands still for longer than a lease

    def halt_the_master(self) -> None:
        assert self.stack.master.pid is not None
        _while_it_lasts(stopped(self.stack.master.pid, family=True))

    def halt_the_dispatcher(self) -> None:
        _while_it_lasts(stopped(self._running[0].pid))

    def halt_a_worker(self) -> None:
        """The parent only: its children work on."""
        _while_it_lasts(stopped(self.random.choice(self._workers).pid))

    def halt_a_child(self) -> None:
        children = [child for worker in self._workers for child in worker.children]
        if children:
            chosen = self.random.choice(children)
            self.victims.add(chosen)
            _while_it_lasts(stopped(chosen))

    def lock_the_jobs(self) -> None:
        with closing(self.stack.master.connect("docworker", autocommit=False)) as connection:
            connection.execute("LOCK TABLE ledger.jobs")
            _while_it_lasts(ExitStack())

    def stall_a_link_of_the_workers(self) -> None:
        begun = datetime.now(UTC)
        self._stall(self.random.choice(self._worker_links))
        self.cut_off.append((begun, datetime.now(UTC) + timedelta(seconds=2 * LEASE_SECONDS)))

    def stall_a_link_of_the_dispatcher(self) -> None:
        self._stall(self.random.choice(self._dispatcher_links))

    def stall_the_link_to_the_replica(self) -> None:
        self._stall(self._replica_link)

    def _stall(self, link: Proxy) -> None:
        _while_it_lasts(self.random.choice([_frozen, _cut])(link))

    # What arrives more than once

    def deliver_twice(self) -> None:
        """Messages that were sent, once more; and one that names a tenant's jobs as another's."""
        with all_jobs_session() as session:
            sent = session.execute(
                text(
                    "SELECT organization_id, kind, message_id, array_agg(id) FROM ledger.jobs"
                    " WHERE message_id IS NOT NULL GROUP BY organization_id, kind, message_id"
                )
            ).all()
        chosen = self.random.sample(sorted(sent), min(5, len(sent)))
        for organization_id, kind, message_id, job_ids in chosen:
            self._send(organization_id, kind, message_id, job_ids)
        for _, kind, message_id, job_ids in chosen[:1]:
            self._send(self.random.choice(sent).organization_id, kind, message_id, job_ids)

    def _send(self, organization_id: UUID, kind: str, message_id: UUID, job_ids: list[UUID]) -> None:
        named = {"organization_id": str(organization_id), "job_ids": [str(one) for one in job_ids]}
        self._app.send_task(kind, kwargs=named, task_id=str(message_id), queue=settings().queue)

    @property
    def _workers(self) -> list[Process]:
        return self._running[1:]


def _while_it_lasts(trouble: AbstractContextManager[object]) -> None:
    with trouble:
        end = time.monotonic() + STALL_SECONDS
        eventually(lambda: time.monotonic() > end, within_seconds=STALL_SECONDS + 5)


@contextmanager
def _frozen(link: Proxy) -> Iterator[None]:
    link.freeze()
    yield
    link.resume()


@contextmanager
def _cut(link: Proxy) -> Iterator[None]:
    link.cut()
    yield
    link.resume()


def states_of_jobs() -> Counter[str]:
    with all_jobs_session() as session:
        return Counter(dict(session.execute(text("SELECT state, count(*) FROM ledger.jobs GROUP BY state")).all()))


def recorded(tenant: Tenant) -> Counter[UUID]:
    """How many entries each job of the user package has written."""
    with reading(tenant.id, source="master") as session:
        return Counter(session.scalars(text("SELECT subject_id FROM app.audit_log WHERE action = 'tests'")))


@pytest.fixture
def links() -> Iterator[ExitStack]:
    with ExitStack() as links:
        yield links


@pytest.mark.timeout(MOST_SECONDS + 90)
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_killed_halted_or_cut_off_every_job_takes_effect_exactly_once(
    own_stack: OwnStack, in_force: InForce, processes: Processes, tmp_path: Path, links: ExitStack, seed: int
) -> None:
    stack = own_stack(replicas=1, migrated=True)
    in_force(stack)
    install_user_package(tmp_path / "processes")
    for statement in _WATCH:
        stack.master.execute(statement, database="docworker")
    open_database(settings(), application_name="tests")
    loads = [Load(Tenant()) for _ in range(TENANTS)]
    for load in loads:
        load.enqueue()

    world = World(stack, processes, seed, links)
    try:
        eventually(world.turn, within_seconds=MOST_SECONDS, what=f"all jobs to end (seed {seed})")
    except AssertionError as error:
        raise AssertionError(
            f"{error}; jobs: {states_of_jobs()}; happened: {world.happened}; not yet: {world.coming}\n{world.logs}"
        ) from None

    for load in loads:
        assert_all_ended_as_they_should(load)
    assert_nobody_paid_for_others(stack, world, odd={job_id for load in loads for job_id in load.odd})
    assert not world.ended, f"ended by themselves: {[(one.name, one.log[-2000:]) for one in world.ended]}"
    eventually(lambda: assert_nothing_is_left_open(stack))


def assert_all_ended_as_they_should(load: Load) -> None:
    with all_jobs_session() as session:
        query = text("SELECT * FROM ledger.jobs WHERE organization_id = :id")
        jobs = {row.id: row for row in session.execute(query, {"id": load.tenant.id})}
    must_fail = {job_id for job_id, how in load.odd.items() if not ODD_ENDS[how]}
    assert {row.state for row in jobs.values() if row.id not in must_fail} == {"succeeded"}
    for job_id in must_fail:
        job = jobs[job_id]
        assert (job.state, job.attempt) == ("failed", 2), load.odd[job_id]
        assert job.error_class, f"{load.odd[job_id]}: the reason is kept"
    children = Counter(row.arguments["document_id"] for row in jobs.values() if row.parent_id == load.fan_out)
    assert children == {str(one): 1 for one in list(load.texts)[:IN_A_FOLDER]}
    assert sum(row.kind == "process_document" for row in jobs.values()) == DOCUMENTS + IN_A_FOLDER
    assert load.tenant.versions_and_jobs() == {one: [(1, content, str(one))] for one, content in load.texts.items()}
    assert recorded(load.tenant) == dict.fromkeys([*load.singles, *(load.odd.keys() - must_fail)], 1)


def assert_nobody_paid_for_others(stack: LocalStack, world: World, odd: set[UUID]) -> None:
    """Only those lost an attempt whose process was killed, halted or cut off from the master."""
    ended = stack.master.execute(
        "SELECT job_id, worker, at, error FROM public.ended WHERE charged ORDER BY at", database="docworker"
    )
    assert ended, "somebody was hit"
    wronged = [
        f"{at:%T.%f} {job_id} on {worker}: {error}"
        for job_id, worker, at, error in ended
        if job_id not in odd
        and int(worker.rpartition(":")[2]) not in world.victims
        and not any(begin <= at <= end for begin, end in world.cut_off)
    ]
    assert not wronged, "\n".join([f"{len(wronged)} attempts charged to processes that lived:", *wronged[:20]])


def assert_nothing_is_left_open(stack: LocalStack) -> None:
    """No lease, no claim, no transaction of our processes."""
    leased = "SELECT count(*) FROM ledger.jobs WHERE lease_expires_at IS NOT NULL OR redispatch_at IS NOT NULL"
    assert stack.master.execute(leased, database="docworker") == [(0,)]
    open_sessions = stack.master.execute(
        "SELECT usename, application_name, query FROM pg_stat_activity"
        " WHERE usename LIKE 'docworker%' AND state LIKE 'idle in transaction%'"
    )
    assert open_sessions == []
