"""`Schedule`: what is done regularly, and when; `SCHEDULES`: those that docworker brings.

What is wrong with a schedule by itself is refused where it is written; what depends on the kinds that a release knows
shows only in a beat, which sets that schedule aside.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from docworker.db.errors import ConfigurationError, InvalidArgumentError
from docworker.db.ledger.values import as_json, check_id, check_integer, check_kind, check_text, shortened
from docworker.db.models import Missed
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.jobs.schedules.cron import Cron as Cron
from docworker.jobs.schedules.rules import Every as Every
from docworker.jobs.schedules.rules import When, rule_of

MAX_NAME_LENGTH = 200


@dataclass(frozen=True, init=False)
class Schedule:
    """What is enqueued regularly: for the installation, for one organization, or for each one that is served.

    `when` is a rule, or a text as `rule_of` has it. `missed` says what becomes of ticks that fell due while no beat
    ran: with `latest` and `none` a tick adds no second job while an earlier one waits unclaimed, with `all` each has
    its own. Raises ConfigurationError naming the schedule, what is wrong, and the place.
    """

    name: str
    when: When
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    organization_id: UUID = SYSTEM_ORGANIZATION_ID
    each_organization: bool = False
    missed: Missed = Missed.LATEST
    priority: int | None = None
    place: str = field(default="", compare=False, repr=False)
    """Where it is defined: file:line."""

    def __init__(
        self,
        name: str,
        when: When | str,
        kind: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        zone: str = "UTC",
        organization_id: UUID | None = None,
        each_organization: bool = False,
        missed: str = Missed.LATEST,
        priority: int | None = None,
        place: str | None = None,
    ) -> None:
        caller = sys._getframe(1)
        place = place or f"{caller.f_code.co_filename}:{caller.f_lineno}"
        try:
            check_text("its name", name, most=MAX_NAME_LENGTH)
            check_kind(kind)
            as_json({} if arguments is None else arguments, "its arguments")
            known = {
                "name": name,
                "when": rule_of(when, zone),
                "kind": kind,
                "arguments": dict(arguments or {}),
                "organization_id": _organization(organization_id, each_organization),
                "each_organization": bool(each_organization),
                "missed": _missed(missed),
                "priority": None if priority is None else check_integer("its priority", priority, 0, 9, " (first)"),
                "place": place,
            }
        except (ConfigurationError, InvalidArgumentError) as error:
            raise ConfigurationError(f"schedule {shortened(name)}, defined at {place}: {error}") from None
        for attribute, value in known.items():
            object.__setattr__(self, attribute, value)

    def __str__(self) -> str:
        return f"schedule {self.name!r}, defined at {self.place}"


def _organization(organization_id: UUID | None, each_organization: bool) -> UUID:
    if organization_id is None:
        return SYSTEM_ORGANIZATION_ID
    if each_organization:
        raise ConfigurationError("it is for one organization or for each, not both")
    return check_id("its organization", organization_id)


def _missed(value: Any) -> Missed:
    try:
        return Missed(value)
    except ValueError:
        raise ConfigurationError(f"what is missed is latest, all or none, got {shortened(value)}") from None


def distinct(*schedules: Schedule) -> tuple[Schedule, ...]:
    """These schedules; raises ConfigurationError naming both places where two have one name, for they would share
    their ticks."""
    first: dict[str, Schedule] = {}
    for one in schedules:
        other = first.setdefault(one.name, one)
        if other is not one:
            raise ConfigurationError(
                f"two schedules are called {one.name!r}: one is defined at {other.place}, the other at {one.place}; "
                "give one of them another name"
            )
    return schedules


SCHEDULES: Sequence[Schedule] = distinct(
    Schedule("reconcile_documents", Every(600), "reconcile_documents"),
    Schedule("index_unindexed", Every(600), "index_unindexed"),
    Schedule("prune_jobs", Cron("7 * * * *"), "prune_finished_jobs"),
    Schedule("purge_deleted_documents", Cron("23 2 * * *"), "purge_deleted_documents"),
    Schedule("sweep_sources", Cron("53 2 * * *"), "sweep_sources"),
    Schedule("prune_versions", Cron("41 3 * * *"), "prune_old_versions"),
    Schedule("refresh_statistics", Cron("37 4 * * *"), "refresh_statistics"),
    Schedule("prune_audit_logs", Cron("11 4 * * *"), "prune_audit_logs"),
    Schedule("audit_invariants", Cron("29 5 * * *"), "audit_invariants"),
)
