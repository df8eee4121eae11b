"""Whatever is planted in settings, servers, roles, schema, broker, store or processes is found and named; in a healthy
installation nothing is."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from docworker.db.models.revision import KNOWN_REVISIONS
from docworker.db.settings import settings
from docworker.db.tenants.organizations import create_organization
from docworker.jobs.imports.importing import import_tree
from docworker.jobs.pipeline.confinement import offered
from docworker.migrations.runner import upgrade
from docworker.worker.app import build_app
from docworker.worker.doctor import installation
from docworker.worker.doctor.configuration import unknown_settings
from docworker.worker.doctor.examination import Part, examine
from docworker.worker.doctor.finding import Finding, Level
from docworker.worker.doctor.machine import examine_machine
from docworker.worker.local.servers.roles import drop_database
from docworker.worker.local.stack import LocalStack
from tests.support.commands import docworker
from tests.support.database import opened_database
from tests.support.project import PROJECT
from tests.support.stack import applied, temporary_directory

DATABASE = "docworker"
Environment = dict[str, str]


@pytest.fixture(scope="module")
def healthy() -> Iterator[LocalStack]:
    """A stack that keeps what is committed, as an installation does."""
    with temporary_directory() as directory:
        stack = LocalStack(directory / "stack", replicas=1, clusters=2)
        try:
            stack.start()
            with applied(stack.environment()):
                for cluster in stack.clusters:
                    upgrade(cluster=cluster)
            stack.wait_for_replicas()
            yield stack
        finally:
            stack.remove()


def examined(environment: Mapping[str, str]) -> list[Part]:
    with applied(environment):
        return list(examine(settings(), build_app(settings())))


def errors_of(environment: Mapping[str, str]) -> list[Finding]:
    return [one for part in examined(environment) for one in part.findings if one.level is Level.ERROR]


def home_of(stack: LocalStack, **changed: str) -> Environment:
    """The settings of the home cluster alone, with these."""
    environment = stack.environment()
    del environment["DOCWORKER_CLUSTERS"]
    return {**environment, **{f"DOCWORKER_{name.upper()}": value for name, value in changed.items()}}


def replaced(address: str, old: str, new: str) -> str:
    assert old in address
    return address.replace(old, new)


@pytest.fixture
def environment(healthy: LocalStack) -> Environment:
    return home_of(healthy)


def test_nothing_is_wrong_with_a_healthy_installation(healthy: LocalStack) -> None:
    parts = examined(healthy.environment())
    assert [part.name for part in parts] == [
        "settings",
        "PostgreSQL servers",
        "databases",
        "ledger",
        "sources",
        "broker",
        "machine",
    ]
    assert [part.skipped for part in parts] == [None] * 7
    assert [one for part in parts for one in part.findings if one.level is Level.ERROR] == []
    warnings = [one.subject for part in parts for one in part.findings if one.level is Level.WARNING]
    assert [one for one in warnings if one != "DOCWORKER_SANDBOX"] == [
        "docworker worker",
        "docworker dispatcher",
        "docworker beat",
    ]


SETTINGS = {
    "a name that is none": ({"polsize": "3"}, "DOCWORKER_POLSIZE", "is no setting"),
    "a kind that outlives its message": (
        {"visibility_timeout": "60", "shutdown_timeout": "5"},
        "DOCWORKER_VISIBILITY_TIMEOUT",
        "may run for",
    ),
    "more connections than the master admits": (
        {"worker_processes": "90"},
        "DOCWORKER_MASTER_URL",
        "90 processes x",
    ),
    "a store that cannot be written": ({"store": "/proc/store"}, "DOCWORKER_STORE", "/proc/store"),
    "a state directory that cannot be written": (
        {"state_directory": "/proc/state"},
        "DOCWORKER_STATE_DIRECTORY",
        "cannot be written",
    ),
    "a broker that is not there": ({"broker_url": "redis://:geheim@127.0.0.1:1/0"}, "DOCWORKER_BROKER_URL", "refused"),
}


@pytest.mark.parametrize(("given", "subject", "fault"), SETTINGS.values(), ids=SETTINGS)
def test_a_wrong_setting_is_named(healthy: LocalStack, given: dict[str, str], subject: str, fault: str) -> None:
    (found,) = errors_of(home_of(healthy, **given))
    assert found.subject.startswith(subject)
    assert fault in found.fault
    assert found.remedy
    assert "geheim" not in str(found)


def test_an_address_of_another_role_or_server_is_named(healthy: LocalStack) -> None:
    right = healthy.environment()
    master, replica, dispatcher = (
        right[f"DOCWORKER_{name}"] for name in ("MASTER_URL", "REPLICA_URLS", "DISPATCHER_URL")
    )
    east = json.loads(right["DOCWORKER_CLUSTERS"])
    elsewhere = next(iter(east.values()))["replica_urls"]
    wrong = {
        "is not docworker_dispatcher": home_of(healthy, dispatcher_url=master),
        "docworker_owner is not docworker_worker": home_of(healthy, master_url=right["DOCWORKER_OWNER_URL"]),
        "is a replica": home_of(healthy, dispatcher_url=replaced(dispatcher, _port(master), _port(replica))),
        "is no replica": home_of(healthy, replica_urls=master),
        "is the replica of another master": home_of(healthy, replica_urls=elsewhere),
        "Connection refused": home_of(healthy, replica_urls=replaced(replica, _port(replica), ":1/")),
    }
    for fault, environment in wrong.items():
        found = errors_of(environment)
        assert any(fault in one.fault for one in found), (fault, found)


def _port(address: str) -> str:
    return ":" + address.rpartition(":")[2].partition("/")[0] + "/"


def test_a_wrong_password_names_its_setting_and_is_not_printed(healthy: LocalStack) -> None:
    with applied(healthy.environment()):
        address = settings().owner_url
    assert address is not None
    user, _, place = address.rpartition("@")
    scheme, _, _ = user.rpartition(":")
    parts = examined(home_of(healthy, owner_url=f"{scheme}:geheim@{place}"))
    (found,) = [one for part in parts for one in part.findings if one.level is Level.ERROR]
    assert found.subject == "DOCWORKER_OWNER_URL"
    assert "password authentication failed" in found.fault
    assert "geheim" not in str(found)
    assert [(part.name, part.skipped) for part in parts if part.skipped] == [
        ("databases", "DOCWORKER_OWNER_URL does not lead to the server")
    ]


def test_servers_that_are_away_are_said_once(environment: Environment) -> None:
    away = {
        name: value.replace(_port(value), ":1/") if name.endswith(("_URL", "_URLS")) else value
        for name, value in environment.items()
    }
    parts = examined(away)
    assert [part.name for part in parts if part.skipped] == ["databases", "ledger", "sources"]
    assert [one.subject.split()[0] for part in parts for one in part.findings if one.level is Level.ERROR] == [
        "DOCWORKER_MASTER_URL",
        "DOCWORKER_REPLICA_URLS",
        "DOCWORKER_DISPATCHER_URL",
        "DOCWORKER_OWNER_URL",
        "DOCWORKER_BROKER_URL",
    ]


STATEMENTS = {
    "a missing grant": (
        "REVOKE INSERT ON app.documents FROM docworker_worker",
        "GRANT INSERT ON app.documents TO docworker_worker",
        "docworker_worker may not INSERT",
    ),
    "a schema out of reach": (
        "REVOKE USAGE ON SCHEMA ledger FROM docworker_dispatcher",
        "GRANT USAGE ON SCHEMA ledger TO docworker_dispatcher",
        "docworker_dispatcher may not",
    ),
    "row-level security that is off": (
        "ALTER TABLE app.documents DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE app.documents ENABLE ROW LEVEL SECURITY",
        "row-level security is off",
    ),
    "a role that sees all": (
        "ALTER ROLE docworker_worker BYPASSRLS",
        "ALTER ROLE docworker_worker NOBYPASSRLS",
        "bypasses row-level security",
    ),
    "an older revision": (
        "UPDATE alembic_version SET version_num = '0001'",
        f"UPDATE alembic_version SET version_num = '{KNOWN_REVISIONS[-1]}'",
        "is at revision 0001",
    ),
    "a newer revision": (
        "UPDATE alembic_version SET version_num = '9999'",
        f"UPDATE alembic_version SET version_num = '{KNOWN_REVISIONS[-1]}'",
        "is at revision 9999, of a newer release",
    ),
    "a server that may lose what is committed": (
        "ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()",
        "ALTER SYSTEM RESET fsync; SELECT pg_reload_conf()",
        "fsync or full_page_writes is off",
    ),
    "a slot that nobody reads": (
        "ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf();"
        " SELECT pg_create_physical_replication_slot('forgotten', true)",
        "SELECT pg_drop_replication_slot('forgotten');"
        " ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()",
        "nobody reads the replication slot forgotten",
    ),
    "several releases": (
        "INSERT INTO ledger.processes (id, role, host, process_id, release, details) VALUES"
        " (gen_random_uuid(), 'worker', 'one', 1, '1.0', '{\"kinds\": [\"known\"]}'),"
        " (gen_random_uuid(), 'worker', 'two', 1, '2.0', '{}')",
        "DELETE FROM ledger.processes",
        "several releases run: 1.0, 2.0",
    ),
    "a worker with another store": (
        "INSERT INTO ledger.processes (id, role, host, process_id, release, details) VALUES"
        " (gen_random_uuid(), 'worker', 'one', 1, '1.0', '{\"store\": \"/srv/elsewhere\"}')",
        "DELETE FROM ledger.processes",
        "workers have /srv/elsewhere on one",
    ),
}


@pytest.mark.parametrize(("plant", "mend", "fault"), STATEMENTS.values(), ids=STATEMENTS)
def test_what_is_wrong_on_the_servers_is_named(
    healthy: LocalStack, environment: Environment, plant: str, mend: str, fault: str
) -> None:
    with planted(healthy, plant, mend):
        found = [one for part in examined(environment) for one in part.findings]
    assert any(fault in one.fault for one in found), found
    assert all(one.remedy for one in found)


@contextmanager
def planted(stack: LocalStack, plant: str, mend: str) -> Iterator[None]:
    with stack.master.connect(DATABASE) as superuser:
        for statement in plant.split("; "):
            superuser.execute(statement)
        try:
            yield
        finally:
            for statement in mend.split("; "):
                superuser.execute(statement)


def test_a_replica_that_replays_nothing_is_named(healthy: LocalStack, environment: Environment) -> None:
    (replica,) = healthy.clusters["home"].replicas
    with replica.connect(DATABASE) as paused, healthy.master.connect(DATABASE) as master:
        paused.execute("SELECT pg_wal_replay_pause()")
        try:
            master.execute("SELECT pg_logical_emit_message(true, 'tests', 'something to replay')")
            assert any("has not replayed" in one.fault for one in errors_of(environment))
        finally:
            paused.execute("SELECT pg_wal_replay_resume()")


def test_who_holds_a_snapshot_is_named(
    healthy: LocalStack, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "LONG_HELD_SECONDS", 0.0)
    with healthy.master.connect(DATABASE, autocommit=False, application_name="forgotten") as holder:
        holder.execute("SELECT pg_current_xact_id()")
        found = [one for part in examined(environment) for one in part.findings]
        pid = holder.info.backend_pid
    assert [one.remedy for one in found if "forgotten" in one.subject] == [f"SELECT pg_terminate_backend({pid})"]


def test_a_job_that_no_worker_knows_is_named(healthy: LocalStack, environment: Environment) -> None:
    with applied(environment), opened_database():
        organization_id = create_organization("doctor")
    plant = f"SELECT ledger.enqueue('{organization_id}', 'long.gone')"
    with planted(healthy, plant, "DELETE FROM ledger.jobs WHERE kind = 'long.gone'"):
        assert [one.subject for one in errors_of(environment)] == ["kind long.gone"]


def test_a_store_that_lacks_the_files_of_documents_is_named(
    healthy: LocalStack, environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("A text.")
    with applied(environment), opened_database():
        organization_id = create_organization("keeper")
        (imported,) = import_tree(organization_id, tmp_path)
        assert imported.imported == "new"
    assert errors_of(environment) == []
    (found,) = errors_of(home_of(healthy, store=str(tmp_path / "elsewhere")))
    assert found.subject == "DOCWORKER_STORE"
    assert f"{tmp_path}/elsewhere lacks 1 of 1 files of documents, such as {organization_id}/" in found.fault


def test_a_store_that_depends_on_where_one_stands_is_named(
    healthy: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = home_of(healthy)
    del environment["DOCWORKER_STORE"]
    with applied(environment):
        found = [one for one in examine_machine(settings()) if one.subject == "DOCWORKER_STORE"]
    assert [one.level for one in found] == [Level.WARNING]
    assert f"here {tmp_path}/var/store, elsewhere another" in found[0].fault


@pytest.mark.parametrize(
    ("encoding", "fault"), [("SQL_ASCII", "cannot keep every text"), ("UTF8", "has no tables of docworker")]
)
def test_a_database_that_is_not_ready_is_named(
    healthy: LocalStack, environment: Environment, encoding: str, fault: str
) -> None:
    with healthy.master.connect() as superuser:
        superuser.execute(
            f"CREATE DATABASE unready OWNER docworker_owner ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        )
    healthy.wait_for_replicas()
    try:
        elsewhere = environment | healthy.environment(database="unready")
        del elsewhere["DOCWORKER_CLUSTERS"]
        assert any(fault in one.fault for one in errors_of(elsewhere))
    finally:
        drop_database(healthy.master, "unready")


def test_a_broker_that_throws_messages_away_is_named(healthy: LocalStack, environment: Environment) -> None:
    client = healthy.broker.connect()
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        (found,) = errors_of(environment)
        assert "maxmemory-policy is allkeys-lru" in found.fault
        assert "noeviction" in found.remedy
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def test_the_command_says_it_and_ends_with_1(healthy: LocalStack) -> None:
    with applied(home_of(healthy)):
        well = docworker("doctor")
        ill = docworker("doctor", "--json", environment={"DOCWORKER_POLSIZE": "3"})
    assert (well.exit_code, well.err) == (0, "")
    assert "databases: well" in well.out
    assert ill.exit_code == 1
    assert ill.json["findings"][0] == {
        "level": "error",
        "subject": "DOCWORKER_POLSIZE",
        "fault": "is no setting, and changes nothing",
        "remedy": "did you mean DOCWORKER_POOL_SIZE?",
    }
    assert ill.json["skipped"] == {}


# Starts as in a container whose filter keeps Landlock from us.
WITHOUT_LANDLOCK = """
import ctypes, errno, os, sys
from docworker.jobs.imports.importing import import_tree
from docworker.jobs.pipeline.confinement import seccomp
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
refused = seccomp.when(444, [], 0x50000 | errno.ENOSYS)
seccomp.install([(0x20, 0, 0, 0), *refused, (0x06, 0, 0, 0x7FFF0000)])
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def findings_of(environment: Environment, *before: str) -> list[dict[str, str]]:
    """What `docworker doctor` finds as a program of its own, with these words before its name."""
    with applied(environment):
        command = [*before, "-m", "docworker.worker.cli", "doctor", "--json"]
        surroundings = {**os.environ, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=60, check=False)
    found: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return found


