"""`Copying`: the rows of one organization, copied from one place to another in rounds, while they change at the source.

A round reads, in one snapshot of the source, what has changed since the snapshot of the round before, and writes that
at the target: when it has ended, the target equals the source as of that snapshot. The first round copies everything;
after each the next one is shorter. Rows stream from COPY to COPY, so memory does not grow with them.

What has changed is told by `xmin`, the transaction that wrote a row: nothing else has to be kept, switched on or
granted (docs/tenancy.md has what was weighed). What was deleted is told by the keys, where the numbers of rows differ.
Each row carries its checksum, made by the source's server, and the target's server makes it anew of what it has.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.errors import UniqueViolation
from sqlalchemy import (
    ColumnElement,
    Numeric,
    Select,
    Table,
    cast,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from docworker.db.catalog import SHARED_SCHEMA, TENANT_SCHEMAS, Place
from docworker.db.cluster.engines import owner_engine
from docworker.db.errors import DocworkerError
from docworker.db.models import Base, Folder
from docworker.db.models.ledger.attempt import ATTEMPTS
from docworker.db.models.ledger.backlog import BACKLOGS
from docworker.db.models.ledger.gate import GATE_MEMBERS, GATES
from docworker.db.models.ledger.job import JOBS, LIVE_STATES, PAUSES, WEIGHTS
from docworker.db.models.ledger.key import KEY_LIMITS, KEY_RATES_SPENT
from docworker.db.models.ledger.limit import LIMITS, RATES_SPENT
from docworker.db.models.ledger.token import API_TOKENS
from docworker.db.models.ledger.webhook import WEBHOOK_ENDPOINTS
from docworker.db.settings import settings
from docworker.db.tenants.tables import owner_column, rows_in_order

CHUNK_ROWS, CHUNK_BYTES = 2000, 4 * 1024 * 1024

# Which row at the target holds a key that a row on its way needs, and how it is made to let it go. In one snapshot of
# the source no two rows have one key, so the holder has changed or is gone there, and its turn comes.
LETTING_GO = {
    "folders": (
        "held.name = come.name AND held.parent_id IS NOT DISTINCT FROM come.parent_id"
        " AND held.deleted_at IS NULL AND come.deleted_at IS NULL",
        "name = CAST(held.id AS text)",
    ),
    "documents": (
        "held.filename = come.filename AND held.folder_id IS NOT DISTINCT FROM come.folder_id"
        " AND held.deleted_at IS NULL AND come.deleted_at IS NULL",
        "filename = CAST(held.id AS text)",
    ),
    "users": ("lower(held.email) = lower(come.email)", "email = CAST(held.id AS text)"),
    "tags": ("held.name = come.name", "name = CAST(held.id AS text)"),
    "jobs": (
        "(held.kind = come.kind AND held.unique_key = come.unique_key AND held.claimed_at IS NULL"
        " AND held.state IN ('queued', 'dispatched') OR held.order_key = come.order_key"
        " AND held.state IN ('queued', 'dispatched', 'running') AND come.state IN ('queued', 'dispatched', 'running'))",
        "unique_key = NULL, order_key = NULL, order_position = NULL",
    ),
}


class CopiesDifferError(DocworkerError):
    """What was copied is not what was read: something else writes at the target, or a server has lost commits."""


def owned_tables() -> list[Table]:
    """What organizations own besides their jobs; none refers to a later one. Unlike an export a copy has the search
    index as well."""
    return [table for table in Base.metadata.sorted_tables if table.schema in TENANT_SCHEMAS]


def ledger_tables() -> list[Table]:
    """What lies in the ledger of each database of theirs."""
    kept = (
        *(GATE_MEMBERS, GATES, JOBS, PAUSES, WEIGHTS, BACKLOGS, ATTEMPTS, LIMITS, RATES_SPENT),
        *(KEY_LIMITS, KEY_RATES_SPENT, WEBHOOK_ENDPOINTS, API_TOKENS),
    )
    return [table for table in Base.metadata.sorted_tables if table.fullname in kept]


@dataclass(frozen=True)
class Copied:
    """A table, with the rows of it that are copied: all, or, of the ledger before the last round, jobs that have
    ended. The ledger of the target is served, and would send the others. `apart` are those that are copied in any case,
    changed or not. Where the log of the old master was means nothing at the new one."""

    table: Table
    which: ColumnElement[bool] = field(default_factory=true)
    apart: ColumnElement[bool] = field(default_factory=false)
    emptied: frozenset[str] = frozenset()

    @property
    def columns(self) -> list[ColumnElement[Any]]:
        return [null().label(one.name) if one.name in self.emptied else one for one in self.table.c]

    @property
    def keys(self) -> list[str]:
        return [one.name for one in self.table.primary_key]


@dataclass
class Round:
    """`horizon` is the oldest transaction that its snapshot did not see the end of: what was written since has no older
    `xmin`."""

    horizon: int = 0
    rows: int = 0
    deleted: int = 0
    size_bytes: int = 0
    seconds: float = 0.0


class Copying:
    """One organization on its way from `source` to `target`, both connected to as their owner."""

    def __init__(
        self,
        organization_id: UUID,
        source: tuple[Place, psycopg.Connection[Any]],
        target: tuple[Place, psycopg.Connection[Any]],
    ) -> None:
        self._organization_id = organization_id
        self._source_place, self._source = source
        self._target_place, self._target = target
        self._source.isolation_level = IsolationLevel.REPEATABLE_READ
        self._source.read_only = True
        self._has_jobs = source[0][::2] != target[0][::2]  # cluster and database: each has one ledger
        self._made: set[str] = set()

    def tables(self, *, with_live_jobs: bool) -> list[Copied]:
        copied = [Copied(table) for table in owned_tables()]
        if not self._has_jobs:
            return copied
        (jobs,) = (table for table in ledger_tables() if table.fullname == JOBS)
        lives = jobs.c.state.in_(LIVE_STATES)
        emptied = frozenset({"dispatched_lsn"})
        ledger = Copied(jobs, apart=lives, emptied=emptied) if with_live_jobs else Copied(jobs, ~lives, emptied=emptied)
        return [*copied, ledger, *(Copied(table) for table in ledger_tables() if table is not jobs)]

    def count(self) -> int:
        """How many rows the first round will have to read."""
        with self._source.transaction():
            _become(self._source, self._organization_id)
            return sum(self._count(self._source, self._source_place, one) for one in self.tables(with_live_jobs=True))

    def is_empty(self) -> bool:
        """Whether there is nothing of the organization at the target."""
        with self._target.transaction():
            _become(self._target, self._organization_id)
            return not any(
                self._count(self._target, self._target_place, one) for one in self.tables(with_live_jobs=True)
            )

    def run(
        self,
        since: int | None,
        jobs_since: int | None,
        *,
        with_live_jobs: bool = False,
        compare: bool = False,
        on_rows: Callable[[int], None] = lambda _: None,
    ) -> Round:
        """One round. Without a horizon everything is copied, but for what a round that was cut off has copied.

        `compare` has both servers make checksums of all rows, the unchanged ones as well. `on_rows` is called between
        chunks, with the number of rows. Raises CopiesDifferError.
        """
        began, done = time.monotonic(), Round()
        tables = self.tables(with_live_jobs=with_live_jobs)
        with self._source.transaction():
            _become(self._source, self._organization_id)
            done.horizon = self.horizon_of_source()
            for one in tables:
                changed_since = jobs_since if one.table.schema not in TENANT_SCHEMAS else since
                for rows in self._copy(one, changed_since, done):
                    on_rows(rows)
            for one in reversed(tables):
                done.deleted += self._delete_gone(one)
            if compare:
                for one in tables:
                    self._compare(one)
        done.seconds = time.monotonic() - began
        return done

    def analyze(self) -> None:
        """Let the target's planner know what has come; autovacuum may not have looked yet when it is served."""
        for one in self.tables(with_live_jobs=False):
            self._target.execute(sql.SQL("ANALYZE {}").format(self._identifier(one, self._target_place)))

    def horizon_of_source(self) -> int:
        """From when on the source's rows have changed."""
        return _horizon(self._source)

    def horizon_of_target(self) -> int:
        """From when on the target's rows have changed, for a way back."""
        return _horizon(self._target)

    def _copy(self, one: Copied, since: int | None, done: Round) -> Iterator[int]:
        self._make_room(one)
        for chunk, count, size in _chunks(self._source, self._reading(one, since)):
            with self._target.transaction():
                _become(self._target, self._organization_id)
                self._write(one, chunk)
            done.rows += count
            done.size_bytes += size
            yield count

    def _reading(self, one: Copied, since: int | None) -> str:
        """COPY of the changed rows, each with its checksum."""
        checksum: ColumnElement[str] = literal_column(_checksum(_text_of(one, one.table.name)))
        rows = rows_in_order(one.table, self._organization_id, *one.columns, checksum).where(one.which)
        if since is not None:
            # Times of transactions run in circles; `age` is how many there have been since. A row that was written
            # half a circle ago counts as changed, which does no harm.
            changed: ColumnElement[bool] = literal_column(
                f"age({one.table.name}.xmin) <= age(CAST('{since % 2**32}' AS xid))"
            )
            rows = rows.where(or_(changed, one.apart))
        elif (last := self._last_copied(one)) is not None:
            rows = rows.where(or_(tuple_(*one.table.primary_key) > tuple_(*last), one.apart))
        return self._sql(rows, self._source_place)

    def _mine(self, rows: Select[Any], one: Copied) -> Select[Any]:
        return rows.where(owner_column(one.table) == self._organization_id, one.which)

    def _last_copied(self, one: Copied) -> Sequence[Any] | None:
        """Of a first round that was cut off. What has changed before that place, the next round finds."""
        if one.table is Folder.__table__:
            return None  # which does not come in the order of its keys
        keys = self._mine(select(*one.table.primary_key), one)
        last = keys.order_by(*(key.desc() for key in one.table.primary_key)).limit(1)
        with self._target.transaction():
            _become(self._target, self._organization_id)
            found = self._target.execute(self._sql(last, self._target_place).encode()).fetchone()
        return None if found is None else tuple(found)

    def _make_room(self, one: Copied) -> None:
        if one.table.name in self._made:
            return
        self._made.add(one.table.name)
        room = {"room": _room(one), "like": self._identifier(one, self._target_place)}
        self._target.execute(sql.SQL("CREATE TEMP TABLE {room} (LIKE {like}, row_checksum text)").format(**room))

    def _write(self, one: Copied, chunk: Sequence[bytes]) -> None:
        self._target.execute(sql.SQL("TRUNCATE {}").format(_room(one)))
        with (
            self._target.cursor() as cursor,
            cursor.copy(
                sql.SQL("COPY {} ({}) FROM STDIN").format(_room(one), _names([*one.table.c.keys(), "row_checksum"]))
            ) as into,
        ):
            for row in chunk:
                into.write(row)
        try:
            with self._target.transaction():
                self._insert(one)
        except UniqueViolation:
            self._let_go(one)
            self._insert(one)
        differing = self._target.execute(self._differing(one)).fetchone()
        if differing is not None and differing[0]:
            raise self._differ(one, f"{differing[0]} of {len(chunk)} rows just written have another checksum")

    def _insert(self, one: Copied) -> None:
        columns = one.table.c.keys()
        others = [name for name in columns if name not in one.keys] or columns
        self._target.execute(
            sql.SQL(
                "INSERT INTO {table} AS held ({names}) SELECT {names} FROM {room} ON CONFLICT ({keys}) DO UPDATE"
                " SET ({others}) = ROW({given}) WHERE ROW({held}) IS DISTINCT FROM ROW({given})"
            ).format(
                table=self._identifier(one, self._target_place),
                names=_names(columns),
                room=_room(one),
                keys=_names(one.keys),
                others=_names(others),
                given=_names(others, "excluded"),
                held=_names(others, "held"),
            )
        )

    def _let_go(self, one: Copied) -> None:
        holds, change = LETTING_GO[one.table.name]
        self._target.execute(
            sql.SQL(
                "UPDATE {table} AS held SET {change} FROM {room} AS come"
                " WHERE held.{owner} = {organization} AND held.id <> come.id AND {holds}"
            ).format(
                table=self._identifier(one, self._target_place),
                change=sql.SQL(change),
                room=_room(one),
                owner=sql.Identifier(owner_column(one.table).name),
                organization=sql.Literal(self._organization_id),
                holds=sql.SQL(holds),
            )
        )

    def _differing(self, one: Copied) -> sql.Composed:
        return sql.SQL(
            "SELECT count(*) FROM {room} AS come LEFT JOIN {table} AS held ON {same}"
            " WHERE {checksum} IS DISTINCT FROM come.row_checksum"
        ).format(
            room=_room(one),
            table=self._identifier(one, self._target_place),
            same=_same_keys(one, "come"),
            checksum=sql.SQL(_checksum(_text_of(one, "held"))),
        )

    def _delete_gone(self, one: Copied) -> int:
        there = self._count(self._source, self._source_place, one)
        if there == self._count_at_target(one):
            return 0
        keys = self._mine(select(*one.table.primary_key), one)
        with self._target.transaction():
            _become(self._target, self._organization_id)
            self._target.execute(
                sql.SQL("CREATE TEMP TABLE pg_temp.keys_there ON COMMIT DROP AS SELECT {} FROM {} LIMIT 0").format(
                    _names(one.keys), _room(one)
                )
            )
            with self._target.cursor() as cursor, cursor.copy("COPY pg_temp.keys_there FROM STDIN") as into:
                for row in _stream(self._source, self._sql(keys, self._source_place)):
                    into.write(row)
            self._target.execute("ANALYZE pg_temp.keys_there")
            deleted = self._target.execute(
                sql.SQL(
                    "DELETE FROM {table} AS held WHERE held.{owner} = {organization} AND {which}"
                    " AND NOT EXISTS (SELECT FROM pg_temp.keys_there AS there WHERE {same})"
                ).format(
                    table=self._identifier(one, self._target_place),
                    owner=sql.Identifier(owner_column(one.table).name),
                    organization=sql.Literal(self._organization_id),
                    which=self._which(one),
                    same=_same_keys(one, "there"),
                )
            ).rowcount
        here = self._count_at_target(one)
        if there != here:
            raise self._differ(one, f"{there} rows at the source and {here} at the target")
        return deleted

    def _which(self, one: Copied) -> sql.SQL:
        condition = one.which.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True})
        return sql.SQL(str(condition).replace(f"{one.table.fullname}.", "held."))

    def _compare(self, one: Copied) -> None:
        """Of all rows at once, in whatever order."""
        total: ColumnElement[int] = literal_column(
            f"sum(CAST(CAST('x' || left({_checksum(_text_of(one, one.table.name))}, 15) AS bit(60)) AS bigint))"
        )
        rows = self._mine(select(func.count(), cast(total, Numeric)).select_from(one.table), one)
        there = self._source.execute(self._sql(rows, self._source_place).encode()).fetchone()
        with self._target.transaction():
            _become(self._target, self._organization_id)
            here = self._target.execute(self._sql(rows, self._target_place).encode()).fetchone()
        if there != here:
            raise self._differ(one, f"count and checksum are {there} at the source and {here} at the target")

    def _differ(self, one: Copied, how: str) -> CopiesDifferError:
        return CopiesDifferError(
            f"the copies of {one.table.name} differ: {how}; something else writes at the target, or a server has lost "
            "commits in a failover: run the move again, it copies everything anew"
        )

    def _count_at_target(self, one: Copied) -> int:
        with self._target.transaction():
            _become(self._target, self._organization_id)
            return self._count(self._target, self._target_place, one)

    def _count(self, connection: psycopg.Connection[Any], place: Place, one: Copied) -> int:
        rows = self._mine(select(literal_column("count(*)")).select_from(one.table), one)
        found = connection.execute(self._sql(rows, place).encode()).fetchone()
        assert found is not None
        return int(found[0])

    def _identifier(self, one: Copied, place: Place) -> sql.Identifier:
        schema = (
            place.schema if one.table.schema in TENANT_SCHEMAS and place.schema != SHARED_SCHEMA else one.table.schema
        )
        return sql.Identifier(str(schema), one.table.name)

    def _sql(self, statement: Select[Any], place: Place) -> str:
        own = place.schema != SHARED_SCHEMA
        translated = {schema: place.schema if own else schema for schema in TENANT_SCHEMAS}
        return str(
            statement.compile(
                dialect=_DIALECT,
                schema_translate_map=translated,
                render_schema_translate=True,
                compile_kwargs={"literal_binds": True},
            )
        )


