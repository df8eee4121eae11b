"""What tests of replicas and failover rely on: pause, kill, freeze, promote, rewind do what they say."""

import psycopg
import pytest

from docworker.worker.local.launching import NotInTimeError
from docworker.worker.local.stack import LocalStack
from tests.support.faults import (
    environment_of_any_master,
    failover,
    flush,
    freeze,
    pause_replay,
    rejoin,
    resume_replay,
    thaw,
)
from tests.support.stack import OwnStack
from tests.support.waiting import eventually


def count(stack: LocalStack) -> list[int | None]:
    servers = (stack.master, *stack.replicas)
    return [server.execute("SELECT count(*) FROM lines")[0][0] for server in servers]


def test_paused_replica_stands_still_until_it_is_resumed(own_stack: OwnStack) -> None:
    stack = own_stack(replicas=2)
    stack.master.execute("CREATE TABLE lines (number int)")
    stack.wait_for_replicas()
    paused, other = stack.replicas
    pause_replay(paused)
    stack.master.execute("INSERT INTO lines VALUES (1)")
    other.wait_for(stack.master)
    with pytest.raises(NotInTimeError, match=r"postgres2 replays .* of postgres1"):
        paused.wait_for(stack.master, within_seconds=0.2)
    assert count(stack) == [1, 0, 1]
    resume_replay(paused)
    stack.wait_for_replicas()
    assert count(stack) == [1, 1, 1]


def test_killed_server_refuses_connections_and_comes_back_with_its_data(own_stack: OwnStack) -> None:
    stack = own_stack(replicas=1)
    stack.master.execute("CREATE TABLE lines (number int)")
    for server in (stack.master, stack.replicas[0]):
        server.kill()
        assert not server.running
        with pytest.raises(psycopg.OperationalError):
            server.connect()
        server.start()
    stack.master.execute("INSERT INTO lines VALUES (1)")
    stack.wait_for_replicas()
    assert count(stack) == [1, 1]


def test_frozen_replica_answers_nobody_until_it_is_thawed(own_stack: OwnStack) -> None:
    stack = own_stack(replicas=1)
    replica = stack.replicas[0]
    freeze(replica)
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        replica.connect(connect_timeout=2)
    thaw(replica)
    assert replica.execute("SELECT 1") == [(1,)]


def test_broker_keeps_messages_over_a_kill_and_loses_them_in_a_flush(own_stack: OwnStack) -> None:
    broker = own_stack(replicas=0).broker
    with broker.connect() as client:
        client.rpush("queue", "message")
        client.execute_command("CONFIG", "SET", "appendfsync", "always")
        client.rpush("queue", "another")
    broker.kill()
    broker.start()
    with broker.connect() as client:
        assert client.llen("queue") == 2
        flush(broker)
        assert client.llen("queue") == 0


def test_promoted_replica_takes_writes_on_a_new_timeline_and_the_others_follow(own_stack: OwnStack) -> None:
    stack = own_stack(replicas=2)
    stack.master.execute("CREATE TABLE lines (number int)")
    stack.wait_for_replicas()
    before = environment_of_any_master(stack)["DOCWORKER_OWNER_URL"]
    chosen, other = stack.replicas

    former = failover(stack)
    assert stack.master is chosen
    assert stack.replicas == [other]
    assert not former.running
    timeline = chosen.execute("SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)")
    assert timeline == [("00000002",)]
    stack.master.execute("INSERT INTO lines VALUES (1)")
    stack.wait_for_replicas()
    assert count(stack) == [1, 1]
    with psycopg.connect(before) as connection:
        assert connection.info.port == chosen.port


def test_former_master_is_rewound_and_forgets_what_the_new_one_never_got(own_stack: OwnStack) -> None:
    stack = own_stack(replicas=1)
    stack.master.execute("CREATE TABLE lines (number int)")
    stack.wait_for_replicas()
    stack.replicas[0].kill()
    stack.master.execute("INSERT INTO lines VALUES (1), (2)")
    former = stack.master
    former.kill()
    stack.replicas[0].start()
    failover(stack)
    stack.master.execute("INSERT INTO lines VALUES (3)")

    rejoin(stack, former)
    stack.wait_for_replicas()
    assert former.execute("SELECT array_agg(number) FROM lines") == [([3],)]
    assert stack.status()[0].role == "replica"


def test_master_after_a_failover_is_the_master_of_the_next_start(own_stack: OwnStack) -> None:
    stack = own_stack(replicas=1)
    failover(stack)
    stack.master.execute("CREATE TABLE lines ()")
    stack.stop()
    stack.start()
    assert stack.master.name == "postgres2"
    stack.wait_for_replicas()
    assert count(stack) == [0, 0]


def test_replica_whose_wal_is_gone_is_copied_anew_at_the_next_start(
    own_stack: OwnStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = own_stack(replicas=1)
    stack.replicas[0].kill()
    stack.master.drop_slots()
    stack.master.execute("CREATE TABLE lines AS SELECT generate_series(1, 100000)")
    for _ in range(3):
        stack.master.execute("SELECT pg_switch_wal()")
        stack.master.execute("CHECKPOINT")
    stack.stop()
    monkeypatch.setattr("docworker.worker.local.cluster.STREAMING_SECONDS", 1.0)
    stack.start()
    stack.wait_for_replicas()
    assert count(stack) == [100000, 100000]


def test_settings_can_be_given_at_the_start_and_changed_while_running(own_stack: OwnStack) -> None:
    stack = own_stack(replicas=1, max_standby_streaming_delay="77ms")
    assert stack.replicas[0].execute("SHOW max_standby_streaming_delay") == [("77ms",)]
    stack.master.configure(synchronous_standby_names="postgres2")
    eventually(
        lambda: stack.master.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)],
        what="the replica is synchronous",
    )
