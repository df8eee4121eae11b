"""`PAGE`: what has changed between two versions of a document."""

from collections.abc import Mapping
from typing import Any

from docworker.db.documents.comparing import compare
from docworker.worker.console.page import Page
from docworker.worker.console.pages.documents import PATH, of_document, seen
from docworker.worker.console.view import SEES_DOCUMENTS, View


def _show(view: View) -> Mapping[str, Any]:
    owner, entry = of_document(view)
    new = view.asked_number("to") or entry.latest_version
    old = view.asked_number("from") or max(new - 1, 1)
    with seen(view, owner, "compared", entry.id, versions=[old, new]):
        comparison = compare(owner, entry.id, old, new)
    return {
        "title": f"{entry.path}, version {old} to {new}",
        "document": entry,
        "slug": view.asked("organization"),
        "old": old,
        "new": new,
        "comparison": comparison,
    }


PAGE = Page("comparison", f"{PATH}/{{document_id}}/comparison", "Comparison", _show, role=SEES_DOCUMENTS)
