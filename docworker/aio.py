"""The asyncio twin of `open_database`, `reading`, `read`, `writing` and `position_after`, for applications."""

from docworker.db.sessions.aio import (
    AsyncDatabase,
    AsyncTenantSession,
    close_database,
    health,
    open_database,
    position_after,
    read,
    reading,
    routing,
    writing,
)

__all__ = [
    "AsyncDatabase",
    "AsyncTenantSession",
    "close_database",
    "health",
    "open_database",
    "position_after",
    "read",
    "reading",
    "routing",
    "writing",
]
