"""What sets up masters and replicas, and what backs them up and restores them, run against real servers: the scripts of
`deploy/postgres`, and the commands of the documentation."""

import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import psycopg
import pytest

from docworker.db.settings import settings
from docworker.db.tenants.organizations import create_organization
from docworker.jobs.imports.importing import import_tree
from docworker.migrations.runner import upgrade
from docworker.worker.doctor.installation import examine_sources
from docworker.worker.doctor.postgres import Servers
from docworker.worker.local.launching import launch, server_user
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.servers.programs import postgres_programs
from docworker.worker.local.servers.server import free_port
from tests.support.database import opened_database
from tests.support.project import PROJECT
from tests.support.stack import applied, temporary_directory
from tests.support.waiting import eventually

SCRIPTS = PROJECT / "deploy" / "postgres"
PASSWORDS = {
    "OWNER_PASSWORD": "of the owner",
    "WORKER_PASSWORD": "it's the worker's",
    "DISPATCHER_PASSWORD": "of-the-dispatcher",
    "REPLICATION_PASSWORD": "of-the-replicas",
}


@dataclass
class Master:
    """A server that knows nothing of docworker yet, configured by its own pg_hba.conf, as the image's is."""

    server: PostgresServer
    scripts: Path

    def set_up(self, **environment: str) -> None:
        self.run([self.scripts / "master.sh"], environment)

    def run(
        self, command: Sequence[str | Path], environment: Mapping[str, str], *, directory: Path | None = None
    ) -> None:
        tools = {"PATH": f"{postgres_programs(self.server.user)}:{os.defpath}", "LC_ALL": "C"}
        connection = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.server.port),
            "PGPASSWORD": "superuser",
            "PGDATA": str(self.server.data),
            "ROLES_SQL": str(self.scripts / "roles.sql"),
        }
        done = subprocess.run(
            command,
            env=tools | connection | PASSWORDS | dict(environment),
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def own_data(self) -> None:
        """What was written to the data directory by us is the server's."""
        for path in (self.server.data, *self.server.data.rglob("*")):
            self.server.user.own(path)

    def lose_data(self) -> PostgresServer:
        """The server is gone, and with it its data, but for a copy that somebody starts as a replica."""
        self.server.kill()
        copy = PostgresServer(
            name="left",
            home=self.server.home,
            port=free_port(but=[self.server.port]),
            user=self.server.user,
            programs=postgres_programs(self.server.user),
            password="superuser",
            durable=False,
            settings={"hba_file": str(self.server.home / "left" / "pg_hba.conf")},
        )
        self.server.data.rename(copy.data)
        (copy.data / "standby.signal").touch()
        copy.user.own(copy.data / "standby.signal")
        return copy

    def login(self, role: str, password: str) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.server.port, user=role, password=password, dbname="docworker"
        )


@pytest.fixture
def master() -> Iterator[Master]:
    with temporary_directory() as directory:
        user = server_user()
        scripts = directory / "scripts"
        shutil.copytree(SCRIPTS, scripts)  # where the servers' user can read them, too
        scripts.chmod(0o755)
        server = PostgresServer(
            name="master",
            home=directory,
            port=free_port(),
            user=user,
            programs=postgres_programs(user),
            password="superuser",
            durable=False,
            settings={"hba_file": str(directory / "master" / "pg_hba.conf")},
        )
        server.create()
        server.start()
        yield Master(server, scripts)
        server.kill()