_DIALECT: Any = PGDialect_psycopg()  # type: ignore[no-untyped-call]


@contextmanager
def owner_connection(place: Place) -> Iterator[psycopg.Connection[Any]]:
    """A connection of its own in autocommit, as the owner of the place's database."""
    engine = owner_engine(settings(), place.cluster, place.database)
    try:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.autocommit = True
            yield driver
    finally:
        engine.dispose()


def _become(connection: psycopg.Connection[Any], organization_id: UUID) -> None:
    """The owner is under row-level security as well. The gates of jobs are copied as they are: no job that is written
    here moves one."""
    connection.execute(
        "SELECT pg_catalog.set_config('docworker.organization_id', %s, true),"
        " pg_catalog.set_config('docworker.copying', 'on', true)",
        [str(organization_id)],
    )


def _horizon(connection: psycopg.Connection[Any]) -> int:
    found = connection.execute(
        "SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
    ).fetchone()
    assert found is not None
    return int(found[0])


def _stream(connection: psycopg.Connection[Any], query: str) -> Iterator[bytes]:
    """The rows as COPY has them, one by one."""
    with connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as rows:
        for row in rows:
            yield bytes(row)


def _chunks(connection: psycopg.Connection[Any], query: str) -> Iterator[tuple[list[bytes], int, int]]:
    chunk, size = list[bytes](), 0
    for row in _stream(connection, query):
        chunk.append(row)
        size += len(row)
        if len(chunk) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            yield chunk, len(chunk), size
            chunk, size = [], 0
    if chunk:
        yield chunk, len(chunk), size


def _checksum(row_text: str) -> str:
    return f"encode(sha256(convert_to({row_text}, 'UTF8')), 'hex')"


def _text_of(one: Copied, alias: str) -> str:
    """A row as one text, the same on every server."""
    columns = (
        f"CAST(NULL AS {column.type.compile(_DIALECT)})"
        if column.name in one.emptied
        else f"{alias}.{_quoted(column.name)}"
        for column in one.table.c
    )
    return f"CAST(ROW({','.join(columns)}) AS text)"


def _room(one: Copied) -> sql.Identifier:
    return sql.Identifier("pg_temp", f"coming_{one.table.name}")


def _quoted(name: str) -> str:
    return str(_DIALECT.identifier_preparer.quote(name))


def _names(names: Sequence[str], qualifier: str | None = None) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(*([qualifier] if qualifier else []), name) for name in names)


def _same_keys(one: Copied, other: str) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("held.{0} = {1}.{0}").format(sql.Identifier(name), sql.Identifier(other)) for name in one.keys
    )
