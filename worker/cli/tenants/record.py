"""`tenant_on_record`: what was done to an organization as a whole, in the installation's log."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from docworker.db.editing.audit import Doing, on_record
from docworker.worker.cli.options import actor
from docworker.worker.tenants.owner import find_placement


@contextmanager
def tenant_on_record(action: str, slug: str, **details: Any) -> Iterator[Doing]:
    """Needs the database open, and tells who was meant also when it is gone. See `db.editing.audit.on_record`."""
    with on_record(action, actor=actor(), subject="organization", slug=slug, **details) as doing:
        placement = find_placement(slug)
        if placement is not None:
            doing.subject_id = placement.organization_id
        yield doing