def test_roles_and_database_are_made_and_migrate(master: Master) -> None:
    master.set_up()
    address = f"127.0.0.1:{master.server.port}/docworker"
    with applied({"DOCWORKER_OWNER_URL": f"postgresql://docworker_owner:of%20the%20owner@{address}"}):
        upgrade()
    with master.login("docworker_worker", PASSWORDS["WORKER_PASSWORD"]) as connection:
        assert connection.execute("SELECT count(*) FROM app.documents").fetchall() == [(0,)]
    with master.login("docworker_dispatcher", PASSWORDS["DISPATCHER_PASSWORD"]) as connection:
        assert connection.execute("SELECT count(*) FROM ledger.jobs").fetchall() == [(0,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT FROM app.documents")


def test_roles_may_be_made_again_with_other_passwords(master: Master) -> None:
    master.set_up()
    master.set_up(WORKER_PASSWORD="another one")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        master.login("docworker_worker", PASSWORDS["WORKER_PASSWORD"])
    master.login("docworker_worker", "another one").close()


def documented(heading: str, page: str = "operations.md") -> list[str]:
    """The blocks of commands below a heading of a page, each as it would be pasted."""
    section = re.split(r"\n###? ", (PROJECT / "docs" / page).read_text().split(f"\n### {heading}\n")[1])[0]
    blocks = groupby(section.splitlines(keepends=True), key=lambda line: line.startswith("    "))
    return [textwrap.dedent("".join(lines)) for is_command, lines in blocks if is_command]


def test_the_documented_commands_make_the_roles_with_passwords_in_a_file(master: Master, tmp_path: Path) -> None:
    (command, *_) = documented("Roles")
    assert " -v " not in command
    (tmp_path / "deploy").symlink_to(PROJECT / "deploy")
    pasted = command.replace("sudo -u postgres psql", "psql")
    master.run(["sh", "-euc", pasted], {"PGUSER": "postgres"}, directory=tmp_path)
    made = tmp_path / "passwords.sql"
    assert made.stat().st_mode & 0o077 == 0
    passwords = dict(re.findall(r"^\\set (\w+)_password (\w+)$", made.read_text(), re.MULTILINE))
    assert passwords.keys() == {"owner", "worker", "dispatcher", "replication"}
    for role in ("owner", "worker", "dispatcher"):
        master.login(f"docworker_{role}", passwords[role]).close()
    assert master.server.execute("SELECT rolreplication FROM pg_roles WHERE rolname = 'docworker_replication'") == [
        (True,)
    ]


def test_the_documented_rules_let_a_replica_in_and_what_its_script_needs_is_named(master: Master) -> None:
    master.set_up()
    (rules,) = (block for block in documented("Replicas") if block.startswith("host "))
    hba = master.server.data / "pg_hba.conf"
    ours = "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\n"
    hba.write_text(ours + rules.replace("10.0.0.0/24", "127.0.0.1/32"))
    master.server.execute("SELECT pg_reload_conf()")
    replica = Replica(master)
    with replica.running():
        eventually(
            lambda: master.server.execute("SELECT active FROM pg_replication_slots") == [(True,)],
            within_seconds=30,
            what="the replica to stream from its slot",
        )
    master.login("docworker_worker", PASSWORDS["WORKER_PASSWORD"]).close()
    page = (PROJECT / "docs" / "operations.md").read_text()
    script = (SCRIPTS / "replica.sh").read_text()
    named = {*re.findall(r"\$\{?([A-Z_]+)", script)} | {"PGPASSWORD"}
    assert [name for name in named if not re.search(rf"\b{name}\b", page)] == []


def test_replicas_role_is_let_in_from_other_machines(master: Master) -> None:
    master.set_up()
    rules = master.server.execute(
        "SELECT type, database, user_name, address, auth_method, error FROM pg_hba_file_rules"
        " ORDER BY rule_number DESC LIMIT 1"
    )
    assert rules == [("host", ["replication"], ["docworker_replication"], "all", "scram-sha-256", None)]


def test_replica_copies_the_master_and_follows_it_also_when_its_data_is_lost(master: Master) -> None:
    master.set_up()
    replica = Replica(master)
    for number in (1, 2):
        with replica.running():
            master.server.execute(f"CREATE TABLE lines_{number} ()")
            eventually(
                lambda: replica.answers_to(f"SELECT FROM lines_{number}"),  # noqa: B023
                within_seconds=30,
                what="the replica to show the table",
            )
            # The table may have come with the copy, before the replica streams.
            eventually(
                lambda: (
                    master.server.execute("SELECT slot_name, active FROM pg_replication_slots") == [("replica", True)]
                ),
                within_seconds=30,
                what="the replica to stream from its slot",
            )
        replica.lose_data()


def test_replica_that_is_started_again_is_not_copied_again(master: Master) -> None:
    master.set_up()
    replica = Replica(master)
    with replica.running():
        eventually(lambda: replica.answers_to("SELECT"), within_seconds=30, what="the replica to answer")
    made = (replica.data / "PG_VERSION").stat().st_ctime_ns
    with replica.running():
        eventually(lambda: replica.answers_to("SELECT"), within_seconds=30, what="the replica to answer")
    assert (replica.data / "PG_VERSION").stat().st_ctime_ns == made


def test_what_the_documented_commands_back_up_they_restore(master: Master, tmp_path: Path) -> None:
    master.set_up()
    address = f"127.0.0.1:{master.server.port}/docworker"
    environment = {
        "DOCWORKER_OWNER_URL": f"postgresql://docworker_owner:of%20the%20owner@{address}",
        "DOCWORKER_MASTER_URL": f"postgresql://docworker_worker:it's%20the%20worker's@{address}",
        "DOCWORKER_STORE": str(tmp_path / "original"),
    }
    (files := tmp_path / "files").mkdir()
    (tmp_path / "2026-11-29").mkdir()
    (backup, _), (restore, _) = documented("Back up", "backup.md"), documented("Restore", "backup.md")
    base_backup, copy_store = backup.split("\nrsync ")
    (copy_back,) = re.findall(r"`rsync (.*?)`", (PROJECT / "docs" / "backup.md").read_text())

    def run(command: str, directory: Path = tmp_path) -> None:
        for documented_as, here in {
            "/backup/": f"{tmp_path}/",
            "/var/lib/docworker/store/": f"{tmp_path}/original/",
            "10.0.0.1": f"127.0.0.1 --port {master.server.port}",
            "chown -R postgres:postgres": ": ",
        }.items():
            command = command.replace(documented_as, here)
        given = {"PGPASSWORD": PASSWORDS["REPLICATION_PASSWORD"], "PGDATA": str(master.server.data)}
        master.run(["sh", "-euc", command], given, directory=directory)

    def copy(options: str, source: str, target: str) -> None:
        if shutil.which("rsync") is None:
            shutil.copytree(tmp_path / source, tmp_path / target)
        else:
            run(f"rsync {options}")

    def imported(name: str) -> set[str]:
        (files / name).write_text(name)
        return {one.path for one in import_tree(organization_id, files) if one.imported == "new"}

    with applied(environment):
        upgrade()
        with opened_database():
            organization_id = create_organization("acme")
            assert imported("before.txt") == {"/before.txt"}
            run(base_backup)
            assert imported("meanwhile.txt") == {"/meanwhile.txt"}
            copy(copy_store, "original", "store")

        left = master.lose_data()
        shutil.rmtree(tmp_path / "original")
        master.server.data.mkdir(mode=0o700)
        run(restore, tmp_path / "2026-11-29" / "home")
        master.own_data()
        master.server.start()
        eventually(lambda: master.server.execute("SELECT NOT pg_is_in_recovery()")[0][0], what="the restored master")
        (missing,) = examine_sources(settings())
        assert "lacks 1 of 1 files of documents" in missing.fault
        copy(copy_back, "store", "original")
        assert list(examine_sources(settings())) == []
        with opened_database():
            assert imported("after.txt") == {"/meanwhile.txt", "/after.txt"}

    try:
        left.start()
        replica = environment["DOCWORKER_MASTER_URL"].replace(str(master.server.port), str(left.port))
        with applied({**environment, "DOCWORKER_REPLICA_URLS": replica}):
            (found,) = (one for one in Servers(settings()).examine() if one.subject.startswith("DOCWORKER_REPLICA"))
        assert "is on timeline 1, and its master on 2" in found.fault
    finally:
        left.kill()


class Replica:
    """The replica's entry point with a data directory beside the master's."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self.port = free_port(but=[master.server.port])
        home = master.server.home / "replica"
        home.mkdir(mode=0o700)
        master.server.user.own(home)
        self.data = home / "data"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the entry point, and stop what it has become."""
        user = self._master.server.user
        environment = {
            "PATH": f"{postgres_programs(user)}:{os.defpath}",
            "LC_ALL": "C",
            "PGDATA": str(self.data),
            "MASTER_HOST": "127.0.0.1",
            "MASTER_PORT": str(self._master.server.port),
            "SLOT": "replica",
            "PGPASSWORD": PASSWORDS["REPLICATION_PASSWORD"],
        }
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "hba_file": self.data / "pg_hba.conf",
        }
        command: list[str | Path] = [
            self._master.scripts / "replica.sh",
            *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
        ]
        log_path = self._master.server.home / "replica.log"
        with log_path.open("wb") as output:
            process = launch(command, user=user, environment=environment, output=output)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)

    def answers_to(self, statement: str) -> bool:
        try:
            with psycopg.connect(
                host="127.0.0.1", port=self.port, user="postgres", password="superuser", connect_timeout=2
            ) as connection:
                connection.execute(statement)
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
            return False
        return True

    def lose_data(self) -> None:
        shutil.rmtree(self.data)
