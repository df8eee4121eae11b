"""The fixtures that every other test stands on: a fresh database for each, its settings in force, real processes."""

import os
import sys

import psycopg

from docworker.db.settings import settings
from docworker.worker.local.stack import LocalStack
from tests.support.processes import Processes
from tests.support.stack import TEMPLATE, fresh_database, isolated_settings


def test_fresh_environment_is_in_force_and_migrated(fresh_environment: dict[str, str]) -> None:
    assert settings().master_url == fresh_environment["DOCWORKER_MASTER_URL"]
    for url in (settings().owner_url, *settings().replica_urls):
        assert url is not None
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT to_regclass('ledger.jobs') IS NOT NULL").fetchone() == (True,)


def test_databases_share_no_rows_and_no_broker_keys(stack: LocalStack, template: str) -> None:
    assert template == TEMPLATE
    with fresh_database(stack, "one") as one, fresh_database(stack, "other") as other:
        stack.master.execute("CREATE TABLE public.here ()", database=one)
        assert stack.master.execute("SELECT to_regclass('public.here')", database=other) == [(None,)]
        prefixes = {
            isolated_settings(stack, name, stack.directory)["DOCWORKER_BROKER_KEY_PREFIX"] for name in (one, other)
        }
        assert len(prefixes) == 2


def test_module_environment_gives_way_to_a_fresh_one(
    environment: dict[str, str], fresh_environment: dict[str, str]
) -> None:
    assert environment["DOCWORKER_MASTER_URL"] != fresh_environment["DOCWORKER_MASTER_URL"]
    assert settings().master_url == fresh_environment["DOCWORKER_MASTER_URL"]


def test_processes_run_with_the_settings_in_force_and_can_be_killed(
    processes: Processes, fresh_environment: dict[str, str]
) -> None:
    program = "import os, time; print('store', os.environ['DOCWORKER_STORE']); time.sleep(600)"
    process = processes.start_command("printer", [sys.executable, "-c", program])
    assert process.wait_for_log("store") == f"store {fresh_environment['DOCWORKER_STORE']}"
    process.kill9()
    assert not process.running
    assert os.environ["DOCWORKER_STORE"] == fresh_environment["DOCWORKER_STORE"]