@pytest.mark.skipif(not offered().is_whole, reason="this kernel offers no whole sandbox: nothing to be kept from us")
@pytest.mark.parametrize(("sandbox", "level"), [("best", "warning"), ("required", "error")])
def test_kernel_that_cannot_confine_parsers_is_named(environment: Environment, sandbox: str, level: str) -> None:
    given = environment | {"DOCWORKER_SANDBOX": sandbox}
    findings = findings_of(given, sys.executable, "-c", WITHOUT_LANDLOCK)
    (found,) = (one for one in findings if one["subject"] == "DOCWORKER_SANDBOX")
    assert found["level"] == level
    assert "no Landlock here" in found["fault"]


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed (Debian: faketime)")
def test_clocks_that_are_apart_are_named(environment: Environment) -> None:
    findings = findings_of(environment, "faketime", "-f", "+90s", sys.executable)
    found = [one for one in findings if re.fullmatch(r"its clock is \d+ s behind this machine's", one["fault"])]
    assert {one["level"] for one in found} == {"warning"}
    assert {one["subject"].split()[0] for one in found} >= {"DOCWORKER_MASTER_URL", "DOCWORKER_REPLICA_URLS"}


def test_without_the_owner_it_says_what_it_did_not_look_at(environment: Environment) -> None:
    del environment["DOCWORKER_OWNER_URL"]
    assert [part.skipped for part in examined(environment) if part.skipped] == ["DOCWORKER_OWNER_URL is not set"]


