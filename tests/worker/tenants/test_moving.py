"""An organization arrives whole at another cluster, schema or database, with its jobs, whatever goes on meanwhile."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import UniqueConstraint, delete, func, insert, select, text, update
from sqlalchemy.exc import OperationalError

from docworker.db import ledger
from docworker.db.catalog import AT_HOME, Place, place_in, place_of
from docworker.db.cluster import database
from docworker.db.errors import ConfigurationError, DocworkerError, InvalidArgumentError, NotFoundError
from docworker.db.models import (
    Document,
    Folder,
    Job,
    Organization,
    Pause,
    Placement,
    PlacementState,
)
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, position_after, reading, writing
from docworker.db.settings import HOME
from docworker.db.tenants import steering
from docworker.db.tenants.copying import (
    LETTING_GO,
    CopiesDifferError,
    Copying,
    ledger_tables,
    owned_tables,
    owner_connection,
)
from docworker.db.tenants.exporting import export_organization
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.testing import drain
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.moving import Wanted, abort_move, clean_tenant, move, move_tenant, undo_move, write_stop
from docworker.worker.tenants.moving.wanted import Progress
from docworker.worker.tenants.owner import become, only_one_for, owning, placement_of, set_placement
from docworker.worker.tenants.places import Model
from docworker.worker.tenants.states import resume, suspend
from tests.support.commands import docworker
from tests.support.database import reopened_database, somebody_waits
from tests.support.faults import pause_replay, resume_replay
from tests.support.ledger import LedgerSteps
from tests.support.moved import EAST, MovedTenant, waits_for_a_lock
from tests.support.stack import applied
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("clusters")

SHARED, SHARD = (Model.SHARED, "home"), (Model.SHARED, "east")
SCHEMA, SCHEMA_EAST = (Model.SCHEMA, "home"), (Model.SCHEMA, "east")
DATABASE, DATABASE_EAST = (Model.DATABASE, "home"), (Model.DATABASE, "east")
PAIRS = [
    (SHARED, SHARD),
    (SHARD, SHARED),
    (SHARED, SCHEMA),
    (SCHEMA, SHARED),
    (SHARED, DATABASE_EAST),
    (DATABASE, SCHEMA_EAST),
    (SCHEMA, DATABASE),
    (DATABASE_EAST, DATABASE),
]

LEDGER = {table.name for table in ledger_tables()}


def go(tenant: MovedTenant, to: tuple[Model, str], **options: Any) -> Any:
    """East is a database on home's server, where no other may have the same name."""
    if to[0] is Model.DATABASE:
        options.setdefault("place_name", f"moved_{tenant.id.hex[-12:]}")
    return move_tenant(tenant.slug, Wanted(model=to[0], cluster=to[1], **options))


@pytest.fixture
def tenant() -> Iterator[MovedTenant]:
    tenant = MovedTenant()
    tenant.fill()
    yield tenant
    drop_tenant(tenant.slug)


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda one: f"{one[0]}-{one[1]}")
def test_all_rows_arrive_as_they_were_and_the_jobs_with_them(
    source: tuple[Model, str], target: tuple[Model, str]
) -> None:
    tenant = MovedTenant(*source)
    tenant.fill()
    before, old = tenant.rows(), tenant.place
    assert all(before.values()), "of every kind there are some"
    moved = go(tenant, target)
    assert (tenant.place.cluster, place_of(tenant.id, database())) == (target[1], tenant.place)
    assert tenant.rows() == before
    assert moved.rows >= sum(len(rows) for name, rows in before.items() if name not in LEDGER)
    assert not tenant.is_suspended(tenant.place)
    left = tenant.rows(old)
    assert {name: rows for name, rows in left.items() if name not in LEDGER} == {
        name: rows for name, rows in before.items() if name not in LEDGER
    }, "the old copy is kept"
    if (old.cluster, old.database) != (tenant.place.cluster, tenant.place.database):
        assert not any(left[name] for name in LEDGER)
        assert tenant.is_suspended(old), "nobody enqueues there"
    with reading(tenant.id, source="master") as session:
        lsns = set(session.scalars(select(Job.dispatched_lsn)))
    assert (lsns == {None}) == ((old.cluster, old.database) != (tenant.place.cluster, tenant.place.database))
    drop_tenant(tenant.slug)
    for place in (old, AT_HOME):
        if place.database is None and place.schema == "app":
            assert not any(tenant.rows(place).values())


