"""An export is of one snapshot, whole, and nobody else's; what was cut off is taken up."""

import json
import os
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import event

from docworker.db.cluster import Database, database
from docworker.db.documents.store import SourceStore, source_key, source_store
from docworker.db.errors import InvalidArgumentError
from docworker.db.settings import HOME
from docworker.db.tenants.archive import opened, read_manifest, verify
from docworker.db.tenants.exporting import export_organization
from docworker.db.tenants.tables import TABLES
from docworker.worker.local.stack import LocalStack
from tests.support.archives import LARGE_NUMBER, add_source, furnished, manifest_of, sha256_of
from tests.support.tenants import Tenant

pytestmark = pytest.mark.usefixtures("opened")


@pytest.fixture
def exported(stack: LocalStack, opened: Database, tmp_path: Path) -> tuple[Tenant, Path]:
    tenant = furnished()
    furnished(1)
    stack.wait_for_replicas()
    export_organization(tenant.id, tmp_path / "acme")
    return tenant, tmp_path / "acme"


def test_export_holds_every_row_and_source_of_one_organization(exported: tuple[Tenant, Path]) -> None:
    _, path = exported
    manifest = manifest_of(path)
    assert {name: one["rows"] for name, one in manifest["tables"].items()} == {
        "organizations": 1,
        "users": 1,
        "folders": 6,
        "tags": 1,
        "documents": 8,
        "document_versions": 7,
        "document_tags": 1,
        "document_contributors": 1,
        "document_attachments": 2,
        "audit_log": 1,
    }
    assert {one.name for one in (path / "sources").iterdir()} == {sha256_of(f"bytes {n}".encode()) for n in range(3)}
    assert manifest["sources"] == 3
    assert LARGE_NUMBER in (path / "document_versions.jsonl").read_text()
    assert sorted(one.name for one in path.iterdir()) == sorted(
        ["manifest.json", "sources", *(f"{name}.jsonl" for name in TABLES)]
    )
    with opened(path) as archive:
        verify(archive, read_manifest(archive))


def test_folders_come_after_those_they_are_in(exported: tuple[Tenant, Path]) -> None:
    seen = {None}
    for line in (exported[1] / "folders.jsonl").read_text().splitlines():
        folder = json.loads(line)
        assert folder["parent_id"] in seen
        seen.add(folder["id"])


def test_zip_holds_the_same_as_a_directory(exported: tuple[Tenant, Path], tmp_path: Path) -> None:
    tenant, path = exported
    export_organization(tenant.id, tmp_path / "acme.zip")
    with zipfile.ZipFile(tmp_path / "acme.zip") as packed:
        files = {one for one in packed.namelist() if one != "manifest.json"}
        assert {name: packed.read(name) for name in files} == {
            str(one.relative_to(path)): one.read_bytes()
            for one in path.rglob("*")
            if one.is_file() and one.name != "manifest.json"
        }
    assert [one.name for one in tmp_path.iterdir() if "partial" in one.name] == []


def test_all_tables_are_of_one_snapshot(stack: LocalStack, tmp_path: Path) -> None:
    """A document is written after the first table was read, and replayed before the next one is."""
    tenant = furnished(1)
    stack.wait_for_replicas()
    written: list[object] = []

    def write_amid(*arguments: object) -> None:
        if "auth.users" in str(arguments[2]) and not written:
            written.append(tenant.write("/late.txt", "late"))
            stack.wait_for_replicas()

    engines = [*database().cluster(HOME).replicas, database().cluster(HOME).master]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", write_amid)
    try:
        export_organization(tenant.id, tmp_path / "acme")
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", write_amid)
    assert written
    assert "late.txt" not in (tmp_path / "acme" / "documents.jsonl").read_text()
    assert '"late"' not in (tmp_path / "acme" / "document_versions.jsonl").read_text()