def test_without_the_masters_address_it_says_so(environment: Environment) -> None:
    del environment["DOCWORKER_MASTER_URL"]
    parts = examined(environment)
    assert [part.skipped for part in parts if part.skipped] == ["DOCWORKER_MASTER_URL is not set"]
    found = [one for part in parts for one in part.findings if one.level is Level.ERROR]
    assert [(one.subject, one.fault.split(":")[0]) for one in found] == [("DOCWORKER_MASTER_URL", "is not set")]


def test_the_settings_in_force_are_printed_without_secrets(healthy: LocalStack) -> None:
    with applied(healthy.environment()):
        passwords = {psycopg.conninfo.conninfo_to_dict(settings().master_database_url())["password"]}
        shown = docworker(
            "config",
            environment={
                "DOCWORKER_STORE": "s3://key:geheim@bucket",
                "DOCWORKER_PASSWORD_COMMAND": "vault --token geheim",
            },
        )
        given = docworker("config", "--given", "--json")
    assert shown.exit_code == 0
    assert not any(str(one) in shown.out + given.out for one in [*passwords, "geheim"])
    assert "s3://key:***@bucket" in shown.out
    assert "vault *** ***" in shown.out
    assert {one["name"] for one in given.json} == set(healthy.environment())


def test_names_that_are_no_settings_are_told_with_what_was_meant() -> None:
    names = ["DOCWORKER_POLSIZE", "DOCWORKER_XYZZY_PLUGH", "DOCWORKER_POOL_SIZE", "docworker_store", "HOME"]
    assert unknown_settings(names) == {"DOCWORKER_POLSIZE": "DOCWORKER_POOL_SIZE", "DOCWORKER_XYZZY_PLUGH": None}
