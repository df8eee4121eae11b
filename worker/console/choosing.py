"""`chosen`: which jobs a page is about, as its address says: by state, kind, reason, organization and parent."""

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger import Filter
from docworker.db.models import JobState
from docworker.worker.console.view import View

NO_REASON = "(none)"
"""The reason of jobs that have failed without an error, in addresses and forms."""
STATES = [str(state) for state in JobState]


def chosen(view: View) -> Filter:
    """Raises InvalidArgumentError for a state that is none, NotFoundError for an organization that there is not."""
    state, reason = view.asked("state"), view.asked("reason")
    if state is not None and state not in STATES:
        raise InvalidArgumentError(f"{state[:100]!r} is no state: choose one of {', '.join(STATES)}")
    return Filter(
        states=[] if state is None else [state],
        kind=view.asked("kind"),
        organization_id=view.organization(),
        parent_id=view.asked_id("parent"),
        reason="" if reason == NO_REASON else reason,
    )


def asked_of(view: View) -> dict[str, str | None]:
    """The parameters of the address that choose jobs, to be given on to another page."""
    return {name: view.asked(name) for name in ("state", "kind", "reason", "organization", "parent")}


def reason_parameter(reason: str) -> str:
    """The reason of a group, as an address has it."""
    return reason or NO_REASON


def is_narrow(wanted: Filter) -> bool:
    """Whether it is about less than all jobs of a state: what acts on many asks for that."""
    return any(one is not None for one in (wanted.kind, wanted.organization_id, wanted.parent_id, wanted.reason))