def test_what_changes_between_rounds_arrives_and_what_is_gone_is_gone(tenant: MovedTenant) -> None:
    """Keys that rows hand to each other, deletions, and rows of every table that come late."""
    with writing(tenant.id) as session:
        folders = [Folder(organization_id=tenant.id, id=new_id(), name=name) for name in ("a", "b", "c")]
        session.add_all(folders)
    documents = [tenant.write(f"/{name}.txt", name) for name in ("x", "y", "z", "gone")]
    kept = place_in(placement_of(tenant.slug))
    create_tenant("copied-to", model=Model.SCHEMA, place_name="copied_to", organization_id=new_id())
    target = Place("home", "copied_to")
    with owner_connection(kept) as source, owner_connection(target) as there:
        copying = Copying(tenant.id, (kept, source), (target, there))
        assert copying.is_empty()
        first = copying.run(None, None)
        with writing(tenant.id) as session:
            names = ["b", "c", "a"]
            for folder in folders:
                session.get_one(Folder, (tenant.id, folder.id)).name = new_id().hex
            session.flush()
            for folder, name in zip(folders, names, strict=True):
                session.get_one(Folder, (tenant.id, folder.id)).name = name
            for document_id in documents:
                session.get_one(Document, (tenant.id, document_id)).filename = new_id().hex
            session.flush()
            for document_id, name in zip(documents, ("y.txt", "z.txt", "x.txt", "gone.txt"), strict=True):
                session.get_one(Document, (tenant.id, document_id)).filename = name
        with writing(tenant.id) as session:
            session.delete(session.get_one(Document, (tenant.id, documents[3])))
            top = Folder(organization_id=tenant.id, id=new_id(), name="top")
            session.add(top)
            session.flush()
            session.get_one(Folder, (tenant.id, folders[0].id)).parent_id = top.id
        tenant.fill_late()
        second = copying.run(first.horizon, None, compare=True)
        assert second.deleted >= 1
        assert second.rows < first.rows
        third = copying.run(second.horizon, None, compare=True)
        assert third.rows <= second.rows
    here, copied = tenant.rows(), tenant.rows(target)
    for name in LEDGER:
        here.pop(name), copied.pop(name)
    assert copied == here
    drop_tenant("copied-to")


def test_a_first_round_that_was_cut_off_goes_on_where_it_was(tenant: MovedTenant) -> None:
    kept = tenant.place
    document_ids = sorted(tenant.write(f"/{number}.txt", f"text {number}") for number in range(6))
    create_tenant("cut-off", model=Model.SCHEMA, place_name="cut_off")
    target = Place("home", "cut_off")
    with owner_connection(kept) as source, owner_connection(target) as there:
        copying = Copying(tenant.id, (kept, source), (target, there))
        begun = copying.horizon_of_source()
        first = copying.run(None, None)
        with owning(target) as owner:
            become(owner, tenant.id)
            owner.exec_driver_sql(f"DELETE FROM cut_off.documents WHERE id >= '{document_ids[3]}'")
        tenant.change(document_ids[0], "changed before the place where it goes on")
        again = copying.run(None, None)
        assert 0 < again.rows < first.rows
        copying.run(begun, begun, compare=True)
    assert tenant.rows(target)["documents"] == tenant.rows()["documents"]
    drop_tenant("cut-off")


