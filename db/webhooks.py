"""`add_webhook`, `list_webhooks`, `pause_webhook`, `resume_webhook`, `rotate_webhook`, `remove_webhook`: where an
organization has its events delivered. How they are delivered: `jobs.kinds.webhooks`.

Secrets are given to whoever adds an endpoint or rotates its secret, and to who signs; to nobody else.
"""

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from docworker.db.editing.audit import audited, carried_out
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.ledger.values import check_text
from docworker.db.models import Job, JobState, WebhookEndpoint
from docworker.db.models.base import new_id
from docworker.db.sessions import organization_of, writing
from docworker.db.settings import settings

KIND = "deliver_webhook"
PREFIX = "whsec_"
MOST_URL_CHARACTERS = 2000
MOST_DESCRIPTION_CHARACTERS = 200
MOST_OVERLAP_SECONDS = 30 * 86400.0
_SECRET_BYTES = 32
_MOST_ERROR_CHARACTERS = 500


@dataclass(frozen=True)
class Webhook:
    """An endpoint, without its secrets. `failures` counts those in a row, and `last_error` is the latest of them."""

    id: UUID
    url: str
    description: str
    is_ordered: bool
    failures: int
    failing_since: datetime | None
    last_error: str | None
    paused_at: datetime | None
    pause_reason: str | None
    previous_secret_until: datetime | None
    created_at: datetime


_SHOWN = tuple(getattr(WebhookEndpoint, name) for name in Webhook.__dataclass_fields__)


@dataclass(frozen=True)
class Target:
    """What a delivery needs: `secrets` are those to sign with now, the newest first. They are not in its repr."""

    url: str
    is_paused: bool
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Target({self.url!r}, is_paused={self.is_paused})"


def add_webhook(
    session: Session, url: str, *, description: str = "", is_ordered: bool = True, actor: str
) -> tuple[UUID, str]:
    """Have the events of the session's organization delivered there; returns the endpoint's id, and the secret that
    deliveries are signed with, which is not shown again.

    Raises InvalidArgumentError for what is no such URL.
    """
    checked = _checked_url(url)
    if description:
        check_text("a description", description, most=MOST_DESCRIPTION_CHARACTERS)
    endpoint = WebhookEndpoint(
        organization_id=organization_of(session),
        id=new_id(),
        url=checked,
        description=description,
        is_ordered=is_ordered,
        secret=_new_secret(),
    )
    with audited(session, "added", actor=actor, subject="webhook", subject_id=endpoint.id, url=checked):
        session.add(endpoint)
        session.flush()
    return endpoint.id, endpoint.secret


def list_webhooks(session: Session) -> Sequence[Webhook]:
    """The endpoints of the session's organization, the oldest first."""
    statement = select(*_SHOWN).where(_mine(session)).order_by(WebhookEndpoint.created_at, WebhookEndpoint.id)
    return [Webhook(*row) for row in session.execute(statement)]


def rotate_webhook(session: Session, endpoint_id: UUID, *, overlap_seconds: float = 86400, actor: str) -> str:
    """Sign with a new secret, which is returned and not shown again; and for so long with the old one besides. Raises
    NotFoundError; InvalidArgumentError for less than 0 seconds or more than 30 days."""
    if not 0 <= overlap_seconds <= MOST_OVERLAP_SECONDS:
        raise InvalidArgumentError(f"the old secret is good for 0 seconds to 30 days more, got {overlap_seconds!r}")
    made = _new_secret()
    values = {
        "previous_secret": WebhookEndpoint.secret,
        "previous_secret_until": func.clock_timestamp() + timedelta(seconds=overlap_seconds),
        "secret": made,
    }
    with audited(session, "rotated", actor=actor, subject="webhook", subject_id=endpoint_id, overlap=overlap_seconds):
        if not _update(session, endpoint_id, values):
            raise _not_there(endpoint_id)
    return made


def remove_webhook(session: Session, endpoint_id: UUID, *, actor: str) -> None:
    """Deliver nothing there any more; what still waits for it ends without a delivery. Raises NotFoundError."""
    with audited(session, "removed", actor=actor, subject="webhook", subject_id=endpoint_id) as doing:
        statement = delete(WebhookEndpoint).where(_mine(session), WebhookEndpoint.id == endpoint_id)
        url = session.scalar(statement.returning(WebhookEndpoint.url))
        if url is None:
            raise _not_there(endpoint_id)
        doing.details["url"] = url


def pause_webhook(session: Session, endpoint_id: UUID, reason: str, *, actor: str) -> bool:
    """Let deliveries to it wait; False where they do already. Raises NotFoundError."""
    check_text("a reason", reason, most=_MOST_ERROR_CHARACTERS)
    with audited(session, "paused", actor=actor, subject="webhook", subject_id=endpoint_id, reason=reason) as doing:
        values = {"paused_at": func.clock_timestamp(), "pause_reason": reason}
        changed = _update(session, endpoint_id, values, WebhookEndpoint.paused_at.is_(None))
        if not changed and target_of(session, endpoint_id) is None:
            raise _not_there(endpoint_id)
        doing.is_worth_telling = changed
    return changed


