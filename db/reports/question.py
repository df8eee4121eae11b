"""`Question`: what a report is asked for; `rows_of` asks the database, in the schema of the session's organization."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import text

from docworker.db.catalog import SHARED_SCHEMA
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Base, Document, DocumentVersion, Folder, Job, User
from docworker.db.sessions import TenantSession, organization_of

_TABLES: dict[str, type[Base]] = {
    "documents": Document,
    "versions": DocumentVersion,
    "folders": Folder,
    "users": User,
    "jobs": Job,
}


@dataclass(frozen=True)
class Question:
    """The period is from `since` to before `until`, both with an offset from UTC, or without an end; days are those of
    `zone`, and there are at most `limit` rows.

    Raises InvalidArgumentError for what cannot be asked.
    """

    since: datetime | None = None
    until: datetime | None = None
    zone: str = "UTC"
    limit: int | None = None

    def __post_init__(self) -> None:
        check_zone(self.zone)
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment is not None and moment.tzinfo is None:
                raise InvalidArgumentError(
                    f"{name} is {moment.isoformat()}, which may be meant in any time zone: give its offset as well"
                )
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise InvalidArgumentError(
                f"the period ends at {self.until.isoformat()}, which is not after {self.since.isoformat()}, where it "
                "begins"
            )
        if self.limit is not None and self.limit < 1:
            raise InvalidArgumentError(f"a report has at least one row, got a limit of {self.limit}")


def check_zone(name: str) -> ZoneInfo:
    """The time zone of this name; raises InvalidArgumentError where there is none."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        raise InvalidArgumentError(
            f"no time zone is called {name!r}: give a name such as Europe/Berlin, or UTC"
        ) from error


def rows_of(session: TenantSession, statement: str, question: Question) -> Sequence[Any]:
    """What `statement` finds, in which {documents} and the like stand for the tables, and :organization_id, :since,
    :until (texts that are to be cast), :zone and :limit are what is asked for."""
    tables = {name: _name_of(model, session.schema) for name, model in _TABLES.items()}
    parameters = {
        "organization_id": organization_of(session),
        "since": "-infinity" if question.since is None else question.since.isoformat(),
        "until": "infinity" if question.until is None else question.until.isoformat(),
        "zone": question.zone,
        "limit": question.limit,
    }
    asked = text(statement.format_map(tables))
    return session.execute(asked, {name: parameters[name] for name in asked._bindparams}).all()


def _name_of(model: type[Base], schema: str) -> str:
    """`schema_translate_map` does not reach into text."""
    table = model.__table__
    assert table.schema is not None
    is_moved = schema != SHARED_SCHEMA and model is not Job
    quoted = (schema if is_moved else table.schema).replace('"', '""')
    return f'"{quoted}".{model.__tablename__}'.replace(":", r"\:")
