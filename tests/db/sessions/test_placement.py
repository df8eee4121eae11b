"""Sessions go where their organization is placed: to its cluster, and to its schema there."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from docworker.db.catalog import Place
from docworker.db.cluster import close_database, database, open_database
from docworker.db.cluster.engines import owner_engine
from docworker.db.cluster.prepared import Statement
from docworker.db.documents.folders import ensure_folders
from docworker.db.documents.reading import list_documents, list_versions
from docworker.db.documents.reconcile import fail_abandoned, forgotten_documents
from docworker.db.documents.retention import prune_versions, purge_deleted
from docworker.db.documents.search import search_documents
from docworker.db.documents.versions import NewText, write_versions
from docworker.db.errors import ConfigurationError
from docworker.db.models import Document, DocumentVersion, Organization
from docworker.db.models.base import new_id
from docworker.db.sessions import TenantSession, position_after, reading, writing
from docworker.db.sessions.exchanges import transact
from docworker.db.sessions.statements import Call
from docworker.db.settings import Settings, settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.migrations.runner import upgrade
from tests.support.stack import applied
from tests.support.tenants import entered, index
from tests.support.waiting import eventually


def add_organization(organization_id: UUID) -> None:
    with writing(organization_id) as session:
        session.add(Organization(id=organization_id, slug=f"o{organization_id.hex}", name="x"))


def test_an_organization_reads_and_writes_on_its_cluster(clusters: None) -> None:
    moved, other = entered(at=Place("east", "app")), entered()
    add_organization(moved)
    add_organization(other)
    with writing(moved) as session:
        position = position_after(database().cluster("east"))
        assert session.scalar(text("SELECT current_database()")).startswith("east")
    with reading(moved, position=position) as session:
        assert session.scalar(select(Organization.id)) == moved
        assert session.get_bind() is database().cluster("east").replicas[0]
    call = Call(moved, Statement("which_database", "SELECT current_database()", {}), {})
    assert transact([call]).rows[0][0][0].startswith("east")
    with TenantSession(database().cluster("home").master, moved, settings()) as session:
        assert session.scalar(select(Organization.id)) is None, "nothing of it is at home"


def test_a_cluster_uses_its_own_replicas_and_no_more(clusters: None) -> None:
    """With as many as home has, it would ask one that it does not have."""
    assert [len(database().cluster(name).replicas) for name in ("home", "east")] == [2, 1]
    moved = entered(at=Place("east", "app"))
    used = set()
    for _ in range(20):
        with reading(moved) as session:
            assert session.choice is not None
            used.add(session.choice.number)
    eventually(lambda: database().cluster("east").monitor.sample(0))
    database().cluster("east").monitor.suspect(0)
    with reading(moved, avoid=[0]) as session:
        assert session.choice is not None
        assert session.choice.target == "master"
    assert used <= {0, None}


def test_an_unknown_cluster_is_an_error_and_no_default(clusters: None) -> None:
    lost = entered(at=Place("west", "app"))
    with (
        pytest.raises(ConfigurationError, match=r"no cluster is called 'west'; known: home, east"),
        writing(lost),
    ):
        pass


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("{", r"DOCWORKER_CLUSTERS: not JSON"),
        ('{"home": {"master_url": "postgresql://x"}}', r"DOCWORKER_CLUSTERS names 'home'"),
        ('{"east": {}}', r"DOCWORKER_CLUSTERS: east: master_url: Field required"),
        ('{"east": {"master_url": "mysql://root:secret@x"}}', r"east: master_url: not a postgresql:// address"),
        ('{"East Side": {"master_url": "postgresql://x"}}', r"DOCWORKER_CLUSTERS: East Side"),
    ],
)
def test_clusters_that_cannot_be_are_refused_with_the_reason(
    environment: dict[str, str], value: str, complaint: str
) -> None:
    with (
        applied(environment | {"DOCWORKER_CLUSTERS": value}),
        pytest.raises(ConfigurationError, match=complaint) as caught,
    ):
        settings()
    assert "secret" not in str(caught.value)


def test_one_cluster_needs_no_more_than_its_addresses() -> None:
    known = Settings(master_url="postgresql://m/d", replica_urls=("postgresql://r/d",), clusters={})
    assert known.cluster_names == ("home",)
    assert known.addresses("home").replica_urls == ("postgresql://r/d",)


SCHEMA = 'tenant "one"'


@pytest.fixture
def schema(environment: dict[str, str]) -> Iterator[str]:
    """A schema with the tables of documents, beside the shared one."""
    quoted = '"tenant ""one"""'
    engine = owner_engine(settings())
    with engine.begin() as owner:
        owner.execute(text(f"CREATE SCHEMA {quoted}"))
    upgrade(schema=SCHEMA)
    open_database()
    yield SCHEMA
    close_database()
    with engine.begin() as owner:
        owner.execute(text(f"DROP SCHEMA {quoted} CASCADE"))


def test_all_of_an_organizations_documents_are_in_its_schema(schema: str) -> None:
    """Written, versioned, indexed, found, pruned, reconciled and purged there, and nothing of it in the shared one."""
    organization_id = entered(at=Place("home", schema))
    add_organization(organization_id)
    with writing(organization_id) as session:
        folder = ensure_folders(session, [("reports",)])[("reports",)]
        document = Document(
            id=new_id(), organization_id=organization_id, folder_id=folder, filename="a.txt", content="one"
        )
        forgotten = Document(id=new_id(), organization_id=organization_id, filename="b.txt", content="two")
        session.add_all([document, forgotten])
        enqueue(session, process_document, document_id=document.id)
    for number, content in enumerate(("the lighthouse", "the lighthouse keeper"), 1):
        new = NewText(document.id, number, None, content, f"{number}" * 64, "p")
        with writing(organization_id) as session:
            assert write_versions(session, [new])[document.id].version_number == number
    with writing(organization_id) as session:
        assert index(session, [document.id]) == 1
    found = eventually(lambda: search_documents(organization_id, "keeper"), within_seconds=20)
    assert [hit.document_id for hit in found] == [document.id]
    assert {entry.path for entry in list_documents(organization_id)} == {"/reports/a.txt", "/b.txt"}
    assert len(list_versions(organization_id, document.id)) == 2
    with writing(organization_id) as session:
        assert prune_versions(session, keep=1, keep_days=0, most=10) == 1
        lost = forgotten_documents(session, kind="process_document", grace_seconds=0, most=10)
        assert lost == [forgotten.id]
        assert fail_abandoned(session, lost, kind="process_document") == set()
        session.get_one(Document, (organization_id, document.id)).deleted_at = func.clock_timestamp()
    with writing(organization_id) as session:
        assert len(purge_deleted(session, older_than=timedelta(0), most=10)) == 1
    with TenantSession(database().cluster("home").master, organization_id, settings()) as session:
        for model in (Organization, Document, DocumentVersion):
            assert session.scalar(select(func.count()).select_from(model)) == 0, "nothing in the shared schema"
