"""`make_place` and `clear_place`: the schema or the database that an organization is to have of its own, or the shared
tables; without a row in them, and without a word in the catalog.

Both may be repeated after they were cut off.
"""

from uuid import UUID

from sqlalchemy import Connection, Table, delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from docworker.db.catalog import TENANT_SCHEMAS, Place
from docworker.db.errors import ConfigurationError, InvalidArgumentError
from docworker.db.faults import sqlstate_of
from docworker.db.models import Backlog, Base, KeyLimit, Limit, Organization, Pause, Suspension
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.tenants.copying import ledger_tables
from docworker.migrations.runner import head, upgrade
from docworker.worker.tenants.owner import become, owning, quoted
from docworker.worker.tenants.places import Model, model_of

_MAY_MAKE_DATABASES = text(
    "SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) CURRENT_USER"
)
_DATABASE_EXISTS = text("SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = :name)")
_COMMENT_ON_SCHEMA = text(
    "SELECT pg_catalog.obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace WHERE nspname = :name"
)
_COMMENT_ON_DATABASE = text(
    "SELECT pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database WHERE datname = :name"
)
_HAS_PRODUCERS = text("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'docworker_producer')")
_HAS_TABLES = text(
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace NOT IN"
    " (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname ~ '^pg_' OR nspname = 'information_schema'))"
)


def make_place(place: Place, organization_id: UUID) -> str | None:
    """Make what is not there yet, migrated; returns its revision, None for shared tables.

    Raises InvalidArgumentError for a schema or database that exists and is not this organization's,
    ConfigurationError for an owner who may make no databases.
    """
    mark = _mark_of(organization_id)
    if model_of(place) is Model.SHARED:
        return None
    if model_of(place) is Model.SCHEMA:
        with owning(place) as connection:
            _make_schema(connection, place.schema, mark)
        upgrade(cluster=place.cluster, schema=place.schema)
    if place.database is not None:
        with owning(Place(place.cluster, place.schema), autocommit=True) as connection:
            is_new = _make_database(connection, place.database, place.cluster)
        if not is_new and not owns_database(place, organization_id):
            raise _not_ours(Model.DATABASE, place.database)
        _mark_database(place, mark)
        upgrade(cluster=place.cluster, database=place.database)
        steer_as_home(place)
    return head()


def steer_as_home(place: Place) -> None:
    """What operators have said of all organizations stands in every ledger: that of a database has it from home's, and
    nothing else. They change home's first (`db.tenants.steering`), and wait there until this is committed: a pause that
    they took back meanwhile would stay in a ledger into which it was on its way."""
    tables: list[Table] = [one.__table__ for one in (Pause, Limit, KeyLimit, Backlog)]  # type: ignore[misc]
    with owning() as home, owning(place) as own:  # home's lock is let go last
        home.exec_driver_sql(f"LOCK TABLE {', '.join(map(str, tables))} IN SHARE MODE")
        for connection in (home, own):
            become(connection, SYSTEM_ORGANIZATION_ID)
        for table in tables:
            of_all = table.c.organization_id == SYSTEM_ORGANIZATION_ID
            rows = home.execute(select(table).where(of_all)).mappings().all()
            own.execute(delete(table).where(of_all))
            if rows:
                own.execute(insert(table), [dict(row) for row in rows])


def clear_place(place: Place, organization_id: UUID, *, with_jobs: bool = True) -> None:
    """Remove the organization's schema or database, or its rows in shared tables, and its jobs there, unless the ledger
    is that of its own place as well. A schema or a database that is somebody else's is left alone."""
    mark = _mark_of(organization_id)
    if place.database is not None:
        if owns_database(place, organization_id):
            with owning(Place(place.cluster, place.schema), autocommit=True) as connection:
                _drop_database(connection, place.database)
        return
    with owning(place) as connection:
        become(connection, organization_id)
        if model_of(place) is Model.SCHEMA:
            if connection.scalar(_COMMENT_ON_SCHEMA, {"name": place.schema}) == mark:
                connection.exec_driver_sql(f"DROP SCHEMA {quoted(connection, place.schema)} CASCADE")
        else:
            _delete_rows(connection, organization_id)
        if with_jobs:
            for table in ledger_tables():
                connection.execute(delete(table).where(table.c.organization_id == organization_id))
            connection.execute(delete(Suspension).where(Suspension.organization_id == organization_id))


