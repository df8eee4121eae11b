"""`place_of`: on which cluster, in which database and in which schema there, an organization's documents are.

Sessions ask here before they are opened. The catalog, `catalog.placements` on the home cluster's master, is asked once
for each organization, and once in `catalog_ttl` whether anything has changed. It fails closed: what cannot be asked
is an error, never the last answer past its time.
"""

import time
from collections.abc import Collection, Iterable
from typing import NamedTuple, Protocol
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import Connection

from docworker.db.cluster import Cluster
from docworker.db.cluster.transactions import ask_rows, ask_rows_within
from docworker.db.errors import MovingOrganizationError, NotFoundError, UnavailableOrganizationError
from docworker.db.models import Changes, Placement, PlacementState
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.models.revision import KNOWN_REVISIONS, is_known
from docworker.db.settings import HOME, Settings

SHARED_SCHEMA = "app"
"""The schema of organizations that share their tables; the name that the models give theirs."""
TENANT_SCHEMAS = (SHARED_SCHEMA, "auth")
"""What an organization owns besides its jobs. In a schema of its own the tables of both stand side by side."""
_ANSWER_SECONDS = 2.0

_CHANGES, _PLACEMENTS = Changes.__table__, Placement.__table__
_COLUMNS = (
    "changes.version, changes.deleted, placement.organization_id, placement.version, placement.cluster,"
    " placement.database_name, placement.schema_name, placement.state, placement.slug,"
    " placement.revision"
)


class Place(NamedTuple):
    """`cluster` is a name of `Settings.addresses`; `database` is None for the cluster's own."""

    cluster: str
    schema: str
    database: str | None = None


class Known(NamedTuple):
    """What the catalog says of an organization."""

    place: Place
    state: str
    slug: str
    version: int
    revision: str | None


SERVED = (PlacementState.ACTIVE, PlacementState.LEAVING)
"""In which states an organization may be written, and claimed jobs of."""
READABLE = (*SERVED, PlacementState.MOVING)
_UNSETTLED = (PlacementState.LEAVING, PlacementState.MOVING)
"""What is said of these is true for this moment only, and asked again each time."""


class Answer(NamedTuple):
    """`place` is believed until `valid_until`, of `time.monotonic`: an organization whose move is announced does not
    leave its place sooner. See `db.sessions.fence`."""

    place: Place
    valid_until: float


class OpenClusters(Protocol):
    """`db.cluster.Database`, or its asyncio twin."""

    settings: Settings

    def cluster(self, name: str, database: str | None = None) -> Cluster: ...


AT_HOME = Place(HOME, SHARED_SCHEMA)


def place_in(placement: Placement) -> Place:
    """Its own place, by its row; others may be recorded there besides (`worker.tenants.places`)."""
    return Place(placement.cluster, placement.schema, placement.database)


def place_of(organization_id: UUID | None, among: OpenClusters, *, states: Collection[str] = READABLE) -> Place:
    """Where an organization is, by the catalog of the home cluster among these. None is for what belongs to no
    organization, such as the catalog itself.

    Raises NotFoundError for an organization that the catalog does not know, UnavailableOrganizationError when it is in
    none of these states or at a revision that this release does not know, and what a session raises where the home
    cluster's master cannot be asked.
    """
    return answer_of(organization_id, among, states=states).place


def answer_of(organization_id: UUID | None, among: OpenClusters, *, states: Collection[str] = READABLE) -> Answer:
    """As `place_of`, and for how long it is to be believed. Raises MovingOrganizationError for one of which another
    question would be answered in a moment: it arrives, or is served again."""
    if organization_id is None or organization_id == SYSTEM_ORGANIZATION_ID:
        return Answer(AT_HOME, float("inf"))
    known, valid_until = catalog_of(among).find(organization_id)
    if known.state not in states:
        is_passing = known.state in READABLE
        kind = MovingOrganizationError if is_passing else UnavailableOrganizationError
        raise kind(f"the organization {known.slug!r} ({organization_id}) is {known.state}: {REMEDIES[known.state]}")
    if not is_known(known.revision):
        raise UnavailableOrganizationError(
            f"the organization {known.slug!r} ({organization_id}) is at revision {known.revision}, and this release "
            f"works with {', '.join(KNOWN_REVISIONS)}: run `docworker migrate --only {known.slug}` of this release if "
            "that is newer, else start the release that it was migrated with"
        )
    return Answer(known.place, valid_until)


def is_still_at(organization_id: UUID, place: Place, among: OpenClusters, within: Connection | None) -> bool:
    """Whether the catalog says now that it is there and may be written. `within` is a transaction in home's own
    database, which is asked there rather than by another connection."""
    known, _ = catalog_of(among).find(organization_id, within=within)
    return known.place == place and known.state in SERVED