def test_without_sources_there_are_none_also_when_a_run_before_had_some(stack: LocalStack, tmp_path: Path) -> None:
    tenant = furnished(1)
    stack.wait_for_replicas()
    (tmp_path / "acme.partial" / "sources").mkdir(parents=True)
    manifest = export_organization(tenant.id, tmp_path / "acme", with_sources=False)
    assert manifest.sources is None
    assert not (tmp_path / "acme" / "sources").exists()


def test_sources_of_a_run_that_was_cut_off_are_kept_if_still_named_and_whole(
    stack: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = Tenant()
    texts = [b"whole", b"cut off", b"not fetched"]
    for number, content in enumerate(texts):
        add_source(tenant, str(number), content)
    stack.wait_for_replicas()
    partial = tmp_path / "acme.partial" / "sources"
    partial.mkdir(parents=True)
    (partial / sha256_of(b"whole")).write_bytes(b"whole")
    (partial / sha256_of(b"cut off")).write_bytes(b"cut")
    (partial / sha256_of(b"unnamed")).write_bytes(b"unnamed")
    fetched: list[str] = []
    get = SourceStore.get
    monkeypatch.setattr(SourceStore, "get", lambda self, key: fetched.append(key) or get(self, key))  # type: ignore[func-returns-value]
    export_organization(tenant.id, tmp_path / "acme")
    assert set(fetched) == {source_key(tenant.id, sha256_of(one)) for one in texts[1:]}
    assert {one.name: one.read_bytes() for one in (tmp_path / "acme" / "sources").iterdir()} == {
        sha256_of(one): one for one in texts
    }


@pytest.mark.parametrize("name", ["acme", "acme.zip"])
def test_an_export_is_for_nobody_else_to_read(stack: LocalStack, tmp_path: Path, name: str) -> None:
    tenant = furnished(3)
    stack.wait_for_replicas()
    before = os.umask(0)
    try:
        export_organization(tenant.id, tmp_path / name)
    finally:
        os.umask(before)
    made = [tmp_path / name, *(tmp_path / name).rglob("*")]
    assert len(made) == 1 if name.endswith(".zip") else len(made) > 12
    assert [one for one in made if one.stat().st_mode & 0o077] == []


def test_source_that_the_store_has_lost_is_listed_and_the_rest_exported(stack: LocalStack, tmp_path: Path) -> None:
    tenant = furnished(2)
    source_store().delete(source_key(tenant.id, sha256_of(b"bytes 0")))
    stack.wait_for_replicas()
    manifest = export_organization(tenant.id, tmp_path / "acme")
    assert manifest.missing_sources == [sha256_of(b"bytes 0")]
    assert manifest.sources == 1


def test_what_is_there_is_replaced_only_by_force_and_only_if_it_is_an_export(
    exported: tuple[Tenant, Path], stack: LocalStack, tmp_path: Path
) -> None:
    tenant, path = exported
    with pytest.raises(InvalidArgumentError, match=r"exists already.*--force"):
        export_organization(tenant.id, path)
    tenant.write("/later.txt", "later")
    stack.wait_for_replicas()
    export_organization(tenant.id, path, force=True)
    assert "later.txt" in (path / "documents.jsonl").read_text()
    assert [one.name for one in tmp_path.iterdir() if one != path and one.name.startswith("acme")] == []
    precious = tmp_path / "precious"
    precious.mkdir()
    with pytest.raises(InvalidArgumentError, match="no export"):
        export_organization(tenant.id, precious, force=True)


def test_what_is_left_of_another_organizations_export_is_not_mixed_in(stack: LocalStack, tmp_path: Path) -> None:
    tenant = Tenant()
    (tmp_path / "acme.partial").mkdir()
    (tmp_path / "acme.partial" / "organization_id").write_text(str(Tenant().id))
    stack.wait_for_replicas()
    with pytest.raises(InvalidArgumentError, match="another organization"):
        export_organization(tenant.id, tmp_path / "acme")
