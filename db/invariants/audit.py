"""`Audit`: looks at all invariants of all organizations, page by page, and can go on where another one stopped.

It reads, and writes nothing. How what it finds is kept and told is for who runs it to say.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

import structlog

from docworker.db.catalog import SHARED_SCHEMA, place_in
from docworker.db.errors import NotFoundError, UnavailableOrganizationError
from docworker.db.governor import Governor, table_of
from docworker.db.invariants.checks import DOCUMENT_WALKS, INVARIANTS, LEDGER_WALKS, Page, PolicyWalk, Walk
from docworker.db.models import Placement, PlacementState
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.settings import HOME
from docworker.db.tenants.organizations import list_organizations
from docworker.db.tenants.passed import Passed

log = structlog.get_logger(__name__)

PAGE = 2000
MOST_KEPT = 100
"""So many violations are kept and logged one by one; all are counted."""


@dataclass
class Audited:
    """How far it is, as JSON has it. `violations` has each invariant, those of which nothing was found with 0;
    `skipped` are clusters that did not answer, and ids of organizations with which something is wrong."""

    organization: str | None = None
    walk: int = 0
    after: str | None = None
    rows: int = 0
    violations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(INVARIANTS, 0))
    found: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def result(self) -> dict[str, Any]:
        """What is kept of a whole audit."""
        kept = asdict(self)
        return {name: kept[name] for name in ("rows", "violations", "found", "skipped")}


class Audit:
    """`run` it until it says that it has seen everything."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.done = Audited(**state) if state else Audited()

    @property
    def state(self) -> dict[str, Any]:
        """For another one to go on with."""
        return asdict(self.done)

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Whether all has been looked at; False when `should_stop` said so first, between two pages. Paced by the
        governor of work in the background.

        Raises what a session does when home does not answer; another cluster is left out then, and so is an
        organization with which something is wrong.
        """
        passed = Passed()
        for placement, walks in _organizations():
            organization = str(placement.organization_id)
            if self.done.organization is not None and organization < self.done.organization:
                continue
            if organization != self.done.organization:
                self.done.organization, self.done.walk, self.done.after = organization, 0, None
            if placement.cluster in self.done.skipped:
                continue
            try:
                if not self._run_walks(placement.organization_id, walks, should_stop):
                    return False
            except (UnavailableOrganizationError, NotFoundError):
                continue  # it moves, is suspended or was dropped, since a moment ago
            except Exception as error:  # noqa: BLE001 - raised again where it is a matter of all
                are_all = passed.skip(placement.organization_id, place_in(placement), error, kind="audit_invariants")
                self.done.skipped.append(placement.cluster if are_all else organization)
        return True

    def _run_walks(self, organization_id: UUID, walks: Sequence[Walk], should_stop: Callable[[], bool]) -> bool:
        while self.done.walk < len(walks):
            walk = walks[self.done.walk]
            governor = Governor(table_of(organization_id, walk.table), most=PAGE)
            while governor.wait(should_stop):
                with governor.step() as most:
                    page = walk.page(organization_id, self.done.after, most)
                self._keep(organization_id, page)
                if page.after is None:
                    break
            else:
                return False
            self.done.walk += 1
        return True

    def _keep(self, organization_id: UUID, page: Page) -> None:
        self.done.rows += page.rows
        self.done.after = page.after
        for invariant, suspects in page.suspects.items():
            self.done.violations[invariant] = self.done.violations.get(invariant, 0) + len(suspects)
            for one in suspects[: MOST_KEPT - len(self.done.found)]:
                finding = {"invariant": invariant, "organization": str(organization_id), **one._asdict()}
                self.done.found.append(finding)
                log.error("invariant.violated", **finding)


def _organizations() -> Iterator[tuple[Placement, Sequence[Walk]]]:
    """In the order of their ids, the installation itself first. The policies of a database are looked at with the first
    organization there."""
    placements = [one for one in list_organizations() if one.state == PlacementState.ACTIVE]
    schemas: dict[tuple[str, str | None], list[str]] = {(HOME, None): []}
    for one in placements:
        there = schemas.setdefault((one.cluster, one.database), [])
        if one.schema != SHARED_SCHEMA:
            there.append(one.schema)
    itself = Placement(organization_id=SYSTEM_ORGANIZATION_ID, cluster=HOME, schema=SHARED_SCHEMA)
    seen = set[tuple[str, str | None]]()
    for one in [itself, *sorted(placements, key=lambda one: one.organization_id)]:
        where = (one.cluster, one.database)
        policies = [] if where in seen else [PolicyWalk(schemas[where])]
        seen.add(where)
        yield one, [*policies, *LEDGER_WALKS, *([] if one is itself else DOCUMENT_WALKS)]
