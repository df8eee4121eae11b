"""A RoutingSession sends to a replica what is surely a read, and nothing else."""

import pytest
from sqlalchemy import (
    CTE,
    ClauseElement,
    Executable,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.orm import aliased

from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Document, Folder, Organization
from docworker.db.models.base import new_id
from docworker.db.sessions import position_after
from docworker.db.sessions.routing import RoutingSession, is_surely_a_read
from docworker.db.settings import HOME
from docworker.worker.local.stack import LocalStack
from tests.support.replicas import OpenDatabase, write_row
from tests.support.tenants import entered


def inserted() -> CTE:
    return insert(Organization).values(id=new_id(), slug="s", name="n").returning(Organization.id).cte()


READS: dict[str, ClauseElement] = {
    "select": select(Document),
    "columns": select(Document.id, func.lower(Document.title)).where(Document.version > 1),
    "count": select(func.count()).select_from(Document),
    "join": select(Document).join(Folder, Folder.id == Document.folder_id),
    "exists": select(select(Document).exists()),
    "union": union_all(select(Document.id), select(Folder.id)),
    "cte": select(select(Document.id).cte()),
    "subquery": select(aliased(Document, select(Document).limit(3).subquery())),
    "search": select(func.ts_rank(func.to_tsvector("a"), func.websearch_to_tsquery("simple", "a"))),
    "window": select(func.row_number().over(order_by=Document.id)),
}
NOT_SURELY: dict[str, ClauseElement] = {
    "insert": insert(Organization).values(id=new_id(), slug="s", name="n"),
    "update": update(Document).values(title="x"),
    "delete": delete(Document),
    "text": text("SELECT 1"),
    "text-update": text("UPDATE app.documents SET title = 'x'"),
    "for-update": select(Document).with_for_update(),
    "for-share": select(Document).with_for_update(read=True),
    "for-update-below": select(select(Document.id).with_for_update().subquery()),
    "for-update-in-union": union_all(select(Document.id), select(Document.id).with_for_update()),
    "writing-cte": select(inserted()),
    "advisory-lock": select(func.pg_advisory_xact_lock(1)),
    "nextval": select(func.nextval("s")),
    "set-config": select(func.set_config("a.b", "c", False)),
    "own-function": select(func.app.count_visit()),
    "shadowed-function": select(func.app.lower("A")),
    "below-a-read": select(func.lower(func.pg_notify("a", "b"))),
    "in-where": select(Document.id).where(func.pg_try_advisory_lock(1)),
    "textual-column": select(literal_column("nextval('s')")),
    "textual-where": select(Document.id).where(text("nextval('s') > 1")),
    "from-text": select(Document).from_statement(text("SELECT * FROM app.documents FOR UPDATE")),
}


@pytest.mark.parametrize("statement", READS.values(), ids=READS.keys())
def test_plain_selects_are_reads(statement: ClauseElement) -> None:
    assert is_surely_a_read(statement)


@pytest.mark.parametrize("statement", NOT_SURELY.values(), ids=NOT_SURELY.keys())
def test_what_may_write_or_lock_is_not_a_read(statement: ClauseElement) -> None:
    assert not is_surely_a_read(statement)


def on_replica(session: RoutingSession) -> bool:
    """Where a plain read goes now, told by the server itself."""
    reads = session.get_bind(clause=select(Document))
    connection = session.connection(bind_arguments={"bind": reads})
    return bool(connection.scalar(text("SELECT pg_is_in_recovery()")))


def test_reads_go_to_a_replica_until_the_first_write_and_never_after(
    servers: LocalStack, open_on: OpenDatabase
) -> None:
    open_on(servers)
    organization_id, position = write_row()
    with RoutingSession(organization_id, position=position) as session:
        assert on_replica(session)
        organization = session.get_one(Organization, organization_id)
        organization.name = "renamed"
        assert not on_replica(session), "a pending change counts before it is flushed"
        assert session.scalar(select(Organization.name)) == "renamed"
        session.commit()
        assert not on_replica(session), "a replica may not have the commit yet"
        assert session.stays_on_master
    with RoutingSession(organization_id, position=position_after(session)) as session:
        assert session.scalar(select(Organization.name)) == "renamed"
        assert on_replica(session)


@pytest.mark.parametrize(
    "statement", [text("SELECT 1"), select(Document).with_for_update(), select(func.pg_advisory_xact_lock(1))], ids=str
)
def test_what_may_have_written_ends_reading_from_replicas(
    servers: LocalStack, open_on: OpenDatabase, statement: Executable
) -> None:
    open_on(servers)
    with RoutingSession(entered()) as session:
        assert on_replica(session)
        session.execute(statement)
        assert not on_replica(session)


def test_one_transaction_reads_from_one_replica_and_the_next_chooses_again(
    servers: LocalStack, open_on: OpenDatabase
) -> None:
    database = open_on(servers)
    engines = set()
    with RoutingSession(entered()) as session:
        for _ in range(40):
            binds = [session.get_bind(clause=select(Document)) for _ in range(3)]
            assert binds[0] is binds[1] is binds[2]
            session.execute(select(Document))
            engines.add(binds[0].engine)
            session.rollback()
    assert engines == set(database.cluster(HOME).replicas)


def test_target_can_be_said_explicitly(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers)
    recovering = text("SELECT pg_is_in_recovery()")
    with RoutingSession(entered()) as session:
        with session.using("master"):
            assert not on_replica(session)
        assert on_replica(session), "a read that was sent to the master is no write"
        with session.using("replica"):
            assert session.scalar(recovering) is True
        assert session.scalar(recovering) is False
        with pytest.raises(InvalidArgumentError, match="has written"), session.using("replica"):
            pass


def test_routing_session_sees_its_organization_only(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers)
    (mine, _), (_, position) = write_row(), write_row()
    with RoutingSession(mine, position=position) as session:
        assert session.scalars(select(Organization.id)).all() == [mine]
        assert on_replica(session)
        session.execute(text("SELECT 1"))
        assert session.scalars(select(Organization.id)).all() == [mine]


def test_without_replicas_everything_goes_to_the_master(servers: LocalStack, open_on: OpenDatabase) -> None:
    open_on(servers, replica_urls="")
    with RoutingSession(entered()) as session:
        assert not on_replica(session)
        assert not session.stays_on_master


def test_session_gives_its_connections_back(servers: LocalStack, open_on: OpenDatabase) -> None:
    database = open_on(servers)
    for _ in range(10):
        with RoutingSession(entered()) as session:
            session.execute(select(Document))
            session.execute(text("SELECT 1"))
            session.commit()
            session.execute(select(Document))
    cluster = database.cluster(HOME)
    assert [engine.pool.checkedout() for engine in cluster.engines] == [0] * len(cluster.engines)  # type: ignore[attr-defined]
