"""`docworker migrate` over home, clusters, schemas and databases of organizations; failures stop nobody else."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql
from sqlalchemy import func, select, text

from docworker.migrations.places import ONE_MIGRATOR_OF_ALL
from docworker.migrations.runner import downgrade, head, upgrade
from docworker.migrations.target import Target
from docworker.worker.local.stack import LocalStack
from tests.support.commands import docworker
from tests.support.database import opened_database, somebody_waits
from tests.support.places import (
    ALL_SCHEMAS,
    ORGANIZATIONS,
    add_placements,
    execute,
    held,
    make_schema,
    make_tenants,
    recorded,
    revisions,
)
from tests.support.processes import Processes
from tests.support.stack import applied, fresh_database, unique_name
from tests.support.waiting import eventually

BEFORE = "0004"
HEAD = head()


@pytest.fixture
def other(stack: LocalStack, fresh_environment: dict[str, str]) -> Iterator[str]:
    """An empty database beside that of the settings."""
    with fresh_database(stack, unique_name("other"), template="template1") as name:
        yield name


@pytest.fixture
def clusters(other: str, fresh_environment: dict[str, str]) -> Iterator[str]:
    """East, of an empty database, and west, of a server that is not there; the name of east's database."""
    home = {name: fresh_environment[f"DOCWORKER_{name.upper()}"] for name in ("master_url", "owner_url")}
    database = fresh_environment["DOCWORKER_OWNER_URL"].rpartition("/")[2].partition("?")[0]
    east = {name: url.replace(f"/{database}", f"/{other}") for name, url in home.items()}
    west = dict.fromkeys(home, "postgresql://docworker_owner@127.0.0.1:1/docworker")
    with applied({**fresh_environment, "DOCWORKER_CLUSTERS": json.dumps({"east": east, "west": west})}):
        yield other


def break_schema(name: str) -> None:
    """The next migration from BEFORE does not find a table."""
    execute(sql.SQL("ALTER TABLE {} RENAME TO documents_away").format(sql.Identifier(name, "documents")))


def mend_schema(name: str) -> None:
    execute(sql.SQL("ALTER TABLE {} RENAME TO documents").format(sql.Identifier(name, "documents_away")))


def test_everything_that_is_behind_is_brought_up_to_date(clusters: str, stack: LocalStack) -> None:
    schemas = make_tenants(["b", "a"], BEFORE)
    make_schema("tenant_new")
    with fresh_database(stack, unique_name("tenant_d"), template="template1") as database:
        add_placements(
            {"slug": "d", "database": database},
            {"slug": "new", "schema": "tenant_new"},
            {"slug": "shared"},
            {"slug": "half", "schema": "tenant_half", "state": "creating"},
            {"slug": "gone", "schema": "tenant_gone", "state": "dropping"},
        )
        without_west = {
            "DOCWORKER_CLUSTERS": json.dumps({"east": json.loads(os.environ["DOCWORKER_CLUSTERS"])["east"]})
        }
        answer = docworker("migrate", environment=without_west)
        assert (answer.exit_code, answer.out) == (0, ""), answer.err
        assert revisions([*schemas, "tenant_new", "public"]) == [HEAD] * 4
        assert revisions(["public"], database) == revisions(["public"], clusters) == [HEAD]
        assert held("tenant_new") == held("tenant_a") == held(*ORGANIZATIONS)
        assert held(*ALL_SCHEMAS, target=Target(database=database)) == held(*ALL_SCHEMAS)
        now = {slug: tuple(row)[1:] for slug, row in recorded().items()}
        own, none = (HEAD, None), (None, None)
        assert now == dict.fromkeys("abd", own) | {"new": own, "shared": none, "half": none, "gone": none}
        answer = docworker("migrate", "--check", environment=without_west)
        assert (answer.exit_code, answer.out) == (0, "")


