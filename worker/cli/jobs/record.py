"""`jobs_on_record`, `pause_on_record`, `limit_on_record`: what was done to jobs, in the log of the organization that
they belong to, or where that is not known or they are of several, in the installation's."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from docworker.db import ledger
from docworker.db.editing.audit import on_record
from docworker.db.ledger import Filter
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.sessions import all_jobs_session
from docworker.worker.cli.jobs.selection import organization_id
from docworker.worker.cli.options import actor

_MOST_NAMED = 100


@contextmanager
def jobs_on_record(
    action: str, wanted: Filter, job_ids: Sequence[UUID], chosen: Mapping[str, Any]
) -> Iterator[list[UUID]]:
    """Gives a list to which the jobs that were changed are to be added."""
    changed: list[UUID] = []
    choice = {name: str(value) for name, value in chosen.items() if value}
    owner = wanted.organization_id or _owner_of(job_ids)
    with on_record(action, actor=actor(), subject="job", organization_id=_logged(owner), **choice) as doing:
        try:
            yield changed
        finally:
            doing.details["jobs"] = len(changed)
            doing.details["ids"] = [str(one) for one in changed[:_MOST_NAMED]] if job_ids else None
            doing.subject_id = changed[0] if len(changed) == 1 else None
            doing.is_worth_telling = bool(changed)


@contextmanager
def pause_on_record(action: str, kind: str | None, slug: str | None) -> Iterator[None]:
    owner = _logged(organization_id(slug))
    with on_record(action, actor=actor(), subject="job", organization_id=owner, kind=kind, slug=slug):
        yield


@contextmanager
def limit_on_record(action: str, owner: UUID | None, **told: object) -> Iterator[None]:
    given = {name: one for name, one in told.items() if one is not None}
    with on_record(action, actor=actor(), subject="limit", organization_id=owner, **given):
        yield


def _owner_of(job_ids: Sequence[UUID]) -> UUID | None:
    """None where they belong to several, or there are none of them."""
    if not job_ids:
        return None
    with all_jobs_session() as session:
        owners = ledger.organizations_of(session, job_ids)
    return owners.pop() if len(owners) == 1 else None


def _logged(organization_id: UUID | None) -> UUID | None:
    """What belongs to no organization has no log of its own."""
    return None if organization_id == SYSTEM_ORGANIZATION_ID else organization_id
