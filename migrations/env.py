"""Alembic's environment: connects as the owner, one migrator at a time, never waiting long for a lock."""

import time
from typing import Any

from alembic import context
from sqlalchemy import Connection, text

from docworker.db.cluster.engines import owner_engine
from docworker.db.models import Base
from docworker.db.settings import settings

SCHEMAS = ("app", "auth", "ledger", "catalog")
ONE_MIGRATOR = 0x646F6377  # any number that nobody else uses as an advisory lock


def _ours(name: str | None, kind: str, _parents: Any) -> bool:
    return kind != "schema" or name in SCHEMAS


def _await_turn(connection: Connection) -> None:
    """Not by a lock that is waited for: who builds an index waits until such a statement is over, and we for them."""
    turn = text("SELECT pg_catalog.pg_try_advisory_lock(:key)").bindparams(key=ONE_MIGRATOR)
    while not connection.scalar(turn):
        connection.rollback()
        time.sleep(0.1)


def run() -> None:
    engine = owner_engine(settings())
    with engine.connect() as connection:
        _await_turn(connection)
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            include_schemas=True,
            include_name=_ours,
            version_table_schema="public",
            compare_type=True,
            compare_server_default=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


if context.is_offline_mode():
    raise SystemExit("docworker's migrations need a live database: give DOCWORKER_OWNER_URL and leave out --sql")
run()
