"""The folder tree: made once by whoever is first, walked in both directions, one organization's only."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update

from docworker.db.cluster.engines import owner_engine
from docworker.db.documents.folders import FolderPath, ensure_folders, find_folder, paths_of, subtree
from docworker.db.models import Folder
from docworker.db.sessions import writing
from docworker.db.settings import settings
from tests.support.tenants import Tenant


def ensure(tenant: Tenant, *paths: FolderPath) -> dict[FolderPath, UUID | None]:
    with writing(tenant.id) as session:
        return dict(ensure_folders(session, paths))


def count(tenant: Tenant) -> int:
    with writing(tenant.id) as session:
        return session.scalar(select(func.count()).select_from(Folder)) or 0


def test_folders_above_are_made_as_well(tenant: Tenant) -> None:
    ids = ensure(tenant, ("a", "b", "c"), ("a", "d"))
    assert set(ids) == {(), ("a",), ("a", "b"), ("a", "b", "c"), ("a", "d")}
    assert ids[()] is None
    assert count(tenant) == 4


def test_folders_are_made_once(tenant: Tenant) -> None:
    assert ensure(tenant, ("a", "b")) == ensure(tenant, ("a", "b"))
    assert count(tenant) == 2


def test_equal_names_in_different_folders_are_different_folders(tenant: Tenant) -> None:
    ids = ensure(tenant, ("x", "x"), ("y", "x"))
    assert len(set(ids.values())) == 5


@pytest.fixture
def slow_inserts() -> Iterator[None]:
    """Every new folder takes 10 ms, so that statements overlap."""
    owner = owner_engine(settings())
    with owner.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION app.dawdle() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$"
            )
        )
        connection.execute(
            text("CREATE TRIGGER dawdle BEFORE INSERT ON app.folders FOR EACH ROW EXECUTE FUNCTION app.dawdle()")
        )
    yield
    with owner.begin() as connection:
        connection.execute(text("DROP FUNCTION app.dawdle() CASCADE"))


def test_many_who_make_the_same_folders_agree_and_do_not_deadlock(tenant: Tenant, slow_inserts: None) -> None:
    paths = [(f"f{number}", "g") for number in range(20)]

    def attempt(turn: int) -> dict[FolderPath, UUID | None]:
        return ensure(tenant, *(paths if turn % 2 else reversed(paths)))

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(attempt, range(3)))
    assert all(answer == answers[0] for answer in answers)
    assert count(tenant) == 40


def test_deleted_folder_is_not_found_and_is_made_anew(tenant: Tenant) -> None:
    former = ensure(tenant, ("a",))[("a",)]
    with writing(tenant.id) as session:
        session.execute(update(Folder).values(deleted_at=func.clock_timestamp()))
        assert find_folder(session, ("a",)) is None
    assert ensure(tenant, ("a",))[("a",)] != former


def test_paths_lead_back_from_folders(tenant: Tenant) -> None:
    ids = ensure(tenant, ("a", "b", "c"), ("d",))
    with writing(tenant.id) as session:
        assert paths_of(session, ids.values()) == {id_: path for path, id_ in ids.items()}
        assert find_folder(session, ("a", "b")) == ids["a", "b"]
        assert find_folder(session, ("b",)) is None


def test_subtree_holds_a_folder_and_all_below(tenant: Tenant) -> None:
    ids = ensure(tenant, ("a", "b", "c"), ("a", "d"), ("e",))
    top = ids["a",]
    assert top is not None
    with writing(tenant.id) as session:
        found = set(session.scalars(select(subtree(tenant.id, top).c.id)))
    assert found == {ids[path] for path in (("a",), ("a", "b"), ("a", "b", "c"), ("a", "d"))}


def test_folders_moved_into_a_circle_do_not_hang_a_subtree(tenant: Tenant) -> None:
    ids = ensure(tenant, ("a", "b"))
    top = ids["a",]
    assert top is not None
    with writing(tenant.id) as session:
        session.execute(update(Folder).where(Folder.id == top).values(parent_id=ids["a", "b"]))
        assert len(session.scalars(select(subtree(tenant.id, top).c.id)).all()) == 2


def test_folders_of_another_organization_are_not_seen(tenant: Tenant) -> None:
    ids = ensure(tenant, ("secret",))
    other = Tenant()
    with writing(other.id) as session:
        assert find_folder(session, ("secret",)) is None
        assert paths_of(session, ids.values()) == {None: ()}
    assert ensure(other, ("secret",)) != ids