def test_check_lists_what_is_behind_and_touches_nothing(fresh_environment: dict[str, str]) -> None:
    (behind,) = make_tenants(["behind"], BEFORE)
    make_tenants(["done"], HEAD)
    answer = docworker("migrate", "--check")
    assert answer.exit_code == 1
    assert [line[:5] for line in answer.lines[1:]] == [["behind", "home,", "schema", "tenant_behind", BEFORE]]
    assert revisions([behind]) == [BEFORE]
    assert recorded()["behind"].revision is None


def test_check_says_that_home_is_behind_also_before_it_knew_places(fresh_environment: dict[str, str]) -> None:
    downgrade(BEFORE)
    answer = docworker("migrate", "--check")
    assert (answer.exit_code, answer.lines[1:]) == (1, [["home", "home", BEFORE]])
    assert revisions(["public"]) == [BEFORE]


def test_where_the_first_one_fails_no_other_is_touched(fresh_environment: dict[str, str]) -> None:
    first, second = make_tenants(["a", "b"], BEFORE)
    break_schema(first)
    answer = docworker("migrate")
    assert answer.exit_code == 1
    assert 'relation "tenant_a.documents" does not exist' in answer.out
    assert "not tried: a was tried first, and failed" in answer.out
    assert revisions([first, second]) == [BEFORE, BEFORE]
    assert "does not exist" in recorded()["a"].migration_error
    assert recorded()["b"].migration_error is None
    answer = docworker("migrate")
    assert answer.exit_code == 1
    assert revisions([first, second]) == [BEFORE, HEAD], "another one was tried first"
    mend_schema(first)
    assert docworker("migrate").exit_code == 0
    assert revisions([first]) == [HEAD]
    assert tuple(recorded()["a"])[1:] == (HEAD, None)


def test_later_failures_stop_nobody_and_the_next_run_does_what_is_left(fresh_environment: dict[str, str]) -> None:
    schemas = make_tenants("abcdef", BEFORE)
    for broken in (schemas[2], schemas[4]):
        break_schema(broken)
    answer = docworker("migrate", "--jobs", 2)
    assert answer.exit_code == 1
    assert sorted(line[0] for line in answer.lines[1:]) == ["c", "e"]
    done = [HEAD, HEAD, BEFORE, HEAD, BEFORE, HEAD]
    assert revisions(schemas) == done
    assert {slug: row.revision for slug, row in recorded().items()} == dict(zip("abcdef", done, strict=True))
    mend_schema(schemas[2])
    mend_schema(schemas[4])
    assert docworker("migrate").exit_code == 0
    assert revisions(schemas) == [HEAD] * 6
    assert {row.migration_error for row in recorded().values()} == {None}


def test_places_of_a_cluster_that_is_down_fail_and_the_others_are_done(clusters: str) -> None:
    schemas = make_tenants(["a"], BEFORE)
    add_placements(
        {"slug": "far", "cluster": "west", "schema": "tenant_far"},
        {"slug": "lost", "cluster": "nowhere", "schema": "tenant_lost"},
    )
    answer = docworker("migrate")
    assert answer.exit_code == 1
    assert [line[0] for line in answer.lines[1:]] == ["west", "far", "lost"]
    assert revisions([*schemas, "public"]) == [HEAD, HEAD]
    assert revisions(["public"], clusters) == [HEAD]
    assert "connection failed" in recorded()["far"].migration_error
    assert "no cluster is called 'nowhere'" in recorded()["lost"].migration_error


def test_only_those_that_are_named(fresh_environment: dict[str, str]) -> None:
    schemas = make_tenants("abc", BEFORE)
    assert docworker("migrate", "--only", "a", "--only", "c").exit_code == 0
    assert revisions(schemas) == [HEAD, BEFORE, HEAD]
    answer = docworker("migrate", "--only", "z")
    assert answer.exit_code != 0
    assert "the catalog knows no organization 'z'" in answer.err


