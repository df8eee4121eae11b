"""Exporting from the shell, also when the command is killed amid it."""

import os
from pathlib import Path

import pytest

from docworker.db.documents.store import source_key
from docworker.db.tenants.archive import opened as opened_archive
from docworker.db.tenants.archive import read_manifest, verify
from docworker.worker.local.stack import LocalStack
from tests.support.archives import add_source, furnished, sha256_of
from tests.support.commands import docworker
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.waiting import eventually


@pytest.mark.usefixtures("opened")
def test_organization_is_exported_to_a_zip(stack: LocalStack, tmp_path: Path) -> None:
    tenant = furnished(1)
    stack.wait_for_replicas()
    answer = docworker("tenants", "export", tenant.slug, tmp_path / "acme.zip")
    assert answer.exit_code == 0, answer.err
    assert "4 documents, 3 versions, 1 sources" in answer.out
    again = docworker("tenants", "export", tenant.slug, tmp_path / "acme.zip")
    assert again.exit_code == 1
    assert "exists already" in again.err
    forced = docworker("tenants", "export", tenant.slug, tmp_path / "acme.zip", "--force", "--no-sources", "--json")
    assert (forced.json["documents"], forced.json["sources"]) == (4, None)


def test_unknown_slug_and_unusable_paths_are_explained(environment: dict[str, str], tmp_path: Path) -> None:
    unknown = docworker("tenants", "export", "nobody", tmp_path / "x")
    assert unknown.exit_code == 1
    assert "no organization has the slug 'nobody'" in unknown.err


def test_path_that_cannot_be_written_is_explained(tenant: Tenant, stack: LocalStack, tmp_path: Path) -> None:
    stack.wait_for_replicas()
    nowhere = docworker("tenants", "export", tenant.slug, tmp_path / "no" / "where")
    assert nowhere.exit_code == 1
    assert "make it first" in nowhere.err
    (tmp_path / "file.partial").write_text("in the way")
    blocked = docworker("tenants", "export", tenant.slug, tmp_path / "file")
    assert blocked.exit_code == 1
    assert blocked.err.startswith("docworker: cannot write the export")


def test_export_that_was_killed_is_taken_up(
    tenant: Tenant, environment: dict[str, str], stack: LocalStack, processes: Processes, tmp_path: Path
) -> None:
    contents = [f"bytes {number}".encode() for number in range(9)]
    ids = [add_source(tenant, str(number), content) for number, content in enumerate(contents)]
    stack.wait_for_replicas()
    in_order = [sha256_of(content) for _, content in sorted(zip(ids, contents, strict=True))]
    blocking = stored(environment, source_key(tenant.id, in_order[5]))
    kept = blocking.read_bytes()
    blocking.unlink()
    os.mkfifo(blocking)
    path, sources = tmp_path / "acme", tmp_path / "acme.partial" / "sources"

    process = processes.start("tenants", "export", tenant.slug, str(path))
    eventually(lambda: sources.is_dir() and len(list(sources.iterdir())) == 5, what="five sources")
    process.kill9()
    assert not path.exists()
    inodes = {one.name: one.stat().st_ino for one in sources.iterdir()}
    blocking.unlink()
    blocking.write_bytes(kept)
    tenant.write("/meanwhile.txt", "meanwhile")
    stack.wait_for_replicas()

    answer = docworker("tenants", "export", tenant.slug, path)
    assert answer.exit_code == 0, answer.err
    found = {one.name: one.stat().st_ino for one in (path / "sources").iterdir()}
    assert set(found) == set(in_order)
    assert inodes.items() <= found.items(), "what was there was fetched again"
    assert "meanwhile.txt" in (path / "documents.jsonl").read_text()
    with opened_archive(path) as archive:
        verify(archive, read_manifest(archive))


def stored(environment: dict[str, str], key: str) -> Path:
    organization_id, sha256 = key.split("/")
    return Path(environment["DOCWORKER_STORE"], organization_id, sha256[:2], sha256)
