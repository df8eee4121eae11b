"""Many jobs changed in chunks: each with its entry in the audit log, or not at all."""

from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster.engines import owner_engine
from docworker.db.editing.audit import list_installation_entries, record_with
from docworker.db.ledger import Filter, bulk
from docworker.db.ledger.bulk import change_chunks
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import settings
from tests.support.ledger import LedgerSteps


def record(session: Session, changed: list[UUID]) -> None:
    record_with(session, "cancelled", actor="ada", subject="job", jobs=len(changed), kind=None)


def entries() -> list[tuple[str, dict[str, object]]]:
    with Session(owner_engine(settings())) as session:
        found = list_installation_entries(session, actor="ada")
    return [(one.action, one.details) for one in found]


def test_each_chunk_is_changed_and_put_on_record_together(steps: LedgerSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 2)
    monkeypatch.setattr(bulk, "CHUNKS_OF_A_LOOK", 1)
    made = steps.enqueue(3)
    found = list(change_chunks(all_jobs_session, ledger.CANCEL, Filter(["queued"]), record=record))
    assert [len(one.changed) for one in found] == [2, 1]
    assert sorted(one for chunk in found for one in chunk.changed) == sorted(made)
    assert entries() == [("job.cancelled", {"jobs": 1}), ("job.cancelled", {"jobs": 2})], "the latest first"
    list(change_chunks(all_jobs_session, ledger.CANCEL, Filter(["queued"]), record=record))
    assert len(entries()) == 2, "what changes nothing leaves no entry"


def test_what_cannot_be_put_on_record_is_not_done(steps: LedgerSteps) -> None:
    steps.enqueue(2)
    before = len(entries())

    def refuse(session: Session, changed: list[UUID]) -> None:
        record(session, changed)
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011  nothing else raises it
        list(change_chunks(all_jobs_session, ledger.CANCEL, Filter(), record=refuse))
    assert steps.states() == {"queued": 2}
    assert len(entries()) == before


def test_the_dispatcher_s_role_adds_entries_and_reads_none(steps: LedgerSteps) -> None:
    with all_jobs_session() as session:
        may = "SELECT has_table_privilege('catalog.audit_log', 'INSERT'), has_table_privilege('catalog.audit_log', "
        row = session.connection().exec_driver_sql(may + "'SELECT, UPDATE, DELETE')").one()
    assert tuple(row) == (True, False)
