"""Audit logs end where somebody has asked for it, wherever they are, and nobody prunes another's or a young one."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session

from docworker.db.editing.audit import list_installation_entries, prune_entries
from docworker.db.models import AuditEntry, InstallationEntry
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id
from docworker.db.sessions import reading, writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.maintenance import prune_audit_logs
from docworker.jobs.testing import drain
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.owner import owning
from docworker.worker.tenants.places import Model
from tests.support.tenants import Tenant

pytestmark = pytest.mark.usefixtures("clusters")

MONTH = timedelta(days=30)
PLACES = [(Model.SHARED, "home"), (Model.SCHEMA, "home"), (Model.DATABASE, "east")]


class Logged(Tenant):
    """With an entry that is too old, and one that is not quite."""

    def __init__(self, slug: str, model: Model = Model.SHARED, cluster: str = "home") -> None:
        self.slug = slug
        self.id = create_tenant(slug, model=model, cluster=cluster).organization_id
        with writing(self.id) as session:
            for days in (31, 29):
                session.execute(insert(AuditEntry).values(organization_id=self.id, **entry(days)))

    def ages(self) -> list[int]:
        with reading(self.id, source="master") as session:
            made = session.scalars(select(AuditEntry.created_at).order_by(AuditEntry.created_at))
            return [(datetime.now(UTC) - one).days for one in made]


def entry(days: float) -> dict[str, Any]:
    made = datetime.now(UTC) - timedelta(days=days)
    return {
        "id": new_id(),
        "actor": "ada",
        "action": "document.moved",
        "subject": "document",
        "details": {},
        "created_at": made,
    }


@pytest.fixture
def tenants() -> Iterator[list[Logged]]:
    made = [Logged(f"logged-{model}", model, cluster) for model, cluster in PLACES]
    yield made
    for one in made:
        drop_tenant(one.slug)


def prune() -> None:
    with writing(SYSTEM_ORGANIZATION_ID) as session:
        enqueue(session, prune_audit_logs)
    drain()


def test_what_is_too_old_is_pruned_everywhere_when_somebody_has_asked_for_it(
    tenants: list[Logged], monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(None) as session:
        for days in (31, 29):
            session.execute(insert(InstallationEntry).values(**entry(days)))
    prune()
    assert [one.ages() for one in tenants] == [[31, 29]] * 3, "unless it is set, everything is kept"
    monkeypatch.setenv("DOCWORKER_AUDIT_RETENTION_DAYS", "30")
    settings.cache_clear()
    prune()
    assert [one.ages() for one in tenants] == [[29]] * 3
    with owning() as owner, Session(owner) as session:
        kept = [one for one in list_installation_entries(session) if one.actor == "ada"]
    assert [(datetime.now(UTC) - one.created_at).days for one in kept] == [29]


def test_one_prunes_neither_anothers_log_nor_all_of_them_where_there_is_none(tenants: list[Logged]) -> None:
    other = Logged("logged-beside")
    for one in (*tenants, other):
        with writing(one.id) as session:
            assert prune_entries(session, older_than=MONTH, most=10) == 1
            assert prune_entries(session, older_than=MONTH, most=10) == 0
    last = Logged("logged-last")
    with writing(None) as session:
        assert prune_entries(session, older_than=MONTH, most=10) == 0, "there is no organization"
    with writing(other.id) as session:
        assert prune_entries(session, older_than=MONTH, most=10) == 0, "that one is another's"
    assert last.ages() == [31, 29]
    for one in (other, last):
        drop_tenant(one.slug)


@pytest.mark.parametrize("days", [29.99, 0, -1000, float("nan"), float("inf")])
def test_what_is_young_is_pruned_by_nobody(tenants: list[Logged], days: float) -> None:
    for one in tenants:
        with pytest.raises(DBAPIError), writing(one.id) as session:
            session.scalar(select(_function(session, days)))
        assert one.ages() == [31, 29]


def _function(session: Any, days: float) -> Any:
    return getattr(func, session.schema).prune_audit_log(days, 10)


@pytest.mark.parametrize("statement", [delete(AuditEntry), update(AuditEntry).values(actor="nobody")])
def test_workers_change_and_delete_no_entry_themselves(tenants: list[Logged], statement: Any) -> None:
    for one in tenants:
        with pytest.raises(ProgrammingError, match="permission denied"), writing(one.id) as session:
            session.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [select(InstallationEntry.id), delete(InstallationEntry), update(InstallationEntry).values(actor="nobody")],
)
def test_workers_add_to_the_log_of_the_installation_and_do_not_read_it(statement: Any) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"), writing(None) as session:
        session.execute(statement)
