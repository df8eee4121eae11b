"""What is dropped with an export is in it, to the last write; and nothing is dropped that is not."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from docworker.db.catalog import AT_HOME, place_in
from docworker.db.cluster import database
from docworker.db.documents.store import source_store
from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.ledger.schedules import enter_tick, fired_ticks, is_unchanged, kept_schedules
from docworker.db.models import Job, PlacementState
from docworker.db.models.document import Document
from docworker.db.sessions import TenantSession, all_jobs_session, writing
from docworker.db.settings import settings
from docworker.db.tenants.archive import Manifest
from docworker.db.tenants.exporting import export_organization
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.indexing import index_documents
from docworker.jobs.schedules import editing
from docworker.jobs.schedules.editing import add_schedule
from docworker.jobs.schedules.schedule import Schedule
from docworker.jobs.task import known_kinds
from docworker.worker.app import celery_app
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants import dropping
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.importing import import_organization
from docworker.worker.tenants.making import clear_place
from docworker.worker.tenants.moving import Wanted, move_tenant
from docworker.worker.tenants.owner import become, find_placement, owning, placement_of, set_placement
from docworker.worker.tenants.places import Model
from docworker.worker.tenants.states import suspend
from tests.support.archives import add_source, all_rows, sha256_of
from tests.support.commands import docworker
from tests.support.moved import EAST, waits_for_a_lock
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("clusters")


class PlacedTenant(Tenant):
    def __init__(self, model: Model = Model.SHARED, cluster: str = "home") -> None:
        self.slug = f"leaving-{uuid4().hex}"
        self.id = create_tenant(self.slug, model=model, cluster=cluster).organization_id
        self.write("/a/text.txt", "first", "second")
        add_source(self, "source.bin", b"bytes")


@pytest.fixture
def tenant(clusters: None) -> PlacedTenant:
    return PlacedTenant()


@pytest.mark.parametrize("suspended", [False, True])
@pytest.mark.parametrize(
    ("model", "cluster"), [(Model.SHARED, "home"), (Model.SCHEMA, "east"), (Model.DATABASE, "home")]
)
def test_what_was_dropped_comes_back_from_its_export(
    clusters: None, tmp_path: Path, model: Model, cluster: str, suspended: bool
) -> None:
    tenant = PlacedTenant(model, cluster)
    rows = all_rows(tenant.id)
    if suspended:
        suspend(tenant.slug)
    drop_tenant(tenant.slug, export=tmp_path / "acme.zip")
    assert find_placement(tenant.slug) is None
    import_organization(tmp_path / "acme.zip", model=model, cluster=cluster)
    assert all_rows(tenant.id) == rows


def test_a_write_that_is_committed_late_is_in_the_export(tenant: PlacedTenant, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        with writing(tenant.id) as session:
            session.add(Document(organization_id=tenant.id, filename="late.txt"))
            session.flush()
            dropped = threads.submit(drop_tenant, tenant.slug, export=tmp_path / "acme")
            eventually(lambda: placement_of(tenant.slug).state == PlacementState.SUSPENDED, within_seconds=20)
            with pytest.raises(TimeoutError):
                dropped.result(timeout=3 * settings().catalog_ttl)
        dropped.result()
    assert "late.txt" in (tmp_path / "acme" / "documents.jsonl").read_text()


@pytest.mark.parametrize("was_cut_off", [False, True])
def test_nothing_goes_while_somebody_writes_who_was_told_that_it_is_served(
    tenant: PlacedTenant, was_cut_off: bool
) -> None:
    with ThreadPoolExecutor(1) as threads:
        with writing(tenant.id) as session:
            if was_cut_off:
                set_placement(tenant.id, state=PlacementState.DROPPING)
            dropped = threads.submit(drop_tenant, tenant.slug)
            eventually(lambda: placement_of(tenant.slug).state == PlacementState.DROPPING, within_seconds=20)
            with pytest.raises(TimeoutError):
                dropped.result(timeout=3 * settings().catalog_ttl)
            job_id = enqueue(session, index_documents, document_ids=[uuid4()])
        dropped.result()
    with all_jobs_session() as session:
        assert session.scalar(select(Job).where(Job.id == job_id)) is None


@contextmanager
def while_its_schema_goes(tenant: PlacedTenant) -> Iterator[None]:
    """The old copy, in shared tables of the same database, is gone by then."""
    move_tenant(tenant.slug, Wanted(model=Model.SCHEMA))
    with owning(EAST) as reader:
        reader.exec_driver_sql(f"SELECT FROM {place_in(placement_of(tenant.slug)).schema}.documents")
        yield


@contextmanager
def while_its_rows_go_after_a_run_that_was_killed(tenant: PlacedTenant) -> Iterator[None]:
    set_placement(tenant.id, state=PlacementState.DROPPING)
    with owning(EAST) as other:
        become(other, tenant.id)
        other.exec_driver_sql(f"SELECT FROM app.documents WHERE organization_id = '{tenant.id}' FOR UPDATE")
        yield


@pytest.mark.parametrize("held_up", [while_its_schema_goes, while_its_rows_go_after_a_run_that_was_killed])
def test_no_other_program_leaves_a_job_behind_that_enqueues_while_it_goes(
    clusters: None, held_up: Callable[[PlacedTenant], AbstractContextManager[None]]
) -> None:
    tenant = PlacedTenant(cluster="east")
    with ThreadPoolExecutor(1) as threads, database().cluster("east").master.connect() as producer:
        with held_up(tenant):
            dropped = threads.submit(drop_tenant, tenant.slug)
            eventually(lambda: waits_for_a_lock(EAST), within_seconds=30)
            answer = ""
            try:
                producer.execute(text("SELECT ledger.enqueue(:id, 'x')"), {"id": tenant.id})
            except OperationalError as error:
                answer = str(error)
        dropped.result()
        producer.commit()
    with all_jobs_session("east") as session:
        assert session.scalars(select(Job.id).where(Job.organization_id == tenant.id)).all() == []
    assert "is not served here now" in answer


def test_an_organization_whose_database_was_lost_can_be_dropped(clusters: None, stack: LocalStack) -> None:
    tenant = PlacedTenant(Model.DATABASE)
    name = place_in(placement_of(tenant.slug)).database
    stack.master.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    drop_tenant(tenant.slug)
    assert find_placement(tenant.slug) is None


@pytest.mark.parametrize("model", [Model.SHARED, Model.DATABASE])
def test_one_on_a_cluster_that_is_lost_is_dropped_when_somebody_says_so(clusters: None, model: Model) -> None:
    tenant = PlacedTenant(model)
    set_placement(tenant.id, cluster="gone", state=PlacementState.DROPPING)
    refused = docworker("tenants", "drop", tenant.slug, "--yes")
    assert (refused.exit_code, "no cluster is called 'gone'" in refused.err) == (1, True)
    refused = docworker("tenants", "drop", tenant.slug, "--yes", "--lost", "east")
    assert (refused.exit_code, "the cluster 'east' is in the settings" in refused.err) == (1, True)
    place = place_in(placement_of(tenant.slug))
    answer = docworker("tenants", "drop", tenant.slug, "--yes", "--lost", "gone")
    left = f"left on gone: {place.database or place.schema} ({model})"
    assert answer.out == f"dropped {tenant.slug}\n{left}\n"
    assert find_placement(tenant.slug) is None
    assert files_of(tenant) == []


def test_one_on_a_cluster_that_is_not_in_the_settings_is_served_as_before(clusters: None) -> None:
    """It may be this command's settings that lack it, and nothing takes an organization back that is being dropped."""
    tenant = PlacedTenant(Model.SHARED)
    set_placement(tenant.id, cluster="gone")
    for lost, said in ([], "no cluster is called 'gone'"), (["--lost", "goen"], "is on a cluster 'goen', only on gone"):
        refused = docworker("tenants", "drop", tenant.slug, "--yes", *lost)
        assert (refused.exit_code, said in refused.err) == (1, True)
        assert placement_of(tenant.slug).state == PlacementState.ACTIVE
    drop_tenant(tenant.slug, lost="gone")


