"""`start_sentry`, `report`: attempts that failed although nobody expected it go to Sentry, where it is configured.

That is by Sentry's own variables, of which SENTRY_DSN is the first. What goes there has the stack and the class of the
error, and neither its message, values of variables nor arguments: texts of documents may stand in these.
"""

import os
import sys
from typing import Any
from uuid import UUID

import structlog

from docworker.db.faults import Fault
from docworker.db.ledger import AttemptEnd

log = structlog.get_logger(__name__)

_FLUSH_SECONDS = 2.0
_SURPRISES = (Fault.UNKNOWN, Fault.OUR_BUG)


def load_sentry() -> None:
    """Import what `start_sentry` needs, before a fork; where it is not installed, the log says so."""
    if not os.environ.get("SENTRY_DSN"):
        return
    try:
        import sentry_sdk  # noqa: F401, PLC0415 - of an extra
    except ModuleNotFoundError:
        log.warning("sentry.not_installed", remedy="pip install 'docworker[sentry]'")


def start_sentry() -> None:
    """Report from this process. To be called after a fork, where `load_sentry` was called before it. What the program
    has set up itself stays as it is."""
    sentry = _sentry()
    if sentry is None or sentry.is_initialized() or not os.environ.get("SENTRY_DSN"):
        return
    sentry.init(
        default_integrations=False,
        auto_enabling_integrations=False,
        send_default_pii=False,
        include_local_variables=False,
        max_breadcrumbs=0,
        shutdown_timeout=0,
        before_send=_without_messages,
    )
    log.info("sentry.started")


def stop_sentry() -> None:
    """Send what has not been sent, for two seconds at most: where nobody takes it, it is lost."""
    if (sentry := _sentry()) is not None:
        sentry.flush(_FLUSH_SECONDS)


def is_surprise(fault: Fault, end: AttemptEnd) -> bool:
    """Whether an attempt that ended so is to be reported: neither what declares itself (BadInputError, RetryLaterError)
    nor what passes by itself, such as conflicts and outages, unless the job has failed of it in the end."""
    if end is AttemptEnd.FAILED:
        return fault is not Fault.BAD_INPUT
    return end is AttemptEnd.RETRIED and fault in _SURPRISES


def report(
    error: BaseException, *, kind: str, job_id: UUID, organization_id: UUID, attempt: int, end: AttemptEnd
) -> None:
    """Report the error that an attempt ended with. Raises nothing, and waits for nobody."""
    sentry = _sentry()
    if sentry is None or not sentry.is_initialized():
        return
    try:
        with sentry.new_scope() as scope:
            scope.set_transaction_name(kind)
            scope.set_level("error" if end is AttemptEnd.FAILED else "warning")
            tags = {"job": job_id, "kind": kind, "organization": organization_id, "attempt": attempt, "outcome": end}
            scope.set_tags({name: str(value) for name, value in tags.items()})
            sentry.capture_exception(error)
    except BaseException as trouble:  # noqa: BLE001 - to ask a stranger's exception may raise anything
        log.warning("sentry.not_reported", job=str(job_id), error_class=type(trouble).__name__)


def _without_messages(event: Any, _hint: Any) -> Any:
    for one in (event.get("exception") or {}).get("values") or ():
        one["value"] = ""
    event.pop("extra", None)
    return event


def _sentry() -> Any:
    """None where nobody in this process has anything to do with Sentry."""
    return sys.modules.get("sentry_sdk")
