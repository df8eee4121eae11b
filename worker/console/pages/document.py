"""`PAGE`: what is known of a document beside its text: its state, its versions, and which jobs have been at it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from docworker.db.documents.reading import list_versions, load_details
from docworker.db.ledger.telling.documents import jobs_of_document
from docworker.db.sessions import read
from docworker.worker.console.page import Page
from docworker.worker.console.pages.documents import PATH, of_document
from docworker.worker.console.view import SEES_DOCUMENTS, View

_SHOWN = 100


def _show(view: View) -> Mapping[str, Any]:
    owner, entry = of_document(view)
    versions = list_versions(owner, entry.id, most=_SHOWN)
    made = [one.job_id for one in versions if one.job_id is not None]
    jobs = read(owner, partial(jobs_of_document, document_id=entry.id, made=made))
    return {
        "title": entry.path,
        "document": entry,
        "details": load_details(owner, entry.id),
        "slug": view.asked("organization"),
        "versions": versions,
        "left_out": entry.latest_version - len(versions),
        "jobs": jobs,
        "kept": {one.id for one in jobs},
        "ledger_name": view.ledger_of(owner),
    }


PAGE = Page("document", f"{PATH}/{{document_id}}", "Document", _show, role=SEES_DOCUMENTS)
