"""Whoever asks, in whatever way, at whatever place: nobody reads, counts or changes another organization's rows."""

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError

from docworker.db.catalog import SHARED_SCHEMA, Place
from docworker.db.cluster import database, open_database
from docworker.db.documents.search.terms import Terms
from docworker.db.faults import sqlstate_of
from docworker.db.models import AuditEntry, Document, DocumentVersion, Folder, Job, Tag, User
from docworker.db.models.base import new_id
from docworker.db.sessions import TenantSession, writing
from docworker.db.settings import settings as docworker_settings
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.places import Model
from tests.support.bouncer import EVERY_DATABASE, PgBouncer, leads_through, needs_pgbouncer
from tests.support.stack import applied, temporary_directory
from tests.support.tenants import Tenant

REFUSED = "42501"
READ: tuple[type[Any], ...] = (Document, DocumentVersion, Folder, Tag, User, AuditEntry, Job)
DOCUMENTS = 3


class Member(Tenant):
    """An organization with rows in every table."""

    def __init__(self, slug: str, model: Model, cluster: str) -> None:
        self.slug = slug
        self.id, self.place, _ = create_tenant(slug, model=model, cluster=cluster)
        self.documents = [self.write(f"/{slug}/{number}.txt", "text", title=slug) for number in range(DOCUMENTS)]
        with writing(self.id) as session:
            session.add_all(
                [
                    Tag(organization_id=self.id, name=slug),
                    User(organization_id=self.id, email="a@example.org", display_name=slug),
                    AuditEntry(organization_id=self.id, actor=slug, action="x", subject="x"),
                ]
            )
            enqueue(session, process_document, document_id=self.documents[0])


MEMBERS: list[Member] = []


@pytest.fixture(scope="module")
def members(clusters: None) -> Iterator[list[Member]]:
    """Two that share their tables, one with a schema, one with a database, and one on another cluster."""
    kinds = [
        (Model.SHARED, "home"),
        (Model.SHARED, "home"),
        (Model.SCHEMA, "home"),
        (Model.DATABASE, "home"),
        (Model.SHARED, "east"),
    ]
    MEMBERS[:] = [Member(f"member-{number}", *kind) for number, kind in enumerate(kinds)]
    yield MEMBERS
    MEMBERS.clear()


def session_at(place: Place, organization_id: UUID | None) -> TenantSession:
    """As `writing` opens it, at any place."""
    opened = database()
    engine = opened.cluster(place.cluster, place.database).master
    return TenantSession(engine, organization_id, opened.settings, schema=place.schema)


def owned(session: TenantSession) -> int:
    """How many documents the session should see: its organization's, where that is."""
    return sum(
        DOCUMENTS
        for one in MEMBERS
        if one.id == session.organization_id
        and (one.place.cluster, one.place.database) == session.info["place"][:2]
        and one.place.schema == session.schema
    )


def table(session: TenantSession, name: str) -> str:
    return f'"{session.schema}".{name}'


def read_by_orm(session: TenantSession, _other: Member) -> None:
    for model in READ:
        found = {row.organization_id for row in session.scalars(select(model))}
        assert found <= {session.organization_id}, model
    assert session.scalar(select(func.count()).select_from(Document)) == owned(session)


def read_by_core(session: TenantSession, _other: Member) -> None:
    for model in READ:
        found = set(session.scalars(select(model.__table__.c.organization_id)))
        assert found <= {session.organization_id}, model


def read_by_text(session: TenantSession, other: Member) -> None:
    for schema in {session.schema, SHARED_SCHEMA}:
        found = set(session.scalars(text(f'SELECT organization_id FROM "{schema}".documents')))
        assert found <= {session.organization_id}
    asked = {"id": other.id}
    for name in ("documents", "document_versions", "document_search"):
        query = text(f"SELECT count(*) FROM {table(session, name)} WHERE organization_id = :id")
        assert other.id == session.organization_id or session.scalar(query, asked) == 0


