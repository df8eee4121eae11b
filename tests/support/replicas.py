"""What readers see after a write, and where they read it."""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import func, select

from docworker.db.cluster import Database
from docworker.db.cluster.positions import WalPosition
from docworker.db.models import Organization
from docworker.db.sessions import reading, writing
from docworker.worker.local.servers.postgres import PostgresServer
from tests.support.tenants import entered

OpenDatabase = Callable[..., Database]
"""What the fixture `open_on` gives."""


def write_row() -> tuple[UUID, WalPosition]:
    """A new organization, and how much one must see to see it."""
    organization_id = entered()
    with writing(organization_id) as session:
        session.add(Organization(id=organization_id, slug=str(organization_id), name="x"))
        return organization_id, session.commit_with_position()


def sees(organization_id: UUID, position: WalPosition | None = None) -> tuple[bool, str, str]:
    """Whether a reader sees the row of `write_row`, where it read, and why there."""
    with reading(organization_id, position=position) as session:
        assert session.choice is not None
        found = session.scalar(select(func.count()).select_from(Organization))
        number = session.choice.number
        return bool(found), "master" if number is None else f"replica{number + 1}", session.choice.reason


def statements_on(server: PostgresServer, database: str = "docworker") -> list[str]:
    """What the worker role has executed on a server since its statistics were reset, in alphabetical order."""
    rows = server.execute(
        "SELECT query, calls FROM pg_stat_statements JOIN pg_roles ON pg_roles.oid = userid "
        "JOIN pg_database ON pg_database.oid = dbid "
        "WHERE rolname = 'docworker_worker' AND datname = current_database() ORDER BY query",
        database=database,
    )
    return [query for query, calls in rows for _ in range(calls)]
