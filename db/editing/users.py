"""`add_user`, `list_users`, `deactivate_user`, `delete_user`: the people of an organization, who may own documents."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from docworker.db.editing.audit import audited
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models import Document, DocumentContributor, User
from docworker.db.models.base import new_id
from docworker.db.sessions import organization_of, reading

_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+")
_MOST_EMAIL_CHARACTERS = 254
_MOST_NAME_CHARACTERS = 200


@dataclass(frozen=True)
class UserEntry:
    """Somebody, and how many live documents are theirs."""

    id: UUID
    email: str
    display_name: str
    is_active: bool
    documents: int


def add_user(session: Session, email: str, name: str = "", *, actor: str) -> UUID:
    """Raises InvalidArgumentError for what is no address, or one that somebody has already."""
    if len(email) > _MOST_EMAIL_CHARACTERS or not _EMAIL.fullmatch(email):
        raise InvalidArgumentError(f"{email!r:.80} is no email address: it has the form name@host")
    if len(name) > _MOST_NAME_CHARACTERS or "\0" in name:
        raise InvalidArgumentError(
            f"the name {name!r:.60} cannot be used: it has at most {_MOST_NAME_CHARACTERS} characters, none of them NUL"
        )
    user = User(organization_id=organization_of(session), id=new_id(), email=email, display_name=name)
    try:
        with audited(session, "added", actor=actor, subject="user", subject_id=user.id, email=email):
            session.add(user)
            session.flush()
    except IntegrityError as error:
        if "uq_users_organization_id_email" not in str(error.orig):
            raise
        raise InvalidArgumentError(
            f"{email!r} is a user of this organization already: see `docworker users list`"
        ) from error
    return user.id


def find_user(session: Session, email_or_id: str) -> User:
    """Raises NotFoundError."""
    mine = User.organization_id == organization_of(session)
    try:
        wanted = User.id == UUID(email_or_id)
    except ValueError:
        wanted = func.lower(User.email) == email_or_id.lower()
    user = session.scalars(select(User).where(mine, wanted)).first()
    if user is None:
        raise NotFoundError(f"this organization has no user {email_or_id!r}: see `docworker users list`")
    return user


def list_users(organization_id: UUID, *, email_or_id: str | None = None) -> Sequence[UserEntry]:
    """By their addresses; of one only, if one is named. Raises NotFoundError where that one is not there."""
    owned = (
        select(Document.owner_id, func.count().label("documents"))
        .where(Document.organization_id == organization_id, Document.is_live, Document.owner_id.is_not(None))
        .group_by(Document.owner_id)
        .subquery("owned")
    )
    statement = (
        select(User.id, User.email, User.display_name, User.is_active, func.coalesce(owned.c.documents, 0))
        .outerjoin(owned, owned.c.owner_id == User.id)
        .where(User.organization_id == organization_id)
        .order_by(User.email)
    )
    with reading(organization_id) as session:
        if email_or_id is not None:
            statement = statement.where(User.id == find_user(session, email_or_id).id)
        return [UserEntry(*row) for row in session.execute(statement)]


def set_active(session: Session, email_or_id: str, is_active: bool, *, actor: str) -> bool:
    """Returns whether that changed anything. Raises NotFoundError."""
    user = find_user(session, email_or_id)
    action = "activated" if is_active else "deactivated"
    with audited(session, action, actor=actor, subject="user", subject_id=user.id, email=user.email) as doing:
        doing.is_worth_telling = user.is_active is not is_active
        user.is_active = is_active
        session.flush()
    return doing.is_worth_telling


def delete_user(session: Session, email_or_id: str, *, reassign_to: str | None, actor: str) -> int:
    """Delete somebody for good, after their documents and contributions have been given to `reassign_to`; returns how
    many documents that were.

    Raises NotFoundError; InvalidArgumentError where something is theirs and nobody is named who gets it.
    """
    user = find_user(session, email_or_id)
    heir = None if reassign_to is None else find_user(session, reassign_to)
    with audited(session, "deleted", actor=actor, subject="user", subject_id=user.id, email=user.email) as doing:
        # Whoever makes somebody the owner of a document meanwhile waits for this lock, and then finds nobody.
        session.execute(select(User.id).where(User.id == user.id).with_for_update())
        if heir is not None and heir.id == user.id:
            raise InvalidArgumentError(f"{user.email!r} is to be deleted and cannot get the documents: name another")
        given = _give(session, user, heir)
        doing.details |= {"documents": given, "to": None if heir is None else heir.email}
        session.delete(user)
        session.flush()
    return given


def _give(session: Session, user: User, heir: User | None) -> int:
    theirs = (Document.organization_id == user.organization_id, Document.owner_id == user.id)
    contributed = (
        DocumentContributor.organization_id == user.organization_id,
        DocumentContributor.user_id == user.id,
    )
    if heir is None:
        owned = session.scalar(select(func.count()).select_from(Document).where(*theirs)) or 0
        worked_on = session.scalar(select(func.count()).select_from(DocumentContributor).where(*contributed)) or 0
        if owned or worked_on:
            raise InvalidArgumentError(
                f"{user.email!r} owns {owned} documents, deleted ones among them, and has worked on {worked_on}: say "
                "with --reassign-to who gets them, or use `docworker users deactivate`"
            )
        return 0
    ids = session.scalars(select(Document.id).where(*theirs).order_by(Document.id).with_for_update()).all()
    session.execute(
        update(Document).where(*theirs).values(owner_id=heir.id, version=Document.version + 1),
        execution_options={"synchronize_session": False},
    )
    for one in session.scalars(select(DocumentContributor).where(*contributed)).all():
        key = (one.organization_id, one.document_id, heir.id, one.role)
        if session.get(DocumentContributor, key) is None:
            session.add(
                DocumentContributor(
                    organization_id=one.organization_id, document_id=one.document_id, user_id=heir.id, role=one.role
                )
            )
        session.delete(one)
    session.flush()
    return len(ids)
