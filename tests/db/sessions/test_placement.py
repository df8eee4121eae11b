"""Sessions go where their organization is placed: to its cluster, and to its schema there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from docworker.db import catalog
from docworker.db.catalog import AT_HOME, Place
from docworker.db.cluster import close_database, database, open_database
from docworker.db.cluster.engines import owner_engine
from docworker.db.documents.folders import ensure_folders
from docworker.db.documents.reading import list_documents, list_versions
from docworker.db.documents.reconcile import fail_abandoned, forgotten_documents
from docworker.db.documents.retention import prune_versions, purge_deleted
from docworker.db.documents.search import index_documents, search_documents
from docworker.db.documents.versions import NewText, write_versions
from docworker.db.errors import ConfigurationError
from docworker.db.models import Base, Document, DocumentVersion, Organization
from docworker.db.models.base import new_id
from docworker.db.sessions import position_after, reading, writing
from docworker.db.sessions.exchanges import transact
from docworker.db.sessions.statements import Call, Statement
from docworker.db.settings import Settings, settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.worker.local.stack import LocalStack
from tests.support.stack import applied, fresh_database, isolated_settings, unique_name
from tests.support.waiting import eventually


@contextmanager
def placed_at(place: Place, organization_id: UUID, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the catalog says of one organization; the others are at home."""
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "place_of", lambda one: place if one == organization_id else AT_HOME)
        yield


def add_organization(organization_id: UUID) -> None:
    with writing(organization_id) as session:
        session.add(Organization(id=organization_id, slug=f"o{organization_id.hex}", name="x"))


@pytest.fixture
def east(
    stack: LocalStack, template: str, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A cluster besides home, of a database of its own and one replica where home has two."""
    with fresh_database(stack, unique_name("east"), template=template) as name:
        there = isolated_settings(stack, name, tmp_path_factory.mktemp("east"))
        addresses = {
            "master_url": there["DOCWORKER_MASTER_URL"],
            "dispatcher_url": there["DOCWORKER_DISPATCHER_URL"],
            "replica_urls": there["DOCWORKER_REPLICA_URLS"].split()[:1],
        }
        with applied(environment | {"DOCWORKER_CLUSTERS": json.dumps({"east": addresses})}):
            open_database()
            yield
            close_database()


def test_an_organization_reads_and_writes_on_its_cluster(east: None, monkeypatch: pytest.MonkeyPatch) -> None:
    moved, other = new_id(), new_id()
    with placed_at(Place("east", "app"), moved, monkeypatch):
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
    with writing(moved) as session:
        assert session.scalar(select(Organization.id)) is None, "nothing of it is at home"


def test_a_cluster_uses_its_own_replicas_and_no_more(east: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many as home has, it would ask one that it does not have."""
    assert [len(database().cluster(name).replicas) for name in ("home", "east")] == [2, 1]
    moved = new_id()
    used = set()
    with placed_at(Place("east", "app"), moved, monkeypatch):
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


def test_an_unknown_cluster_is_an_error_and_no_default(east: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = new_id()
    with (
        placed_at(Place("west", "app"), lost, monkeypatch),
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
    known = Settings(master_url="postgresql://m/d", replica_urls=("postgresql://r/d",))
    assert known.cluster_names == ("home",)
    assert known.addresses("home").replica_urls == ("postgresql://r/d",)


SCHEMA = 'tenant "one"'


@pytest.fixture
def schema(environment: dict[str, str]) -> Iterator[str]:
    """A schema with the tables of documents, beside the shared one."""
    tables = [table for table in Base.metadata.sorted_tables if table.schema == catalog.SHARED_SCHEMA]
    quoted = '"tenant ""one"""'
    engine = owner_engine(settings())
    with engine.begin() as owner:
        owner.execute(text(f"CREATE SCHEMA {quoted}"))
        translated = owner.execution_options(schema_translate_map={catalog.SHARED_SCHEMA: SCHEMA})
        Base.metadata.create_all(translated, tables=tables)
        owner.execute(text(f"GRANT USAGE ON SCHEMA {quoted} TO docworker_worker"))
        owner.execute(text(f"GRANT ALL ON ALL TABLES IN SCHEMA {quoted} TO docworker_worker"))
    open_database()
    yield SCHEMA
    close_database()
    with engine.begin() as owner:
        owner.execute(text(f"DROP SCHEMA {quoted} CASCADE"))


def test_all_of_an_organizations_documents_are_in_its_schema(schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written, versioned, indexed, found, pruned, reconciled and purged there, and nothing of it in the shared one."""
    organization_id = new_id()
    with placed_at(Place("home", schema), organization_id, monkeypatch):
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
            assert index_documents(session, [document.id]) == 1
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
    with writing(organization_id) as session:
        for model in (Organization, Document, DocumentVersion):
            assert session.scalar(select(func.count()).select_from(model)) == 0, "nothing in the shared schema"