def test_what_nobody_can_bring_there_is_said(fresh_environment: dict[str, str]) -> None:
    moving, newer, _ = make_tenants(["moving", "newer", "good"], BEFORE)
    execute("UPDATE catalog.placements SET state = 'moving' WHERE slug = 'moving'")
    execute(f"UPDATE {newer}.alembic_version SET version_num = '9999'")
    answer = docworker("migrate")
    assert answer.exit_code == 1
    assert [line[0] for line in answer.lines[1:]] == ["moving", "newer"]
    assert "it is being moved" in answer.out
    assert "does not know its revision 9999" in answer.out
    assert revisions([moving, newer, "tenant_good"]) == [BEFORE, "9999", HEAD]


def test_to_an_older_revision_what_is_further_stays(fresh_environment: dict[str, str]) -> None:
    schemas = make_tenants(["a"], BEFORE) + make_tenants(["b"], HEAD)
    assert docworker("migrate", "--revision", "0005").exit_code == 0
    assert revisions([*schemas, "public"]) == ["0005", HEAD, HEAD]
    assert recorded()["b"].revision == HEAD


def test_it_waits_again_for_a_lock_that_was_held_for_too_long(
    fresh_environment: dict[str, str], processes: Processes
) -> None:
    (schema,) = make_tenants(["a"], BEFORE)
    with opened_database(), Target().engine().connect() as holder:
        holder.execute(text(f"LOCK TABLE {schema}.documents"))
        migrator = processes.start("migrate")
        eventually(somebody_waits, within_seconds=20, what="the migration to wait")
        eventually(lambda: not somebody_waits(), within_seconds=20, what="its wait to be over")
        assert migrator.running
        holder.rollback()
        eventually(lambda: not migrator.running, within_seconds=20, what="the migration to end")
    assert revisions([schema]) == [HEAD]
    assert recorded()["a"].migration_error is None


def test_there_is_one_migrator_at_a_time(fresh_environment: dict[str, str], processes: Processes) -> None:
    (schema,) = make_tenants(["a"], BEFORE)
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'docworker migrate'"
        " AND datname = current_database() AND query LIKE '%advisory%' AND pid <> pg_backend_pid()"
    )
    with Target().engine().connect().execution_options(isolation_level="AUTOCOMMIT") as holder:
        holder.scalar(select(func.pg_advisory_lock(ONE_MIGRATOR_OF_ALL)))
        migrators = [processes.start("migrate"), processes.start("migrate")]
        eventually(lambda: holder.scalar(waiting) == 2, within_seconds=30, what="both to wait")
        assert revisions([schema]) == [BEFORE]
    eventually(lambda: not any(one.running for one in migrators), within_seconds=30, what="both to end")
    assert revisions([schema]) == [HEAD]


def test_a_migrator_that_was_killed_leaves_no_process_and_the_next_one_goes_on(
    fresh_environment: dict[str, str], processes: Processes
) -> None:
    schemas = make_tenants("abc", BEFORE)
    with opened_database(), Target().engine().connect() as holder:
        for held_up in schemas[1:]:
            holder.execute(text(f"LOCK TABLE {held_up}.documents"))
        migrator = processes.start("migrate")
        eventually(somebody_waits, within_seconds=30, what="the second one to wait")
        children = migrator.children
        assert children
        migrator.kill9()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), what="its processes to end")
    assert revisions(schemas) == [HEAD, BEFORE, BEFORE]
    assert docworker("migrate").exit_code == 0
    assert revisions(schemas) == [HEAD] * 3


def test_the_sql_that_is_printed_does_what_the_upgrade_does(other: str) -> None:
    upgrade(BEFORE, database=other)
    expected = held(*ALL_SCHEMAS)
    downgrade(BEFORE)
    before = held(*ALL_SCHEMAS)
    answer = docworker("migrate", "--sql")
    assert answer.exit_code == 0
    assert held(*ALL_SCHEMAS) == before
    with Target(database=other).engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in answer.out.split(";\n\n"):
            connection.exec_driver_sql(statement.replace("%", "%%")) if statement.strip() else None
    assert held(*ALL_SCHEMAS, target=Target(database=other)) == expected
    assert revisions(["public"], other) == [HEAD]
