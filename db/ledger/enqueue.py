"""Jobs enter the ledger: one INSERT in the producer's own transaction.

Jobs with a `unique_key` fold: while an equal one waits unclaimed, it takes the new arguments instead of a second job.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text

from db.errors import InvalidArgumentError
from db.models.base import new_id

_INSERT = """
INSERT INTO ledger.jobs (organization_id, id, kind, arguments, state, priority, run_at, unique_key,
                         attempt, max_attempts, faults, alone, dispatches, parent_id)
SELECT :organization_id, new.id, :kind, new.arguments::jsonb, 'queued', :priority,
       coalesce(CAST(:run_at AS timestamptz), clock_timestamp()), new.unique_key,
       0, :max_attempts, 0, false, 0, CAST(:parent_id AS uuid)
FROM unnest(CAST(:ids AS uuid[]), CAST(:arguments AS text[]), CAST(:unique_keys AS text[]))
     WITH ORDINALITY AS new (id, arguments, unique_key, position)
ORDER BY new.position
"""
# An id that is there already is the same job, enqueued twice.
_INSERT_BY_ID = text(_INSERT + "ON CONFLICT (organization_id, id) DO NOTHING RETURNING id")
# DO NOTHING would lose the second change when the first job has just been read; a claimed job never folds.
_INSERT_BY_KEY = text(
    _INSERT
    + """
ON CONFLICT (organization_id, kind, unique_key)
    WHERE unique_key IS NOT NULL AND claimed_at IS NULL AND state IN ('queued', 'dispatched')
DO UPDATE SET arguments = excluded.arguments,
              run_at = least(jobs.run_at, excluded.run_at),
              priority = least(jobs.priority, excluded.priority),
              dispatched_lsn = NULL
RETURNING id, unique_key"""
)


@dataclass(frozen=True)
class Enqueued:
    """An INSERT ready to run on a Session or an AsyncSession, and how to read the job ids from its answer."""

    statement: TextClause
    parameters: dict[str, Any]
    keys: Sequence[str] | None

    def ids(self, rows: Sequence[Any]) -> list[UUID]:
        """The ids in the order of the call; folded jobs give the id of the job they folded into."""
        if self.keys is None:
            return list(self.parameters["ids_in_order"])
        by_key = {row.unique_key: row.id for row in rows}
        return [by_key[key] for key in self.keys]


def enqueue_statement(
    organization_id: UUID,
    kind: str,
    arguments: Sequence[Mapping[str, Any]],
    *,
    max_attempts: int,
    priority: int = 5,
    run_at: datetime | None = None,
    unique_keys: Sequence[str] | None = None,
    ids: Sequence[UUID] | None = None,
    parent_id: UUID | None = None,
) -> Enqueued:
    """Rows are sorted by key, so that two producers that fold the same keys never wait for each other in a circle."""
    ids_in_order = list(ids) if ids is not None else [new_id() for _ in arguments]
    keys: Sequence[str | None] = [None] * len(arguments) if unique_keys is None else unique_keys
    rows = zip(ids_in_order, map(_as_json, arguments), keys, strict=True)
    if unique_keys is None:
        chosen = sorted(rows, key=lambda row: row[0])
    else:
        last_of_each_key = {row[2]: row for row in rows}
        chosen = sorted(last_of_each_key.values(), key=lambda row: str(row[2]))
    parameters = {
        "organization_id": organization_id,
        "kind": kind,
        "priority": priority,
        "run_at": run_at,
        "max_attempts": max_attempts,
        "parent_id": parent_id,
        "ids": [row[0] for row in chosen],
        "arguments": [row[1] for row in chosen],
        "unique_keys": [row[2] for row in chosen],
        "ids_in_order": ids_in_order,
    }
    return Enqueued(_INSERT_BY_ID if unique_keys is None else _INSERT_BY_KEY, parameters, unique_keys)


def _as_json(arguments: Mapping[str, Any]) -> str:
    """What jsonb would refuse is refused here, before it costs the producer its transaction."""
    try:
        made = json.dumps(arguments, allow_nan=False, ensure_ascii=False)
        made.encode()
    except ValueError as error:
        raise InvalidArgumentError(f"arguments cannot be kept as JSON: {error}") from None
    if "\\u0000" in made.replace("\\\\", ""):
        raise InvalidArgumentError("arguments cannot be kept as JSON: a text in them holds a NUL character")
    return made
