"""PostgreSQL behind TLS, with addresses that insist on it: all of ours go on over it, and who cannot show what is
believed is not talked to, and named by the setting of its address."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from docworker.worker.local.servers.roles import DISPATCHER, OWNER, ROLES, WORKER, ensure_roles
from docworker.worker.local.stack import LocalStack
from tests.support.certificates import Certificates
from tests.support.commands import docworker
from tests.support.metrics import get
from tests.support.postgres_tls import PostgresBehindTls, needs_postgres
from tests.support.processes import Processes
from tests.support.stack import applied, isolated_settings, temporary_directory, unique_name
from tests.support.user_package import install_user_package
from tests.support.waiting import eventually
from tests.support.workers import Workers

pytestmark = [needs_postgres, pytest.mark.system]

PASSWORDS = {role: f"{role}-s3cret" for role in ROLES}
SECRET = "s3cret"


@dataclass(frozen=True)
class Behind:
    """A master and its replica behind TLS, without our schema; `directory` is for other certificates."""

    master: PostgresBehindTls
    replica: PostgresBehindTls
    directory: Path
    environment: dict[str, str]

    def addresses(self, authority: Path) -> dict[str, str]:
        """Of all roles, who believe what this authority has signed."""
        names = {"OWNER_URL": OWNER, "MASTER_URL": WORKER, "DISPATCHER_URL": DISPATCHER}
        urls = {name: self.master.verified_url(role, PASSWORDS[role], authority) for name, role in names.items()}
        urls["REPLICA_URLS"] = self.replica.verified_url(WORKER, PASSWORDS[WORKER], authority)
        return {f"DOCWORKER_{name}": url for name, url in urls.items()}

    def show_anew(self, certificates: Certificates) -> None:
        """Whoever was connected to the master is cut off."""
        self.master.show(certificates)
        self.master.execute("SELECT pg_reload_conf()")
        self.master.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'docworker%'")

    def unencrypted(self) -> list[str]:
        """Connections of ours, by their names; there are some."""
        found = [
            one
            for server in (self.master, self.replica)
            for one in server.execute(
                "SELECT application_name, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)"
                " WHERE usename LIKE 'docworker%'"
            )
        ]
        names = {name for name, _ in found}
        for part in ("docworker worker", "keeper", "docworker listener", "docworker dispatcher"):
            assert any(part in name for name in names), names
        return [name for name, is_encrypted in found if not is_encrypted]


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Certificates]:
    with temporary_directory() as directory:
        yield Certificates.made_in(directory / "ours")


@pytest.fixture
def behind(stack: LocalStack, ours: Certificates, tmp_path: Path) -> Iterator[Behind]:
    """Its addresses are in force."""
    with temporary_directory() as directory:
        master, replica = (
            PostgresBehindTls(name=name, home=directory, certificates=ours) for name in ("master", "replica")
        )
        try:
            master.create()
            master.start()
            ensure_roles(master, PASSWORDS)
            replica.begin_copy(master).finish()
            replica.start()
            environment = isolated_settings(stack, unique_name("tls"), tmp_path)
            scene = Behind(master, replica, directory, environment)
            with applied(environment | scene.addresses(ours.authority)):
                yield scene
        finally:
            for server in (replica, master):
                with suppress(Exception):
                    server.kill()


def test_jobs_run_over_tls_and_nothing_goes_around_it_and_who_is_not_believed_is_said(
    behind: Behind, ours: Certificates, processes: Processes, tmp_path: Path
) -> None:
    migrated = docworker("migrate")
    assert migrated.exit_code == 0, migrated.err
    install_user_package(tmp_path / "processes")
    workers = Workers(processes, tmp_path)
    started = [workers.start(), processes.start("dispatcher"), processes.start("beat")]
    workers.enqueue_held(1, "one")
    workers.release("release-one")
    eventually(lambda: len(workers.lines("one")) == 2, within_seconds=60)
    assert behind.unencrypted() == []

    others = Certificates.made_in(behind.directory / "others")
    with applied(behind.environment | behind.addresses(others.authority)):
        for words, setting in {
            ("migrate",): "OWNER",
            ("schedules", "list"): "DISPATCHER",
            ("documents", "list", "--organization", "acme"): "MASTER",
        }.items():
            refused = docworker(*words)
            assert refused.exit_code == 1
            assert "certificate verify failed" in refused.err
            assert f"DOCWORKER_{setting}_URL" in refused.err
            assert "sslrootcert" in refused.err
            assert SECRET not in refused.out + refused.err
        examined = docworker("doctor", "--json")
        subjects = {one["subject"] for one in examined.json["findings"] if "certificate" in one["fault"]}
        assert {f"DOCWORKER_{name}" for name in ("OWNER_URL", "MASTER_URL", "DISPATCHER_URL")} <= subjects
        assert SECRET not in examined.out + examined.err

    behind.show_anew(Certificates.made_in(behind.directory / "elsewhere", host="db.example.org"))
    for name in ("worker", "dispatcher"):
        eventually(lambda name=name: get("/readyz", process=name)[0] == 503, within_seconds=40)  # type: ignore[misc]
    behind.show_anew(ours)
    workers.enqueue_held(1, "two")
    workers.release("release-two")
    eventually(lambda: len(workers.lines("two")) == 2, within_seconds=60)
    for process in started:
        assert process.running
        assert SECRET not in process.log
