"""An organization goes to another cluster, schema or database while it is served, with its jobs."""

from docworker.worker.tenants.moving.commands import abort_move, clean_tenant, move_tenant, those_to_clean, undo_move
from docworker.worker.tenants.moving.wanted import Moved, Progress, Wanted

__all__ = [
    "Moved",
    "Progress",
    "Wanted",
    "abort_move",
    "clean_tenant",
    "move_tenant",
    "those_to_clean",
    "undo_move",
]
