"""`drop_tenant`: an organization with everything it owns, its jobs and its files; exported first, if that is asked for.
`forget_late_files`: what came into the store after that.

It is refused before anything goes, and leaves the catalog last, so a second run finishes what a killed one has begun.
"""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy import Connection, delete, func, select, text
from sqlalchemy.exc import DBAPIError

from docworker.db.catalog import SERVED, place_in
from docworker.db.documents.store import source_store
from docworker.db.errors import InvalidArgumentError, NotFoundError, UnavailableOrganizationError
from docworker.db.faults import sqlstate_of
from docworker.db.models import InstallationEntry, KeptSchedule, Placement, PlacementState, ScheduleFire
from docworker.db.sessions.fence import lock_key
from docworker.db.settings import settings
from docworker.db.tenants import archive
from docworker.db.tenants.archive import Manifest
from docworker.db.tenants.exporting import check_free, export_organization
from docworker.worker.tenants.making import clear_place, owns_database
from docworker.worker.tenants.owner import become, only_one_for, owning, placement_of, set_placement
from docworker.worker.tenants.places import all_places, check_lost, other_places, share_ledger
from docworker.worker.tenants.states import let_jobs_run, let_jobs_wait, refuse_older_snapshots

_LONGEST_WAIT_SECONDS = 60
_LATEST_FILE = timedelta(days=30)
"""No import is at a file for so long."""
_DISPATCHED = (*SERVED, PlacementState.SUSPENDED)
"""Of others the place may be half made, or half gone, and have no ledger."""
_LOCK = text("SELECT pg_catalog.pg_advisory_xact_lock(:key)")


def drop_tenant(
    slug: str, *, only: UUID | None = None, export: Path | None = None, lost: str | None = None
) -> Manifest | None:
    """Drop it, once it is in an export that was read again and is whole, if a path is given; returns the manifest. Also
    what is where it is on its way to, and what is kept where it was moved from.

    Nothing goes before nobody writes there: it takes `catalog_ttl`, and as long as the longest transaction that writes.
    `lost` is a cluster that will not come back: what is there stays.

    Raises NotFoundError for an unknown slug, or one that is not of `only` any more; InvalidArgumentError for a lost
    cluster that is in the settings or has nothing of it; ConfigurationError where something of it is on another one
    that is not; UnavailableOrganizationError while such a transaction stays open, and what `export_organization` does:
    then nothing is dropped, and, where it was to be exported, it is served as before.
    """
    with only_one_for(slug):
        placement = placement_of(slug)
        if only not in (None, placement.organization_id):
            raise NotFoundError(
                f"the organization {slug!r} ({only}) is gone, and another one has its slug by now "
                f"({placement.organization_id}): nothing was deleted"
            )
        check_lost(lost, placement)
        place = place_in(placement)
        for one in all_places(placement):
            if one.cluster != lost:
                settings().addresses(one.cluster)  # nothing takes back an organization that is being dropped
        manifest = None if export is None else _export(placement, export)
        set_placement(placement.organization_id, state=PlacementState.DROPPING)
        if manifest is None:
            _let_nobody_write(placement, lost)
        for other in other_places(placement):
            if other.cluster != lost:
                clear_place(other, placement.organization_id, with_jobs=not share_ledger(other, place))
        if place.cluster != lost:
            clear_place(place, placement.organization_id)
        source_store().delete_all(placement.organization_id)
        with owning() as connection:
            become(connection, placement.organization_id)
            _delete_schedules(connection, placement.organization_id)
            connection.execute(delete(Placement).where(Placement.organization_id == placement.organization_id))
    return manifest


def forget_late_files() -> list[UUID]:
    """Of organizations that were dropped in the last days, by the installation's log: who was killed between keeping a
    file and naming it has left one that nobody knows of. Returns whose there were. Raises StoreError."""
    with owning() as connection:
        placed = select(Placement.organization_id).where(Placement.organization_id == InstallationEntry.subject_id)
        dropped = connection.scalars(
            select(InstallationEntry.subject_id)
            .where(
                InstallationEntry.action == "organization.dropped",
                InstallationEntry.created_at > func.clock_timestamp() - _LATEST_FILE,
                InstallationEntry.subject_id.is_not(None),
                ~placed.exists(),
            )
            .distinct()
        ).all()
    return [one for one in dropped if one is not None and _has_files(one) and _forget_files(one)]


def _has_files(organization_id: UUID) -> bool:
    return any(source_store().keys(organization_id, before=datetime.now(UTC) + timedelta(days=1)))


def _forget_files(organization_id: UUID) -> bool:
    """Unless it is there again: nobody enters it meanwhile."""
    with owning() as connection:
        connection.exec_driver_sql(f"LOCK TABLE {Placement.__table__} IN SHARE MODE")
        placed = select(Placement.organization_id).where(Placement.organization_id == organization_id)
        if connection.scalar(placed) is not None:
            return False
        source_store().delete_all(organization_id)
        return True


def _delete_schedules(connection: Connection, organization_id: UUID) -> None:
    """And then their ticks, of which nothing else says whose they are: a beat that fires one just now is waited for."""
    gone = delete(KeptSchedule).where(KeptSchedule.organization_id == organization_id).returning(KeptSchedule.name)
    names = connection.scalars(gone).all()
    connection.execute(delete(ScheduleFire).where(ScheduleFire.schedule.in_(names)))


def _export(placement: Placement, path: Path) -> Manifest:
    """Nobody is served meanwhile, so that nothing is written which is in no export."""
    if placement.state not in (PlacementState.ACTIVE, PlacementState.SUSPENDED):
        raise InvalidArgumentError(
            f"the organization {placement.slug!r} is {placement.state}, so there is nothing whole to export: finish "
            "that, or drop it without an export"
        )
    check_free(path.absolute())
    organization_id, place = placement.organization_id, place_in(placement)
    set_placement(organization_id, state=PlacementState.SUSPENDED)
    try:
        _let_nobody_write(placement)
        manifest = export_organization(organization_id, path, place=place)
        with archive.opened(path) as exported:
            archive.verify(exported, archive.read_manifest(exported))
    except BaseException:
        if placement.state == PlacementState.ACTIVE:
            set_placement(organization_id, state=PlacementState.ACTIVE)
            let_jobs_run(place, organization_id)
        raise
    return manifest


def _let_nobody_write(placement: Placement, lost: str | None = None) -> None:
    """Until nobody does, also who was told before that it is served: see `db.sessions.fence`."""
    organization_id, place = placement.organization_id, place_in(placement)
    if place.cluster == lost:
        time.sleep(settings().catalog_ttl)  # until nobody keeps a file for it
        return
    if place.database is not None and not owns_database(place, organization_id):
        return  # it has been lost, and what is left is dropped all the same
    if place.database is None or placement.state in _DISPATCHED:
        let_jobs_wait(place, organization_id)
    time.sleep(settings().catalog_ttl)
    try:
        with owning(place) as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LONGEST_WAIT_SECONDS}s'")
            connection.execute(_LOCK, {"key": lock_key(organization_id)})
            refuse_older_snapshots(connection, place, organization_id)
    except DBAPIError as error:
        if sqlstate_of(error) != "55P03":
            raise
        raise UnavailableOrganizationError(
            f"a transaction that writes for {placement.slug!r} has been open for {_LONGEST_WAIT_SECONDS} seconds: end "
            "it (see pg_stat_activity), and try again"
        ) from error
