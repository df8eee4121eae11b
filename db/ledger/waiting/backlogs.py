"""`set_backlog`, `remove_backlog`, `backlogs`, `count_backlogs`: how many due jobs an organization may have waiting.

Who enqueues is refused by what was counted last (`ledger.has_room`), so a bound is passed by what is enqueued between
two counts, which a dispatcher makes about once a second.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from docworker.db.ledger.values import check_integer
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.models.ledger.backlog import BACKLOGS, Backlog
from docworker.db.models.ledger.job import JOBS, READY

LARGEST = 1_000_000_000

# Organizations are found one behind the other, and of each no more jobs are counted than its bound and one. Rows that
# stay as they are are not written.
_COUNT = text(f"""
WITH RECURSIVE every AS (
    SELECT most FROM {BACKLOGS} WHERE organization_id = :every AND most IS NOT NULL
), owner AS (
    SELECT (SELECT organization_id FROM {JOBS} WHERE {READY} ORDER BY organization_id LIMIT 1) AS organization_id
    WHERE EXISTS (SELECT FROM every)
    UNION ALL
    SELECT (SELECT job.organization_id FROM {JOBS} AS job
            WHERE {READY} AND job.organization_id > owner.organization_id ORDER BY job.organization_id LIMIT 1)
    FROM owner WHERE owner.organization_id IS NOT NULL
), bounded AS (
    SELECT organization_id, coalesce(own.most, (SELECT most FROM every)) AS bound
    FROM owner FULL JOIN {BACKLOGS} AS own USING (organization_id)
    WHERE organization_id <> :every
), counted AS MATERIALIZED (
    SELECT organization_id, bound, (
        SELECT count(*) FROM (
            SELECT FROM {JOBS} AS job WHERE job.organization_id = bounded.organization_id AND {READY}
            LIMIT bounded.bound + 1
        ) AS waiting
    ) AS jobs
    FROM bounded WHERE bound IS NOT NULL
), near AS MATERIALIZED (
    SELECT * FROM counted WHERE jobs * 2 >= bound
), written AS (
    INSERT INTO {BACKLOGS} AS known (organization_id, jobs, bound)
    SELECT organization_id, jobs, bound FROM near ORDER BY organization_id
    ON CONFLICT (organization_id) DO UPDATE SET jobs = excluded.jobs, bound = excluded.bound
    WHERE (known.jobs, known.bound) IS DISTINCT FROM (excluded.jobs, excluded.bound)
), far AS (
    UPDATE {BACKLOGS} AS known SET jobs = NULL, bound = NULL
    WHERE most IS NOT NULL AND jobs IS NOT NULL AND organization_id NOT IN (SELECT organization_id FROM near)
)
DELETE FROM {BACKLOGS} WHERE most IS NULL AND organization_id NOT IN (SELECT organization_id FROM near)
""")


class Bounded(NamedTuple):
    """Nil stands for each organization without a bound of its own; `most` is None where only that one holds. `jobs` is
    None while fewer than half of what is allowed wait, and one more than that where there may be more."""

    organization_id: UUID
    most: int | None
    jobs: int | None
    bound: int | None


def set_backlog(session: Session, organization_id: UUID | None, most: int) -> None:
    """At most so many due jobs wait of the organization, or of each that has no bound of its own. Raises
    InvalidArgumentError."""
    row = {"organization_id": organization_id or SYSTEM_ORGANIZATION_ID}
    values = {"most": check_integer("most", most, 1, LARGEST), "jobs": None, "bound": None}
    session.execute(insert(Backlog).values(row | values).on_conflict_do_update(index_elements=[*row], set_=values))


def remove_backlog(session: Session, organization_id: UUID | None) -> bool:
    """False when there was no bound of its own."""
    gone = delete(Backlog).where(
        Backlog.organization_id == (organization_id or SYSTEM_ORGANIZATION_ID), Backlog.most.is_not(None)
    )
    return session.execute(gone.returning(Backlog.organization_id)).first() is not None


def backlogs(session: Session) -> Sequence[Bounded]:
    """The bounds that were set, and whose backlog is near one, in the order of ids."""
    columns = (Backlog.organization_id, Backlog.most, Backlog.jobs, Backlog.bound)
    return [Bounded(*row) for row in session.execute(select(*columns).order_by(Backlog.organization_id))]


def count_backlogs(session: Session) -> None:
    """Count anew what waits of those that have a bound; as the dispatcher's role."""
    session.execute(_COUNT, {"every": SYSTEM_ORGANIZATION_ID})
