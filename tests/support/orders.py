"""The shop of docs/migrations.md: an application's own table, its phases as the page has them, and its backfill."""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg

from docworker.worker.local.stack import LocalStack
from tests.support.project import PROJECT

_PAGE = (PROJECT / "docs" / "migrations.md").read_text().split("## From a number to a UUID", 1)[1]


def _block(part: str, language: str) -> str:
    """The first one of it."""
    return part.split(f"```{language}\n", 1)[1].split("```", 1)[0]


_PHASES = {part.split(".**", 1)[0]: _block(part, "sql") for part in _PAGE.split("\n**")[1:]}
_CODE = _block(_PAGE, "python")

_defined: dict[str, Any] = {"__name__": __name__}
exec(_CODE, _defined)
order_uids = _defined["order_uids"]


class Shop:
    """Its schema in a database, as an owner of its own."""

    def __init__(self, stack: LocalStack, database: str) -> None:
        with suppress(psycopg.errors.DuplicateObject):
            stack.master.execute("CREATE ROLE shop LOGIN PASSWORD 'secret'")
        stack.master.execute("CREATE SCHEMA shop AUTHORIZATION shop", database=database)
        self.url = stack.master.url("shop", "secret", database)
        self.execute(*_statements(_PHASES["Before"]))

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for one in statements:
                connection.execute(one.encode())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def up(self, phase: str) -> None:
        self.execute(*_statements(_PHASES[phase].split("-- down\n")[0]))

    def down(self, phase: str) -> None:
        self.execute(*_statements(_PHASES[phase].split("-- down\n")[1]))

    def fill(self, organization_id: UUID, rows: int) -> None:
        self.execute(
            "INSERT INTO shop.orders (organization_id, note)"
            f" SELECT '{organization_id}', 'note ' || n FROM generate_series(1, {rows}) AS n"
        )


def _statements(script: str) -> Sequence[str]:
    return [one.strip() for one in re.sub(r"--.*", "", script).split(";") if one.strip()]
