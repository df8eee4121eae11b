"""The models as an application uses them: related both ways, nothing loaded by accident, as many statements as said."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.orm import joinedload, selectinload
from sqlalchemy.orm.interfaces import ORMOption

from docworker.db.documents.loading import with_folder, with_people, with_tags, with_versions
from docworker.db.models import (
    Base,
    ContributorRole,
    Document,
    DocumentContributor,
    DocumentTag,
    Folder,
    Organization,
    Tag,
    User,
    new_id,
)
from docworker.db.sessions import aio, count_statements, reading, writing
from docworker.db.settings import settings
from docworker.worker.local.stack import LocalStack
from tests.support.database import opened_database
from tests.support.replicas import statements_on
from tests.support.tenants import Tenant

RELATIONSHIPS = sorted((one for mapper in Base.registry.mappers for one in mapper.relationships), key=str)
WITH_ALL: tuple[ORMOption, ...] = (with_folder(), *with_people(), with_tags(), with_versions())


@pytest.fixture(scope="module")
def tenant(environment: dict[str, str]) -> Iterator[Tenant]:
    with opened_database():
        yield Tenant()


def furnish(tenant: Tenant, *, documents: int = 1) -> list[UUID]:
    """Documents in a folder, each with two versions, an owner who is an author and a reviewer, and two tags."""
    with writing(tenant.id) as session:
        user = User(organization_id=tenant.id, email=f"{new_id()}@example.org", display_name="Ada")
        tags = [Tag(organization_id=tenant.id, name=f"{name} {new_id()}") for name in "ab"]
        session.add_all([user, *tags])
    ids = [tenant.write(f"/in/it/{new_id()}", "first", "second") for _ in range(documents)]
    with writing(tenant.id) as session:
        session.add_all([user, *tags])
        for document in session.scalars(select(Document).where(Document.id.in_(ids)).options(*WITH_ALL)):
            document.owner = user
            document.tags = list(tags)
            for role in (ContributorRole.REVIEWER, ContributorRole.AUTHOR):
                document.contributors.append(DocumentContributor(user=user, role=role))
    return ids


def test_the_models_are_configured_without_a_warning() -> None:
    code = "import docworker.db.models; from sqlalchemy.orm import configure_mappers; configure_mappers()"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("relationship", RELATIONSHIPS, ids=str)
def test_a_relationship_is_known_from_both_sides_and_is_never_loaded_by_accident(relationship: Any) -> None:
    assert relationship.lazy == "raise"
    assert relationship.back_populates or relationship.key == "present_version"


@pytest.mark.parametrize("name", ["folder", "owner", "versions", "present_version", "tags", "contributors"])
def test_what_was_not_loaded_raises_with_its_name(tenant: Tenant, name: str) -> None:
    (document_id,) = furnish(tenant)
    with reading(tenant.id, source="master") as session:
        document = session.get_one(Document, (tenant.id, document_id))
        with pytest.raises(InvalidRequestError, match=f"Document.{name}"):
            getattr(document, name)


def test_a_document_comes_with_all_that_belongs_to_it(tenant: Tenant) -> None:
    (document_id,) = furnish(tenant)
    with reading(tenant.id, source="master") as session:
        document = session.get_one(Document, (tenant.id, document_id), options=WITH_ALL)
        assert document.folder is not None
        assert (document.folder.name, document.folder.organization_id) == ("it", tenant.id)
        assert document.owner is not None
        assert document.owner.display_name == "Ada"
        assert [version.version_number for version in document.versions] == [2, 1]
        assert [tag.name[0] for tag in document.tags] == ["a", "b"]
        assert [(one.role, one.user.display_name) for one in document.contributors] == [
            ("author", "Ada"),
            ("reviewer", "Ada"),
        ]
        with pytest.raises(InvalidRequestError, match="content"):
            _ = document.versions[0].content


def test_the_texts_of_versions_come_when_asked_for(tenant: Tenant) -> None:
    (document_id,) = furnish(tenant)
    with reading(tenant.id, source="master") as session:
        document = session.get_one(Document, (tenant.id, document_id), options=[with_versions(texts=True)])
    assert [version.content for version in document.versions] == ["second", "first"]


def test_a_tree_and_an_organization_are_walked_from_both_ends(tenant: Tenant) -> None:
    (document_id,) = furnish(tenant)
    down = selectinload(Organization.folders).selectinload(Folder.children).selectinload(Folder.documents)
    with reading(tenant.id, source="master") as session:
        organization = session.get_one(Organization, tenant.id, options=[down, selectinload(Organization.users)])
        folders = {folder.name: folder for folder in organization.folders}
        assert [child.name for child in folders["in"].children] == ["it"]
        assert document_id in {document.id for document in folders["in"].children[0].documents}
        user = organization.users[0]
        session.refresh(user, ["organization"])
        assert user.organization is organization
        child = session.scalars(
            select(Folder).where(Folder.name == "it").options(joinedload(Folder.parent)), execution_options={}
        ).one()
        assert child.parent is folders["in"]
        assert (child.is_root, folders["in"].is_root) == (False, True)


def test_what_is_related_is_written_with_the_organization_of_the_document(tenant: Tenant) -> None:
    (document_id,) = furnish(tenant)
    with reading(tenant.id, source="master") as session:
        for owner, of in (
            (DocumentTag.organization_id, DocumentTag.document_id),
            (DocumentContributor.organization_id, DocumentContributor.document_id),
        ):
            assert session.scalars(select(owner).where(of == document_id)).all() == [tenant.id] * 2


def test_what_is_taken_away_goes_and_what_it_was_related_to_stays(tenant: Tenant) -> None:
    (document_id,) = furnish(tenant)
    with writing(tenant.id) as session:
        document = session.get_one(Document, (tenant.id, document_id), options=WITH_ALL)
        kept, *_ = document.tags
        document.tags = [kept]
        del document.contributors[0]
        document.folder = document.owner = None
    with writing(tenant.id) as session:
        document = session.get_one(Document, (tenant.id, document_id), options=WITH_ALL)
        assert ([tag.id for tag in document.tags], len(document.contributors)) == ([kept.id], 1)
        assert (document.folder, document.owner) == (None, None)
        user_id = document.contributors[0].user_id
        session.delete(document)
    with reading(tenant.id, source="master") as session:
        assert session.get(Document, (tenant.id, document_id)) is None
        assert (
            session.scalars(select(DocumentContributor).where(DocumentContributor.document_id == document_id)).all()
            == []
        )
        assert session.get(User, (tenant.id, user_id)) is not None
        assert session.get(Tag, (tenant.id, kept.id)) is not None


def test_a_folder_with_documents_is_not_deleted_and_its_documents_are_left_alone(tenant: Tenant) -> None:
    (document_id,) = furnish(tenant)
    with reading(tenant.id, source="master") as session:
        folder_id = session.get_one(Document, (tenant.id, document_id)).folder_id
    with writing(tenant.id) as session:
        session.delete(session.get_one(Folder, (tenant.id, folder_id)))
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()
    with reading(tenant.id, source="master") as session:
        assert session.get_one(Document, (tenant.id, document_id)).folder_id == folder_id


def test_nobody_is_related_to_somebody_of_another_organization(tenant: Tenant) -> None:
    (document_id,) = furnish(tenant)
    other = Tenant()
    with writing(other.id) as session:
        stranger = User(organization_id=other.id, email="b@example.org")
        session.add(stranger)
    with writing(tenant.id) as session:
        session.get_one(Document, (tenant.id, document_id)).owner_id = stranger.id
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()


def test_loading_takes_the_same_number_of_statements_for_one_document_and_for_twenty(
    tenant: Tenant, stack: LocalStack, database_name: str
) -> None:
    """Counted by the server, besides BEGIN with the organization and the end of the transaction."""
    stack.master.execute("CREATE EXTENSION pg_stat_statements", database=database_name)
    few, many = Tenant(), Tenant()
    furnish(few, documents=1)
    furnish(many, documents=20)
    for one in (few, many):
        with reading(one.id, source="master") as session:
            stack.master.execute("SELECT pg_stat_statements_reset()", database=database_name)
            with count_statements(session) as counts:
                documents = session.scalars(select(Document).options(*WITH_ALL)).all()
        sent = [sql for sql in statements_on(stack.master, database_name) if "FROM app." in sql]
        assert counts.total == len(sent) == 4
        assert all(len(document.versions) == 2 and document.owner for document in documents)


def test_the_same_code_works_asynchronously(environment: dict[str, str], tenant: Tenant) -> None:
    (document_id,) = furnish(tenant)

    async def load() -> Document:
        async with aio.AsyncDatabase(settings()) as database:
            aio._current = database
            async with aio.reading(tenant.id, source="master") as session:
                with count_statements(session) as counts:
                    document = await session.get_one(Document, (tenant.id, document_id), options=WITH_ALL)
                assert counts.total == 4
                return document

    try:
        document = asyncio.run(load())
    finally:
        aio._current = None
    assert [tag.name[0] for tag in document.tags] == ["a", "b"]
    assert len(document.contributors) == 2


NAMES = st.sampled_from(["", "Ada", " ", "Øyvind"])


@given(names=st.lists(NAMES, min_size=1, max_size=4), data=st.data())
@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hybrid_properties_give_the_same_in_python_and_in_sql(
    tenant: Tenant, names: list[str], data: st.DataObject
) -> None:
    made_by = st.sampled_from(["a/1", "a/2"])
    with writing(tenant.id) as session:
        for model in (DocumentTag, DocumentContributor, Document, Folder, User):
            session.execute(delete(model))
        session.add_all(
            User(organization_id=tenant.id, email=f"{i}@x", display_name=name) for i, name in enumerate(names)
        )
    for number, _ in enumerate(names):
        texts = data.draw(st.lists(st.just("text"), max_size=2))
        document_id = tenant.write(f"{data.draw(st.sampled_from(['', 'in/', 'in/it/']))}{number}", *texts)
        with writing(tenant.id) as session:
            document = session.get_one(Document, (tenant.id, document_id), options=[with_versions()])
            document.deleted_at = func.clock_timestamp() if data.draw(st.booleans()) else None
            for version in document.versions:
                version.pipeline = data.draw(made_by)
    with reading(tenant.id, source="master") as session:
        for user, name in session.execute(select(User, User.display_name)):
            assert user.display_name == name != ""
        for folder, is_root in session.execute(select(Folder, Folder.is_root)):
            assert folder.is_root is is_root
        both = select(Document, Document.is_live, Document.is_stale("a/2")).options(
            joinedload(Document.present_version)
        )
        for document, is_live, is_stale in session.execute(both):
            assert (document.is_live, document.is_stale("a/2")) == (is_live, is_stale)
