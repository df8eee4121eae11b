"""`cancel_tree`, `retry_tree`: a job, its children and theirs, and what waits for any of them.

However large the tree is, a transaction changes two hundred of its jobs at most: each of them counts at the same gate,
and a row that changes again and again in one transaction is found ever more slowly. What waits for others is cancelled
before these and run again behind them, all of it at once; so nothing is let go meanwhile that is to be cancelled.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.ledger.control import BY_KEY, CANCEL, RETRY, Change, Key, change_keys, get
from docworker.db.models.ledger.gate import GATE_MEMBERS
from docworker.db.models.ledger.job import JOBS, JobState

# By their keys, not by an index of their states.
_TREE = text(f"""
WITH RECURSIVE tree AS (
    SELECT CAST(:organization_id AS uuid) AS organization_id, CAST(:id AS uuid) AS id
    UNION
    SELECT tree.organization_id, next.id FROM tree CROSS JOIN LATERAL (
        SELECT child.id FROM {JOBS} AS child
        WHERE child.organization_id = tree.organization_id AND child.parent_id = tree.id
        UNION ALL
        SELECT member.gate_id FROM {GATE_MEMBERS} AS member
        WHERE member.organization_id = tree.organization_id AND member.job_id = tree.id
        OFFSET 0
    ) AS next
)
SELECT job.organization_id, job.id, job.gated FROM tree
CROSS JOIN LATERAL (
    SELECT organization_id, id, gated, created_at FROM {JOBS} AS one
    WHERE one.organization_id = tree.organization_id AND one.id = tree.id AND one.state || '' = ANY(:states)
    OFFSET 0
) AS job
ORDER BY job.gated, job.created_at, job.id
""")
_RETRY = RETRY._replace(states=(JobState.FAILED, JobState.CANCELLED))


_CHUNK = 200
"""Jobs that a transaction changes at most."""

Sessions = Callable[[], AbstractContextManager[Session]]


def cancel_tree(sessions: Sessions, job_id: UUID) -> Iterator[list[UUID]]:
    """CANCEL what is live of the tree, also children that come while it is cancelled; gives the ids of each transaction
    when it is committed. Raises NotFoundError."""
    is_changed = True
    # A parent that is cancelled adds nothing: what it has added before that is seen by the next look.
    while is_changed:
        is_changed = False
        plain, gated = _members(sessions, CANCEL, job_id)
        for keys in [*([gated] if gated else []), *_chunks(plain)]:
            with sessions() as session:
                changed = change_keys(session, CANCEL, keys, skip_locked=False)
            if changed:
                is_changed = True
                yield changed


def retry_tree(sessions: Sessions, job_id: UUID) -> Iterator[list[UUID]]:
    """RETRY what has failed of the tree or was cancelled; what waits for others waits again. What has succeeded is not
    run again. Gives the ids of each transaction when it is committed. Raises NotFoundError."""
    plain, gated = _members(sessions, _RETRY, job_id)
    for keys in _chunks(plain):
        with sessions() as session:
            changed = change_keys(session, _RETRY, keys, skip_locked=False)
        yield changed
    if gated:
        with sessions() as session:
            for key in gated:  # one by one: each looks whether what it waits for is live again
                change_keys(session, _RETRY, [key], skip_locked=False)
        yield [job_id for _, job_id in gated]


def _chunks(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    return (keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK))


def _members(sessions: Sessions, change: Change, job_id: UUID) -> tuple[list[Key], list[Key]]:
    """Those that are in such a state, and those of them behind gates, in the order they came in."""
    with sessions() as session:
        organization_id = get(session, job_id).organization_id
        session.execute(BY_KEY)
        states = [str(one) for one in change.states]
        rows = session.execute(_TREE, {"organization_id": organization_id, "id": job_id, "states": states}).all()
    plain: list[Key] = [(row.organization_id, row.id) for row in rows if not row.gated]
    return plain, [(row.organization_id, row.id) for row in rows if row.gated]
