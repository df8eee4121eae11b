"""A broker that fails in every way we know: a worker and a dispatcher say so soon, wait, and go on with every slot.

They stay the same from the first fault to the last, so what one costs the next one shows.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from docworker.db.sessions import writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue
from docworker.migrations.runner import upgrade
from docworker.worker.local.servers.valkey import ValkeyServer
from docworker.worker.local.stack import LocalStack
from tests.support.broker_faults import BROKER_FAULTS, forbidden, new_password, without_password
from tests.support.database import opened_database
from tests.support.faults import freeze, thaw
from tests.support.metrics import get, metric
from tests.support.network import Proxy, proxy_to
from tests.support.processes import Process, Processes
from tests.support.stack import applied, isolated_settings, temporary_stack
from tests.support.tenants import Tenant
from tests.support.user_package import install_user_package
from tests.support.user_package.jobs import hold_job
from tests.support.waiting import eventually
from tests.support.workers import Workers

NAMES = ("worker", "dispatcher")
SLOTS = 2
SOON_SECONDS = 8
"""About five, and what a busy machine needs."""
SILENT_SECONDS = 5
"""For longer a link that works is never silent."""


@dataclass(frozen=True)
class Scene:
    """A worker and a dispatcher that reach their broker over a link of their own."""

    broker: ValkeyServer
    proxy: Proxy
    workers: Workers
    tenant: Tenant
    worker: Process
    dispatcher: Process

    def fill_slots(self, name: str) -> None:
        """Enqueue a job for each slot, which waits for `release-NAME`."""
        with writing(self.tenant.id) as session:
            for _ in range(SLOTS):
                enqueue(session, hold_job, path=self.workers.path(name), release=self.workers.path(f"release-{name}"))

    def count(self, name: str, word: str) -> int:
        return sum(line.startswith(word) for line in self.workers.lines(name))

    def await_all(self, name: str, word: str) -> None:
        eventually(
            lambda: self.count(name, word) == SLOTS, within_seconds=30, what=f"all {SLOTS} jobs of {name} have {word}"
        )


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with temporary_stack(replicas=0) as stack:
        yield stack


@contextmanager
def opened_scene(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory, *, password: bool) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("fault")
    with proxy_to(stack.broker) as proxy:
        values = isolated_settings(stack, "docworker", directory)
        url = stack.broker.url.replace(f":{stack.broker.port}/", f":{proxy.port}/")
        values["DOCWORKER_BROKER_URL"] = url if password else f"redis://127.0.0.1:{proxy.port}/0"
        values["DOCWORKER_WORKER_PROCESSES"] = str(SLOTS)
        values["DOCWORKER_WATCHDOG_TIMEOUT"] = "4"
        with applied(values):
            upgrade()
            install_user_package(directory / "processes")
            with closing(Processes({}, directory / "processes")) as processes, opened_database():
                tenant = Tenant()
                worker, dispatcher = (processes.start(name) for name in NAMES)
                worker.wait_for_log("worker.ready", within_seconds=30)
                dispatcher.wait_for_log("dispatcher.started", within_seconds=30)
                yield Scene(stack.broker, proxy, Workers(processes, directory), tenant, worker, dispatcher)


@pytest.fixture(scope="module")
def scene(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with opened_scene(stack, tmp_path_factory, password=True) as scene:
        yield scene


@contextmanager
def between(begin: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    begin()
    try:
        yield
    finally:
        end()


LINK_FAULTS: dict[str, Callable[[Scene], AbstractContextManager[None]]] = {
    "refused": lambda scene: between(scene.broker.kill, scene.broker.start),
    "frozen": lambda scene: between(partial(freeze, scene.broker), partial(thaw, scene.broker)),
    "silent": lambda scene: between(scene.proxy.freeze, scene.proxy.resume),
    "cut off": lambda scene: between(scene.proxy.cut, scene.proxy.resume),
}


def fault(name: str, scene: Scene) -> AbstractContextManager[None]:
    return LINK_FAULTS[name](scene) if name in LINK_FAULTS else BROKER_FAULTS[name](scene.broker)


def await_readiness(status: int) -> None:
    def readiness_of(name: str) -> int:
        return get("/readyz", process=name)[0]

    for name in NAMES:
        eventually(
            lambda name=name: readiness_of(name) == status,  # type: ignore[misc]
            within_seconds=SOON_SECONDS,
            what=f"/readyz of the {name} is {status}",
        )


def readiness_while_it_tries(worker: Process) -> set[int]:
    """What both say until the worker has tried twice more to get a link that works."""
    tries = worker.log.count("broker.")
    said: set[int] = set()

    def has_tried() -> bool:
        said.update(get("/readyz", process=name)[0] for name in NAMES)
        return worker.log.count("broker.") >= tries + 2

    eventually(has_tried, within_seconds=20, what="the worker tries twice")
    return said


def ride_through(scene: Scene, fault: AbstractContextManager[None], name: str, *, answers: bool) -> None:
    scene.worker.wait_for_log("worker.ready", within_seconds=40)
    scene.dispatcher.wait_for_log("dispatcher.started")
    await_readiness(200)
    before, after = f"before-{name}", f"after-{name}"
    scene.fill_slots(before)
    scene.await_all(before, "begun")

    lost = scene.worker.log.count("broker.link_lost")
    with fault:
        await_readiness(503)
        scene.worker.wait_for_log("broker.link_lost", times=lost + 1)  # although there is nothing to acknowledge
        scene.workers.release(f"release-{before}")
        scene.await_all(before, "finished")
        scene.fill_slots(after)
        assert {metric("docworker_ready", process=name) for name in NAMES} == {0}
        if answers:
            assert readiness_while_it_tries(scene.worker) == {503}, "no attempt looks like success"

    await_readiness(200)
    assert {metric("docworker_ready", process=name) for name in NAMES} == {1}
    scene.await_all(after, "begun")
    scene.workers.release(f"release-{after}")
    scene.await_all(after, "finished")
    assert scene.count(before, "begun") == scene.count(after, "begun") == SLOTS, "nothing ran twice"
    assert scene.worker.running
    assert scene.dispatcher.running
    assert metric("docworker_broker_links_lost_total") >= lost + 1


def test_a_password_that_is_set_at_run_time_shows_soon_and_costs_neither_a_slot_nor_a_job(
    stack: LocalStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with without_password(stack.broker), opened_scene(stack, tmp_path_factory, password=False) as scene:
        ride_through(scene, new_password(stack.broker), "NOAUTH", answers=True)


@pytest.mark.parametrize("name", [*LINK_FAULTS, *BROKER_FAULTS])
def test_every_trouble_of_the_broker_shows_soon_and_costs_neither_a_slot_nor_a_job(scene: Scene, name: str) -> None:
    ride_through(scene, fault(name, scene), name.replace(" ", "-"), answers=name in BROKER_FAULTS)


def test_an_acknowledgement_that_the_broker_refuses_ends_the_link_and_is_made_over_the_next_one(scene: Scene) -> None:
    await_readiness(200)
    scene.fill_slots("refused")
    scene.await_all("refused", "begun")
    lost = scene.worker.log.count("broker.link_lost")
    with forbidden(scene.broker, "hdel"):
        scene.workers.release("release-refused")
        scene.worker.wait_for_log("broker.link_lost", times=lost + 1)
    with scene.broker.connect() as client:
        key = f"{settings().broker_key_prefix}unacked"
        eventually(lambda: client.hlen(key) == 0, what="all messages are acknowledged")
    assert scene.count("refused", "finished") == scene.count("refused", "begun") == SLOTS


def test_a_worker_whose_slots_are_all_taken_stays_ready(scene: Scene) -> None:
    await_readiness(200)
    scene.fill_slots("busy")
    scene.await_all("busy", "begun")
    until = time.monotonic() + SILENT_SECONDS
    said: set[int] = set()

    def is_over() -> bool:
        said.add(get("/readyz")[0])
        return time.monotonic() > until

    eventually(is_over)
    scene.workers.release("release-busy")
    assert said == {200}
    scene.await_all("busy", "finished")


def test_a_worker_that_may_not_take_what_waits_is_not_deaf(scene: Scene) -> None:
    await_readiness(200)
    lost, deaf = (scene.worker.log.count(event) for event in ("broker.link_lost", "worker.deaf"))
    with forbidden(scene.broker, "brpop"):
        scene.workers.send("write", path=scene.workers.path("taken"))
        # For longer than the watchdog waits.
        scene.worker.wait_for_log("broker.link_lost", within_seconds=30, times=lost + 8)
    eventually(lambda: scene.workers.lines("taken") == ["ran"])
    assert scene.worker.log.count("worker.deaf") == deaf


def test_the_dispatcher_says_what_the_broker_answers(scene: Scene) -> None:
    with BROKER_FAULTS["MISCONF"](scene.broker):
        eventually(
            lambda: "the broker is not well: MISCONF" in get("/readyz", process="dispatcher")[1],
            within_seconds=3 * SOON_SECONDS,
            what="its answer to be told",
        )
