"""Alembic's environment: connects as the owner, one migrator for each target, never waiting long for a lock.

In the schema of an organization each revision's `upgrade_tenant(schema)` runs, where it has one; see `runner`.
"""

import time
from typing import Any

from alembic import context
from sqlalchemy import Connection, func, select, text

from docworker.db.errors import NotFoundError
from docworker.db.models import Base
from docworker.migrations.target import Target

SCHEMAS = ("app", "auth", "ledger", "catalog")
ONE_MIGRATOR = 0x646F6377  # any number that nobody else uses as an advisory lock
LOCK_TIMEOUT = text("SET lock_timeout = '5s'")

target: Target = context.config.attributes.get("target", Target())


def _ours(name: str | None, kind: str, _parents: Any) -> bool:
    return kind != "schema" or name in SCHEMAS


def _await_turn(connection: Connection) -> None:
    """Not by a lock that is waited for: who builds an index waits until such a statement is over, and we for them."""
    of_schema = () if target.schema is None else (func.hashtext(target.schema),)
    while not connection.scalar(select(func.pg_catalog.pg_try_advisory_lock(ONE_MIGRATOR, *of_schema))):
        connection.rollback()
        time.sleep(0.1)


def _look_for_schema(connection: Connection) -> None:
    there = text("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = :name)")
    if target.schema is not None and not connection.scalar(there, {"name": target.schema}):
        raise NotFoundError(f"{target}: there is no such schema: it is made before it is migrated")


def migrate() -> None:
    engine = target.engine()
    with engine.connect() as connection:
        _await_turn(connection)
        _look_for_schema(connection)
        connection.execute(LOCK_TIMEOUT)
        connection.commit()
        run(connection=connection)
    engine.dispose()


def run(**where: Any) -> None:
    context.configure(
        target_metadata=Base.metadata,
        include_schemas=True,
        include_name=_ours,
        version_table_schema=target.schema or "public",
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
        **where,
    )
    if context.is_offline_mode():
        context.execute(LOCK_TIMEOUT)
    with context.begin_transaction():
        context.run_migrations(**({} if target.schema is None else {"schema": target.schema}))


if context.is_offline_mode():
    run(dialect_name="postgresql", literal_binds=True)
else:
    migrate()
