"""`create_token`, `list_tokens`, `revoke_token`, `find_token`: with what callers of the HTTP API say who they are.

A token names its organization and holds 256 random bits. Of all of it the SHA-256 is kept, in a row of that
organization: who asks with a token of one organization reaches no row of another, not even the one of a token.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from docworker.db.editing.audit import audited
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.ledger.values import check_text
from docworker.db.models import ApiToken
from docworker.db.models.base import new_id
from docworker.db.sessions import look_up, organization_of, writing

PREFIX = "dwk_"
"""By which scanners of source code may know a token."""
MOST_NAME_CHARACTERS = 200
MOST_DAYS = 3660.0
_SECRET_BYTES = 32
_TOKEN = re.compile(r"dwk_([0-9a-f]{32})_[A-Za-z0-9_-]{43}")
_USE_KNOWN_FOR = timedelta(hours=1)


class Scope(StrEnum):
    """What a token lets its holder do."""

    DOCUMENTS_READ = "documents:read"
    DOCUMENTS_WRITE = "documents:write"
    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    SEARCH = "search"


@dataclass(frozen=True)
class Token:
    """A token, without what is secret of it. `last_used_at` is exact to an hour."""

    id: UUID
    name: str
    scopes: Sequence[str]
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


_SHOWN = tuple(getattr(ApiToken, name) for name in Token.__dataclass_fields__)


@dataclass(frozen=True)
class Caller:
    """Whom a token stands for. `is_noted` says that its use within the last hour is on record."""

    organization_id: UUID
    token_id: UUID
    scopes: frozenset[str]
    is_noted: bool

    @property
    def actor(self) -> str:
        """What the audit log calls it."""
        return f"api:{self.token_id}"


def create_token(
    session: Session, name: str, scopes: Collection[str], *, days: float | None = None, actor: str
) -> tuple[UUID, str]:
    """A new token of the session's organization, good for so many days, or until it is revoked: its id, and the token
    itself, which is not shown again. Raises InvalidArgumentError."""
    check_text("the name of a token", name, most=MOST_NAME_CHARACTERS)
    wanted = sorted({_scope(one) for one in scopes})
    if not wanted:
        raise InvalidArgumentError(f"a token has at least one scope of {', '.join(Scope)}")
    if days is not None and not 0 < days <= MOST_DAYS:
        raise InvalidArgumentError(f"a token is good for more than 0 and at most {MOST_DAYS:g} days, got {days!r}")
    organization_id = organization_of(session)
    token = f"{PREFIX}{organization_id.hex}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    made = ApiToken(
        organization_id=organization_id,
        id=new_id(),
        name=name,
        sha256=_hashed(token),
        scopes=wanted,
        expires_at=None if days is None else func.clock_timestamp() + timedelta(days=days),
    )
    with audited(
        session, "created", actor=actor, subject="token", subject_id=made.id, name=name, scopes=wanted, days=days
    ):
        session.add(made)
        session.flush()
    return made.id, token


def list_tokens(session: Session) -> Sequence[Token]:
    """The tokens of the session's organization, the oldest first, those that are good no more among them."""
    mine = ApiToken.organization_id == organization_of(session)
    statement = select(*_SHOWN).where(mine).order_by(ApiToken.created_at, ApiToken.id)
    return [Token(*row) for row in session.execute(statement)]


def revoke_token(session: Session, token_id: UUID, *, actor: str) -> bool:
    """Let nobody in with it any more; False where it was revoked before. Raises NotFoundError."""
    one = (ApiToken.organization_id == organization_of(session), ApiToken.id == token_id)
    with audited(session, "revoked", actor=actor, subject="token", subject_id=token_id) as doing:
        statement = update(ApiToken).where(*one, ApiToken.revoked_at.is_(None))
        revoked = session.scalar(
            statement.values(revoked_at=func.clock_timestamp()).returning(ApiToken.id),
            execution_options={"synchronize_session": False},
        )
        if revoked is None and session.scalar(select(ApiToken.id).where(*one)) is None:
            raise NotFoundError(f"this organization has no token {token_id}: see `docworker tokens list`")
        doing.is_worth_telling = revoked is not None
    return revoked is not None


def find_token(token: str) -> Caller | None:
    """Whom this token stands for, by a replica, or the master where that knows none; None for what is none, or good no
    more. A replica learns of a revocation with its lag. Raises what a session of its organization raises."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    organization_id = UUID(hex=match[1])
    now = func.clock_timestamp()
    is_noted = func.coalesce(ApiToken.last_used_at > now - _USE_KNOWN_FOR, False)
    statement = select(ApiToken.id, ApiToken.scopes, is_noted.label("is_noted")).where(
        ApiToken.organization_id == organization_id,
        ApiToken.sha256 == _hashed(token),
        ApiToken.revoked_at.is_(None),
        or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > now),
    )
    row = look_up(organization_id, lambda session: session.execute(statement).first())
    return None if row is None else Caller(organization_id, row.id, frozenset(row.scopes), row.is_noted)


def note_use(caller: Caller) -> None:
    """Put on record that the token was used; once an hour is enough, and whoever comes second changes nothing."""
    now = func.clock_timestamp()
    is_old = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < now - _USE_KNOWN_FOR)
    with writing(caller.organization_id) as session:
        session.execute(
            update(ApiToken)
            .where(ApiToken.organization_id == caller.organization_id, ApiToken.id == caller.token_id, is_old)
            .values(last_used_at=now),
            execution_options={"synchronize_session": False},
        )


def _scope(given: str) -> str:
    try:
        return Scope(given).value
    except ValueError:
        raise InvalidArgumentError(f"{given!r:.60} is no scope: give some of {', '.join(Scope)}") from None


def _hashed(token: str) -> str:
    """Plain, because nobody guesses 256 random bits: a slow hash would only slow down callers."""
    return hashlib.sha256(token.encode()).hexdigest()
