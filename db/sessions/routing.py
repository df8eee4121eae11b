"""`RoutingSession`: one session for reads and writes; reads that surely are reads go to a replica, everything else to
the master.

Jobs do not use it: they say which they want with `reading()` and `writing()`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, TextClause, event
from sqlalchemy.orm import SessionTransaction
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ClauseElement, ColumnClause
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import CompoundSelect, Select

from docworker.db.cluster.balancer import ReadFrom
from docworker.db.cluster.positions import WalPosition
from docworker.db.errors import InvalidArgumentError
from docworker.db.sessions.opening import Placed, open_reading, placed
from docworker.db.sessions.statement_watch import StatementCounts
from docworker.db.sessions.tenant_session import TenantSession

# Functions that change nothing and lock nothing. Any other may, and goes to the master.
_ONLY_READS = frozenset(
    """
    abs array_agg array_length avg bool_and bool_or cast ceil char_length coalesce concat concat_ws count
    cume_dist current_date current_timestamp date_part date_trunc dense_rank every exists extract first_value
    floor greatest json_agg json_build_object jsonb_agg jsonb_build_object jsonb_extract_path
    jsonb_extract_path_text lag last_value lead least left length localtime localtimestamp lower lpad ltrim
    max md5 min mod now ntile nullif numnode octet_length percent_rank phraseto_tsquery plainto_tsquery
    position rank regexp_replace replace reverse right round row_number row_to_json rpad rtrim split_part
    string_agg strpos substr substring sum to_char to_date to_json to_jsonb to_tsquery to_tsvector trim
    ts_headline ts_rank ts_rank_cd unnest upper websearch_to_tsquery
    """.split()  # noqa: SIM905  a hundred lines otherwise
)


class RoutingSession(TenantSession):
    """Plain SELECTs go to a replica until the session writes, or may have written; from then on to the master.

    A SELECT is plain when it locks nothing, has no textual SQL in it, and calls only functions known to read. The
    replica has replayed `position`, if one is given; it stays the same one within a transaction. `using("master")`
    sends everything to the master, `using("replica")` also what is not known to be a read (it fails if it writes).

    Its first write raises MovingOrganizationError when the organization has left its place since it was
    opened.
    """

    def __init__(
        self,
        organization_id: UUID | None,
        *,
        position: WalPosition | None = None,
        where: Placed | None = None,
        pause: Callable[[float], None] = time.sleep,
        **options: Any,
    ) -> None:
        where = where or placed(organization_id)
        super().__init__(
            where.cluster.master, organization_id, where.settings, schema=where.schema, fence=where.fence, **options
        )
        self.position = position
        self._where = where
        self._pause = pause
        self._reader: TenantSession | None = None
        self._forced: ReadFrom | None = None
        self._wrote = False
        self._counts: list[StatementCounts] = []

    @property
    def stays_on_master(self) -> bool:
        """Whether this session has written, or may have: its reads then see its own writes."""
        return self._wrote

    @contextmanager
    def using(self, target: ReadFrom) -> Iterator[None]:
        """Send every statement of the block to `target`.

        Raises InvalidArgumentError for the replica when the session has written: it would not see its own writes.
        """
        if target == "replica" and self._wrote:
            raise InvalidArgumentError(
                "this session has written: a replica may not have that yet, read from the master"
            )
        before, self._forced = self._forced, target
        try:
            yield
        finally:
            self._forced = before

    def get_bind(
        self,
        mapper: Any = None,  # noqa: ARG002
        *,
        clause: Any = None,
        bind: Any = None,
        **_: Any,
    ) -> Engine | Connection:
        if bind is not None:
            return bind  # type: ignore[no-any-return]
        if self._forced == "replica" and clause is not None and not self._changes():
            return self._replica()
        reads = clause is not None and is_surely_a_read(clause)
        if not reads:
            self._wrote = True
        if self._wrote or self._forced == "master" or self._changes() or self.in_nested_transaction():
            return self.master
        return self._replica()

    def begun(self, connection: Connection) -> None:
        if self._reader is None or connection is not self._reader.connection():
            super().begun(connection)

    def close(self) -> None:
        super().close()
        self.release_reader()

    def release_reader(self) -> None:
        """The transaction is over: the next one chooses a replica afresh."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def watch_statements(self, counts: StatementCounts) -> None:
        super().watch_statements(counts)
        self._counts.append(counts)
        if self._reader is not None:
            self._reader.watch_statements(counts)

    def _changes(self) -> bool:
        return bool(self._flushing or self.new or self.deleted or self.identity_map.check_modified())

    def _replica(self) -> Engine | Connection:
        """The connection of the replica this transaction reads from; the master's engine when there is none."""
        if self._reader is None:
            reader = open_reading(
                self._where,
                self.organization_id,
                self.position,
                "replica",
                pause=self._pause,
                open_session=self.open_session,
            )
            if reader.choice is None or reader.choice.number is None:
                reader.close()
                return self.master
            for counts in self._counts:
                reader.watch_statements(counts)
            self._reader = reader
        return self._reader.connection()


@event.listens_for(RoutingSession, "after_transaction_end")
def _ended(session: RoutingSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.release_reader()


def is_surely_a_read(clause: ClauseElement) -> bool:
    """Whether executing this can neither change nor lock anything, as far as can be told without asking a server."""
    if not isinstance(clause, Select | CompoundSelect):
        return False
    return all(_only_reads(element) for element in visitors.iterate(clause))


def _only_reads(element: Any) -> bool:
    if getattr(element, "_for_update_arg", None) is not None or getattr(element, "is_dml", False):
        return False
    if isinstance(element, TextClause):
        return False
    if isinstance(element, ColumnClause) and element.is_literal and element.name != "*":
        return False
    if (
        getattr(element, "_prefixes", ())
        or getattr(element, "_suffixes", ())
        or getattr(element, "_statement_hints", ())
    ):
        return False
    if isinstance(element, FunctionElement):
        names = [*getattr(element, "packagenames", ()), getattr(element, "name", "")]
        return len(names) == 1 and names[0].lower() in _ONLY_READS
    return True