def test_what_is_elsewhere_goes_all_the_same(tenant: PlacedTenant) -> None:
    move_tenant(tenant.slug, Wanted(model=Model.SCHEMA))
    placement = placement_of(tenant.slug)
    set_placement(tenant.id, previous={**(placement.previous or {}), "cluster": "gone"})
    drop_tenant(tenant.slug, lost="gone")
    with owning(AT_HOME) as owner:
        assert not owner.scalar(text("SELECT to_regnamespace(:name)"), {"name": placement.schema})
        become(owner, tenant.id)
        assert owner.scalar(text("SELECT count(*) FROM app.documents")), "what was said to be lost was looked for"
    clear_place(AT_HOME, tenant.id)


def files_of(tenant: PlacedTenant) -> list[str]:
    return list(source_store().keys(tenant.id, before=datetime.now(UTC) + timedelta(days=1)))


def test_files_that_came_after_it_was_dropped_are_cleaned_and_those_of_no_other(
    tenant: PlacedTenant, tmp_path: Path
) -> None:
    """As of an import that was killed between keeping a file and naming it."""
    again, never = PlacedTenant(), uuid4()
    for one, options in ((tenant, ()), (again, ("--export", tmp_path / "again"))):
        assert docworker("tenants", "drop", one.slug, "--yes", *options).exit_code == 0
    import_organization(tmp_path / "again")
    for organization_id in (tenant.id, never):
        source_store().put(organization_id, BytesIO(b"late"))
    answer = docworker("tenants", "clean")
    assert answer.out == f"removed files that came after the organization {tenant.id} was dropped\n"
    assert files_of(tenant) == []
    assert files_of(again), "it has been imported again"
    assert list(source_store().keys(never, before=datetime.now(UTC) + timedelta(days=1))), "nobody has dropped it here"
    assert docworker("tenants", "clean").out == ""


