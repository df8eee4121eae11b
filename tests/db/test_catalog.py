"""What a process believes of the catalog, for how long, and what it refuses."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.exc import DBAPIError

from docworker.db import catalog
from docworker.db.catalog import AT_HOME, Place, catalog_of, place_of
from docworker.db.cluster import Database, close_database, database, open_database
from docworker.db.cluster.engines import owner_engine
from docworker.db.errors import NotFoundError, UnavailableOrganizationError
from docworker.db.models import Placement
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id
from docworker.db.models.revision import KNOWN_REVISIONS
from docworker.db.sessions import reading, writing
from docworker.db.settings import settings
from docworker.worker.local.stack import LocalStack
from tests.support.replicas import OpenDatabase
from tests.support.stack import applied
from tests.support.tenants import entered
from tests.support.waiting import eventually


@pytest.fixture
def patient(environment: dict[str, str]) -> Iterator[Database]:
    """A process that believes what it has read for as long as a test takes."""
    with applied(environment | {"DOCWORKER_CATALOG_TTL": "10"}):
        yield open_database()
        close_database()


@pytest.fixture
def curious(environment: dict[str, str]) -> Iterator[Database]:
    """A process that asks again at once."""
    with applied(environment | {"DOCWORKER_CATALOG_TTL": "0.01"}):
        yield open_database()
        close_database()


def change(organization_id: UUID, **values: object) -> None:
    with owner_engine(settings()).begin() as owner:
        owner.execute(update(Placement).where(Placement.organization_id == organization_id).values(**values))


def remove(organization_id: UUID) -> None:
    with owner_engine(settings()).begin() as owner:
        owner.execute(delete(Placement).where(Placement.organization_id == organization_id))


def raises_soon(organization_id: UUID, kind: type[Exception]) -> None:
    def refused() -> bool:
        try:
            place_of(organization_id, database())
        except kind:
            return True
        return False

    eventually(refused, within_seconds=10)


def test_what_was_read_is_believed_for_a_while(patient: Database) -> None:
    known, learned = entered(), [entered() for _ in range(3)]
    assert place_of(known, patient) == AT_HOME
    catalog.learn(learned, patient)
    for one in (known, *learned):
        remove(one)
        assert place_of(one, patient) == AT_HOME, "not asked again"


def test_what_is_not_known_is_asked_for_at_once(patient: Database) -> None:
    place_of(entered(), patient)
    assert place_of(entered(at=Place("east", "app", "d1")), patient) == Place("east", "app", "d1")


def test_a_change_is_seen_after_the_time_and_nothing_else_is_read_again(curious: Database) -> None:
    mine, other = entered(), entered()
    for one in (mine, other):
        place_of(one, curious)
    before = catalog_of(curious)._known[other]
    change(mine, schema_name="elsewhere")
    eventually(lambda: place_of(mine, curious).schema == "elsewhere", within_seconds=10)
    assert catalog_of(curious)._known[other] is before


def test_a_deletion_is_seen(curious: Database) -> None:
    organization_id = entered()
    place_of(organization_id, curious)
    remove(organization_id)
    raises_soon(organization_id, NotFoundError)


@pytest.mark.parametrize("state", ["creating", "suspended", "dropping"])
def test_an_organization_that_is_not_active_is_refused_with_what_to_do(curious: Database, state: str) -> None:
    organization_id = entered()
    place_of(organization_id, curious)
    change(organization_id, state=state)
    raises_soon(organization_id, UnavailableOrganizationError)
    for session in (reading, writing):
        with (
            pytest.raises(UnavailableOrganizationError, match=rf"'entered-.*' .* is {state}: "),
            session(organization_id),
        ):
            pass
    change(organization_id, state="active")
    eventually(lambda: catalog_of(curious).find(organization_id)[0].state == "active", within_seconds=10)
    with writing(organization_id):
        pass


def test_a_place_at_a_revision_that_this_release_does_not_know_is_refused(curious: Database) -> None:
    organization_id = entered()
    change(organization_id, revision="9999")
    raises_soon(organization_id, UnavailableOrganizationError)
    with pytest.raises(UnavailableOrganizationError, match=r"at revision 9999, and .*migrate --only"):
        place_of(organization_id, curious)
    change(organization_id, revision=KNOWN_REVISIONS[-1])
    eventually(lambda: catalog_of(curious).find(organization_id)[0].revision != "9999", within_seconds=10)
    place_of(organization_id, curious)


def test_an_unknown_organization_is_an_error_and_nobodys_default(patient: Database) -> None:
    unknown = new_id()
    with pytest.raises(NotFoundError, match=f"knows no organization {unknown}"), reading(unknown):
        pass


def test_what_belongs_to_no_organization_is_at_home_and_is_not_asked_for(patient: Database) -> None:
    assert place_of(None, patient) == place_of(SYSTEM_ORGANIZATION_ID, patient) == AT_HOME
    assert catalog_of(patient)._seen == -1


def test_of_two_who_ask_at_once_the_earlier_answer_does_not_undo_the_later_one(patient: Database) -> None:
    """Read before a change and entered after it, it would be believed for ever: nobody is told of the change again."""
    mine, other = entered(), entered()
    early = catalog_of(patient)
    seen = early._read([mine], since=-1)
    change(mine, schema_name="aside")
    place_of(other, patient)
    read, early._read = early._read, lambda *_, **__: seen  # type: ignore[method-assign]
    early._ask([mine])
    early._read = read  # type: ignore[method-assign]
    assert place_of(mine, patient).schema == "aside"


def test_while_the_catalog_cannot_be_asked_nobody_is_served_by_what_was_known(
    servers: LocalStack, open_on: OpenDatabase
) -> None:
    opened = open_on(servers, catalog_ttl=0.2)
    organization_id = entered()
    place_of(organization_id, opened)
    servers.master.stop()
    try:
        raises_soon(organization_id, DBAPIError)
        with pytest.raises(DBAPIError), reading(organization_id):
            pass
    finally:
        servers.master.start()
    eventually(lambda: _is_served(organization_id), within_seconds=20)


def _is_served(organization_id: UUID) -> bool:
    try:
        with reading(organization_id, source="master"):
            return True
    except DBAPIError:
        return False


def test_every_change_raises_the_counter_and_nobody_else_may(curious: Database) -> None:
    def counter() -> int:
        with reading(None, source="master") as session:
            return int(session.scalar(text("SELECT version FROM catalog.changes")) or 0)

    before = counter()
    organization_id = entered()
    change(organization_id, state="suspended")
    remove(organization_id)
    assert counter() == before + 3
    with pytest.raises(DBAPIError, match="permission denied"), writing(None) as session:
        session.execute(text("UPDATE catalog.changes SET version = 0"))
