"""`audited`, `list_entries`: who did what to what, on record also where it failed.

Each organization has a log of its own. What is done to organizations as a whole, or to jobs of several, stands in the
installation's: `on_record`, `list_installation_entries`; and in the same transaction as the change, `record_with`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select, func, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from docworker.db.cluster import database
from docworker.db.errors import DocworkerError, UnavailableOrganizationError
from docworker.db.models import AuditEntry, InstallationEntry
from docworker.db.models.base import new_id
from docworker.db.sessions import TenantSession, organization_of, reading, settling, writing

T = TypeVar("T")

FAILED = "failed"
"""The key in the details of an entry for what was tried and did not succeed: why."""


class Doing:
    """What an entry is to say of the work in the block."""

    def __init__(self, subject_id: UUID | None, details: dict[str, Any]) -> None:
        self.subject_id = subject_id
        self.details = details
        self.is_worth_telling = True
        """Set to False where nothing had to be done."""


@contextmanager
def audited(
    session: Session, action: str, *, actor: str, subject: str, subject_id: UUID | None = None, **details: Any
) -> Iterator[Doing]:
    """Do the work of the block in a savepoint, and leave an entry outside of it: a failed attempt is on record although
    its effect was rolled back.

    Raises what the block raises. Whoever wants the entry of a failure kept handles that error within the session and
    commits. `action` is a verb in the past, `subject` a noun: the entry says `document.moved`. Details are plain JSON.
    """
    doing = Doing(subject_id, details)
    try:
        with session.begin_nested():
            yield doing
    except Exception as error:
        doing.details = {**doing.details, FAILED: f"{type(error).__name__}: {error}"[:1000]}
        _record(session, actor, action, subject, doing)
        raise
    if doing.is_worth_telling:
        _record(session, actor, action, subject, doing)


def carried_out(organization_id: UUID, work: Callable[[Session], T]) -> T:
    """`work` in a transaction of its own, which is committed also where it raises a DocworkerError, so that what it has
    left on record stays. Raises what it raises."""
    with writing(organization_id) as session:
        try:
            return work(session)
        except DocworkerError as error:
            failure = error
    raise failure


@contextmanager
def on_record(
    action: str, *, actor: str, subject: str, organization_id: UUID | None = None, **details: Any
) -> Iterator[Doing]:
    """Leave an entry of the work in the block, also where it fails: in the log of an organization, if one is given and
    can be written to, else in the installation's. Details that are None are left out.

    The work commits by itself. Raises what the block raises, and what a session raises that cannot be opened; before
    anything is done, ConfigurationError where the address is not set that the entry needs.
    """
    database().settings.master_database_url()
    doing = Doing(None, details)
    try:
        yield doing
    except Exception as error:
        doing.details[FAILED] = f"{type(error).__name__}: {error}"[:1000]
        with suppress(DBAPIError):  # the reason for both, and the first one is told
            _record_apart(organization_id, actor, action, subject, doing)
        raise
    if doing.is_worth_telling:
        _record_apart(organization_id, actor, action, subject, doing)


def _record_apart(organization_id: UUID | None, actor: str, action: str, subject: str, doing: Doing) -> None:
    doing.details = {name: value for name, value in doing.details.items() if value is not None}
    if organization_id is not None:
        try:
            with settling(organization_id) as session:
                _record(session, actor, action, subject, doing)
        except UnavailableOrganizationError:
            doing.details["organization_id"] = str(organization_id)
        else:
            return
    with writing(None) as session:
        session.execute(insert(InstallationEntry).values(id=new_id(), **_entry(actor, action, subject, doing)))


def _record(session: Session, actor: str, action: str, subject: str, doing: Doing) -> None:
    session.add(
        AuditEntry(organization_id=organization_of(session), id=new_id(), **_entry(actor, action, subject, doing))
    )
    session.flush()


def _entry(actor: str, action: str, subject: str, doing: Doing) -> dict[str, Any]:
    return {
        "actor": actor,
        "action": f"{subject}.{action}",
        "subject": subject,
        "subject_id": doing.subject_id,
        "details": doing.details,
    }


def record_with(
    session: Session, action: str, *, actor: str, subject: str, subject_id: UUID | None = None, **details: Any
) -> None:
    """An entry in the installation's log, or that of the session's cluster, in the transaction of what it tells: both
    are there or none is. For the dispatcher's session. Details that are None are left out."""
    doing = Doing(subject_id, {name: value for name, value in details.items() if value is not None})
    session.execute(insert(InstallationEntry).values(id=new_id(), **_entry(actor, action, subject, doing)))


@dataclass(frozen=True)
class Entry:
    """Who did what to what, and when."""

    created_at: datetime
    actor: str
    action: str
    subject: str
    subject_id: UUID | None
    details: dict[str, Any]
    ledger: str | None = None
    """In which of the installation's logs it stands: a cluster's, or that of a database such as `east/acme`."""


def list_entries(
    organization_id: UUID,
    *,
    subject: str | None = None,
    subject_id: UUID | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    most: int = 100,
) -> Sequence[Entry]:
    """The newest entries first. `subject` is a noun such as `document`; `since` has an offset from UTC."""
    wanted = _wanted(AuditEntry, subject, subject_id, actor, since, most)
    with reading(organization_id) as session:
        rows = session.execute(wanted.where(AuditEntry.organization_id == organization_id))
        return [Entry(*row) for row in rows]


def list_installation_entries(
    session: Session,
    *,
    subject: str | None = None,
    subject_id: UUID | None = None,
    slug: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    most: int = 100,
) -> Sequence[Entry]:
    """As `list_entries`, of the installation's log where the owner's session is. `slug` is of an organization that
    there is or was."""
    wanted = _wanted(InstallationEntry, subject, subject_id, actor, since, most)
    if slug is not None:
        wanted = wanted.where(InstallationEntry.details["slug"].astext == slug)
    return [Entry(*row) for row in session.execute(wanted)]


def _wanted(
    log: type[AuditEntry] | type[InstallationEntry],
    subject: str | None,
    subject_id: UUID | None,
    actor: str | None,
    since: datetime | None,
    most: int,
) -> Select[Any]:
    statement = select(log.created_at, log.actor, log.action, log.subject, log.subject_id, log.details)
    for column, value in ((log.subject, subject), (log.subject_id, subject_id), (log.actor, actor)):
        if value is not None:
            statement = statement.where(column == value)
    if since is not None:
        statement = statement.where(log.created_at >= since)
    return statement.order_by(log.created_at.desc(), log.id.desc()).limit(most)


def has_old_entries(session: Session, *, older_than: timedelta) -> bool:
    """Whether `prune_entries` has anything to do for the session's organization."""
    old = select(AuditEntry.id).where(
        AuditEntry.organization_id == organization_of(session),
        AuditEntry.created_at < func.clock_timestamp() - older_than,
    )
    return bool(session.scalar(select(old.exists())))


def prune_entries(session: TenantSession, *, older_than: timedelta, most: int) -> int:
    """Delete the oldest entries of the session's organization, by a function of the owner's; returns how many. Raises
    the error of the server for entries that are younger than 30 days."""
    return _prune(session, session.schema, older_than, most)


def prune_installation_entries(session: TenantSession, *, older_than: timedelta, most: int) -> int:
    """As `prune_entries`, in the installation's log, by any session at home."""
    return _prune(session, str(InstallationEntry.__table__.schema), older_than, most)


def _prune(session: TenantSession, schema: str, older_than: timedelta, most: int) -> int:
    prune = getattr(func, schema).prune_audit_log(older_than / timedelta(days=1), most)
    return int(session.scalar(select(prune)) or 0)