def test_a_target_that_somebody_else_writes_is_noticed(tenant: MovedTenant) -> None:
    kept = tenant.place
    create_tenant("written", model=Model.SCHEMA, place_name="written")
    target = Place("home", "written")
    with owner_connection(kept) as source, owner_connection(target) as there:
        copying = Copying(tenant.id, (kept, source), (target, there))
        done = copying.run(None, None)
        with owning(target) as owner:
            become(owner, tenant.id)
            owner.exec_driver_sql("UPDATE written.documents SET title = 'theirs' WHERE title = 'T'")
        copying.run(done.horizon, done.horizon)
        with pytest.raises(CopiesDifferError, match="the copies of documents differ: count and checksum"):
            copying.run(done.horizon, done.horizon, compare=True)
    drop_tenant("written")


def test_after_copies_that_differ_the_next_run_copies_everything_anew(tenant: MovedTenant) -> None:
    claimed = LedgerSteps(tenant.id).run(1)
    with pytest.raises(DocworkerError, match="still run"):
        go(tenant, SHARD, wait_seconds=0)
    LedgerSteps(tenant.id).finish(claimed)
    with owning(EAST) as owner:
        become(owner, tenant.id)
        owner.exec_driver_sql("UPDATE app.documents SET title = 'theirs' WHERE title = 'T'")
    with pytest.raises(CopiesDifferError, match="run the move again, it copies everything anew"):
        go(tenant, SHARD)
    assert placement_of(tenant.slug).state == PlacementState.ACTIVE
    before = tenant.rows()
    go(tenant, SHARD)
    assert tenant.rows() == before


def test_every_unique_key_can_be_handed_over() -> None:
    """A new one needs an entry in LETTING_GO, or a rename during a move ends it."""
    with_keys = {
        table.name
        for table in [*owned_tables(), *ledger_tables()]
        if any(index.unique for index in table.indexes)
        or any(isinstance(one, UniqueConstraint) for one in table.constraints)
    }
    assert with_keys - {"organizations"} == set(LETTING_GO)  # a slug is nobody else's, and does not change


def test_undo_brings_back_what_was_written_since(tenant: MovedTenant) -> None:
    document_id = tenant.write("/a.txt", "one")
    home = tenant.place
    go(tenant, SHARD)
    tenant.change(document_id, "changed at the shard")
    later = tenant.write("/later.txt", "later")
    with writing(tenant.id) as session:
        session.delete(session.get_one(Document, (tenant.id, tenant.write("/b.txt", "x"))))
        enqueue(session, process_document, document_id=document_id)
    before = tenant.rows()
    undone = undo_move(tenant.slug, Wanted())
    assert tenant.place == home
    assert undone.rows < sum(map(len, before.values())), "what is there already is not copied again"
    assert tenant.rows() == before
    with writing(tenant.id) as session:
        session.execute(delete(Job).where(Job.kind == "x"))  # which nobody runs here
    with owning(home) as owner:
        owner.execute(delete(Pause))
    drain()
    assert [one.content for one in tenant.versions(document_id)] == ["one", "changed at the shard"]
    assert tenant.get(later).filename == "later.txt"
    assert undo_move(tenant.slug, Wanted()).target == EAST, "and forth again"


def test_what_is_kept_is_removed_when_its_time_is_over_or_sooner_if_told_to(tenant: MovedTenant) -> None:
    home = tenant.place
    go(tenant, SHARD)
    with pytest.raises(InvalidArgumentError, match=r"is kept until .*: remove it sooner with --yes"):
        clean_tenant(tenant.slug)
    with pytest.raises(InvalidArgumentError, match="is still kept: remove it first with `docworker tenants clean"):
        go(tenant, SCHEMA_EAST)
    clean_tenant(tenant.slug, now=True)
    assert not any(tenant.rows(home).values())
    assert all(tenant.rows().values())
    for refused in (undo_move, lambda slug, _: clean_tenant(slug)):
        with pytest.raises(InvalidArgumentError, match="nothing is kept of where the organization"):
            refused(tenant.slug, Wanted())
    go(tenant, SCHEMA_EAST, keep_seconds=0)
    assert placement_of(tenant.slug).previous is None
    assert not any(rows for name, rows in tenant.rows(EAST).items() if name not in LEDGER)
    assert all(tenant.rows().values()), "its jobs are in the ledger that both share"


