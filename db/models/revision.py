"""`is_known`: whether this release works with a place of an organization's own that is at a revision.

Processes have no `migrations` at hand; `tests/migrations/test_lineage.py` keeps these in step with them.
"""

KNOWN_REVISIONS = ("0038", "0039", "0040")
"""Oldest first, up to the newest migration. With the first one's tables this release works as well."""


def is_known(revision: str | None) -> bool:
    """None is for places that share a cluster's tables: those are brought up to date before processes start."""
    return revision is None or revision in KNOWN_REVISIONS
