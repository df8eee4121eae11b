"""Jobs of all clusters: each is served for itself, and they share the broker fairly."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import HOME, settings
from docworker.jobs.kind import Kind
from docworker.jobs.task import _hear
from docworker.migrations.runner import upgrade
from docworker.worker.app import build_app
from docworker.worker.dispatcher.loop import Dispatcher, Shared
from docworker.worker.dispatcher.pace import Pace
from docworker.worker.local.stack import LocalStack
from tests.support.clusters import EAST, addresses_of, east_of_a_database, with_east
from tests.support.database import opened_database
from tests.support.dispatchers import Broker, kind, running
from tests.support.faults import freeze, thaw
from tests.support.ledger import LedgerSteps
from tests.support.metrics import get, metric
from tests.support.processes import Processes
from tests.support.stack import OwnStack
from tests.support.waiting import eventually

BOTH = (HOME, EAST)


@pytest.fixture
def broker(fresh_environment: dict[str, str], stack: LocalStack, template: str, tmp_path: Path) -> Iterator[Broker]:
    """Of an installation of home and east."""
    with east_of_a_database(stack, template, fresh_environment, tmp_path / EAST), opened_database():
        yield Broker()


def dispatchers(*kinds: Kind, **changed: Any) -> dict[str, Dispatcher]:
    """One for each cluster, whose looks the test takes."""
    configured = settings().model_copy(update=changed)
    known = {one.name: one for one in kinds or (kind(),)}
    shared = Shared(configured, known)
    for name in BOTH:
        shared.join(name)
    app = build_app(configured)
    return {name: Dispatcher(configured, app, known, cluster=name, shared=shared) for name in BOTH}


def test_the_jobs_of_every_cluster_reach_the_broker_with_the_name_of_theirs(broker: Broker) -> None:
    tenants = {name: LedgerSteps(cluster=name) for name in BOTH}
    for one in tenants.values():
        one.enqueue()
    with running():
        eventually(lambda: broker.depth() == 2, what="two messages")
    taken = [broker.take() or {} for _ in BOTH]
    named = {UUID(one["organization_id"]): one.get("cluster", HOME) for one in taken}
    assert named == {one.organization_id: one.where[0] for one in tenants.values()}
    assert all(one["timeline"] for one in taken)


def test_a_commit_in_any_cluster_wakes_its_dispatcher(broker: Broker) -> None:
    with running(dispatch_interval=30.0) as served:
        (east,) = served._apart
        eventually(lambda: east._dispatcher._listener.is_open, what="it to listen")
        eventually(lambda: waits_long(east._dispatcher.pace), what="it to wait for long")
        LedgerSteps(cluster=EAST).enqueue()
        eventually(lambda: broker.depth() == 1, within_seconds=5, what="the job to be dispatched")


def waits_long(pace: Pace) -> bool:
    """Whether it has found nothing for a while; if not, it has from now on."""
    if pace.seconds < 20.0:
        pace.seconds = 20.0
        return False
    return pace.listens


def test_what_a_message_says_of_a_timeline_is_heard_for_its_cluster(broker: Broker) -> None:
    here, there = (database().cluster(name).timelines for name in BOTH)
    here.identify(77)
    there.identify(78)
    _hear(timeline="78/9", cluster=EAST)
    assert (here.highest, there.highest) == (0, 9)
    _hear(timeline="77/5")
    _hear(timeline="79/11", cluster="of another release")
    assert (here.highest, there.highest) == (5, 9)


def test_organizations_of_all_clusters_are_served_in_equal_parts(broker: Broker) -> None:
    """Room comes free one message at a time, and home looks more often than east."""
    tenants = [LedgerSteps(cluster=name) for name in (HOME, HOME, HOME, EAST)]
    for one in tenants:
        one.enqueue(100)
    looks = dispatchers(batch_size=1, dispatch_window=2)
    served = Counter({one.organization_id: 0 for one in tenants})
    while served.total() < 80:
        for name in (HOME, HOME, EAST):
            looks[name].tick()
            assert broker.depth() <= 2
        served.update(steps.organization_id for steps, _ in broker.claim())
    assert max(served.values()) - min(served.values()) <= 4, served


def test_a_cluster_without_jobs_takes_no_room(broker: Broker) -> None:
    LedgerSteps(cluster=HOME).enqueue(40)
    looks = dispatchers(batch_size=1, dispatch_window=4)
    for _ in range(5):
        looks[EAST].tick()
        looks[HOME].tick()
        assert broker.depth() == 4
        while broker.claim():
            pass


def test_a_cap_of_a_kind_is_for_all_clusters_together_and_all_get_their_turn(broker: Broker) -> None:
    tenants = [LedgerSteps(cluster=name) for name in (HOME, HOME, EAST)]
    for one in tenants:
        one.enqueue(20)
    looks = dispatchers(kind(max_running=2, takes_batches=False), dispatch_window=50)
    barrier = threading.Barrier(2)

    def tick(name: str) -> None:
        barrier.wait()
        looks[name].tick()

    most = 0
    done: Counter[UUID] = Counter()
    with ThreadPoolExecutor(2) as pool:
        while done.total() < 30:
            list(pool.map(tick, BOTH))
            states = Counter[str]()
            for one in tenants:
                states.update(one.states())
            most = max(most, states["dispatched"] + states["running"])
            for steps, claimed in broker.claim():
                steps.finish([claimed])
                done[steps.organization_id] += 1
    assert most == 2
    assert max(done.values()) - min(done.values()) <= 3, done


def test_a_cap_counts_what_another_process_plans_for_another_cluster(broker: Broker) -> None:
    here, there = LedgerSteps(cluster=HOME), LedgerSteps(cluster=EAST)
    capped = kind(max_running=2, takes_batches=False)
    others, ours = dispatchers(capped), dispatchers(capped, lease=0.5)
    here.enqueue(2)
    others[EAST].tick()
    others[HOME].tick()
    assert here.states() == {"dispatched": 2}
    there.enqueue(2)
    with ledger.planning(HOME) as (_, permit):
        assert permit is not None
        eventually(lambda: not ours[HOME].tick().planned and ours[EAST].tick().planned)
        time.sleep(1.0)  # so long an unknown ledger is waited for, and longer
        ours[HOME].tick()
        ours[EAST].tick()
    assert there.states() == {"queued": 2}


def test_a_message_that_was_lost_is_found_behind_the_messages_of_another_cluster(broker: Broker) -> None:
    lost, busy = LedgerSteps(cluster=EAST), LedgerSteps(cluster=HOME)
    lost.enqueue()
    looks = dispatchers(batch_size=1, dispatch_window=4)
    looks[EAST].tick()
    assert broker.take()
    busy.enqueue(40)
    looks[HOME].tick()
    with all_jobs_session(EAST) as session:
        ledger.let_pass(session, 60)
    looks[EAST]._swept_at = looks[EAST]._brought_at = float("-inf")
    looks[EAST].tick()
    assert lost.states() == {"queued": 1}


@pytest.fixture
def two_servers(fresh_environment: dict[str, str], own_stack: OwnStack) -> Iterator[tuple[Broker, LocalStack]]:
    """East has a server of its own, to be damaged."""
    there = own_stack(replicas=0, migrated=True)
    with with_east(fresh_environment, addresses_of(there.environment())), opened_database():
        yield Broker(), there


@pytest.mark.parametrize("frozen", [True, False])
def test_one_of_two_clusters_stands_still_and_the_others_jobs_go_on(
    two_servers: tuple[Broker, LocalStack], frozen: bool
) -> None:
    broker, there = two_servers
    here, away = LedgerSteps(cluster=HOME), LedgerSteps(cluster=EAST)
    away.enqueue(6)
    with running(batch_size=1, dispatch_window=2, redispatch_after=2.0) as served:
        eventually(lambda: broker.depth() == 2, what="messages of east")
        if frozen:
            freeze(there.master)
        else:
            there.master.kill()
        done = 0
        broker.take()
        broker.take()
        for count in (2, 5, 3):
            here.enqueue(count)
            done += count
            eventually(lambda: claimed_all(broker, here, done), what="the jobs of home")  # noqa: B023
        assert served.health._loops[HOME].ready().well
        eventually(lambda: not served.health.ready().well, within_seconds=20, what="it to be told")
        assert str(served.health.ready().details["failure"]).startswith("east: ")
        assert served.health.alive().well
        if frozen:
            thaw(there.master)
        else:
            there.master.start()
        eventually(lambda: claimed_all(broker, away, 6), within_seconds=40, what="all jobs of east")
        eventually(lambda: served.health.ready().well, within_seconds=20)


def claimed_all(broker: Broker, steps: LedgerSteps, count: int) -> bool:
    broker.claim()
    return steps.states() == {"running": count}


def test_a_cluster_that_is_not_migrated_ends_nobody_and_is_named(
    fresh_environment: dict[str, str], own_stack: OwnStack, processes: Processes
) -> None:
    bare = own_stack(replicas=0)
    with with_east(fresh_environment, addresses_of(bare.environment())), opened_database():
        process = processes.start("dispatcher")
        process.wait_for_log("dispatcher.failed")
        LedgerSteps(cluster=HOME).enqueue(kind="process_document")
        eventually(lambda: Broker().depth() == 1, what="home's job")
        status, page = get("/readyz", process="dispatcher")
        assert status == 503
        assert re.search(r'east: [^"]*"ledger\.[a-z_]+" does not exist', json.loads(page)["failure"])
        assert get("/healthz", process="dispatcher")[0] == 200
        assert metric("docworker_dispatcher_planning", process="dispatcher", cluster=HOME) == 1
        upgrade(cluster=EAST)
        LedgerSteps(cluster=EAST).enqueue(kind="process_document")
        eventually(lambda: Broker().depth() == 2, within_seconds=20, what="east's job, once it is migrated")
        assert process.stop() == 0
