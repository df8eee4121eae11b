"""The worker's link to the broker: whatever happens to it, the worker waits, and then all its slots work again."""

from collections.abc import Callable, Iterator

import pytest
import redis

from db.settings import settings
from tests.conftest import OwnStack
from tests.network import Proxy, proxy_to
from tests.processes import Process
from tests.waiting import eventually
from tests.worker.trials import InForce, Trial, get, metric
from worker.local.stack import LocalStack


@pytest.fixture
def proxy(stack: LocalStack) -> Iterator[Proxy]:
    with proxy_to(stack.broker) as proxy:
        yield proxy


def start_behind(proxy: Proxy, trial: Trial, slots: int) -> Process:
    """A worker that reaches the broker over the proxy; we reach it without."""
    head, _, _ = settings().broker_url.rpartition("@")
    address = f"{head}@127.0.0.1:{proxy.port}/0" if head else f"redis://127.0.0.1:{proxy.port}/0"
    return trial.start_worker(worker_processes=str(slots), broker_url=address, metrics_host="127.0.0.1")


def hold_all(trial: Trial, slots: int, name: str) -> None:
    """Fill every slot with a task that waits for `release-NAME`."""
    for _ in range(slots):
        trial.send("hold", path=trial.path(name), release=trial.path(f"release-{name}"))
    eventually(
        lambda: sum(line.startswith("begun") for line in trial.lines(name)) == slots,
        within_seconds=40,
        what=f"{slots} tasks run at the same time",
    )


@pytest.mark.parametrize("slots", [2, 4])
@pytest.mark.parametrize("what", ["freeze", "cut", "reset"])
def test_acknowledgements_that_fall_into_an_outage_of_the_link_cost_no_slot(
    trial: Trial, proxy: Proxy, slots: int, what: str
) -> None:
    worker = start_behind(proxy, trial, slots)
    hold_all(trial, slots, "first")

    getattr(proxy, what)()
    trial.release("release-first")
    worker.wait_for_log("broker.link_lost", within_seconds=40)
    proxy.resume()

    hold_all(trial, slots, "second")
    trial.release("release-second")
    eventually(lambda: trial.lines("second").count("finished") == slots, within_seconds=20)
    assert len(trial.lines("first")) == 2 * slots, "nothing ran twice"
    assert metric("docworker_broker_links_lost_total") >= 1
    assert worker.running


def test_what_runs_through_an_outage_keeps_its_slot_and_is_acknowledged_over_the_new_link(
    trial: Trial, proxy: Proxy
) -> None:
    worker = start_behind(proxy, trial, 2)
    trial.send("hold", path=trial.path("long"), release=trial.path("release-long"))
    eventually(lambda: trial.lines("long"), within_seconds=20)

    proxy.reset()
    worker.wait_for_log("broker.link_lost", within_seconds=20)
    hold_all(trial, 1, "beside")
    trial.send("write", path=trial.path("third"))
    trial.release("release-beside")
    eventually(lambda: trial.lines("third"), within_seconds=20, what="the free slot goes on while the other is busy")
    trial.release("release-long")

    eventually(lambda: trial.lines("long")[1:] == ["finished"], within_seconds=20)
    hold_all(trial, 2, "after")
    trial.release("release-after")
    with redis.Redis.from_url(settings().broker_url) as client:
        key = f"{settings().broker_key_prefix}unacked"
        eventually(lambda: client.hlen(key) == 0, within_seconds=20, what="all messages are acknowledged")
    assert len(trial.lines("long")) == 2


def make_read_only(client: redis.Redis) -> Callable[[], object]:
    client.replicaof("127.0.0.1", 1)
    return lambda: client.replicaof("NO", "ONE")


def take_permissions(client: redis.Redis) -> Callable[[], object]:
    client.acl_setuser("default", enabled=True, commands=["-brpop"])
    return lambda: client.acl_setuser("default", enabled=True, categories=["+@all"])


def fill_memory(client: redis.Redis) -> Callable[[], object]:
    client.config_set("maxmemory", 1)
    client.config_set("maxmemory-policy", "noeviction")
    return lambda: client.config_set("maxmemory", 0)


TROUBLES = {"READONLY": make_read_only, "NOPERM": take_permissions, "OOM": fill_memory}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_broker_that_answers_with_errors_is_waited_for(
    trouble: str, own_stack: OwnStack, in_force: InForce, request: pytest.FixtureRequest
) -> None:
    stack = own_stack(replicas=0, migrated=True)
    in_force(stack)
    trial: Trial = request.getfixturevalue("bare_trial")
    worker = trial.start_worker(worker_processes="2")
    hold_all(trial, 2, "first")
    client = redis.Redis.from_url(settings().broker_url)

    mend = TROUBLES[trouble](client)
    trial.release("release-first")
    worker.wait_for_log("broker.link_lost", within_seconds=20, times=2)
    eventually(lambda: get("/readyz")[0] == 503, within_seconds=15)
    mend()

    hold_all(trial, 2, "second")
    trial.release("release-second")
    eventually(lambda: get("/readyz")[0] == 200, within_seconds=20)
    assert worker.running
