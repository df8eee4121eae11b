"""`PAGE`: the text of a version of a document, a passage at a time."""

from collections.abc import Mapping
from typing import Any

from markupsafe import escape

from docworker.db.documents.reading import load_passage
from docworker.db.errors import InvalidArgumentError
from docworker.worker.console.page import Page
from docworker.worker.console.pages.documents import PATH, of_document, seen
from docworker.worker.console.view import SEES_DOCUMENTS, View
from docworker.worker.printable import printable_lines

MOST_CHARACTERS = 16_000
"""Of a passage."""


def _show(view: View) -> Mapping[str, Any]:
    named = view.path("number")
    if not (named.isascii() and named.isdigit() and len(named) < 10):
        raise InvalidArgumentError(f"{named[:50]!r} is no number of a version")
    owner, entry = of_document(view)
    start = view.asked_number("from", most=10**9) or 0
    with seen(view, owner, "read", entry.id, version=int(named)) as doing:
        passage = load_passage(owner, entry.id, int(named), start=start, most=MOST_CHARACTERS)
        doing.details |= {"from": start, "characters": len(passage.text)}
    return {
        "title": f"{entry.path}, version {passage.version_number}",
        "document": entry,
        "slug": view.asked("organization"),
        "passage": passage,
        "text": escape(printable_lines(passage.text)),
    }


PAGE = Page("text", f"{PATH}/{{document_id}}/versions/{{number}}", "Text", _show, role=SEES_DOCUMENTS)
