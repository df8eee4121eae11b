"""`write_versions`: optimistic writes of many documents' versions, with a handful of statements for all of them;
`restore_versions`: texts of many old versions become the newest again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    BindParameter,
    ColumnClause,
    ColumnElement,
    Insert,
    Integer,
    Text,
    Update,
    Uuid,
    bindparam,
    cast,
    column,
    func,
    insert,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.types import TypeEngine

from docworker.db import metrics
from docworker.db.documents.versions.decision import decide, may_rewrite
from docworker.db.documents.versions.restored import RESTORED_FROM, restored_among
from docworker.db.documents.versions.results import NewText, Outcome, Rejected, Written
from docworker.db.models.document import Document, DocumentStatus
from docworker.db.models.version import DocumentVersion
from docworker.db.sessions import organization_of


def write_versions(session: Session, results: Sequence[NewText | Rejected]) -> dict[UUID, Outcome]:
    """Write many results with a handful of set-based statements; returns what became of each document.

    Documents are locked in id order first. That lock shows who has changed since, verifies the no-ops, and leaves
    nothing for the UPDATE to miss. Conflicts are an outcome here, not an error; a row that PostgreSQL refuses
    (a NUL, a value out of range) raises, so run it inside a savepoint. Of several results for one document the last
    counts.
    """
    results = list({result.document_id: result for result in results}.values())
    present = _lock_documents(session, [result.document_id for result in results])
    rewritten = [one.document_id for one in results if may_rewrite(present.get(one.document_id), one)]
    restored = restored_among(session, rewritten)
    outcomes: dict[UUID, Outcome] = {}
    changed: list[NewText] = []
    settled: list[NewText] = []
    rejected: list[Rejected] = []
    for result in results:
        document_id = result.document_id
        outcome, changes_row = decide(present.get(document_id), result, is_restored=document_id in restored)
        outcomes[result.document_id] = outcome
        if not changes_row:
            continue
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            (changed if outcome.written is Written.VERSION else settled).append(result)
    _write_changed(session, changed)
    _settle(session, settled)
    _reject(session, rejected)
    conflicts = sum(outcome.written is Written.CONFLICT for outcome in outcomes.values())
    if conflicts:
        metrics.CONFLICTS.labels("document").inc(conflicts)
    return outcomes


# The statements are made once, and of tables: to put them together costs more than to send them, and given mapped
# classes a Session would prepare to follow each row's change.
_documents = Document.metadata.tables[str(Document.__table__)]
_versions = Document.metadata.tables[str(DocumentVersion.__table__)]
_old = _documents.c
_ctid: ColumnClause[Any] = column("ctid")
_ctid.table = _documents  # a system column, which no table lists

# Only the whole primary key serves these conditions. Every index begins with the organization, and a planner whose
# statistics are out of date may take any of them for narrow; so they stand beside each join, and no other one does.
_BY_KEY = (
    _old.organization_id == bindparam("organization"),
    _old.id == func.any(cast(bindparam("ids"), ARRAY(Uuid))),
)
_LOCK_DOCUMENTS = (
    select(
        _old.id,
        _old.version,
        _old.latest_version,
        _old.content_sha256,
        _old.status,
        _old.status_reason,
        _old.rejected_by,
        _old.deleted_at,
    )
    .where(*_BY_KEY)
    .order_by(_old.id)
    .with_for_update(key_share=True)
)


def _lock_documents(session: Session, ids: Sequence[UUID]) -> dict[UUID, Any]:
    rows = session.execute(_LOCK_DOCUMENTS, {"organization": organization_of(session), "ids": ids})
    return {row.id: row for row in rows}


def _places() -> CTE:
    """Where each row is, by ctid, and its number in the arrays. The rows are locked, so they stay there.

    One array a column travels far faster than one parameter a value. To join them as a table would compare each row
    with each: a planner that knows neither length takes the loop.
    """
    number = func.array_position(cast(bindparam("ids"), ARRAY(Uuid)), _old.id).label("number")
    return select(_ctid.label("tid"), number).where(*_BY_KEY).cte("place").prefix_with("MATERIALIZED")


def _element(name: str, number: ColumnElement[int], kind: type[TypeEngine[Any]] = Text) -> Any:
    """What the array `name` holds for a row."""
    return Grouping(cast(bindparam(name), ARRAY(kind)))[number]  # PostgreSQL wants the parentheses


def _update(place: Any, **values: Any) -> Update:
    changed = {"version": _old.version + 1, "updated_at": func.clock_timestamp(), **values}
    return update(_documents).where(_ctid == place.tid).values(changed)


def _processed(place: Any) -> dict[str, Any]:
    return {
        "title": _element("titles", place.number),
        "media_type": func.coalesce(_element("media_types", place.number), _old.media_type),
        "status": DocumentStatus.PROCESSED,
        "status_reason": None,
    }


def _write_changed_statement() -> Insert:
    """One statement: what is written is what was updated. The foreign key is looked at when the statement ends."""
    place = _places().c

    updated = (
        _update(
            place,
            **_processed(place),
            content=null(),  # the version keeps it
            content_sha256=_element("hashes", place.number),
            latest_version=_old.latest_version + 1,
        )
        .returning(_old.organization_id, _old.id, _old.latest_version, place.number)
        .cte("updated")
        .c
    )
    number = updated.number
    written = {
        "organization_id": updated.organization_id,
        "document_id": updated.id,
        "version_number": updated.latest_version,
        "title": _element("titles", number),
        "content": _element("contents", number),
        "content_sha256": _element("hashes", number),
        "facts": cast(_element("facts_of", number), JSONB),
        "pipeline": _element("pipelines", number),
        "job_id": _element("job_ids", number, Uuid),
    }
    return insert(_versions).from_select(list(written), select(*written.values()), include_defaults=False)


def _settle_statement() -> Update:
    place = _places().c
    return _update(place, **_processed(place))


def _reject_statement() -> Update:
    place = _places().c
    return _update(
        place,
        status=_element("statuses", place.number),
        status_reason=_element("reasons", place.number),
        rejected_by=_element("pipelines", place.number),
    )


_WRITE_CHANGED = _write_changed_statement()
_SETTLE = _settle_statement()
_REJECT = _reject_statement()


def _write_changed(session: Session, changed: Sequence[NewText]) -> None:
    if changed:
        parameters = _described(session, changed) | {
            "contents": [one.content for one in changed],
            "hashes": [one.content_sha256 for one in changed],
            "facts_of": [json.dumps(one.facts) for one in changed],
            "pipelines": [one.pipeline for one in changed],
            "job_ids": [one.job_id for one in changed],
        }
        session.execute(_WRITE_CHANGED, parameters)


def _settle(session: Session, settled: Sequence[NewText]) -> None:
    """The text is the one that is there: no version, but the document is processed."""
    if settled:
        session.execute(_SETTLE, _described(session, settled))


def _described(session: Session, new: Sequence[NewText]) -> dict[str, Any]:
    return {
        "organization": organization_of(session),
        "ids": [one.document_id for one in new],
        "titles": [one.title for one in new],
        "media_types": [one.media_type for one in new],
    }


def _reject(session: Session, rejected: Sequence[Rejected]) -> None:
    if rejected:
        parameters = {
            "organization": organization_of(session),
            "ids": [one.document_id for one in rejected],
            "statuses": [one.status for one in rejected],
            "reasons": [one.reason for one in rejected],
            "pipelines": [one.pipeline for one in rejected],
        }
        session.execute(_REJECT, parameters)


def restore_versions(session: Session, numbers: Mapping[UUID, int]) -> None:
    """Make these versions the newest again, by document, as new ones with their texts, which do not leave the server.

    The documents are live, and locked by this transaction; what waits to be processed of them is forgotten.
    """
    if numbers:
        parameters = {"organization": organization_of(session), "ids": [*numbers], "numbers": [*numbers.values()]}
        session.execute(_RESTORE, parameters)


def _restore_statement() -> Insert:
    given = func.unnest(cast(bindparam("ids"), ARRAY(Uuid)), cast(bindparam("numbers"), ARRAY(Integer)))
    wanted = given.table_valued(column("id", Uuid), column("number", Integer)).render_derived(name="wanted").c
    kept = _versions.alias("kept").c
    organization: BindParameter[Any] = bindparam("organization")
    updated = (
        update(_documents)
        .values(
            version=_old.version + 1,
            updated_at=func.clock_timestamp(),
            title=kept.title,
            status=DocumentStatus.PROCESSED,
            status_reason=None,
            content=null(),
            content_sha256=kept.content_sha256,
            latest_version=_old.latest_version + 1,
        )
        .where(_old.organization_id == organization, _old.id == wanted.id)
        .where(kept.organization_id == organization, kept.document_id == wanted.id)
        .where(kept.version_number == wanted.number)
        .returning(_old.latest_version, *kept)
        .cte("updated")
        .c
    )
    restored_from = func.jsonb_build_object(RESTORED_FROM, updated.version_number)
    written = {
        "organization_id": updated.organization_id,
        "document_id": updated.document_id,
        "version_number": updated.latest_version,
        "title": updated.title,
        "content": updated.content,
        "content_sha256": updated.content_sha256,
        "facts": updated.facts.op("||")(restored_from),
        "pipeline": updated.pipeline,
    }
    return insert(_versions).from_select(list(written), select(*written.values()), include_defaults=False)


_RESTORE = _restore_statement()