def is_dropped(organization_id: UUID, among: OpenClusters) -> bool:
    """Whether it is gone, or on its way out; by what a process knows that has just been refused there."""
    try:
        known, _ = catalog_of(among).find(organization_id)
    except NotFoundError:
        return True
    return known.state == PlacementState.DROPPING


def learn(organizations: Collection[UUID], among: OpenClusters) -> None:
    """Ask for all of these at once, so that `place_of` need not for each. Raises as `place_of` where the catalog cannot
    be asked."""
    catalog_of(among).learn(organizations)


_WHILE_IT_MOVES = "try again when it has arrived; if its move was killed, run `docworker tenants move` again"
REMEDIES: dict[str, str] = {
    PlacementState.CREATING: "its creation was not finished; run `docworker tenants create` for it again",
    PlacementState.IMPORTING: "its import was not finished; run `docworker tenants import` for it again",
    PlacementState.ACTIVE: "it is active again",
    PlacementState.SUSPENDED: "`docworker tenants resume` makes it active again",
    PlacementState.LEAVING: _WHILE_IT_MOVES,
    PlacementState.MOVING: _WHILE_IT_MOVES,
    PlacementState.DROPPING: "it is being dropped; run `docworker tenants drop` again if that was not finished",
}


class Catalog:
    """What one process has read of the catalog."""

    def __init__(self, home: Cluster, ttl_seconds: float) -> None:
        self._home = home
        self._ttl_seconds = ttl_seconds
        self._known: dict[UUID, Known] = {}
        self._seen = -1
        """The last change that is in what is known."""
        self._fresh_until = float("-inf")

    def find(self, organization_id: UUID, *, within: Connection | None = None) -> tuple[Known, float]:
        """What is known, and until when. It is asked for on another connection than `within` unless that is given."""
        valid_until = self._fresh_until
        known = self._known.get(organization_id) if time.monotonic() < valid_until else None
        if known is None or known.state in _UNSETTLED:
            known, valid_until = self._ask_for(organization_id, within)
        return known, float("-inf") if known.state in _UNSETTLED else valid_until

    def _ask_for(self, organization_id: UUID, within: Connection | None) -> tuple[Known, float]:
        valid_until = time.monotonic() + self._ttl_seconds
        known = self._ask([organization_id], within).get(organization_id)
        if known is None:
            raise NotFoundError(f"the catalog knows no organization {organization_id}: see `docworker tenants list`")
        return known, valid_until

    def learn(self, organizations: Iterable[UUID]) -> None:
        is_fresh = time.monotonic() < self._fresh_until
        missing = [one for one in organizations if not (is_fresh and one in self._known)]
        if missing:
            self._ask([one for one in missing if one != SYSTEM_ORGANIZATION_ID])

    def _ask(self, organizations: Collection[UUID], within: Connection | None = None) -> dict[UUID, Known]:
        """What has changed since it was asked last, and these. They are kept unless somebody else has asked later
        meanwhile: he was not told of what has changed of these."""
        asked_at = time.monotonic()
        seen = self._seen
        version, deleted, found = self._read(organizations, since=seen, within=within)
        if version < self._seen:
            return self._known | found
        if deleted > seen:
            self._known = {}
        self._known.update(found)
        self._seen = version
        self._fresh_until = max(self._fresh_until, asked_at + self._ttl_seconds)
        return self._known

    def _read(
        self, organizations: Collection[UUID], *, since: int, within: Connection | None = None
    ) -> tuple[int, int, dict[UUID, Known]]:
        named = ",".join(f"'{UUID(str(one))}'" for one in organizations)
        changed = f"placement.version > {since}" if since >= 0 else "false"
        source = (
            f"{_CHANGES} AS changes LEFT JOIN {_PLACEMENTS} AS placement"
            f" ON placement.organization_id = ANY(ARRAY[{named}]::uuid[]) OR {changed}"
        )
        if within is not None:
            rows = ask_rows_within(within, _COLUMNS, source)
        else:
            rows = ask_rows(self._home.master, _COLUMNS, source, timeout_seconds=_ANSWER_SECONDS)
        return int(rows[0][0] or 0), int(rows[0][1] or 0), dict(_known(row) for row in rows if row[2] is not None)


def _known(row: list[str | None]) -> tuple[UUID, Known]:
    organization_id, version, cluster, database, schema, state, slug, revision = row[2:]
    place = Place(str(cluster), str(schema), database)
    return UUID(str(organization_id)), Known(place, str(state), str(slug), int(version or 0), revision)


_catalogs: WeakKeyDictionary[OpenClusters, Catalog] = WeakKeyDictionary()


def catalog_of(among: OpenClusters) -> Catalog:
    """Kept for as long as the clusters are open."""
    found = _catalogs.get(among)
    if found is None:
        found = _catalogs[among] = Catalog(among.cluster(HOME), among.settings.catalog_ttl)
    return found