def owns_database(place: Place, organization_id: UUID) -> bool:
    """Whether the database of this place is there, and the organization's.

    A database cannot be made and marked at once: one that is not marked is taken for ours where the catalog says so
    and nothing is in it yet.
    """
    named = {"name": place.database}
    with owning(Place(place.cluster, place.schema)) as connection:
        if not connection.scalar(_DATABASE_EXISTS, named):
            return False
        comment = connection.scalar(_COMMENT_ON_DATABASE, named)
    if comment is not None:
        return bool(comment == _mark_of(organization_id))
    with owning(place) as connection:
        return not connection.scalar(_HAS_TABLES)


def _mark_of(organization_id: UUID) -> str:
    return f"docworker {organization_id}"


def _make_schema(connection: Connection, name: str, mark: str) -> None:
    """Made and marked at once: an unmarked one is somebody else's."""
    schema = quoted(connection, name)
    exists = connection.scalar(
        text("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = :name)"), {"name": name}
    )
    if exists:
        if connection.scalar(_COMMENT_ON_SCHEMA, {"name": name}) != mark:
            raise _not_ours(Model.SCHEMA, name)
        return
    connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    connection.exec_driver_sql(f"COMMENT ON SCHEMA {schema} IS '{mark}'")


def _make_database(connection: Connection, name: str, cluster: str) -> bool:
    """Whether it was made now."""
    if connection.scalar(_DATABASE_EXISTS, {"name": name}):
        return False
    if not connection.scalar(_MAY_MAKE_DATABASES):
        owner = connection.scalar(text("SELECT CURRENT_USER"))
        raise ConfigurationError(
            f"the role {owner!r} may make no databases on {cluster}: as a superuser, ALTER ROLE {owner} CREATEDB"
        )
    connection.exec_driver_sql(f"CREATE DATABASE {quoted(connection, name)} TEMPLATE template0 ENCODING 'UTF8'")
    return True


def _mark_database(place: Place, mark: str) -> None:
    with owning(place) as connection:
        named = quoted(connection, str(place.database))
        connection.exec_driver_sql(f"COMMENT ON DATABASE {named} IS '{mark}'")
        connection.exec_driver_sql(f"REVOKE ALL ON DATABASE {named} FROM PUBLIC")
        connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {named} TO docworker_worker, docworker_dispatcher")
        if connection.scalar(_HAS_PRODUCERS):
            connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {named} TO docworker_producer")


def _not_ours(model: Model, name: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the {model} {name!r} exists and is not this organization's: choose another name with --place-name, "
        "or remove it first"
    )


def _drop_database(connection: Connection, name: str) -> None:
    """With the sessions in it: processes keep connections to the databases that they have used."""
    try:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {quoted(connection, name)} WITH (FORCE)")
    except DBAPIError as error:
        if sqlstate_of(error) != "42501":
            raise
        owner = connection.scalar(text("SELECT CURRENT_USER"))
        raise ConfigurationError(
            f"the role {owner!r} may not drop the database {name!r}, to which processes are connected: "
            f"as a superuser, GRANT pg_signal_backend TO {owner}; then run this again"
        ) from error


def _delete_rows(connection: Connection, organization_id: UUID) -> None:
    """Who refers to others first. A document may refer to a folder, and that to another one: those go at once."""
    for table in reversed(Base.metadata.sorted_tables):
        if table.schema in TENANT_SCHEMAS and "organization_id" in table.columns:
            _delete(connection, table, organization_id)
    connection.execute(delete(Organization).where(Organization.id == organization_id))


def _delete(connection: Connection, table: Table, organization_id: UUID) -> None:
    connection.execute(delete(table).where(table.c.organization_id == organization_id))
