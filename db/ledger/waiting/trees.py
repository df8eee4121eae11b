"""`cancel_tree`, `retry_tree`: a job, its children and theirs, and what waits for any of them, in one transaction."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.ledger.control import CANCEL, RETRY, Change, Key, change_keys, get
from docworker.db.models.ledger.gate import GATE_MEMBERS
from docworker.db.models.ledger.job import JOBS, JobState

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
    ) AS next
)
SELECT job.organization_id, job.id, job.gated FROM tree
CROSS JOIN LATERAL (
    SELECT organization_id, id, gated, created_at FROM {JOBS} AS one
    WHERE one.organization_id = tree.organization_id AND one.id = tree.id AND one.state = ANY(:states)
) AS job
ORDER BY job.gated, job.created_at, job.id
""")
_RETRY = RETRY._replace(states=(JobState.FAILED, JobState.CANCELLED))


def cancel_tree(session: Session, job_id: UUID) -> list[UUID]:
    """CANCEL what is live of the tree, also children that come while it is cancelled; returns the ids. Raises
    NotFoundError."""
    organization_id = get(session, job_id).organization_id
    cancelled: list[UUID] = []
    # At once, so that none of those that wait is let go by the end of another. A parent that is cancelled adds nothing:
    # what it has added before that is seen by the next look.
    while keys := [key for key, _ in _members(session, CANCEL, organization_id, job_id)]:
        changed = change_keys(session, CANCEL, keys, skip_locked=False)
        cancelled += changed
        if not changed:
            break
    return cancelled


def retry_tree(session: Session, job_id: UUID) -> list[UUID]:
    """RETRY what has failed of the tree or was cancelled; what waits for others waits again. What has succeeded is not
    run again. Returns the ids. Raises NotFoundError."""
    organization_id = get(session, job_id).organization_id
    members = _members(session, _RETRY, organization_id, job_id)
    plain = [key for key, is_gated in members if not is_gated]
    retried = change_keys(session, _RETRY, plain, skip_locked=False) if plain else []
    for key in (key for key, is_gated in members if is_gated):
        # One by one, in the order they came in: each looks whether what it waits for is live again.
        is_retried = change_keys(session, _RETRY, [key], skip_locked=False)
        retried += is_retried or [key[1]]
    return retried


def _members(session: Session, change: Change, organization_id: UUID, job_id: UUID) -> list[tuple[Key, bool]]:
    """Those that are in such a state; those behind gates last, in the order they came in."""
    rows = session.execute(
        _TREE, {"organization_id": organization_id, "id": job_id, "states": [str(one) for one in change.states]}
    )
    return [((row.organization_id, row.id), row.gated) for row in rows]
