"""What is imported equals what was exported; what is damaged or somebody else's is refused before a write."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from docworker.db.catalog import AT_HOME, place_in
from docworker.db.documents.search import search_documents
from docworker.db.documents.store import source_key, source_store
from docworker.db.errors import ConfigurationError, InvalidArgumentError, UnavailableOrganizationError
from docworker.db.models import PlacementState, Suspension
from docworker.db.sessions import reading
from docworker.db.settings import settings
from docworker.db.tenants.archive import Manifest, TableFile
from docworker.db.tenants.exporting import export_organization
from docworker.db.tenants.organizations import list_organizations, organization_id_of
from docworker.jobs.kinds.indexing import index_documents
from docworker.jobs.testing import drain
from docworker.migrations.runner import head
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.creating import create_tenant, record
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.importing import import_organization
from docworker.worker.tenants.owner import find_placement, owning, placement_of
from docworker.worker.tenants.places import Model, model_of
from tests.support.archives import all_rows, furnished, manifest_of, sha256_of
from tests.support.tenants import Tenant, is_served
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("clusters")


class Exported:
    """An organization that was exported and is not here any more."""

    def __init__(self, stack: LocalStack, path: Path) -> None:
        self.path = path
        self.tenant = furnished()
        stack.wait_for_replicas()
        export_organization(self.tenant.id, path)
        self.rows = all_rows(self.tenant.id)
        drop_tenant(self.tenant.slug)
        stack.wait_for_replicas()

    def seal(self, **changed: Any) -> None:
        """Have the manifest fit the files again, as somebody would who forges an export."""
        content = manifest_of(self.path) | changed
        tables = {}
        for name, one in content["tables"].items():
            data = (self.path / f"{name}.jsonl").read_bytes()
            tables[name] = TableFile(data.count(b"\n"), len(data), sha256_of(data), one["columns"])
        rest = {
            name: content[name] for name in ("organization_id", "slug", "exported_at", "sources", "missing_sources")
        }
        (self.path / "manifest.json").write_text(Manifest(**rest, tables=tables).to_json())


@pytest.fixture
def exported(stack: LocalStack, clusters: None, tmp_path: Path) -> Exported:
    return Exported(stack, tmp_path / "acme")


@contextmanager
def no_jobs(stack: LocalStack, database_name: str) -> Iterator[None]:
    """Nobody can enqueue, so an import stops when its rows are there."""
    for statement in REFUSE_JOBS:
        stack.master.execute(statement, database=database_name)
    try:
        yield
    finally:
        stack.master.execute("DROP TRIGGER refuse ON ledger.jobs", database=database_name)


REFUSE_JOBS = (
    "CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'no jobs today'; END $$",
    "CREATE TRIGGER refuse BEFORE INSERT ON ledger.jobs FOR EACH ROW EXECUTE FUNCTION public.refuse()",
)


@pytest.fixture
def unfinished(exported: Exported, stack: LocalStack, database_name: str) -> Exported:
    """An import of it has ended before its end."""
    with no_jobs(stack, database_name), pytest.raises(DBAPIError, match="no jobs today"):
        import_organization(exported.path)
    return exported


@pytest.mark.parametrize("cluster", ["home", "east"])
@pytest.mark.parametrize("model", Model)
def test_imported_organization_equals_the_exported_one_in_each_placement(
    exported: Exported, stack: LocalStack, model: Model, cluster: str
) -> None:
    tenant = exported.tenant
    import_organization(exported.path, model=model, cluster=cluster)
    assert all_rows(tenant.id) == exported.rows
    assert all(len(rows) > 0 for rows in exported.rows.values())
    placement = placement_of(tenant.slug)
    place = place_in(placement)
    assert (model_of(place), place.cluster, placement.state) == (model, cluster, PlacementState.ACTIVE)
    assert placement.revision == (None if model is Model.SHARED else head())
    assert source_store().get(source_key(tenant.id, sha256_of(b"bytes 1"))) == b"bytes 1"
    eventually(lambda: is_served(tenant.id), what="what was believed of it a moment ago is over")
    assert drain(kinds={index_documents.kind.name: index_documents.kind}) > 0
    eventually(lambda: len(search_documents(tenant.id, "second")) == 3, within_seconds=20)
    drop_tenant(tenant.slug)


def test_of_two_who_import_one_export_at_once_one_does(exported: Exported) -> None:
    def attempt(_: int) -> str:
        try:
            import_organization(exported.path, model=Model.SCHEMA)
        except InvalidArgumentError as error:
            return str(error)
        return "imported"

    with ThreadPoolExecutor(2) as threads:
        imported, refused = sorted(threads.map(attempt, range(2)), key=lambda answer: answer != "imported")
    assert imported == "imported"
    assert "exists here already" in refused
    assert all_rows(exported.tenant.id) == exported.rows


def test_jobs_of_an_import_wait_until_it_is_whole(unfinished: Exported) -> None:
    with owning() as owner:
        assert owner.scalar(select(Suspension.organization_id).filter_by(organization_id=unfinished.tenant.id))
    import_organization(unfinished.path)
    with owning() as owner:
        assert not owner.scalar(select(Suspension.organization_id).filter_by(organization_id=unfinished.tenant.id))


def test_an_export_of_a_release_that_had_fewer_tables_is_imported(exported: Exported) -> None:
    tables = manifest_of(exported.path)["tables"]
    del tables["document_contributors"]
    (exported.path / "document_contributors.jsonl").unlink()
    exported.seal(tables=tables)
    import_organization(exported.path)
    assert all_rows(exported.tenant.id) == exported.rows | {"document_contributors": []}


def test_import_as_another_slug(exported: Exported, stack: LocalStack) -> None:
    slug = f"{exported.tenant.slug[:20]}-new"
    import_organization(exported.path, slug=slug)
    stack.wait_for_replicas()
    assert organization_id_of(slug) == exported.tenant.id
    assert [row["slug"] for row in all_rows(exported.tenant.id)["organizations"]] == [slug]


def test_organization_and_slug_that_exist_are_refused(exported: Exported, stack: LocalStack, tmp_path: Path) -> None:
    other = Tenant()
    with pytest.raises(InvalidArgumentError, match=f"another organization has the slug '{other.slug}'"):
        import_organization(exported.path, slug=other.slug)
    with pytest.raises(InvalidArgumentError, match="cannot be a slug"):
        import_organization(exported.path, slug="No Slug")
    stack.wait_for_replicas()
    export_organization(other.id, tmp_path / "other")
    with pytest.raises(InvalidArgumentError, match="exists here already"):
        import_organization(tmp_path / "other")


def test_import_that_failed_amid_it_is_hidden_and_finished_by_the_next_run(unfinished: Exported) -> None:
    tenant = unfinished.tenant
    assert placement_of(tenant.slug).state == PlacementState.IMPORTING
    with pytest.raises(InvalidArgumentError, match=f"an import of an organization as '{tenant.slug}' was not finished"):
        create_tenant(tenant.slug)
    eventually(lambda: not is_served(tenant.id), what="what was believed of it a moment ago is over")
    with pytest.raises(UnavailableOrganizationError), reading(tenant.id):
        pass
    with pytest.raises(InvalidArgumentError, match=f"--slug {tenant.slug}"):
        import_organization(unfinished.path, slug="another-one")
    with pytest.raises(InvalidArgumentError, match="on home in the model shared"):
        import_organization(unfinished.path, model=Model.SCHEMA)
    import_organization(unfinished.path)
    eventually(lambda: is_served(tenant.id), what="what was believed of it a moment ago is over")
    assert all_rows(tenant.id) == unfinished.rows


def test_a_half_finished_import_can_be_dropped_and_a_half_finished_creation_is_not_imported_into(
    unfinished: Exported,
) -> None:
    tenant = unfinished.tenant
    drop_tenant(tenant.slug)
    record(tenant.id, tenant.slug, AT_HOME)
    with pytest.raises(InvalidArgumentError, match=r"exists here already, as .* \(creating\)"):
        import_organization(unfinished.path)
    drop_tenant(tenant.slug)
    import_organization(unfinished.path)
    assert all_rows(tenant.id) == unfinished.rows


def test_rows_of_another_export_are_not_mixed_in(unfinished: Exported) -> None:
    users = unfinished.path / "users.jsonl"
    users.write_text(users.read_text().replace("a@example.org", "b@example.org"))
    unfinished.seal()
    with pytest.raises(InvalidArgumentError, match="another export was not finished"):
        import_organization(unfinished.path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cluster": "west"}, ConfigurationError, "no cluster is called 'west'"),
        ({"place_name": "x"}, InvalidArgumentError, "share their tables have no place to call 'x'"),
        ({"model": Model.SCHEMA, "place_name": "No"}, InvalidArgumentError, "'No' cannot be the name of a schema"),
        ({"model": Model.SCHEMA, "place_name": "in_use"}, InvalidArgumentError, "'in_use' is another organization's"),
    ],
)
def test_places_that_cannot_be_are_refused(
    exported: Exported, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    create_tenant("in-use", model=Model.SCHEMA, place_name="in_use")
    with pytest.raises(error, match=message):
        import_organization(exported.path, **options)
    assert find_placement(exported.tenant.slug) is None


Damage = Callable[[Exported], None]


def _cut(name: str) -> Damage:
    def damage(one: Exported) -> None:
        (one.path / name).write_bytes((one.path / name).read_bytes()[:-3])

    return damage


def _edited(name: str) -> Damage:
    def damage(one: Exported) -> None:
        text = (one.path / name).read_text()
        (one.path / name).write_text(text.replace("e", "3", 1))

    return damage


def _removed(name: str) -> Damage:
    return lambda one: (one.path / name).unlink()


def _source(change: Callable[[Path], Any]) -> Damage:
    def damage(one: Exported) -> None:
        change(next((one.path / "sources").iterdir()))

    return damage


def _reformatted(one: Exported) -> None:
    content = manifest_of(one.path) | {"format_version": 99}
    (one.path / "manifest.json").write_text(json.dumps(content))


def _somebody_elses(one: Exported) -> None:
    path = one.path / "tags.jsonl"
    path.write_text(path.read_text().replace(str(one.tenant.id), str(UUID(int=7))))
    one.seal()


def _somebody_elses_source(one: Exported) -> None:
    path = one.path / "documents.jsonl"
    path.write_text(path.read_text().replace(f'"{one.tenant.id}/', f'"{UUID(int=7)}/'))
    one.seal()


def _of_a_later_release(one: Exported) -> None:
    content = manifest_of(one.path)
    content["tables"]["tags"]["columns"].append("colour")
    one.seal(tables=content["tables"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut("documents.jsonl"), r"documents.jsonl was cut off or edited"),
        (_edited("document_versions.jsonl"), r"document_versions.jsonl was cut off or edited"),
        (_removed("users.jsonl"), r"has no users.jsonl"),
        (_cut("manifest.json"), r"manifest.json is cut off"),
        (_edited("manifest.json"), r"manifest.json"),
        (_removed("manifest.json"), r"has no manifest.json: it is no export that was finished"),
        (_source(lambda path: path.write_bytes(b"others")), r"sources/\w+ was cut off or edited"),
        (_source(Path.unlink), r"has no sources/\w+"),
        (_source(lambda path: path.with_name("extra").write_bytes(b"more")), r"sources/extra"),
        (_reformatted, r"format version 99.*with the release that exported it"),
        (_somebody_elses, rf"tags.jsonl, line 1, names the organization {UUID(int=7)} instead"),
        (_somebody_elses_source, r"documents.jsonl, line \d+, names the organization"),
        (_of_a_later_release, r"tags.jsonl has the columns \['colour'\]"),
    ],
)
def test_damaged_export_is_refused_before_anything_is_written(
    exported: Exported, stack: LocalStack, damage: Damage, message: str
) -> None:
    damage(exported)
    with pytest.raises(InvalidArgumentError, match=message):
        import_organization(exported.path)
    stack.wait_for_replicas()
    assert exported.tenant.slug not in [one.slug for one in list_organizations()]
    assert not source_store().exists(source_key(exported.tenant.id, sha256_of(b"bytes 1")))


def test_zip_that_was_cut_off_or_is_none_is_refused(exported: Exported, tmp_path: Path, stack: LocalStack) -> None:
    tenant = Tenant()
    stack.wait_for_replicas()
    path = tmp_path / "other.zip"
    export_organization(tenant.id, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidArgumentError, match=r"other.zip cannot be read as a zip"):
        import_organization(path)
    with pytest.raises(InvalidArgumentError, match="there is no export at"):
        import_organization(tmp_path / "nothing.zip")


def test_import_needs_the_owners_address(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCWORKER_OWNER_URL")
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="DOCWORKER_OWNER_URL"):
        import_organization(exported.path)