def test_who_was_asked_about_one_does_not_drop_another_of_its_name(tenant: PlacedTenant, processes: Processes) -> None:
    with owning(autocommit=True) as first:
        slug = {"slug": tenant.slug}
        first.execute(text("SELECT pg_advisory_lock(hashtext('docworker tenant'), hashtext(:slug))"), slug)
        process = processes.start("tenants", "drop", tenant.slug, "--yes")
        eventually(lambda: waits_for_a_lock(AT_HOME), within_seconds=30, what="the command to wait for the other one")
        other = PlacedTenant()
        set_placement(tenant.id, slug=f"{tenant.slug}-of-old")
        set_placement(other.id, slug=tenant.slug)
    assert process.wait(within_seconds=30) == 1
    assert f"({tenant.id}) is gone, and another one has its slug by now ({other.id})" in process.log_path.read_text()
    assert placement_of(tenant.slug).state == PlacementState.ACTIVE
    for slug_now in (tenant.slug, f"{tenant.slug}-of-old"):
        drop_tenant(slug_now)


def test_an_export_that_cannot_be_made_or_is_not_whole_drops_nothing(
    tenant: PlacedTenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = all_rows(tenant.id)
    (tmp_path / "there").write_text("precious")
    (tmp_path / "file.partial").write_text("in the way")
    for path, message in (("no/where", "make it first"), ("there", "exists already"), ("file", "cannot write")):
        with pytest.raises(InvalidArgumentError, match=message):
            drop_tenant(tenant.slug, export=tmp_path / path)

    def export_to_a_bad_disk(*arguments: object, **options: object) -> Manifest:
        manifest = export_organization(*arguments, **options)  # type: ignore[arg-type]
        with (tmp_path / "acme" / "documents.jsonl").open("r+b") as stream:
            stream.write(b"?")
        return manifest

    monkeypatch.setattr(dropping, "export_organization", export_to_a_bad_disk)
    with pytest.raises(InvalidArgumentError, match=r"documents.jsonl was cut off or edited"):
        drop_tenant(tenant.slug, export=tmp_path / "acme")
    assert placement_of(tenant.slug).state == PlacementState.ACTIVE
    eventually(lambda: all_rows(tenant.id) == rows, within_seconds=10)


def test_with_an_organization_its_schedules_are_gone_and_nobody_elses(tenant: PlacedTenant) -> None:
    kinds, other = known_kinds(celery_app()), PlacedTenant()
    for one in (tenant, other):
        schedule = Schedule(one.slug, "0 0 * * *", "process_organization", organization_id=one.id)
        add_schedule(schedule, actor="tests", kinds=kinds)
    now = datetime.now(UTC)
    with all_jobs_session() as session:
        for one in (tenant, other):
            assert enter_tick(session, one.slug, now, uuid4())
    drop_tenant(tenant.slug)
    with all_jobs_session() as session:
        assert tenant.slug not in kept_schedules(session)
        assert other.slug in kept_schedules(session)
        assert fired_ticks(session, [tenant.slug, other.slug], now).keys() == {other.slug}, "nor do its ticks stay"


def test_nor_does_a_tick_stay_that_a_beat_fires_meanwhile(tenant: PlacedTenant) -> None:
    schedule = Schedule(tenant.slug, "0 0 * * *", "process_organization", organization_id=tenant.id)
    add_schedule(schedule, actor="tests", kinds=known_kinds(celery_app()))
    now = datetime.now(UTC)
    with ThreadPoolExecutor(1) as threads:
        with all_jobs_session() as beat:
            assert is_unchanged(beat, kept_schedules(beat)[tenant.slug])
            assert enter_tick(beat, tenant.slug, now, uuid4())
            dropped = threads.submit(drop_tenant, tenant.slug)
            eventually(lambda: waits_for_a_lock(AT_HOME), within_seconds=30, what="the drop to wait for the beat")
        dropped.result()
    with all_jobs_session() as session:
        assert fired_ticks(session, [tenant.slug], now) == {}


def test_nor_does_a_schedule_stay_that_is_added_meanwhile(
    tenant: PlacedTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[Future[Manifest | None]] = []

    @contextmanager
    def and_then_it_is_dropped() -> Iterator[TenantSession]:
        with all_jobs_session() as session:
            yield session
        if not dropped:
            dropped.append(threads.submit(drop_tenant, tenant.slug))
            eventually(lambda: find_placement(tenant.slug) is None or waits_for_a_lock(AT_HOME), within_seconds=30)

    monkeypatch.setattr(editing, "all_jobs_session", and_then_it_is_dropped)
    schedule = Schedule(tenant.slug, "0 0 * * *", "process_organization", organization_id=tenant.id)
    with ThreadPoolExecutor(1) as threads:
        add_schedule(schedule, actor="tests", kinds=known_kinds(celery_app()))
    dropped[0].result()
    with all_jobs_session() as session:
        assert tenant.slug not in kept_schedules(session)


def test_what_is_not_whole_is_not_exported(tenant: PlacedTenant, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="'nobody'"):
        drop_tenant("nobody", export=tmp_path / "acme")
    set_placement(tenant.id, state=PlacementState.DROPPING)
    with pytest.raises(InvalidArgumentError, match="is dropping, so there is nothing whole to export"):
        drop_tenant(tenant.slug, export=tmp_path / "acme")
    drop_tenant(tenant.slug)


def test_a_drop_that_was_killed_amid_its_export_is_finished_by_the_next_run(
    tenant: PlacedTenant, processes: Processes, tmp_path: Path
) -> None:
    blocking = Path(settings().store, str(tenant.id), sha256_of(b"bytes")[:2], sha256_of(b"bytes"))
    assert blocking.read_bytes() == b"bytes"
    blocking.unlink()
    os.mkfifo(blocking)
    process = processes.start("tenants", "drop", tenant.slug, "--yes", "--export", str(tmp_path / "acme"))
    eventually((tmp_path / "acme.partial" / "sources").is_dir, within_seconds=30, what="the export to fetch sources")
    process.kill9()
    assert placement_of(tenant.slug).state == PlacementState.SUSPENDED
    blocking.unlink()
    blocking.write_bytes(b"bytes")
    answer = docworker("tenants", "drop", tenant.slug, "--yes", "--export", tmp_path / "acme")
    assert answer.exit_code == 0, answer.err
    assert answer.out.endswith(f"dropped {tenant.slug}\n")
    import_organization(tmp_path / "acme")
    assert tenant.get(tenant.write("/again.txt", "x")).content == "x"