def read_by_key(session: TenantSession, other: Member) -> None:
    for one in other.documents:
        found = session.get(Document, (other.id, one))
        assert found is None or other.id == session.organization_id


def read_by_copy(session: TenantSession, _other: Member) -> None:
    driver: Any = session.connection().connection.driver_connection
    with driver.cursor() as cursor:
        for source in (f"(SELECT organization_id FROM {table(session, 'documents')})", "ledger.jobs (organization_id)"):
            with cursor.copy(f"COPY {source} TO STDOUT") as copied:
                found = {row[0] for row in copied.rows()}
            assert found <= {str(session.organization_id)}


def read_by_look_up(session: TenantSession, other: Member) -> None:
    """The one function with the rights of the owner, asked for each word that anybody has."""
    query = " | ".join(f"'{Terms(one.id).word('text')}'" for one in MEMBERS)
    look_up = text(f"SELECT id FROM {table(session, 'find_documents')}(CAST(:query AS tsquery)) AS id")
    found = set(session.scalars(look_up, {"query": query}))
    assert len(found) == owned(session)
    assert other.id == session.organization_id or not found & set(other.documents)


def change_all(session: TenantSession, _other: Member) -> None:
    title = f"member-{[one.id for one in MEMBERS].index(session.organization_id)}" if session.organization_id else "x"
    statement = text(f"UPDATE {table(session, 'documents')} SET title = :title")
    assert session.execute(statement, {"title": title}).rowcount == owned(session)  # type: ignore[attr-defined]


def change_by_key(session: TenantSession, other: Member) -> None:
    if other.id == session.organization_id:
        return
    rows = [{"organization_id": other.id, "id": one, "version": 1, "title": "stolen"} for one in other.documents]
    with pytest.raises(StaleDataError):
        session.execute(update(Document), rows)


def delete_others(session: TenantSession, other: Member) -> None:
    if other.id != session.organization_id:
        for model in (Document, DocumentVersion, Job):
            done = session.execute(delete(model).where(model.organization_id == other.id))
            assert done.rowcount == 0  # type: ignore[attr-defined]


def insert_as_another(session: TenantSession, other: Member) -> None:
    if other.id == session.organization_id:
        return
    for key in (new_id(), other.documents[0]):  # with one that is there: no word of that
        with pytest.raises(DBAPIError) as caught, session.begin_nested():
            session.execute(insert(Document).values(organization_id=other.id, id=key, filename="stolen", version=1))
        assert sqlstate_of(caught.value) == REFUSED


def insert_with_anothers_key(session: TenantSession, other: Member) -> None:
    """One's own row, whose id another has too: a key's conflict would tell of that."""
    if other.id == session.organization_id or not owned(session):
        return
    row = {
        "organization_id": session.organization_id,
        "id": other.documents[0],
        "filename": f"{other.slug}.txt",
        "version": 1,
    }
    session.execute(insert(Document).values(row))
    session.execute(delete(Document).where(Document.id == other.documents[0]))


def move_to_another(session: TenantSession, other: Member) -> None:
    if other.id == session.organization_id or not owned(session):
        return
    statement = text(f"UPDATE {table(session, 'tags')} SET organization_id = :id")
    with pytest.raises(DBAPIError) as caught, session.begin_nested():
        session.execute(statement, {"id": other.id})
    assert sqlstate_of(caught.value) == REFUSED


WAYS: list[Callable[[TenantSession, Member], None]] = [
    read_by_orm,
    read_by_core,
    read_by_text,
    read_by_key,
    read_by_copy,
    read_by_look_up,
    change_all,
    change_by_key,
    delete_others,
    insert_as_another,
    insert_with_anothers_key,
    move_to_another,
]
members_of = strategies.integers(0, 4)
ways = strategies.sampled_from(WAYS)


def act(actor: Member | None, at: Member, other: Member, way: Callable[[TenantSession, Member], None]) -> None:
    with session_at(at.place, None if actor is None else actor.id) as session:
        session.info["place"] = at.place.cluster, at.place.database
        way(session, other)
        session.commit()


