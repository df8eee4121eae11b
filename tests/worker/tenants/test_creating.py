"""One place is made whoever asks for it, however often, and whatever is killed on the way."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, text

from docworker.db.catalog import AT_HOME, Place, place_in
from docworker.db.errors import ConfigurationError, InvalidArgumentError
from docworker.db.ledger import find_limits, pauses
from docworker.db.ledger.waiting.backlogs import backlogs
from docworker.db.ledger.waiting.keys import find_key_limits
from docworker.db.models import Pause, PlacementState
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import HOME
from docworker.db.tenants import steering
from docworker.worker.local.servers.roles import create_database
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.creating import create_tenant, record
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.making import steer_as_home
from docworker.worker.tenants.owner import become, owning, placement_of
from docworker.worker.tenants.places import Model, new_place
from tests.support.database import somebody_waits
from tests.support.project import PROJECT
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("clusters")

EXISTS = {
    Model.SCHEMA: "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :name)",
    Model.DATABASE: "SELECT EXISTS (SELECT FROM pg_database WHERE datname = :name)",
}


def make_by_hand(statement: str) -> None:
    with owning(AT_HOME, autocommit=True) as owner:
        owner.exec_driver_sql(statement)


@pytest.mark.parametrize("model", Model)
def test_of_many_who_make_one_organization_at_once_one_does(model: Model) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: create_tenant(f"many-{model}", model=model), range(4)))
    assert len({(one.organization_id, one.place) for one in made}) == 1
    assert [one.is_new for one in made].count(True) == 1
    with writing(made[0].organization_id) as session:
        assert session.scalars(text("SELECT 1")).all()


@pytest.mark.parametrize("model", [Model.SCHEMA, Model.DATABASE])
def test_what_was_killed_on_the_way_is_finished_by_the_next_run(model: Model) -> None:
    name = f"killed_{model}"
    command = [sys.executable, "-m", "docworker.worker.cli", "tenants", "create", f"killed-{model}"]
    with subprocess.Popen(
        [*command, "--model", model, "--place-name", name], env={**os.environ, "PYTHONPATH": str(PROJECT)}
    ) as first:
        eventually(lambda: _exists(model, name) or first.poll() is not None, within_seconds=30)
        first.send_signal(signal.SIGKILL)
    placement = placement_of(f"killed-{model}")
    second = create_tenant(f"killed-{model}", model=model, place_name=name)
    assert second.organization_id == placement.organization_id
    assert second.place == place_in(placement)
    with writing(second.organization_id) as session:
        assert session.scalar(text("SELECT 1")) == 1


def _exists(model: Model, name: str) -> bool:
    with owning(AT_HOME) as owner:
        return bool(owner.scalar(text(EXISTS[model]), {"name": name}))


@pytest.mark.parametrize(
    ("model", "made"),
    [
        (Model.SCHEMA, ["CREATE SCHEMA foreign_schema"]),
        (Model.DATABASE, ["CREATE DATABASE foreign_database", "COMMENT ON DATABASE foreign_database IS 'mine'"]),
    ],
)
def test_a_place_that_exists_and_is_not_ours_is_left_alone(model: Model, made: list[str]) -> None:
    for statement in made:
        make_by_hand(statement)
    with pytest.raises(InvalidArgumentError, match=f"the {model} 'foreign_{model}' exists and is not this"):
        create_tenant(f"foreign-{model}", model=model, place_name=f"foreign_{model}")
    with pytest.raises(InvalidArgumentError, match=f"remove it first with `docworker tenants drop foreign-{model}`"):
        create_tenant(f"foreign-{model}", model=model, place_name="another")
    drop_tenant(f"foreign-{model}")
    assert _exists(model, f"foreign_{model}"), "dropping what could not be made has dropped somebody else's"
    make_by_hand(f"DROP {model} foreign_{model}")
    assert create_tenant(f"foreign-{model}", model=model, place_name=f"foreign_{model}").is_new


def test_a_database_with_tables_that_nobody_has_marked_is_not_ours() -> None:
    make_by_hand("CREATE DATABASE full_database")
    with owning(Place("home", "app", "full_database")) as owner:
        owner.exec_driver_sql("CREATE TABLE public.theirs ()")
    with pytest.raises(InvalidArgumentError, match="'full_database' exists and is not this organization's"):
        create_tenant("full", model=Model.DATABASE, place_name="full_database")


@pytest.mark.parametrize("name", ["Acme", "1st", "a-b", "pg_x", "app", "public", "template1", "x" * 64, "", 'a"b', "ä"])
def test_a_name_that_no_place_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be the name of a schema"):
        create_tenant("named", model=Model.SCHEMA, place_name=name)


def test_what_cannot_be_is_refused_and_leaves_nothing() -> None:
    with pytest.raises(ConfigurationError, match="no cluster is called 'west'; known: home, east"):
        create_tenant("nowhere", cluster="west")
    with pytest.raises(InvalidArgumentError, match="'No Slug' cannot be a slug"):
        create_tenant("No Slug")
    with pytest.raises(InvalidArgumentError, match="share their tables have no place to call 'x'"):
        create_tenant("shared-named", place_name="x")
    create_tenant("taken", model=Model.SCHEMA)
    for other in ({"cluster": "east", "model": Model.SCHEMA}, {"model": Model.SHARED}):
        with pytest.raises(InvalidArgumentError, match="the slug 'taken' is taken, by an organization that is active"):
            create_tenant("taken", **other)
    create_tenant("first-of-two", model=Model.SCHEMA, place_name="one_place")
    with pytest.raises(InvalidArgumentError, match="'one_place' is another organization's"):
        create_tenant("second-of-two", model=Model.SCHEMA, place_name="one_place")


def test_an_owner_who_may_make_no_databases_is_told_what_to_do(stack: LocalStack) -> None:
    stack.master.execute("ALTER ROLE docworker_owner NOCREATEDB")
    try:
        with pytest.raises(ConfigurationError, match="ALTER ROLE docworker_owner CREATEDB"):
            create_tenant("unmade", model=Model.DATABASE)
    finally:
        stack.master.execute("ALTER ROLE docworker_owner CREATEDB")
    assert create_tenant("unmade", model=Model.DATABASE).is_new


def test_a_new_database_has_what_was_said_of_all_organizations() -> None:
    kind = "said_of_all"
    steering.pause(kind=kind, organization_id=None, by="ann")
    steering.limit(kind=kind, max_running=3)
    steering.limit_key(kind, organization_id=None, max_running=2)
    steering.bound_backlog(None, 70_000)
    try:
        place = create_tenant("told-of-it", model=Model.DATABASE).place
        with all_jobs_session(place.cluster, place.database) as session:
            assert [(one.kind, one.paused_by) for one in pauses(session)] == [(kind, "ann")]
            assert [(one.kind, one.max_running) for one in find_limits(session)] == [(kind, 3)]
            assert [(one.limit_key, one.max_running) for one in find_key_limits(session)] == [(kind, 2)]
            assert [one.most for one in backlogs(session)] == [70_000]
    finally:
        assert steering.resume(kind=kind, organization_id=None)
        assert steering.unlimit(kind=kind)
        assert steering.unlimit_key(kind, organization_id=None)
        assert steering.unbound_backlog(None)
    with all_jobs_session(place.cluster, place.database) as session:
        assert not pauses(session)


_WAITING = """
CREATE FUNCTION ledger.wait() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$;
CREATE TRIGGER wait BEFORE INSERT ON ledger.pauses FOR EACH ROW EXECUTE FUNCTION ledger.wait()
"""


def test_what_is_taken_back_while_a_new_database_is_given_it_does_not_stay_there() -> None:
    kind = "said_and_taken_back"
    place = create_tenant("given-it", model=Model.DATABASE).place
    with owning(place) as owner:
        owner.exec_driver_sql(_WAITING)
    with ThreadPoolExecutor(2) as threads:
        with owning(place) as holder:
            holder.exec_driver_sql("SELECT pg_advisory_xact_lock(7)")
            with owning(AT_HOME) as home:
                become(home, SYSTEM_ORGANIZATION_ID)
                home.execute(insert(Pause).values(organization_id=SYSTEM_ORGANIZATION_ID, kind=kind))
            given = threads.submit(steer_as_home, place)
            eventually(lambda: is_waited_for_in(place), within_seconds=20, what="the pause to be on its way")
            taken_back = threads.submit(steering.resume, kind=kind, organization_id=None)
            eventually(lambda: taken_back.done() or somebody_waits("ledger.pauses"), what="what takes it back")
        given.result(20)
        assert taken_back.result(20)
    with all_jobs_session(place.cluster, place.database) as session:
        assert kind not in [one.kind for one in pauses(session)]


def is_waited_for_in(place: Place) -> bool:
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted)"
    with all_jobs_session(place.cluster, place.database) as session:
        return bool(session.scalar(text(waits)))


@pytest.mark.parametrize("state", [PlacementState.CREATING, PlacementState.IMPORTING, PlacementState.DROPPING])
@pytest.mark.parametrize("is_there", [False, True], ids=["no database", "an empty database"])
def test_what_is_said_of_all_organizations_passes_over_a_database_that_is_not_finished(
    stack: LocalStack, state: PlacementState, *, is_there: bool
) -> None:
    slug = f"half-{state}-{is_there}".lower()
    place = new_place(Model.DATABASE, HOME, new_id(), slug)
    assert record(new_id(), slug, place, state) is not None
    assert place.database is not None
    if is_there:
        create_database(stack.master, place.database)
    kind = f"said_over_{slug}"
    assert steering.pause(kind=kind, organization_id=None, by="ann")
    assert kind in [one.kind for one in steering.all_pauses()]
    if not is_there and state is PlacementState.CREATING:
        made = create_tenant(slug, model=Model.DATABASE).place
        with all_jobs_session(made.cluster, made.database) as session:
            assert kind in [one.kind for one in pauses(session)]
    assert steering.resume(kind=kind, organization_id=None)
    drop_tenant(slug)
