"""`list_jobs`, `count_jobs`, `find_job`: a page of jobs by a filter, how many it has, and a job by its id.

Each choice is answered by an index: failed jobs by theirs, live ones and the children of a job as a bounded set, all
else by the keys of organizations, page by page of what was looked through.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select, text, tuple_
from sqlalchemy.orm import Session

from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.ledger.control import LISTED, Filter, Key, Listed
from docworker.db.ledger.telling.failures import BY_INDEX, LATEST, MOST_GROUPS, groups_of
from docworker.db.models import Job, JobState
from docworker.db.models.ledger.job import JOBS, READY, REASON

_MOST_OF_A_SET = 10_000
_LOOKED_THROUGH = 5_000
_MOST_OWNERS = 2_000


class Page(NamedTuple):
    """Jobs, the latest first; `behind` is where the next page begins, None behind the last one. `is_cut` where not all
    that match could be looked at: the page may have fewer jobs than there are before `behind`."""

    jobs: Sequence[Listed]
    behind: str | None = None
    is_cut: bool = False


def list_jobs(session: Session, wanted: Filter, *, limit: int = 50, behind: str | None = None) -> Page:
    """A page of the jobs of a filter; `behind` is what the page before had. For the dispatcher's session.

    Failed jobs are in the order of their ends, others in that of their ids, which is about that in which they were
    enqueued. Raises InvalidArgumentError for what only a walk through all jobs would answer, and for a `behind` that is
    none.
    """
    if len(wanted.states) > 1 or wanted.older_than is not None:
        raise InvalidArgumentError("a list has jobs of one state or of all, of any age")
    state = JobState(wanted.states[0]) if wanted.states else None
    if wanted.reason is not None and state is not JobState.FAILED:
        raise InvalidArgumentError("only failed jobs have a reason: choose the state failed with it")
    if wanted.parent_id is not None:
        return _children(session, wanted, limit, _id(behind))
    if state is JobState.FAILED:
        return _failed(session, wanted, limit, behind)
    if state in _LIVE:
        return _of_set(session, _live(state, wanted), wanted, limit, _id(behind))
    if wanted.organization_id is not None:
        return _walk(session, wanted, limit, _id(behind))
    if state is None and wanted.kind is None:
        return _latest(session, limit, _id(behind))
    raise InvalidArgumentError("choose an organization too, or one of the states failed, running, queued and waiting")


# Of each live state the parts of an index that have it, and by which columns it begins: what else is asked for is
# looked for in a bounded part of it.
_LIVE: Mapping[JobState | None, Sequence[tuple[str, Sequence[str]]]] = {
    JobState.WAITING: (("state = 'waiting'", ("organization_id",)),),
    JobState.QUEUED: ((READY, ("organization_id", "kind")), ("state = 'queued' AND later", ())),
    JobState.DISPATCHED: (("state = 'dispatched'", ()),),
    JobState.RUNNING: (("state = 'running'", ()),),
}


def _live(state: JobState | None, wanted: Filter) -> list[str]:
    conditions = []
    for condition, columns in _LIVE[state]:
        by_index = [condition]
        for column in columns:
            if getattr(wanted, column) is None:
                break
            by_index.append(f"{column} = :{column}")
        conditions.append(" AND ".join(by_index))
    return conditions


def _children(session: Session, wanted: Filter, limit: int, behind: UUID | None) -> Page:
    _demand_owner(wanted)
    conditions = _conditions(JobState(wanted.states[0]), wanted) if wanted.states else [_OF_PARENT]
    return _of_set(session, conditions, wanted, limit, behind)


def _of_set(session: Session, conditions: Sequence[str], wanted: Filter, limit: int, behind: UUID | None) -> Page:
    session.execute(BY_INDEX)
    rows = session.execute(
        text(f"""