def test_the_command_removes_all_whose_time_is_over_and_no_others(tenant: MovedTenant) -> None:
    other = MovedTenant()
    for one in (tenant, other):
        go(one, SHARD)
    assert docworker("tenants", "clean").out == ""
    with owning() as owner:
        over = {**(placement_of(tenant.slug).previous or {}), "until": "2026-01-01T00:00:00+00:00"}
        owner.execute(update(Placement).where(Placement.slug == tenant.slug).values(previous=over))
    answer = docworker("tenants", "clean")
    assert answer.out == f"removed what was left of {tenant.slug} on home, in the model shared\n"
    assert placement_of(tenant.slug).previous is None
    assert placement_of(other.slug).previous is not None
    assert docworker("tenants", "clean", "--yes").exit_code == 2
    drop_tenant(other.slug)


def test_one_that_cannot_be_cleaned_keeps_no_other_from_it(tenant: MovedTenant) -> None:
    other = MovedTenant()
    first, second = sorted((tenant, other), key=lambda one: one.slug)
    kept = {}
    for one in (tenant, other):
        go(one, SHARD)
        kept[one.slug] = {**(placement_of(one.slug).previous or {}), "until": "2026-01-01T00:00:00+00:00"}
    set_placement(first.id, previous=kept[first.slug] | {"cluster": "gone"})
    set_placement(second.id, previous=kept[second.slug])
    answer = docworker("tenants", "clean")
    assert answer.exit_code == 1
    assert f"what was left of {first.slug} stays: no cluster is called 'gone'; known: home, east" in answer.err
    assert answer.out == f"removed what was left of {second.slug} on home, in the model shared\n"
    set_placement(first.id, previous=kept[first.slug])
    assert docworker("tenants", "clean").exit_code == 0
    drop_tenant(other.slug)


def test_what_another_command_has_cleaned_meanwhile_is_no_failure(tenant: MovedTenant) -> None:
    go(tenant, SHARD)
    kept = {**(placement_of(tenant.slug).previous or {}), "until": "2026-01-01T00:00:00+00:00"}
    set_placement(tenant.id, previous=kept)
    with ThreadPoolExecutor(1) as threads:
        with only_one_for(tenant.slug):
            answer = threads.submit(docworker, "tenants", "clean")
            eventually(lambda: waits_for_a_lock(AT_HOME), within_seconds=30, what="the command to wait for us")
            set_placement(tenant.id, previous=None)
        assert (answer.result().exit_code, answer.result().err) == (0, "")
    set_placement(tenant.id, previous=kept)
    assert docworker("tenants", "clean").exit_code == 0


@pytest.mark.parametrize("arrived", [False, True])
def test_what_is_kept_on_a_cluster_that_is_lost_is_forgotten_when_somebody_says_so(
    tenant: MovedTenant, arrived: bool
) -> None:
    """Also where it was lost before the move had told it to forget the jobs there."""
    go(tenant, SHARD)
    kept = {**(placement_of(tenant.slug).previous or {}), "cluster": "gone"}
    set_placement(tenant.id, previous=kept)
    if arrived:
        going = {**tenant.place._asdict(), "cluster": "east", "phase": "arrived", "keep_seconds": 3600}
        set_placement(tenant.id, move=going)
    assert docworker("tenants", "clean", tenant.slug, "--yes").exit_code == 1
    answer = docworker("tenants", "clean", tenant.slug, "--yes", "--lost", "gone")
    assert (answer.exit_code, answer.out) == (0, "left on gone: app (shared)\n")
    placement = placement_of(tenant.slug)
    assert (placement.previous, placement.move, placement.state) == (None, None, PlacementState.ACTIVE)
    set_placement(tenant.id, previous={**kept, "cluster": "home"})
    clean_tenant(tenant.slug, now=True)


