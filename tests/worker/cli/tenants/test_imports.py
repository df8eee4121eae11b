"""Importing from the shell, also when the command is killed amid it."""

from pathlib import Path

import pytest
from sqlalchemy import text

from docworker.db.cluster import database
from docworker.db.cluster.engines import owner_engine
from docworker.db.documents.search import search_documents
from docworker.jobs.kinds.indexing import index_documents
from docworker.jobs.testing import drain
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.dropping import drop_tenant
from tests.support.archives import all_rows, furnished
from tests.support.commands import docworker
from tests.support.database import somebody_waits
from tests.support.processes import Processes
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("opened")


def test_organization_is_imported_and_found_by_words(stack: LocalStack, tmp_path: Path) -> None:
    tenant = furnished(2)
    stack.wait_for_replicas()
    assert docworker("tenants", "export", tenant.slug, tmp_path / "acme.zip").exit_code == 0
    before = all_rows(tenant.id)
    refused = docworker("tenants", "import", tmp_path / "acme.zip")
    assert refused.exit_code == 1
    assert "exists here already" in refused.err
    drop_tenant(tenant.slug)
    answer = docworker("tenants", "import", tmp_path / "acme.zip")
    assert answer.exit_code == 0, answer.err
    assert answer.out == f"imported {tenant.slug}: 6 documents, 5 versions\n"
    assert all_rows(tenant.id) == before
    assert drain(kinds={index_documents.kind.name: index_documents.kind}) > 0
    stack.wait_for_replicas()
    assert len(search_documents(tenant.id, "second")) == 2


def test_import_that_was_killed_is_hidden_and_finished_by_the_next_run(
    stack: LocalStack, processes: Processes, tmp_path: Path
) -> None:
    tenant, path = furnished(4), tmp_path / "acme"
    stack.wait_for_replicas()
    assert docworker("tenants", "export", tenant.slug, path).exit_code == 0
    before = all_rows(tenant.id)
    drop_tenant(tenant.slug)
    with owner_engine(database().settings).begin() as blocking:
        blocking.execute(text("LOCK TABLE app.document_versions IN EXCLUSIVE MODE"))
        process = processes.start("tenants", "import", str(path))
        eventually(lambda: somebody_waits("app.document_versions"), within_seconds=30, what="the import to wait")
        process.kill9()
    stack.wait_for_replicas()
    hidden = docworker("documents", "-o", tenant.slug)
    assert hidden.exit_code == 1
    assert "is importing" in hidden.err
    answer = docworker("tenants", "import", path)
    assert answer.exit_code == 0, answer.err
    assert all_rows(tenant.id) == before


def test_nothing_at_the_path_is_explained(tmp_path: Path) -> None:
    answer = docworker("tenants", "import", tmp_path / "nothing")
    assert answer.exit_code == 1
    assert answer.err.startswith("docworker: there is no export at")