def resume_webhook(organization_id: UUID, endpoint_id: UUID, *, actor: str) -> bool:
    """Let deliveries to it go on, which are due at once, and count its failures anew; False where it was not paused.
    Raises NotFoundError."""

    def resumed(session: Session) -> bool:
        with audited(session, "resumed", actor=actor, subject="webhook", subject_id=endpoint_id) as doing:
            values = {"paused_at": None, "pause_reason": None, "failures": 0, "failing_since": None}
            changed = _update(session, endpoint_id, values, WebhookEndpoint.paused_at.is_not(None))
            if not changed and target_of(session, endpoint_id) is None:
                raise _not_there(endpoint_id)
            doing.is_worth_telling = changed
        return changed

    changed = carried_out(organization_id, resumed)
    # After that has committed: a delivery that puts itself off meanwhile looks again and sees it.
    with writing(organization_id) as session:
        wake_deliveries(session, endpoint_id)
    return changed


def endpoints_by_order(session: Session, endpoint_id: UUID | None = None) -> dict[bool, list[UUID]]:
    """The endpoints of the session's organization, or one of them, by whether they are to get events in their order.
    Raises NotFoundError where that one is not there."""
    statement = select(WebhookEndpoint.id, WebhookEndpoint.is_ordered).where(_mine(session))
    if endpoint_id is not None:
        statement = statement.where(WebhookEndpoint.id == endpoint_id)
    found: dict[bool, list[UUID]] = {}
    for one, is_ordered in session.execute(statement.order_by(WebhookEndpoint.id)):
        found.setdefault(is_ordered, []).append(one)
    if endpoint_id is not None and not found:
        raise _not_there(endpoint_id)
    return found


def target_of(session: Session, endpoint_id: UUID) -> Target | None:
    """None where the endpoint has been removed."""
    is_overlap = func.coalesce(WebhookEndpoint.previous_secret_until > func.clock_timestamp(), False)
    row = session.execute(
        select(
            WebhookEndpoint.url,
            WebhookEndpoint.paused_at.is_not(None),
            WebhookEndpoint.secret,
            WebhookEndpoint.previous_secret,
            is_overlap,
        ).where(_mine(session), WebhookEndpoint.id == endpoint_id)
    ).first()
    if row is None:
        return None
    url, is_paused, secret, previous, is_good = row
    return Target(url, is_paused, (secret, previous) if previous is not None and is_good else (secret,))


def wake_deliveries(session: Session, endpoint_id: UUID, job_id: UUID | None = None) -> int:
    """Let deliveries that put themselves off be due now, or one of them; returns how many there were."""
    statement = update(Job).where(
        Job.organization_id == organization_of(session),
        Job.kind == KIND,
        Job.state == JobState.QUEUED,
        Job.later,
        Job.arguments["endpoint_id"].astext == str(endpoint_id),
    )
    if job_id is not None:
        statement = statement.where(Job.id == job_id)
    due = statement.values(run_at=func.clock_timestamp()).returning(Job.id)
    return len(session.scalars(due, execution_options={"synchronize_session": False}).all())


def record_success(session: Session, endpoint_id: UUID) -> None:
    """Count its failures anew."""
    values = {"failures": 0, "failing_since": None}
    _update(session, endpoint_id, values, WebhookEndpoint.failures > 0)


def record_failure(session: Session, endpoint_id: UUID, error: str) -> bool:
    """Count a failed delivery; returns whether it is time to pause the endpoint: so many have failed in a row, and for
    so long, as the settings say."""
    since = func.coalesce(WebhookEndpoint.failing_since, func.clock_timestamp())
    counted = session.execute(
        update(WebhookEndpoint)
        .where(_mine(session), WebhookEndpoint.id == endpoint_id)
        .values(failures=WebhookEndpoint.failures + 1, failing_since=since, last_error=error[:_MOST_ERROR_CHARACTERS])
        .returning(
            WebhookEndpoint.failures,
            WebhookEndpoint.failing_since <= func.clock_timestamp() - timedelta(seconds=settings().webhook_pause_after),
        ),
        execution_options={"synchronize_session": False},
    ).first()
    return counted is not None and counted[0] >= settings().webhook_pause_failures and counted[1]


def _update(
    session: Session, endpoint_id: UUID, values: Mapping[str, object], *conditions: ColumnElement[bool]
) -> bool:
    statement = update(WebhookEndpoint).where(_mine(session), WebhookEndpoint.id == endpoint_id, *conditions)
    done = statement.values(values).returning(WebhookEndpoint.id)
    return session.scalar(done, execution_options={"synchronize_session": False}) is not None


def _mine(session: Session) -> ColumnElement[bool]:
    return WebhookEndpoint.organization_id == organization_of(session)


def _not_there(endpoint_id: UUID) -> NotFoundError:
    return NotFoundError(f"this organization has no webhook {endpoint_id}: see `docworker webhooks list`")


def _new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def _checked_url(url: str) -> str:
    check_text("the URL of a webhook", url, most=MOST_URL_CHARACTERS)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidArgumentError(f"{url!r:.200} is no URL: {error}") from error
    schemes = ("https", "http") if settings().webhook_allow_http else ("https",)
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        raise InvalidArgumentError(
            f"{url!r:.200} is no address for a webhook: give one such as https://example.com/hooks"
            + ("" if len(schemes) > 1 else "; http:// only where DOCWORKER_WEBHOOK_ALLOW_HTTP is set")
        )
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise InvalidArgumentError("the URL of a webhook has no user, password or fragment: leave them out")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidArgumentError(f"{url!r:.200} has characters that no URL has: write them as %XX, or as punycode")
    return url