class Everybody(RuleBasedStateMachine):
    """Each with the right or another's place, in turns over the same few connections."""

    @rule(actor=members_of, at=members_of, other=members_of, way=ways)
    def somebody(self, actor: int, at: int, other: int, way: Callable[[TenantSession, Member], None]) -> None:
        act(MEMBERS[actor], MEMBERS[at], MEMBERS[other], way)

    @rule(at=members_of, other=members_of, way=strategies.sampled_from(WAYS[:6] + WAYS[8:10]))
    def nobody(self, at: int, other: int, way: Callable[[TenantSession, Member], None]) -> None:
        act(None, MEMBERS[at], MEMBERS[other], way)

    @rule(first=members_of, then=members_of, way=ways)
    def after_a_rollback(self, first: int, then: int, way: Callable[[TenantSession, Member], None]) -> None:
        """The connection was another's a moment ago, and its transaction failed."""
        with session_at(MEMBERS[first].place, MEMBERS[first].id) as session:
            with pytest.raises(DBAPIError):
                session.execute(text("SELECT 1 / 0"))
            session.rollback()
        act(MEMBERS[then], MEMBERS[first], MEMBERS[first], way)

    @rule(
        actors=strategies.lists(members_of, min_size=2, max_size=4),
        at=members_of,
        way=strategies.sampled_from(WAYS[:6]),
    )
    def in_threads(self, actors: list[int], at: int, way: Callable[[TenantSession, Member], None]) -> None:
        with ThreadPoolExecutor(len(actors)) as threads:
            list(threads.map(lambda actor: act(MEMBERS[actor], MEMBERS[at], MEMBERS[at], way), actors))

    @rule(
        actors=strategies.lists(members_of, min_size=2, max_size=4),
        at=members_of,
        way=strategies.sampled_from(WAYS[:6]),
    )
    def in_an_executor(self, actors: list[int], at: int, way: Callable[[TenantSession, Member], None]) -> None:
        """Sessions that are opened in the thread of an event loop, and used in others."""

        async def somebody(actor: int) -> None:
            with session_at(MEMBERS[at].place, MEMBERS[actor].id) as session:
                session.info["place"] = MEMBERS[at].place.cluster, MEMBERS[at].place.database
                await asyncio.get_running_loop().run_in_executor(None, way, session, MEMBERS[at])

        async def all_of_them() -> None:
            await asyncio.gather(*map(somebody, actors))

        asyncio.run(all_of_them())

    @invariant()
    def everybody_has_what_is_his(self) -> None:
        for one in MEMBERS:
            with session_at(one.place, one.id) as session:
                rows = session.execute(select(Document.id, Document.title)).all()
            assert {row.id for row in rows} == set(one.documents)
            assert {row.title for row in rows} == {one.slug}


def play(machine: type[RuleBasedStateMachine], *, games: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=games,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # a step that fails is told as it is: what others have left cannot be replayed
        ),
    )


def test_nobody_reads_counts_or_changes_anothers_rows(members: list[Member]) -> None:
    play(Everybody, games=10)


@pytest.fixture
def pooled(members: list[Member], stack: LocalStack) -> Iterator[int]:
    """Every transaction goes through PgBouncer, at this port, and those of all organizations of a database over one
    connection."""
    urls = [os.environ[f"DOCWORKER_{role}_URL"] for role in ("MASTER", "DISPATCHER")]
    with temporary_directory() as directory:
        bouncer = PgBouncer(directory, {EVERY_DATABASE: stack.master.port}, urls)
        with bouncer.running(), applied(leads_through(stack.master.port, bouncer)):
            open_database(docworker_settings(), application_name="tests")
            yield bouncer.port
    open_database(docworker_settings(), application_name="tests")


@needs_pgbouncer
def test_nobody_does_behind_pgbouncer(pooled: int) -> None:
    for member in MEMBERS:
        with session_at(member.place, member.id) as session:
            driver: Any = session.connection().connection.driver_connection
            assert driver.info.port == pooled
    play(Everybody, games=4)
