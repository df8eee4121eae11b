"""`Statement`: prepared once per connection, past psycopg, and sent along with others with its values as text.

psycopg sends each statement by itself. These are sent with the BEGIN before them or the COMMIT behind them, in one
exchange (`db.cluster.roundtrip`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Statement:
    """SQL with `:names`, each of a type of PostgreSQL. It is prepared once per connection, under a name of its own;
    behind a pooler, where nothing stays prepared, its values stand in the text."""

    name: str
    sql: str
    types: Mapping[str, str]

    @cached_property
    def preparation(self) -> str:
        places = {name: f"${number}" for number, name in enumerate(self.types, 1)}
        types = f"({','.join(self.types.values())})" if self.types else ""
        return f"PREPARE {self.name}{types} AS {self._with(places)}"

    def executed(self, literals: Mapping[str, str]) -> str:
        values = f"({','.join(literals[name] for name in self.types)})" if self.types else ""
        return f"EXECUTE {self.name}{values}"

    def plain(self, literals: Mapping[str, str]) -> str:
        return self._with({name: f"CAST({literals[name]} AS {kind})" for name, kind in self.types.items()})

    def _with(self, places: Mapping[str, str]) -> str:
        return re.sub(r"(?<!:):(\w+)", lambda name: places[name[1]], self.sql)


def stays_prepared(driver: Any) -> bool:
    """Whether this psycopg connection has one server process to itself, and keeps count of what is prepared on it."""
    return driver.prepare_threshold is not None and hasattr(driver, "prepared")
