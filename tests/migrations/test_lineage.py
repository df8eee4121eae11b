"""One lineage for databases and for schemas of organizations: at each revision both hold the same tables."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from docworker.db.errors import DocworkerError, NotFoundError
from docworker.db.models.revision import KNOWN_REVISIONS, is_known
from docworker.migrations.runner import downgrade, head, upgrade
from docworker.migrations.target import Target
from docworker.worker.local.stack import LocalStack
from tests.support.places import ALL_SCHEMAS, ORGANIZATIONS, held, make_schema, revisions
from tests.support.stack import fresh_database, unique_name

REVISIONS = [f"{number:04}" for number in range(1, 41)]
NAMES = ["tenant_plain", 'Tenant "O\'Hara" %s %(a)s :b \\ $$ .c']


@pytest.fixture
def other(stack: LocalStack, fresh_environment: dict[str, str]) -> Iterator[str]:
    """An empty database beside that of the settings."""
    with fresh_database(stack, unique_name("other"), template="template1") as name:
        yield name


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_holds_what_app_and_auth_hold_at_each_revision_up_and_down(
    fresh_environment: dict[str, str], name: str
) -> None:
    schema = make_schema(name)
    downgrade("base")
    at: dict[str, set[tuple[Any, ...]]] = {}
    for revision in REVISIONS:
        upgrade(revision)
        upgrade(revision, schema=schema)
        at[revision] = held(schema)
        assert at[revision] == held(*ORGANIZATIONS), revision
        assert {row[0] for row in at[revision]} >= {"documents", "users", "audit_log", "organizations"}
    for revision in reversed(REVISIONS[:-1]):
        downgrade(revision, schema=schema)
        assert held(schema) == at[revision], revision
    downgrade("base", schema=schema)
    assert held(schema) == {("", "schema", "", None)}, "no table and no grant"
    upgrade(schema=schema)
    assert held(schema) == held(*ORGANIZATIONS)


def test_each_migration_goes_down_and_up_again_in_a_database(fresh_environment: dict[str, str]) -> None:
    at = {REVISIONS[-1]: held(*ALL_SCHEMAS)}
    for revision in reversed(REVISIONS[:-1]):
        downgrade(revision)
        at[revision] = held(*ALL_SCHEMAS)
    downgrade("base")
    for revision in REVISIONS:
        upgrade(revision)
        assert held(*ALL_SCHEMAS) == at[revision], revision


def test_these_are_all_revisions() -> None:
    assert head() == REVISIONS[-1]


def test_schemas_are_at_revisions_of_their_own(fresh_environment: dict[str, str]) -> None:
    behind, ahead = make_schema("tenant_behind"), make_schema("tenant_ahead")
    upgrade("0004", schema=behind)
    upgrade(schema=ahead)
    assert revisions([behind, ahead, "public"]) == ["0004", head(), head()]


def test_a_database_of_an_organization_is_migrated_like_home(other: str) -> None:
    upgrade("0004")
    upgrade(database=other)
    assert held(*ALL_SCHEMAS, target=Target(database=other)) == held(*ALL_SCHEMAS)
    upgrade(database=other)
    before = held(*ALL_SCHEMAS)
    downgrade("0004", database=other)
    assert held(*ALL_SCHEMAS) == before, "home stays"
    schema = make_schema("tenant_a")
    with pytest.raises(NotFoundError, match=f"home, database {other}, schema tenant_a: there is no such schema"):
        upgrade(database=other, schema=schema)


def test_a_schema_that_nobody_has_made_is_not_made_by_chance(fresh_environment: dict[str, str]) -> None:
    with pytest.raises(NotFoundError, match="home, schema tenant_x: there is no such schema"):
        upgrade(schema="tenant_x")


def test_a_revision_that_is_not_known_is_named(fresh_environment: dict[str, str]) -> None:
    schema = make_schema("tenant_a")
    with pytest.raises(DocworkerError, match="cannot migrate home, schema tenant_a to '9999'"):
        upgrade("9999", schema=schema)


def test_the_worker_does_not_write_the_version_of_a_schema(fresh_environment: dict[str, str]) -> None:
    schema = make_schema("tenant_a")
    upgrade(schema=schema)
    with Target().engine().connect() as connection:
        may = "SELECT has_table_privilege('docworker_worker', 'tenant_a.alembic_version', 'INSERT, UPDATE, DELETE')"
        assert connection.scalar(text(may)) is False


def test_processes_know_the_newest_revisions() -> None:
    assert list(KNOWN_REVISIONS) == REVISIONS[-len(KNOWN_REVISIONS) :]
    assert is_known(head())
    assert is_known(None), "it shares the tables of its cluster"
    assert not is_known("0004")
    assert not is_known("9999")