WITH looked_at AS MATERIALIZED ({_parts(conditions)})
SELECT looked.jobs, found.* FROM (SELECT count(*) AS jobs FROM looked_at) AS looked LEFT JOIN (
    SELECT organization_id, id FROM looked_at
    WHERE organization_id = coalesce(CAST(:organization_id AS uuid), organization_id)
      AND kind = coalesce(CAST(:kind AS text), kind)
      AND (CAST(:behind AS uuid) IS NULL OR id < CAST(:behind AS uuid))
    ORDER BY id DESC LIMIT :limit
) AS found ON true
ORDER BY found.id DESC
"""),
        {**_asked(wanted), "most": _MOST_OF_A_SET, "limit": limit, "behind": behind},
    ).all()
    keys = [(row.organization_id, row.id) for row in rows if row.id is not None]
    last = str(keys[-1][1]) if len(keys) == limit else None
    return Page(listed(session, keys), last, rows[0].jobs >= _MOST_OF_A_SET)


class Counted(NamedTuple):
    """So many jobs, or more where `is_cut`."""

    jobs: int
    is_cut: bool


def count_jobs(session: Session, wanted: Filter) -> Counted:
    """How many jobs of the filter there are in its states, each of them failed or a live one; counted up to a bound.
    For the dispatcher's session. Raises InvalidArgumentError for what only a walk through all jobs would answer."""
    session.execute(BY_INDEX)
    total, is_cut = 0, False
    for state in map(JobState, wanted.states):
        row = session.execute(
            text(f"""
WITH looked_at AS MATERIALIZED ({_parts(_conditions(state, wanted))})
SELECT count(*) FILTER (WHERE organization_id = coalesce(CAST(:organization_id AS uuid), organization_id)
                          AND kind = coalesce(CAST(:kind AS text), kind)) AS jobs, count(*) AS looked
FROM looked_at
"""),
            {**_asked(wanted), "state": str(state), "most": _MOST_OF_A_SET},
        ).one()
        total, is_cut = total + row.jobs, is_cut or row.looked >= _MOST_OF_A_SET
    return Counted(total, is_cut)


def _conditions(state: JobState, wanted: Filter) -> list[str]:
    reason = [f"{REASON} = :reason"] if wanted.reason is not None else []
    if wanted.parent_id is not None:
        _demand_owner(wanted)
        return [" AND ".join([_OF_PARENT, "state = :state", *reason])]
    if state is JobState.FAILED:
        own = [f"{name} = :{name}" for name in ("kind", "organization_id") if getattr(wanted, name) is not None]
        return [" AND ".join(["state = 'failed'", *own, *reason])]
    if state not in _LIVE:
        raise InvalidArgumentError("only failed and live jobs are counted")
    return _live(state, wanted)


_OF_PARENT = "organization_id = :organization_id AND parent_id = :parent_id"


def _demand_owner(wanted: Filter) -> None:
    if wanted.organization_id is None:
        raise InvalidArgumentError("choose the organization of the job whose children these are")


def _parts(conditions: Sequence[str]) -> str:
    return " UNION ALL ".join(
        f"(SELECT organization_id, id, kind FROM {JOBS} WHERE {one} LIMIT :most)" for one in conditions
    )


def _asked(wanted: Filter) -> dict[str, Any]:
    return {
        "organization_id": wanted.organization_id,
        "kind": wanted.kind,
        "reason": wanted.reason,
        "parent_id": wanted.parent_id,
        "state": next((str(one) for one in wanted.states), None),
    }


def _failed_statement(wanted: Filter, *, is_behind: bool) -> str:
    conditions = [
        *(["organization_id = :organization_id"] if wanted.organization_id is not None else []),
        *(["(finished_at, id) < (CAST(:ended AS timestamptz), CAST(:id AS uuid))"] if is_behind else []),
        *(["finished_at <= CAST(:ended AS timestamptz)"] if is_behind else []),
    ]
    also = "".join(f" AND {one}" for one in conditions)
    if wanted.kind is not None and wanted.reason is not None:
        groups = "found AS (SELECT CAST(:kind AS text) AS kind, CAST(:reason AS text) AS reason)"
    else:
        groups = groups_of(wanted.kind)
    reason = "" if wanted.reason is None else "WHERE found.reason = :reason"
    return f"""
WITH RECURSIVE {groups}
SELECT latest.* FROM found CROSS JOIN LATERAL (
    SELECT organization_id, id, finished_at FROM {JOBS}
    WHERE state = 'failed' AND kind = found.kind AND {REASON} = found.reason{also}
    ORDER BY {LATEST}, id DESC LIMIT :limit
) AS latest {reason}
ORDER BY finished_at DESC, id DESC LIMIT :limit
"""


def _failed(session: Session, wanted: Filter, limit: int, behind: str | None) -> Page:
    session.execute(BY_INDEX)
    ended, job_id = (None, None) if behind is None else _moment_and_id(behind)
    found = session.execute(
        text(_failed_statement(wanted, is_behind=behind is not None)),
        {**_asked(wanted), "groups": MOST_GROUPS, "limit": limit, "ended": ended, "id": job_id},
    ).all()
    jobs = listed(session, [(row.organization_id, row.id) for row in found])
    if len(found) < limit:
        return Page(jobs)
    last = found[-1]
    return Page(jobs, f"{(last.finished_at or datetime.max.replace(tzinfo=UTC)).isoformat()} {last.id}")


