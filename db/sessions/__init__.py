"""The only ways to get a Session: for one organization, on a replica or on the master."""

from docworker.db.sessions.opening import (
    all_jobs_session,
    lease_session,
    look_up,
    position_after,
    read,
    reading,
    writing,
)
from docworker.db.sessions.tenant_session import TenantSession, organization_of

__all__ = [
    "TenantSession",
    "all_jobs_session",
    "lease_session",
    "look_up",
    "organization_of",
    "position_after",
    "read",
    "reading",
    "writing",
]
