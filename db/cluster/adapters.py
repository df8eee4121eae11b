"""`register`: has psycopg read values that Python cannot hold as the nearest that it can, so one row never stops the
others.

psycopg raises for a time before the year 1 or after 9999 and for JSON that is too deep or holds a number of thousands
of digits, and with that row the whole answer is lost. Such values can only come from other programs: `db.ledger.values`
refuses them.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import postgres
from psycopg.adapt import AdaptersMap, Buffer, Loader
from psycopg.pq import Format
from psycopg.types.json import set_json_loads

BEFORE_ALL = datetime(1, 1, 2, tzinfo=UTC)
AFTER_ALL = datetime(9999, 12, 30, tzinfo=UTC)
"""With a day to spare, so that they can be shown in every time zone."""

_TIMESTAMPTZ = postgres.types["timestamptz"].oid


class Unreadable(str):
    """Stands for JSON that cannot be read; says why."""

    __slots__ = ()


def register(adapters: AdaptersMap) -> None:
    """Have the connections of these adapters read whatever comes."""
    exact = adapters.get_loader(_TIMESTAMPTZ, Format.TEXT)
    assert exact is not None
    adapters.register_loader(_TIMESTAMPTZ, _nearest_time_loader(exact))
    set_json_loads(_load_json, adapters)


def _nearest_time_loader(exact: Any) -> type[Loader]:
    class NearestTimeLoader(Loader):
        format = Format.TEXT

        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._load: Callable[[Buffer], datetime] = exact(oid, context).load

        def load(self, data: Buffer) -> datetime:
            try:
                return self._load(data)
            except psycopg.DataError:
                told = bytes(data)
                return BEFORE_ALL if told.startswith(b"-") or told.endswith(b"BC") else AFTER_ALL

    return NearestTimeLoader


def _load_json(data: str | bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"cannot be read: {error}")
