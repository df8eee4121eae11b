"""The local stack: what it offers, that it keeps data, and that it recovers from a killed owner."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from docworker.db.errors import DocworkerError
from docworker.worker.local.home import StackInUseError, environment_of
from docworker.worker.local.launching import is_alive, server_user
from docworker.worker.local.stack import LocalStack
from tests.support.faults import failover
from tests.support.project import PROJECT
from tests.support.stack import OwnStack, temporary_directory
from tests.support.waiting import eventually

OWNER_PROGRAM = """
import sys, time
from pathlib import Path
from docworker.worker.local.stack import LocalStack
stack = LocalStack(Path(sys.argv[1]), durable=False)
stack.start()
print("the stack is up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory


@pytest.fixture
def new_stack(directory: Path) -> Iterator[LocalStack]:
    stack = LocalStack(directory / "stack", durable=False)
    yield stack
    stack.remove()


def start_owner(directory: Path) -> subprocess.Popen[str]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER_PROGRAM, directory],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert "the stack is up\n" in iter(owner.stdout.readline, "")
    return owner


def server_pids(directory: Path) -> list[int]:
    pid_files = directory.glob("servers/*/*.pid")
    return [int(path.read_text().split()[0]) for path in pid_files]


def test_every_role_logs_in_with_its_address_and_only_the_owner_owns(stack: LocalStack) -> None:
    environment = stack.environment()
    for role in ("owner", "dispatcher"):
        with psycopg.connect(environment[f"DOCWORKER_{role.upper()}_URL"]) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (f"docworker_{role}",)
    with psycopg.connect(environment["DOCWORKER_MASTER_URL"]) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("docworker_worker",)
    attributes = stack.master.execute(
        "SELECT rolname, rolsuper, rolbypassrls, pg_has_role(rolname, 'pg_read_all_stats', 'member')"
        " FROM pg_roles WHERE rolname LIKE 'docworker%%' ORDER BY rolname",
    )
    assert attributes == [
        ("docworker_dispatcher", False, False, True),
        ("docworker_owner", False, False, False),
        ("docworker_producer", False, False, False),
        ("docworker_worker", False, False, True),
    ]
    assert stack.master.execute(
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", ["docworker"]
    ) == [("docworker_owner",)]


def test_no_server_admits_anybody_without_the_password(stack: LocalStack) -> None:
    for server in (stack.master, *stack.replicas):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(f"postgresql://postgres:wrong@127.0.0.1:{server.port}/postgres")
    no_retries = Retry(NoBackoff(), retries=0)
    with redis.Redis(port=stack.broker.port, retry=no_retries) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_every_server_has_the_settings_that_replication_and_rewinding_need(stack: LocalStack) -> None:
    for server in (stack.master, *stack.replicas):
        shown = dict(
            server.execute(
                "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)",
                [["max_connections", "wal_level", "wal_log_hints", "hot_standby_feedback", "log_statement"]],
            )
        )
        assert shown == {
            "max_connections": "100",
            "wal_level": "replica",
            "wal_log_hints": "on",
            "hot_standby_feedback": "off",
            "log_statement": "none",
        }


def test_every_address_for_replicas_reaches_a_replica_that_has_what_the_master_has(stack: LocalStack) -> None:
    with psycopg.connect(stack.environment()["DOCWORKER_OWNER_URL"]) as connection:
        connection.execute("CREATE TABLE seen_on_replicas AS SELECT 1 AS number")
    stack.wait_for_replicas()
    addresses = stack.environment()["DOCWORKER_REPLICA_URLS"].split()
    assert len(addresses) == 2
    for address in addresses:
        with psycopg.connect(address) as connection:
            assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
            assert connection.execute("SELECT to_regclass('seen_on_replicas') IS NOT NULL").fetchone() == (True,)


def test_next_start_finds_data_passwords_and_ports_again(new_stack: LocalStack) -> None:
    new_stack.start()
    environment = new_stack.environment()
    new_stack.master.execute("CREATE TABLE kept AS SELECT 7 AS number")
    with new_stack.broker.connect() as client:
        client.set("kept", "yes")
    new_stack.stop()

    new_stack.start()
    assert new_stack.environment() == environment
    assert new_stack.master.execute("SELECT number FROM kept") == [(7,)]
    new_stack.wait_for_replicas()
    assert new_stack.replicas[0].execute("SELECT number FROM kept") == [(7,)]
    with new_stack.broker.connect() as client:
        assert client.get("kept") == b"yes"


def test_secrets_are_readable_by_their_owner_only(new_stack: LocalStack) -> None:
    new_stack.start()
    password = new_stack.environment()["DOCWORKER_OWNER_URL"].split(":")[2].split("@")[0]
    holders = [
        path for path in new_stack.directory.rglob("*") if path.is_file() and password.encode() in path.read_bytes()
    ]
    assert new_stack.directory / "environment" in holders
    assert [path for path in holders if path.stat().st_mode & 0o077] == []


