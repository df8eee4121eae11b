"""`import_organization`: an organization equal to the one that was exported, with the same ids, in any kind of place.

Everything is verified before anything is written. While it is written the catalog has the organization as `importing`,
so nobody else sees half of it; a run that was cut off is finished by the next one.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast
from uuid import UUID

from sqlalchemy import (
    JSON,
    CursorResult,
    Table,
    TableValuedAlias,
    Text,
    and_,
    bindparam,
    column,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError, IntegrityError

from docworker.db.catalog import Place, place_in
from docworker.db.documents.store import source_store
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Placement, PlacementState
from docworker.db.retrying import again
from docworker.db.sessions import TenantSession
from docworker.db.sessions.opening import writing_at
from docworker.db.settings import HOME, settings
from docworker.db.tenants import archive
from docworker.db.tenants.archive import SOURCES, Archive, Manifest, file_of
from docworker.db.tenants.organizations import check_slug
from docworker.db.tenants.tables import TABLES, owner_column
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.indexing import index_documents
from docworker.worker.tenants.creating import check_same, record
from docworker.worker.tenants.making import make_place
from docworker.worker.tenants.owner import find_organization, only_one_for, set_placement
from docworker.worker.tenants.places import Model, new_place
from docworker.worker.tenants.states import let_jobs_run, let_jobs_wait

_CHUNK_ROWS = 500
_CHUNK_CHARACTERS = 4 * 1024 * 1024
_TRIES = 5


def import_organization(
    path: Path,
    *,
    slug: str | None = None,
    model: Model = Model.SHARED,
    cluster: str = HOME,
    place_name: str | None = None,
) -> Manifest:
    """Import what was exported to `path`, as `slug` if given, into a place as `create_tenant` makes it.

    Its full-text index is made by jobs afterwards. Raises InvalidArgumentError for an export that is not whole or not
    of one organization, and where the organization, its slug or its place exists already; ConfigurationError as
    `create_tenant` does; StoreError when sources cannot be kept now.
    """
    settings().addresses(cluster)
    with archive.opened(path) as exported:
        manifest = archive.read_manifest(exported)
        slug = slug or manifest.slug
        check_slug(slug)
        organization_id = UUID(manifest.organization_id)
        intended = new_place(model, cluster, organization_id, slug, name=place_name)
        archive.verify(exported, manifest)
        with only_one_for(slug):
            placement = _begun(organization_id, slug, intended)
            check_same(placement, model, cluster, place_name)
            _import(exported, manifest, place_in(placement), slug)
    return manifest


def _begun(organization_id: UUID, slug: str, place: Place) -> Placement:
    """The organization, entered as one that is being made; by a run before, if there was one."""
    with_slug = record(organization_id, slug, place, PlacementState.IMPORTING)
    placement = find_organization(organization_id)
    if placement is None:
        if with_slug is None:
            raise InvalidArgumentError(
                f"the place {place.database or place.schema!r} is another organization's: choose another --place-name"
            )
        raise InvalidArgumentError(f"another organization has the slug {slug!r}: choose one with --slug")
    if placement.state != PlacementState.IMPORTING:
        raise InvalidArgumentError(
            f"the organization {organization_id} exists here already, as {placement.slug!r} ({placement.state}): "
            "import it into another installation, or drop it first"
        )
    if placement.slug != slug:
        raise InvalidArgumentError(
            f"an import of the organization {organization_id} as {placement.slug!r} was not finished: finish it with "
            f"--slug {placement.slug}, or drop it first"
        )
    return placement


def _import(exported: Archive, manifest: Manifest, place: Place, slug: str) -> None:
    organization_id = UUID(manifest.organization_id)
    set_placement(organization_id, revision=make_place(place, organization_id))
    let_jobs_wait(place, organization_id)
    _Writing(exported, manifest, place, slug).write()
    let_jobs_run(place, organization_id)
    set_placement(organization_id, state=PlacementState.ACTIVE)


class _Writing:
    """The rows and sources of one verified export, on their way to a place."""

    def __init__(self, exported: Archive, manifest: Manifest, place: Place, slug: str) -> None:
        self._exported, self._manifest, self._place, self._slug = exported, manifest, place, slug
        self._organization_id = UUID(manifest.organization_id)

    def write(self) -> None:
        """Sources first, so that no document names one that is not there; the index last."""
        self._put_sources()
        for name in self._manifest.exported:
            for lines, _ in self._chunks(name):
                self._in_transaction(lambda session, name=name, lines=lines: self._insert(session, name, lines))  # type: ignore[misc]
        self._in_transaction(self._assert_complete)
        for _, ids in self._chunks("documents"):
            if ids:
                self._in_transaction(lambda session, ids=ids: _index(session, ids))  # type: ignore[misc]

    def _put_sources(self) -> None:
        store = source_store()
        for sha256 in self._exported.sources():
            with self._exported.open(f"{SOURCES}/{sha256}") as stream:
                store.put(self._organization_id, cast(BinaryIO, stream))

    def _chunks(self, name: str) -> Iterator[tuple[list[str], list[UUID]]]:
        """Lines, and the ids of those rows that have a text to index."""
        lines, ids, characters = list[str](), list[UUID](), 0
        for line, row in archive.rows(self._exported, name):
            lines.append(line)
            characters += len(line)
            if row.get("latest_version"):
                ids.append(UUID(row["id"]))
            if len(lines) >= _CHUNK_ROWS or characters >= _CHUNK_CHARACTERS:
                yield lines, ids
                lines, ids, characters = [], [], 0
        if lines:
            yield lines, ids

    def _in_transaction(self, write: Callable[[TenantSession], None]) -> None:
        def once() -> None:
            with writing_at(self._place, self._organization_id) as session:
                write(session)

        again(times=_TRIES)(once)

    def _insert(self, session: TenantSession, name: str, lines: list[str]) -> None:
        """Rows of a run before stay, if they are equal."""
        table, columns = TABLES[name], self._manifest.tables[name].columns
        rows = _rows_of(table, columns)
        values = [literal(self._slug) if name == "organizations" and one == "slug" else rows.c[one] for one in columns]
        statement = insert(table).from_select(columns, select(*values))
        parameters = {"lines": f"[{','.join(lines)}]"}
        try:
            inserted = session.execute(
                statement.on_conflict_do_nothing(index_elements=list(table.primary_key)), parameters
            )
        except (IntegrityError, DataError) as error:
            raise InvalidArgumentError(
                f"the database refuses rows of {self._exported.path}/{file_of(name)}: {error.orig}; export the "
                "organization again"
            ) from error
        assert isinstance(inserted, CursorResult)
        if inserted.rowcount < len(lines) and name != "organizations":
            is_key = and_(*(table.c[key.name] == rows.c[key.name] for key in table.primary_key))
            differs = or_(*(table.c[one].is_distinct_from(rows.c[one]) for one in columns))
            if session.execute(select(1).select_from(rows).join(table, is_key).where(differs), parameters).first():
                raise self._other_export(name)

    def _assert_complete(self, session: TenantSession) -> None:
        for name, table in self._manifest.exported.items():
            is_ours = owner_column(table) == self._organization_id
            count = session.scalar(select(func.count()).select_from(table).where(is_ours))
            if count != self._manifest.tables[name].rows:
                raise self._other_export(name)

    def _other_export(self, name: str) -> InvalidArgumentError:
        return InvalidArgumentError(
            f"the organization {self._slug!r} has other rows of {name} here than "
            f"{self._exported.path}/{file_of(name)}: an import of another export was not finished; "
            "finish that one, or drop the organization and import again"
        )


def _rows_of(table: Table, columns: list[str]) -> TableValuedAlias:
    """The lines that are bound as `lines`, as rows; the server reads what a server has written."""
    given = func.json_to_recordset(sql_cast(bindparam("lines", type_=Text()), JSON))
    typed = (column(name, table.c[name].type) for name in columns)
    return given.table_valued(*typed).render_derived(name="given", with_types=True)


def _index(session: TenantSession, document_ids: list[UUID]) -> None:
    enqueue(session, index_documents, document_ids=document_ids)
