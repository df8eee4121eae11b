"""Places in the catalog, schemas and databases of organizations, as their owner makes them, and what they hold."""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import sql
from sqlalchemy import Row, insert, select, text

from docworker.db.models import Placement
from docworker.db.models.base import new_id
from docworker.migrations.runner import upgrade
from docworker.migrations.target import Target

ORGANIZATIONS = ("app", "auth")
ALL_SCHEMAS = ("app", "auth", "ledger", "catalog")

# With the schemas of the tables on the search path no definition names them. Indexes are named so only when "pretty".
_TABLES = """
WITH tables AS (SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = ANY (:schemas) AND c.relkind = 'r' AND c.relname <> 'alembic_version')
"""
_HELD = """
SELECT c.relname, 'column', a.attname::text, concat_ws(' ', a.attnum, format_type(a.atttypid, a.atttypmod),
    a.attnotnull, a.attcompression, a.attstorage, pg_get_expr(d.adbin, d.adrelid))
FROM tables c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
UNION ALL SELECT c.relname, 'constraint', n.conname, concat_ws(' ', pg_get_constraintdef(n.oid), n.convalidated)
FROM tables c JOIN pg_constraint n ON n.conrelid = c.oid
UNION ALL SELECT c.relname, 'index', i.indexrelid::regclass::text,
    concat_ws(' ', pg_get_indexdef(i.indexrelid, 0, true), i.indisvalid)
FROM tables c JOIN pg_index i ON i.indrelid = c.oid
UNION ALL SELECT c.relname, 'policy', p.polname, concat_ws(' ', p.polcmd, p.polpermissive, p.polroles,
    pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
FROM tables c JOIN pg_policy p ON p.polrelid = c.oid
UNION ALL SELECT c.relname, 'trigger', t.tgname, pg_get_triggerdef(t.oid, true)
FROM tables c JOIN pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal
UNION ALL SELECT c.relname, 'table', '', concat_ws(' ', c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
    (SELECT string_agg(one::text, ',' ORDER BY one::text) FROM unnest(c.relacl) AS one))
FROM tables c
UNION ALL SELECT '', 'schema', '', string_agg(DISTINCT one::text, ',')
FROM pg_namespace n, unnest(n.nspacl) AS one WHERE n.nspname = ANY (:schemas) AND one::text LIKE 'docworker_worker%'
ORDER BY 1, 2, 3
"""


def held(*schemas: str, target: Target | None = None) -> set[tuple[Any, ...]]:
    """All that the catalogs of PostgreSQL say of the tables in these schemas."""
    with (target or Target()).engine().connect() as connection:
        path = sql.SQL(", ").join(map(sql.Identifier, schemas)).as_string()
        connection.execute(text("SELECT set_config('search_path', :path, true)"), {"path": path})
        return {tuple(row) for row in connection.execute(text(_TABLES + _HELD), {"schemas": list(schemas)})}


def execute(*statements: sql.Composable | str, database: str | None = None) -> None:
    """As the owner, in one transaction."""
    with Target(database=database).engine().begin() as connection:
        for statement in statements:
            plain = statement if isinstance(statement, str) else statement.as_string()
            connection.execute(text(plain.replace(":", r"\:")))


def make_schema(name: str, revision: str | None = None) -> str:
    """Empty, or at a revision."""
    execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    if revision is not None:
        upgrade(revision, schema=name)
    return name


def add_placements(*rows: dict[str, Any]) -> None:
    """In the catalog alone: of rows with a slug and what differs from the shared tables of home."""
    with Target().engine().begin() as connection:
        for row in rows:
            connection.execute(insert(Placement).values({"organization_id": new_id(), **row}))


def make_tenants(slugs: Iterable[str], revision: str, **values: Any) -> list[str]:
    """Organizations with a schema of their own at home, at a revision."""
    schemas = [make_schema(f"tenant_{slug}", revision) for slug in slugs]
    add_placements(*({"slug": name.removeprefix("tenant_"), "schema": name, **values} for name in schemas))
    return schemas


def recorded() -> dict[str, Row[str, str | None, str | None]]:
    """The revision and the error that the catalog has of each organization, by its slug."""
    with Target().engine().connect() as connection:
        rows = connection.execute(select(Placement.slug, Placement.revision, Placement.migration_error))
        return {row.slug: row for row in rows}


def revisions(schemas: Sequence[str], database: str | None = None) -> list[str]:
    """Those in the version tables of schemas; public has that of the database."""
    with Target(database=database).engine().connect() as connection:
        tables = [sql.Identifier(schema, "alembic_version").as_string() for schema in schemas]
        return [str(connection.scalar(text(f"SELECT version_num FROM {table}"))) for table in tables]
