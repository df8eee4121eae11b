"""The only ways to get a Session: for one organization, on a replica or on the master."""

from docworker.db.sessions.opening import (
    all_jobs_session,
    lease_session,
    look_up,
    position_after,
    read,
    read_all_jobs,
    reading,
    settling,
    writing,
)
from docworker.db.sessions.statement_watch import StatementCounts, count_statements
from docworker.db.sessions.tenant_session import TenantSession, organization_of

__all__ = [
    "StatementCounts",
    "TenantSession",
    "all_jobs_session",
    "count_statements",
    "lease_session",
    "look_up",
    "organization_of",
    "position_after",
    "read",
    "read_all_jobs",
    "reading",
    "settling",
    "writing",
]