def test_a_move_to_a_cluster_that_is_lost_is_taken_back_when_somebody_says_so(tenant: MovedTenant) -> None:
    claimed = LedgerSteps(tenant.id).run(1)
    with pytest.raises(DocworkerError, match="still run"):
        go(tenant, SHARD, wait_seconds=0)
    LedgerSteps(tenant.id).finish(claimed)
    going = placement_of(tenant.slug).move or {}
    set_placement(tenant.id, move={**going, "cluster": "gone"})
    assert docworker("tenants", "move", tenant.slug, "--abort").exit_code == 1
    answer = docworker("tenants", "move", tenant.slug, "--abort", "--lost", "gone")
    assert answer.out == f"{tenant.slug} stays on home, in the model shared\nleft on gone: app (shared)\n"
    assert placement_of(tenant.slug).move is None
    assert docworker("tenants", "move", tenant.slug, "--cluster", "east", "--lost", "gone").exit_code == 2
    set_placement(tenant.id, move=going)
    abort_move(tenant.slug)


def test_a_place_of_its_own_is_analyzed_before_it_is_served(tenant: MovedTenant) -> None:
    go(tenant, SCHEMA)
    estimate = text("SELECT reltuples FROM pg_class WHERE oid = CAST(:name AS regclass)")
    with owning(tenant.place) as owner:
        assert owner.scalar(estimate, {"name": f"{tenant.place.schema}.document_versions"}) == 2


def test_a_move_that_fails_leaves_it_served_where_it_was_and_can_be_taken_back(tenant: MovedTenant) -> None:
    before, home = tenant.rows(), tenant.place
    claimed = LedgerSteps(tenant.id).run(1)
    with pytest.raises(DocworkerError, match=r"jobs of .* still run after 0.2 s \(1 test_kind\)"):
        go(tenant, SHARD, wait_seconds=0.2)
    placement = placement_of(tenant.slug)
    assert (place_in(placement), placement.state) == (home, PlacementState.ACTIVE)
    assert not tenant.is_suspended(home)
    assert tenant.rows(EAST)["documents"] == before["documents"], "what was copied is kept"
    with pytest.raises(InvalidArgumentError, match=r"is on its way to east, in the model shared: run .* --abort"):
        go(tenant, SCHEMA)
    assert abort_move(tenant.slug) == home
    assert not any(tenant.rows(EAST).values())
    assert not tenant.is_suspended(EAST)
    assert tenant.rows()["documents"] == before["documents"]
    with pytest.raises(InvalidArgumentError, match=r"no move of the organization .* is under way"):
        abort_move(tenant.slug)
    LedgerSteps(tenant.id).finish(claimed)
    go(tenant, SHARD)
    with pytest.raises(InvalidArgumentError, match="is there already"):
        go(tenant, SHARD)


@pytest.mark.parametrize("to", [SHARD, SCHEMA])
def test_taking_a_move_back_serves_nobody_who_was_suspended(tenant: MovedTenant, to: tuple[Model, str]) -> None:
    home = tenant.place
    claimed = LedgerSteps(tenant.id).run(1)
    with pytest.raises(DocworkerError, match="still run"):
        go(tenant, to, wait_seconds=0)
    LedgerSteps(tenant.id).finish(claimed)
    suspend(tenant.slug)
    assert abort_move(tenant.slug) == home
    assert (placement_of(tenant.slug).state, tenant.is_suspended(home)) == (PlacementState.SUSPENDED, True)
    resume(tenant.slug)
    go(tenant, to)


def test_nor_does_taking_one_back_that_found_rows_which_nobody_knows_of() -> None:
    tenant = MovedTenant(*SCHEMA)
    with owning() as owner:
        become(owner, tenant.id)
        owner.execute(insert(Organization).values(id=tenant.id, slug=tenant.slug, name="x"))
    with pytest.raises(InvalidArgumentError, match=r"there are rows of the organization .* on home already"):
        go(tenant, SHARED)
    suspend(tenant.slug)
    assert abort_move(tenant.slug) == tenant.place
    assert (placement_of(tenant.slug).state, tenant.is_suspended(tenant.place)) == (PlacementState.SUSPENDED, True)
    with owning() as owner:
        become(owner, tenant.id)
        owner.execute(delete(Organization))
    drop_tenant(tenant.slug)