_WALK = """
WITH seen AS MATERIALIZED (
    SELECT id, state, kind FROM {jobs}
    WHERE organization_id = :organization_id {behind} ORDER BY id DESC LIMIT :window
), looked AS (
    SELECT count(*) AS jobs, (SELECT id FROM seen ORDER BY id LIMIT 1) AS last FROM seen
)
SELECT found.id, looked.jobs, looked.last FROM looked LEFT JOIN (
    SELECT id FROM seen
    WHERE (CAST(:state AS text) IS NULL OR state = CAST(:state AS text))
      AND (CAST(:kind AS text) IS NULL OR kind = CAST(:kind AS text))
    ORDER BY id DESC LIMIT :limit
) AS found ON true
ORDER BY found.id DESC
"""


def _walk(session: Session, wanted: Filter, limit: int, behind: UUID | None) -> Page:
    assert wanted.organization_id is not None
    session.execute(BY_INDEX)
    rows = session.execute(
        text(_WALK.format(jobs=JOBS, behind="" if behind is None else "AND id < :behind")),
        {**_asked(wanted), "behind": behind, "window": _LOOKED_THROUGH, "limit": limit},
    ).all()
    found = [row.id for row in rows if row.id is not None]
    jobs = listed(session, [(wanted.organization_id, one) for one in found])
    if len(found) == limit:
        return Page(jobs, str(found[-1]))
    if rows[0].jobs == _LOOKED_THROUGH:
        return Page(jobs, str(rows[0].last), is_cut=True)
    return Page(jobs)


# Whose jobs there are: each hop goes to the next organization's.
_OWNERS = f"""owner AS (
    (SELECT organization_id, 1 AS place FROM {JOBS} ORDER BY organization_id LIMIT 1)
    UNION ALL
    SELECT following.organization_id, owner.place + 1 FROM owner CROSS JOIN LATERAL (
        SELECT organization_id FROM {JOBS} WHERE organization_id > owner.organization_id
        ORDER BY organization_id LIMIT 1
    ) AS following
    WHERE owner.place < :owners
)"""


def _latest(session: Session, limit: int, behind: UUID | None) -> Page:
    """Of all organizations; of more than are looked at those of the first ones."""
    session.execute(BY_INDEX)
    before = "" if behind is None else "AND id < :behind"
    rows = session.execute(
        text(f"""
WITH RECURSIVE {_OWNERS}
SELECT owner.organization_id, latest.id, (SELECT count(*) FROM owner) AS owners
FROM owner CROSS JOIN LATERAL (
    SELECT id FROM {JOBS} WHERE organization_id = owner.organization_id {before} ORDER BY id DESC LIMIT :limit
) AS latest
ORDER BY latest.id DESC LIMIT :limit
"""),
        {"owners": _MOST_OWNERS, "limit": limit, "behind": behind},
    ).all()
    jobs = listed(session, [(row.organization_id, row.id) for row in rows])
    last = str(rows[-1].id) if len(rows) == limit else None
    return Page(jobs, last, bool(rows) and rows[0].owners >= _MOST_OWNERS)


def listed(session: Session, keys: Sequence[Key]) -> list[Listed]:
    """What a list shows of these jobs, in the order of the keys; those that are not there are left out."""
    if not keys:
        return []
    rows = session.execute(select(*LISTED).where(tuple_(Job.organization_id, Job.id).in_(keys)))
    by_key = {(row.organization_id, row.id): Listed(*row) for row in rows}
    return [by_key[key] for key in keys if key in by_key]


def _id(behind: str | None) -> UUID | None:
    if behind is None:
        return None
    try:
        return UUID(behind)
    except ValueError:
        raise InvalidArgumentError(f"{behind[:100]!r} is no place in this list") from None


def _moment_and_id(behind: str) -> tuple[datetime, UUID]:
    moment, _, job_id = behind.partition(" ")
    try:
        return datetime.fromisoformat(moment), UUID(job_id)
    except ValueError:
        raise InvalidArgumentError(f"{behind[:100]!r} is no place in this list") from None


_OWNER = text(f"""
WITH RECURSIVE {_OWNERS}
SELECT owner.organization_id FROM owner
WHERE EXISTS (SELECT FROM {JOBS} AS job WHERE job.organization_id = owner.organization_id AND job.id = :id)
LIMIT 1
""")
_ALL_OWNERS = 100_000


def find_job(session: Session, job_id: UUID) -> UUID:
    """Whose a job is: each organization that has jobs is asked by its key. Raises NotFoundError."""
    session.execute(BY_INDEX)
    owner = session.scalar(_OWNER, {"id": job_id, "owners": _ALL_OWNERS})
    if owner is None:
        raise NotFoundError(f"no job {job_id}: it never was, or has been pruned")
    return UUID(str(owner))
