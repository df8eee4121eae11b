"""The same life of an organization's documents and jobs in every placement: shared, schema, database, shard."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm.exc import StaleDataError

from docworker.db.catalog import AT_HOME, Place
from docworker.db.cluster import database
from docworker.db.documents.loading import with_folder, with_people, with_tags, with_versions
from docworker.db.documents.reading import list_documents
from docworker.db.documents.retention import prune_versions, purge_deleted
from docworker.db.documents.search import search_documents
from docworker.db.errors import NotFoundError
from docworker.db.faults import Fault, classify
from docworker.db.models import (
    ContributorRole,
    Document,
    DocumentContributor,
    DocumentVersion,
    Job,
    JobState,
    Organization,
    Tag,
    User,
)
from docworker.db.sessions import TenantSession, reading, writing
from docworker.db.settings import settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.testing import drain
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.owner import become, owning
from docworker.worker.tenants.places import Model, model_of
from docworker.worker.tenants.states import resume, suspend
from tests.support.tenants import Tenant, is_served
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("clusters")

PLACEMENTS = {
    "shared": (Model.SHARED, "home"),
    "schema": (Model.SCHEMA, "home"),
    "database": (Model.DATABASE, "home"),
    "shard": (Model.SHARED, "east"),
    "schema-on-a-shard": (Model.SCHEMA, "east"),
    "database-on-a-shard": (Model.DATABASE, "east"),
}


class PlacedTenant(Tenant):
    """An organization made by `create_tenant`."""

    def __init__(self, slug: str, model: Model, cluster: str) -> None:
        self.slug = slug
        self.id, self.place, _ = create_tenant(slug, model=model, cluster=cluster)


@pytest.fixture(params=list(PLACEMENTS.values()), ids=list(PLACEMENTS))
def tenant(request: pytest.FixtureRequest) -> Iterator[PlacedTenant]:
    model, cluster = request.param
    tenant = PlacedTenant(f"acme-{model}-{cluster}", model, cluster)
    yield tenant
    drop_tenant(tenant.slug)


def test_documents_are_processed_versioned_found_and_purged_where_the_organization_is(tenant: PlacedTenant) -> None:
    document_id, other = tenant.add("the lighthouse", "elsewhere")
    with writing(tenant.id) as session:
        for one in (document_id, other):
            enqueue(session, process_document, document_id=one)
    assert drain() >= 2
    assert tenant.get(document_id).status == "processed"
    assert [one.content for one in tenant.versions(document_id)] == ["the lighthouse"]
    eventually(
        lambda: [hit.document_id for hit in search_documents(tenant.id, "lighthouse")] == [document_id],
        within_seconds=20,
    )
    assert len(list_documents(tenant.id)) == 2
    with writing(tenant.id) as session:
        session.get_one(Document, (tenant.id, document_id)).content = "the lighthouse keeper"
        enqueue(session, process_document, document_id=document_id)
    drain()
    assert [one.version_number for one in tenant.versions(document_id)] == [1, 2]
    with writing(tenant.id) as session:
        assert prune_versions(session, keep=1, keep_days=0, most=10) == 1
        session.get_one(Document, (tenant.id, document_id)).deleted_at = func.clock_timestamp()
    with writing(tenant.id) as session:
        assert len(purge_deleted(session, older_than=timedelta(0), most=10)) == 1
    _nothing_of_it_is_in_the_shared_tables_of_home(tenant)


def _nothing_of_it_is_in_the_shared_tables_of_home(tenant: PlacedTenant) -> None:
    if tenant.place == AT_HOME:
        return
    with TenantSession(database().cluster("home").master, tenant.id, settings()) as session:
        for model in (Organization, Document, DocumentVersion):
            assert session.scalar(select(func.count()).select_from(model)) == 0


def test_jobs_are_in_the_ledger_beside_their_documents(tenant: PlacedTenant) -> None:
    (document_id,) = tenant.add("text")
    with writing(tenant.id) as session:
        job_id = enqueue(session, process_document, document_id=document_id)
        where = session.scalar(text("SELECT current_database()"))
    drain()
    with reading(tenant.id, source="master") as session:
        assert session.get_one(Job, (tenant.id, job_id)).state == JobState.SUCCEEDED
        assert session.scalar(text("SELECT current_database()")) == where
    assert where.startswith(tenant.place.database or ("east" if tenant.place.cluster == "east" else "test"))


def test_what_belongs_to_a_document_is_written_and_loaded_where_it_is(tenant: PlacedTenant) -> None:
    document_id = tenant.write("/in/it/text.txt", "first", "second")
    loaded = (with_folder(), *with_people(), with_tags(), with_versions())
    with writing(tenant.id) as session:
        document = session.get_one(Document, (tenant.id, document_id), options=loaded)
        document.owner = User(organization_id=tenant.id, email="ada@example.org")
        document.contributors.append(DocumentContributor(user=document.owner, role=ContributorRole.AUTHOR))
        document.tags.append(Tag(organization_id=tenant.id, name="urgent"))
    with reading(tenant.id, source="master") as session:
        document = session.get_one(Document, (tenant.id, document_id), options=loaded)
        assert session.scalars(select(Document.id).where(Document.is_stale("others/1"))).all() == [document_id]
    assert document.folder is not None
    assert document.folder.name == "it"
    assert [one.version_number for one in document.versions] == [2, 1]
    assert [tag.name for tag in document.tags] == ["urgent"]
    assert [(one.user.display_name, one.role) for one in document.contributors] == [("ada@example.org", "author")]


def test_of_two_writers_with_one_reading_one_wins(tenant: PlacedTenant) -> None:
    (document_id,) = tenant.add("text")
    with reading(tenant.id, source="master") as session:
        read = session.get_one(Document, (tenant.id, document_id))
    with writing(tenant.id) as session:
        session.get_one(Document, (tenant.id, document_id)).title = "first"
    with writing(tenant.id) as session:
        session.add(read)
        read.title = "second"
        with pytest.raises(StaleDataError) as caught:
            session.flush()
        session.rollback()
    assert classify(caught.value) is Fault.CONFLICT
    assert tenant.get(document_id).title == "first"


def test_a_suspended_organization_is_refused_and_its_jobs_wait(tenant: PlacedTenant) -> None:
    (document_id,) = tenant.add("text")
    with writing(tenant.id) as session:
        enqueue(session, process_document, document_id=document_id)
    suspend(tenant.slug)
    eventually(lambda: not is_served(tenant.id), within_seconds=10)
    assert drain() == 0
    resume(tenant.slug)
    eventually(lambda: is_served(tenant.id), within_seconds=10)
    assert drain() >= 1
    assert tenant.get(document_id).status == "processed"


def test_a_place_is_made_once_and_dropped_with_all_that_is_in_it(tenant: PlacedTenant) -> None:
    tenant.add("text")
    again = create_tenant(tenant.slug, model=model_of(tenant.place), cluster=tenant.place.cluster)
    assert (again.organization_id, again.place, again.is_new) == (tenant.id, tenant.place, False)
    drop_tenant(tenant.slug)
    with pytest.raises(NotFoundError, match="see `docworker tenants list`"):
        drop_tenant(tenant.slug)
    with owning(Place(tenant.place.cluster, "app")) as owner:
        become(owner, tenant.id)
        for names in ("SELECT nspname FROM pg_namespace", "SELECT datname FROM pg_database"):
            assert not ({tenant.place.schema, tenant.place.database} - {"app"}) & set(owner.scalars(text(names)))
        for model in (Organization, Document, DocumentVersion, Job):
            assert owner.scalar(select(func.count()).select_from(model)) == 0
    tenant.id, tenant.place, _ = create_tenant(tenant.slug)
