"""`usage_of_all` and `totals`: what all organizations use, wherever they are, asked side by side.

One that cannot be reached is named, and keeps the others' figures from nobody.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import NamedTuple

from docworker.db.catalog import SHARED_SCHEMA, place_in
from docworker.db.cluster import database
from docworker.db.errors import ConfigurationError, NotFoundError, UnavailableOrganizationError
from docworker.db.faults import Fault, classify
from docworker.db.models import Placement, PlacementState
from docworker.db.reports.answering import answer
from docworker.db.reports.question import Question
from docworker.db.reports.report import REPORTS, compute
from docworker.db.reports.usage import Usage
from docworker.db.sessions.opening import reading_at
from docworker.db.tenants.organizations import list_organizations

_AT_ONCE = 4


@dataclass(frozen=True)
class TenantUsage(Usage):
    """`model` is how it is kept apart from others: shared, schema or database."""

    organization: str
    cluster: str
    model: str


@dataclass(frozen=True)
class Totals(Usage):
    """Of all organizations that are on a cluster in a model; None for all of them."""

    cluster: str | None
    model: str | None
    organizations: int


class Unreached(NamedTuple):
    """An organization that is in no figure, and why."""

    organization: str
    cluster: str
    reason: str


class Survey(NamedTuple):
    """What was found out of all organizations, by slug."""

    found: Sequence[TenantUsage]
    unreached: Sequence[Unreached]


def usage_of_all(question: Question) -> Survey:
    """Several at once, each with a statement of its own that may take `report_timeout`. Of a cluster that does not
    answer the further ones are not asked."""
    silent: dict[str, str] = {}
    at_once = min(_AT_ONCE, database().settings.pool_size + database().settings.max_overflow)
    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(lambda one: _ask(one, question, silent), list_organizations()))
    return Survey(
        [one for one in answers if isinstance(one, TenantUsage)],
        [one for one in answers if isinstance(one, Unreached)],
    )


def totals(survey: Survey) -> list[Totals]:
    """By cluster and model, and of all of them last."""

    def place(one: TenantUsage) -> tuple[str, str]:
        return one.cluster, one.model

    parts = groupby(sorted(survey.found, key=place), key=place)
    return [*(_sum(*where, list(part)) for where, part in parts), _sum(None, None, survey.found)]


def _sum(cluster: str | None, model: str | None, part: Collection[TenantUsage]) -> Totals:
    summed = {field.name: sum(getattr(one, field.name) for one in part) for field in fields(Usage)}
    return Totals(**summed, cluster=cluster, model=model, organizations=len(part))


def _ask(placement: Placement, question: Question, silent: dict[str, str]) -> TenantUsage | Unreached:
    slug, cluster = placement.slug, placement.cluster
    if cluster in silent:
        return Unreached(slug, cluster, silent[cluster])
    try:
        (found,) = _usage_of(placement, question)
    except (UnavailableOrganizationError, NotFoundError, ConfigurationError) as error:
        return Unreached(slug, cluster, str(error))
    except Exception as error:
        fault = classify(error)
        if not fault.is_infrastructure:
            raise
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        if fault is Fault.CONNECTION and placement.database is None:
            silent[cluster] = reason
        return Unreached(slug, cluster, reason)
    return TenantUsage(**asdict(found), organization=slug, cluster=cluster, model=_model_of(placement))


def _usage_of(placement: Placement, question: Question) -> list[Usage]:
    """Nobody is served who is suspended, and yet his documents are kept."""
    report = REPORTS["usage"]
    if placement.state != PlacementState.SUSPENDED:
        return answer(report, placement.organization_id, question).rows
    place = place_in(placement)
    with reading_at(place, placement.organization_id) as session:
        return compute(report, session, question).rows


def _model_of(placement: Placement) -> str:
    if placement.database is not None:
        return "database"
    return "shared" if placement.schema == SHARED_SCHEMA else "schema"