def test_one_that_is_being_dropped_is_not_served_again_by_taking_its_move_back(tenant: MovedTenant) -> None:
    claimed = LedgerSteps(tenant.id).run(1)
    with pytest.raises(DocworkerError, match="still run"):
        go(tenant, SHARD, wait_seconds=0)
    LedgerSteps(tenant.id).finish(claimed)
    set_placement(tenant.id, state=PlacementState.DROPPING)
    with pytest.raises(InvalidArgumentError, match=f"is being dropped: run `docworker tenants drop {tenant.slug}`"):
        abort_move(tenant.slug)
    assert placement_of(tenant.slug).state == PlacementState.DROPPING


def test_a_transaction_that_does_not_end_is_named_and_the_others_go_on(
    tenant: MovedTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_stop, "LOCK_ATTEMPTS", 2)
    with writing(tenant.id) as session:
        session.scalar(text("SELECT 1"))
        with pytest.raises(DocworkerError, match=r"do not end \(tests, process \d+ of PostgreSQL\)"):
            go(tenant, SCHEMA)
    assert placement_of(tenant.slug).state == PlacementState.ACTIVE
    tenant.write("/later.txt", "later")


def test_while_a_replica_is_behind_it_does_not_arrive(
    tenant: MovedTenant, stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move, "REPLICAS_SECONDS", 0.5)
    stack.replicas[0].execute("SELECT pg_wal_replay_pause()")
    try:
        with pytest.raises(DocworkerError, match=r"replica 0 of east is \d+ bytes behind after 0.5 s"):
            go(tenant, SHARD)
    finally:
        stack.replicas[0].execute("SELECT pg_wal_replay_resume()")
    assert tenant.place == AT_HOME
    tenant.write("/later.txt", "text")
    monkeypatch.undo()
    go(tenant, SHARD)
    with reading(tenant.id) as session:
        assert session.scalar(select(func.count()).where(Document.filename == "later.txt")) == 1


def test_copying_waits_while_the_target_is_behind_with_what_it_has_been_given(
    tenant: MovedTenant, stack: LocalStack
) -> None:
    said: list[str] = []

    def say(what: str) -> None:
        said.append(what)
        if what == "waiting (replica_lag)":
            resume_replay(stack.replicas[0])

    pause_replay(stack.replicas[0])
    try:
        with reopened_database(governor_max_lag=0.001):
            move_tenant(tenant.slug, Wanted(model=Model.SHARED, cluster="east"), Progress(say=say))
    finally:
        resume_replay(stack.replicas[0])
    assert said.index("copying") < said.index("waiting (replica_lag)") < said.index("comparing")
    assert tenant.place.cluster == "east"


def test_a_database_has_what_was_said_of_all_organizations_while_an_organization_moved_there(
    tenant: MovedTenant,
) -> None:
    def say(what: str) -> None:
        if what == "comparing":
            steering.pause(kind="said_meanwhile", organization_id=None)
            steering.resume(kind="taken_back_meanwhile", organization_id=None)
            steering.limit(kind="changed_meanwhile", max_running=2)

    steering.pause(kind="taken_back_meanwhile", organization_id=None)
    steering.limit(kind="changed_meanwhile", max_running=1)
    wanted = Wanted(model=Model.DATABASE, cluster=HOME, place_name=f"moved_{tenant.id.hex[-12:]}")
    try:
        move_tenant(tenant.slug, wanted, Progress(say=say))
        with all_jobs_session(tenant.place.cluster, tenant.place.database) as session:
            of_all = [one.kind for one in ledger.pauses(session) if one.organization_id != tenant.id]
            assert of_all == ["said_meanwhile"]
            limits = [one for one in ledger.find_limits(session) if one.organization_id != tenant.id]
            assert [(one.kind, one.max_running) for one in limits] == [("changed_meanwhile", 2)]
    finally:
        steering.resume(kind="said_meanwhile", organization_id=None)
        steering.unlimit(kind="changed_meanwhile")


