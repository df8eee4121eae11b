"""Optimistic writes of document versions, one and many.

A document is read, its session closed, the work done, and the result written where `version` is still the one read.
Zero rows mean: somebody was faster, or the replica was behind. Read afresh from the master and redo.
"""

from docworker.db.documents.versions.locking import increment, lock_document
from docworker.db.documents.versions.many import restore_versions, write_versions
from docworker.db.documents.versions.one import reject, restore_version, write_version
from docworker.db.documents.versions.results import NewText, Outcome, Rejected, Written

__all__ = [
    "NewText",
    "Outcome",
    "Rejected",
    "Written",
    "increment",
    "lock_document",
    "reject",
    "restore_version",
    "restore_versions",
    "write_version",
    "write_versions",
]