def test_stop_leaves_no_process_and_no_environment_file(new_stack: LocalStack) -> None:
    new_stack.start()
    pids = server_pids(new_stack.directory)
    assert len(pids) == 3
    new_stack.stop()
    assert not any(is_alive(pid) for pid in pids)
    with pytest.raises(DocworkerError, match="no local stack runs in"):
        environment_of(new_stack.directory)


def test_two_stacks_run_at_once_and_share_nothing(own_stack: OwnStack) -> None:
    one, other = own_stack(replicas=0), own_stack(replicas=0)
    one.master.execute("CREATE TABLE here ()")
    assert other.master.execute("SELECT to_regclass('here')") == [(None,)]
    assert not set(one.environment().values()) & set(other.environment().values()) - {""}


def test_second_owner_of_a_directory_is_refused_and_told_who_the_first_is(new_stack: LocalStack) -> None:
    new_stack.start()
    with pytest.raises(StackInUseError, match=f"in use by process {os.getpid()}"):
        LocalStack(new_stack.directory).start()
    assert new_stack.master.execute("SELECT 1") == [(1,)]


def test_other_processes_find_the_settings_of_a_running_stack(new_stack: LocalStack) -> None:
    new_stack.start()
    assert environment_of(new_stack.directory) == new_stack.environment()
    sourced = subprocess.run(
        ["/bin/sh", "-c", '. "$1/environment"; echo "$DOCWORKER_REPLICA_URLS"', "sh", new_stack.directory],
        capture_output=True,
        text=True,
        check=True,
    )
    assert sourced.stdout.strip() == new_stack.environment()["DOCWORKER_REPLICA_URLS"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_servers_end_when_their_owner_is_killed(directory: Path) -> None:
    owner = start_owner(directory / "stack")
    pids = server_pids(directory / "stack")
    assert len(pids) == 3
    owner.kill()
    owner.wait()
    eventually(lambda: not any(is_alive(pid) for pid in pids), within_seconds=20, what="the servers end")


def servers_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the ports of processes that do not run: somebody else may have taken them."""
    return {name: value for name, value in environment.items() if not name.endswith("_METRICS_PORT")}


def test_start_after_a_killed_owner_recovers_also_when_servers_stayed(new_stack: LocalStack) -> None:
    owner = start_owner(new_stack.directory)
    environment = environment_of(new_stack.directory)
    with psycopg.connect(environment["DOCWORKER_OWNER_URL"]) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    pids = server_pids(new_stack.directory)
    for pid in pids:  # they hear of the owner's death only after they are continued
        os.kill(pid, signal.SIGSTOP)
    owner.kill()
    owner.wait()
    assert all(is_alive(pid) for pid in pids)

    new_stack.start()
    assert not any(is_alive(pid) for pid in pids)
    assert servers_of(new_stack.environment()) == servers_of(environment)
    assert new_stack.master.execute("SELECT number FROM kept", database="docworker") == [(7,)]
    new_stack.wait_for_replicas()


def test_start_after_a_crash_of_every_server_recovers(new_stack: LocalStack) -> None:
    new_stack.start()
    new_stack.master.execute("CREATE TABLE kept AS SELECT 7 AS number")
    for server in (new_stack.master, *new_stack.replicas, new_stack.broker):
        server.kill()
    new_stack.stop()
    new_stack.start()
    assert new_stack.master.execute("SELECT number FROM kept") == [(7,)]


def test_process_id_that_now_belongs_to_another_program_is_neither_killed_nor_in_the_way(
    new_stack: LocalStack,
) -> None:
    new_stack.start()
    for server in (new_stack.master, *new_stack.replicas, new_stack.broker):
        server.kill()
    new_stack.stop()
    with subprocess.Popen(["/bin/sleep", "600"], user=server_user().uid) as innocent:
        for path in new_stack.directory.glob("servers/*/*.pid"):
            _, *rest = path.read_text().splitlines(keepends=True)
            path.write_text("".join([f"{innocent.pid}\n", *rest]))
        new_stack.start()
        assert new_stack.master.execute("SELECT 1") == [(1,)]
        assert innocent.poll() is None
        innocent.kill()


def test_interrupted_start_leaves_nothing_running_and_does_not_disturb_the_next(
    new_stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def interrupt(*_: object) -> None:
        started.extend(server_pids(new_stack.directory))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("docworker.worker.local.servers.postgres.Copy.finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            new_stack.start()
    assert started
    eventually(lambda: not any(is_alive(pid) for pid in started), what="the servers end")
    new_stack.start()
    assert len(new_stack.replicas) == 1


def test_port_that_another_program_took_is_replaced(new_stack: LocalStack) -> None:
    new_stack.start()
    port = new_stack.master.port
    new_stack.stop()
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import socket; s = socket.create_server(('127.0.0.1', {port})); print(flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        new_stack.start()
        other.kill()
    assert new_stack.master.port != port
    new_stack.wait_for_replicas()


def test_more_or_fewer_replicas_can_be_asked_for_at_the_next_start(new_stack: LocalStack) -> None:
    new_stack.start()
    new_stack.stop()
    with LocalStack(new_stack.directory, replicas=2, durable=False) as larger:
        larger.wait_for_replicas()
        assert len(larger.replicas) == 2
    with LocalStack(new_stack.directory, replicas=0, durable=False) as smaller:
        assert smaller.master.execute("SELECT count(*) FROM pg_replication_slots") == [(0,)]


def test_each_cluster_has_a_master_and_replicas_of_its_own(own_stack: OwnStack) -> None:
    stack = own_stack(clusters=2)
    east = stack.clusters["east"]
    for cluster in stack.clusters.values():
        cluster.master.execute("CREATE TABLE kept (number int)", database="docworker")
    east.master.execute("INSERT INTO kept VALUES (7)", database="docworker")
    stack.wait_for_replicas()
    assert stack.replicas[0].execute("SELECT * FROM kept", database="docworker") == []
    addresses = json.loads(stack.environment()["DOCWORKER_CLUSTERS"])["east"]
    assert set(addresses) == {"owner_url", "master_url", "dispatcher_url", "replica_urls"}
    systems = {system_of(addresses[name]) for name in addresses}
    assert systems == {system_of(east.master.url("postgres", east.master._password, "postgres"))}
    assert systems != {system_of(stack.environment()["DOCWORKER_OWNER_URL"])}
    assert len(systems) == 1
    assert [(one.role, one.cluster, one.port) for one in stack.status()] == [
        ("master", "home", stack.master.port),
        ("replica", "home", stack.replicas[0].port),
        ("master", "east", east.master.port),
        ("replica", "east", east.replicas[0].port),
        ("broker", None, stack.broker.port),
    ]


def system_of(url: str) -> object:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()


def test_clusters_of_earlier_starts_start_again_whatever_number_is_asked_for(new_stack: LocalStack) -> None:
    new_stack.start()
    new_stack.stop()
    with LocalStack(new_stack.directory, replicas=0, clusters=3, durable=False) as larger:
        assert list(larger.clusters) == ["home", "east", "west"]
        larger.clusters["west"].master.execute("CREATE TABLE kept AS SELECT 7 AS number")
        environment = larger.environment()
    with LocalStack(new_stack.directory, replicas=0, durable=False) as again:
        assert again.environment() == environment
        assert again.clusters["west"].master.execute("SELECT number FROM kept") == [(7,)]


def test_what_a_stack_of_one_cluster_has_remembered_is_understood(new_stack: LocalStack) -> None:
    """As it was written before there were several."""
    new_stack.start()
    failover(new_stack)
    new_stack.master.execute("CREATE TABLE kept AS SELECT 7 AS number")
    new_stack.stop()
    file = new_stack.directory / "servers" / "stack.json"
    remembered = json.loads(file.read_text())
    file.write_text(json.dumps({"master": remembered.pop("masters")["home"], **remembered}))
    new_stack.start()
    assert new_stack.master.execute("SELECT number FROM kept") == [(7,)]


def test_directory_without_write_permission_is_named_with_the_remedy(directory: Path) -> None:
    directory.chmod(0o555)
    am_root = os.geteuid() == 0
    if am_root:
        os.seteuid(65534)
    try:
        with pytest.raises(DocworkerError, match=f"cannot use {directory}.*ermission.*another directory"):
            LocalStack(directory / "stack").start()
    finally:
        if am_root:
            os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the servers as somebody else")
def test_root_keeps_servers_of_a_private_directory_elsewhere_and_opens_no_directory(directory: Path) -> None:
    directory.chmod(0o700)
    stack = LocalStack(directory / "stack", replicas=0, durable=False)
    try:
        stack.start()
        elsewhere = (directory / "stack" / "servers").readlink()
        assert elsewhere.is_relative_to("/var/lib/docworker")
        assert directory.stat().st_mode & 0o777 == 0o700
        stack.master.execute("CREATE TABLE kept AS SELECT 7 AS number")
        stack.stop()
        stack.start()
        assert stack.master.execute("SELECT number FROM kept") == [(7,)]
    finally:
        stack.remove()
    assert not elsewhere.exists()


def test_lost_passwords_are_explained(new_stack: LocalStack) -> None:
    new_stack.start()
    new_stack.stop()
    (new_stack.directory / "servers" / "stack.json").unlink()
    with pytest.raises(DocworkerError, match=r"stack\.json is gone.*start afresh"):
        new_stack.start()