def test_who_cancels_a_job_while_it_leaves_is_told_that_it_is_gone(tenant: MovedTenant, stack: LocalStack) -> None:
    """The replica of east stands still for the time of the stop, which is thus long enough."""
    (job_id,) = LedgerSteps(tenant.id).enqueue()

    def cancel() -> Sequence[UUID]:
        with all_jobs_session() as session:
            return ledger.cancel(session, ledger.Filter(organization_id=tenant.id), [job_id])

    with ThreadPoolExecutor(2) as pool:
        try:
            with writing(tenant.id) as session:
                session.scalar(text("SELECT 1"))
                moved = pool.submit(go, tenant, SHARD)
                eventually(lambda: placement_of(tenant.slug).state == PlacementState.LEAVING, within_seconds=20)
                stack.replicas[0].execute("SELECT pg_wal_replay_pause()")
            eventually(lambda: placement_of(tenant.slug).state == PlacementState.MOVING, within_seconds=20)
            eventually(lambda: tenant.rows(EAST)["jobs"], within_seconds=20)
            cancelled = pool.submit(cancel)
            eventually(somebody_waits, within_seconds=10)
        finally:
            stack.replicas[0].execute("SELECT pg_wal_replay_resume()")
        moved.result(60)
        assert cancelled.result(20) == []
    with reading(tenant.id, source="master") as session:
        assert session.get_one(Job, (tenant.id, job_id)).state == "queued"


