"""The worker's link to the broker: whatever befalls it, the worker waits, and then all its slots work again."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
import redis

from docworker.db.settings import settings
from docworker.worker.local.stack import LocalStack
from tests.support.metrics import metric
from tests.support.network import Proxy, proxy_to
from tests.support.processes import Process, Processes
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually
from tests.support.workers import Workers


@dataclass(frozen=True)
class Linked:
    """A worker that reaches the broker over the proxy; we reach it without."""

    workers: Workers
    worker: Process
    proxy: Proxy
    slots: int


@pytest.fixture(scope="module", params=[2, 4], ids="{} slots".format)
def linked(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    stack: LocalStack,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Linked]:
    directory = tmp_path_factory.mktemp("link")
    install_user_package(directory / "processes")
    with proxy_to(stack.broker) as proxy, closing(Processes({}, directory / "processes")) as processes:
        workers = Workers(processes, directory)
        address = environment["DOCWORKER_BROKER_URL"].replace(f":{stack.broker.port}/", f":{proxy.port}/")
        worker = workers.start(worker_processes=str(request.param), broker_url=address)
        yield Linked(workers, worker, proxy, request.param)


@pytest.mark.parametrize("what", ["freeze", "cut", "reset"])
def test_acknowledgements_that_fall_into_an_outage_of_the_link_cost_no_slot(linked: Linked, what: str) -> None:
    workers, slots, first, second = linked.workers, linked.slots, f"{what}-first", f"{what}-second"
    lost = linked.worker.log.count("broker.link_lost")
    workers.hold_all(slots, first)

    getattr(linked.proxy, what)()
    workers.release(f"release-{first}")
    linked.worker.wait_for_log("broker.link_lost", within_seconds=40, times=lost + 1)
    linked.proxy.resume()

    workers.hold_all(slots, second)
    workers.release(f"release-{second}")
    eventually(lambda: workers.lines(second).count("finished") == slots, within_seconds=20)
    assert len(workers.lines(first)) == 2 * slots, "nothing ran twice"
    assert metric("docworker_broker_links_lost_total") >= lost + 1
    assert linked.worker.running


def test_what_runs_through_an_outage_keeps_its_slot_and_is_acknowledged_over_the_new_link(linked: Linked) -> None:
    workers, slots = linked.workers, linked.slots
    lost = linked.worker.log.count("broker.link_lost")
    workers.send("hold", path=workers.path("long"), release=workers.path("release-long"))
    eventually(lambda: workers.lines("long"), within_seconds=20)

    linked.proxy.reset()
    linked.worker.wait_for_log("broker.link_lost", within_seconds=20, times=lost + 1)
    workers.hold_all(slots - 1, "beside")
    workers.send("write", path=workers.path("next"))
    eventually(lambda: workers.waiting() == 1)
    workers.release("release-beside")
    eventually(lambda: workers.lines("next"), within_seconds=20, what="the free slots go on while the other is busy")
    workers.release("release-long")

    eventually(lambda: workers.lines("long")[1:] == ["finished"], within_seconds=20)
    workers.hold_all(slots, "after")
    workers.release("release-after")
    with redis.Redis.from_url(settings().broker_url) as client:
        key = f"{settings().broker_key_prefix}unacked"
        eventually(lambda: client.hlen(key) == 0, within_seconds=20, what="all messages are acknowledged")
    assert len(workers.lines("long")) == 2


def test_a_message_whose_taking_is_noted_while_the_link_fails_is_not_lost(linked: Linked) -> None:
    """The broker has noted who has it, and the worker, which has not heard so, does not."""
    workers = linked.workers
    lost = linked.worker.log.count("broker.link_lost")
    with redis.Redis.from_url(settings().broker_url) as client:
        key = f"{settings().broker_key_prefix}unacked"
        linked.proxy.delay(0.3)
        workers.send("write", path=workers.path("noted"))
        eventually(lambda: client.hlen(key) == 1, within_seconds=30, what="the broker has noted that it was taken")
        linked.proxy.reset()
        linked.proxy.resume()
        linked.worker.wait_for_log("broker.link_lost", within_seconds=20, times=lost + 1)
        eventually(lambda: workers.lines("noted"), within_seconds=20)
        eventually(lambda: client.hlen(key) == 0, what="it is acknowledged")
    assert workers.lines("noted") == ["ran"]


def test_a_message_that_waits_in_the_worker_for_its_time_is_not_lost_with_the_link(linked: Linked) -> None:
    workers = linked.workers
    lost = linked.worker.log.count("broker.link_lost")
    arguments = {"path": workers.path("later")}
    workers.app.send_task("tests.write", kwargs=arguments, queue=settings().queue, countdown=2)
    with redis.Redis.from_url(settings().broker_url) as client:
        key = f"{settings().broker_key_prefix}unacked"
        eventually(lambda: client.hlen(key) == 1, what="the worker has taken it")
        linked.proxy.reset()
        linked.worker.wait_for_log("broker.link_lost", times=lost + 1)
        eventually(lambda: workers.lines("later") == ["ran"], within_seconds=20)
        eventually(lambda: client.hlen(key) == 0, what="it is acknowledged")
    assert workers.lines("later") == ["ran"]
