"""What lets one organization at another's rows is found, in every database and schema; and nothing else is."""

import pytest

from docworker.db.catalog import Place
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.isolation import check_isolation
from docworker.worker.tenants.owner import owning
from docworker.worker.tenants.places import Model
from tests.support.commands import docworker

pytestmark = pytest.mark.usefixtures("clusters")

PLACES = {
    "shared": Place("home", "app"),
    "schema": Place("home", "own_schema"),
    "database": Place("east", "app", "own_database"),
}


@pytest.fixture(scope="module", autouse=True)
def _placed(clusters: None) -> None:
    create_tenant("own-schema", model=Model.SCHEMA, place_name="own_schema")
    create_tenant("own-database", model=Model.DATABASE, cluster="east", place_name="own_database")


@pytest.fixture(params=list(PLACES.values()), ids=list(PLACES))
def place(request: pytest.FixtureRequest) -> Place:
    place: Place = request.param
    return place


def execute(place: Place, statement: str) -> None:
    with owning(place) as owner:
        owner.exec_driver_sql(statement.format(schema=place.schema))


BREAKS = {
    "row-level security is off": (
        "ALTER TABLE {schema}.documents NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE {schema}.documents FORCE ROW LEVEL SECURITY",
    ),
    "a policy admits others": (
        "CREATE POLICY all_of_them ON {schema}.documents USING (true)",
        "DROP POLICY all_of_them ON {schema}.documents",
    ),
    "a unique key does not begin with the organization": (
        "CREATE UNIQUE INDEX telling ON {schema}.documents (filename)",
        "DROP INDEX {schema}.telling",
    ),
    "a foreign key does not begin with the organization": (
        "CREATE TABLE {schema}.notes (organization_id uuid, writer uuid REFERENCES {schema}.organizations (id));"
        " ALTER TABLE {schema}.notes ENABLE ROW LEVEL SECURITY; ALTER TABLE {schema}.notes FORCE ROW LEVEL SECURITY",
        "DROP TABLE {schema}.notes",
    ),
    "no policy admits": (
        "CREATE TABLE {schema}.notes (organization_id uuid); ALTER TABLE {schema}.notes ENABLE ROW LEVEL SECURITY;"
        " ALTER TABLE {schema}.notes FORCE ROW LEVEL SECURITY",
        "DROP TABLE {schema}.notes",
    ),
    "everybody may use it": (
        "GRANT SELECT ON {schema}.documents TO PUBLIC",
        "REVOKE SELECT ON {schema}.documents FROM PUBLIC",
    ),
}


@pytest.mark.parametrize(("fault", "statements"), BREAKS.items(), ids=BREAKS.keys())
def test_a_hole_is_found_where_it_is(place: Place, fault: str, statements: tuple[str, str]) -> None:
    broken, mended = statements
    execute(place, broken)
    try:
        found = check_isolation()
        assert found, "the hole was not found"
        assert all((one.cluster, one.database) == (place.cluster, place.database) for one in found)
        assert any(one.fault.startswith(fault) for one in found)
        assert all(place.schema in one.subject for one in found)
    finally:
        execute(place, mended)


def test_what_we_make_ourselves_has_no_hole() -> None:
    assert check_isolation() == []
    answer = docworker("check", "isolation")
    assert (answer.exit_code, answer.out) == (0, "every table is isolated\n")


def test_the_command_fails_when_there_is_one() -> None:
    execute(PLACES["schema"], BREAKS["a policy admits others"][0])
    try:
        answer = docworker("check", "isolation", "--json")
    finally:
        execute(PLACES["schema"], BREAKS["a policy admits others"][1])
    assert answer.exit_code == 1
    assert [one["subject"] for one in answer.json] == ["own_schema.documents (policy all_of_them)"]


def test_a_role_that_bypasses_policies_is_found(stack: LocalStack) -> None:
    stack.master.execute("ALTER ROLE docworker_worker BYPASSRLS")
    try:
        assert {one.subject for one in check_isolation()} == {"docworker_worker"}
    finally:
        stack.master.execute("ALTER ROLE docworker_worker NOBYPASSRLS")