def test_what_is_said_of_it_in_the_last_moment_is_at_the_new_place(
    tenant: MovedTenant, stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica of east stands still while it is said, so that the move does not end meanwhile."""
    monkeypatch.setattr(move, "REPLICAS_SECONDS_OF_STOP", 30)
    with ThreadPoolExecutor(2) as pool:
        try:
            with writing(tenant.id) as session:
                session.scalar(text("SELECT 1"))
                moved = pool.submit(go, tenant, SHARD)
                eventually(lambda: placement_of(tenant.slug).state == PlacementState.LEAVING, within_seconds=20)
                stack.replicas[0].execute("SELECT pg_wal_replay_pause()")
            eventually(lambda: placement_of(tenant.slug).state == PlacementState.MOVING, within_seconds=20)
            eventually(lambda: tenant.rows(EAST)["jobs"], within_seconds=20, what="what is said is copied no more")
            paused = pool.submit(steering.pause, kind="said_late", organization_id=tenant.id)
            with suppress(TimeoutError):
                paused.result(1)
        finally:
            stack.replicas[0].execute("SELECT pg_wal_replay_resume()")
        moved.result(60)
        assert paused.result(20)
    with all_jobs_session("east") as session:
        assert "said_late" in [one.kind for one in ledger.pauses(session) if one.organization_id == tenant.id]


def test_no_other_program_enqueues_at_the_old_place() -> None:
    tenant = MovedTenant(*SHARD)
    go(tenant, SHARED)
    with (
        database().cluster("east").master.connect() as connection,
        pytest.raises(OperationalError, match="is not served here now"),
    ):
        connection.execute(text("SELECT ledger.enqueue(:id, 'x')"), {"id": tenant.id})
    drop_tenant(tenant.slug)


def test_positions_of_the_old_place_mean_nothing_at_the_new_one(tenant: MovedTenant) -> None:
    old = position_after(database().cluster("home"))
    foreign = [old, replace(old, system_identifier=old.system_identifier + 1), replace(old, lsn=2**62)]
    go(tenant, SHARD)
    for position in foreign:
        with reading(tenant.id, position=position) as session:
            assert session.scalar(select(func.count()).select_from(Document)) == 3


def test_bad_input_is_refused_and_leaves_nothing(tenant: MovedTenant) -> None:
    with pytest.raises(ConfigurationError, match="no cluster is called 'west'; known: home, east"):
        move_tenant(tenant.slug, Wanted(cluster="west"))
    with pytest.raises(NotFoundError, match="no organization has the slug 'nobody'"):
        move_tenant("nobody", Wanted(cluster="east"))
    with pytest.raises(InvalidArgumentError, match="is there already: on home in the model shared"):
        move_tenant(tenant.slug, Wanted())
    with pytest.raises(InvalidArgumentError, match="cannot be the name of a schema"):
        move_tenant(tenant.slug, Wanted(model=Model.SCHEMA, place_name="No Name"))
    other = MovedTenant(Model.SCHEMA)
    with pytest.raises(InvalidArgumentError, match=f"belongs to the organization '{other.slug}': choose another"):
        move_tenant(tenant.slug, Wanted(model=Model.SCHEMA, place_name=other.place.schema))
    drop_tenant(other.slug)
    suspend(tenant.slug)
    with pytest.raises(InvalidArgumentError, match="is suspended: only an active one can be moved"):
        go(tenant, SHARD)
    resume(tenant.slug)
    placement = placement_of(tenant.slug)
    assert (placement.move, placement.previous, placement.state) == (None, None, PlacementState.ACTIVE)


def test_rows_that_nobody_knows_of_are_not_written_over(tenant: MovedTenant) -> None:
    with owning(EAST) as owner:
        become(owner, tenant.id)
        owner.execute(insert(Organization).values(id=tenant.id, slug="stranger", name="x"))
    with pytest.raises(InvalidArgumentError, match=r"there are rows of the organization .* on east already"):
        go(tenant, SHARD)
    abort_move(tenant.slug)
    with owning(EAST) as owner:
        become(owner, tenant.id)
        assert owner.scalar(select(Organization.slug)) == "stranger"
        owner.execute(delete(Organization))
    go(tenant, SHARD)


def test_a_cluster_that_is_down_is_an_error_before_anything_is_recorded(
    tenant: MovedTenant, environment: dict[str, str]
) -> None:
    away = json.loads(os.environ["DOCWORKER_CLUSTERS"])
    away["east"]["owner_url"] = "postgresql://docworker_owner@127.0.0.1:1/docworker"
    in_force = {name: value for name, value in os.environ.items() if name.startswith("DOCWORKER_")}
    with applied(in_force | {"DOCWORKER_CLUSTERS": json.dumps(away)}), pytest.raises(OperationalError, match="refused"):
        go(tenant, SHARD)
    assert placement_of(tenant.slug).move is None
    go(tenant, SHARD)


def test_an_import_of_one_that_was_moved_away_is_refused(tenant: MovedTenant, tmp_path: Path) -> None:
    export_organization(tenant.id, tmp_path / "export", with_sources=False)
    go(tenant, SHARD)
    answer = docworker("tenants", "import", tmp_path / "export", "--slug", "other-slug")
    assert answer.exit_code == 1
    assert "exists here already" in answer.err


def test_the_command_tells_what_it_took_and_show_what_is_kept(tenant: MovedTenant) -> None:
    dry = docworker("tenants", "move", tenant.slug, "--cluster", "east", "--dry-run")
    assert dry.out == f"{tenant.slug} would move from home app to east app\n"
    answer = docworker("tenants", "move", tenant.slug, "--cluster", "east", "--json")
    assert answer.exit_code == 0, answer.err
    assert answer.json["rows"] > 0
    assert 0 < answer.json["write_stop_seconds"] < 60
    shown = docworker("tenants", "show", tenant.slug, "--json").json
    assert (shown["cluster"], shown["old_copy"], shown["moving_to"]) == ("east", "home, app (shared)", None)
    assert [one[0] for one in docworker("tenants", "list").lines if one[0] == tenant.slug] == [tenant.slug]
    undone = docworker("tenants", "move", tenant.slug, "--undo")
    assert undone.exit_code == 0, undone.err
    assert "write stop seconds" in undone.out
    assert docworker("tenants", "clean", tenant.slug, "--yes").exit_code == 0
    again = docworker("tenants", "move", tenant.slug)
    assert (again.exit_code, "is there already" in again.err) == (1, True)
    assert docworker("tenants", "move", tenant.slug, "--undo", "--abort").exit_code == 2
