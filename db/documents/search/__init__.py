"""Full-text search: what a text is found by, and how it is found."""

from docworker.db.documents.search.finding import SearchHit, SearchHits, search_documents
from docworker.db.documents.search.indexing import (
    Indexed,
    forget_name,
    how_indexed,
    load_texts,
    terms_of,
    unindexed,
    write_terms,
)
from docworker.db.documents.search.snippets import Fragment
from docworker.db.documents.search.waiting import wait_until_findable

__all__ = [
    "Fragment",
    "Indexed",
    "SearchHit",
    "SearchHits",
    "forget_name",
    "how_indexed",
    "load_texts",
    "search_documents",
    "terms_of",
    "unindexed",
    "wait_until_findable",
    "write_terms",
]
