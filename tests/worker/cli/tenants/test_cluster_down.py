"""What commands say of an organization on a cluster that is down, and what they leave."""

import json
import os
from pathlib import Path

import pytest
from sqlalchemy import delete

from docworker.db.models import Placement
from docworker.worker.local.servers.server import free_port
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.owner import owning, placement_of, set_placement
from tests.support.commands import Answer, docworker
from tests.support.tenants import Tenant

pytestmark = pytest.mark.usefixtures("clusters")


def with_west(*arguments: object) -> Answer:
    """West is in the settings and nobody listens there."""
    known = json.loads(os.environ["DOCWORKER_CLUSTERS"])
    url = f"postgresql://docworker_owner@127.0.0.1:{free_port()}/west"
    known["west"] = dict.fromkeys(("master_url", "dispatcher_url", "owner_url"), url)
    return docworker(*arguments, environment={"DOCWORKER_CLUSTERS": json.dumps(known)})


def assert_told(answer: Answer) -> None:
    assert answer.exit_code == 1
    assert "Traceback" not in answer.err
    assert "refused" in answer.err or "cannot be reached" in answer.err


def test_nothing_is_made_that_a_second_run_does_not_finish_or_drop(stack: LocalStack, tmp_path: Path) -> None:
    tenant = Tenant()
    stack.wait_for_replicas()
    assert docworker("tenants", "export", tenant.slug, tmp_path / "acme").exit_code == 0
    assert docworker("tenants", "drop", tenant.slug, "--yes").exit_code == 0
    assert_told(with_west("tenants", "import", tmp_path / "acme", "--cluster", "west"))
    assert_told(with_west("tenants", "create", "on-west", "--model", "schema", "--cluster", "west"))
    again = docworker("tenants", "create", tenant.slug)
    assert again.exit_code == 1
    assert "`docworker tenants import`" in again.err
    with owning() as owner:
        owner.execute(delete(Placement).where(Placement.cluster == "west"))


def test_what_is_there_cannot_be_exported_restored_or_dropped_and_is_served_again_later(
    stack: LocalStack, tmp_path: Path
) -> None:
    tenant = Tenant()
    set_placement(tenant.id, cluster="west")
    stack.wait_for_replicas()
    moment = "2026-01-01T00:00:00Z"
    assert_told(with_west("tenants", "export", tenant.slug, tmp_path / "acme"))
    assert_told(with_west("tenants", "restore", tenant.slug, "--to", moment, "--dry-run"))
    assert_told(with_west("tenants", "drop", tenant.slug, "--yes", "--export", tmp_path / "acme"))
    assert placement_of(tenant.slug).state == "active"
    assert not (tmp_path / "acme").exists()
    set_placement(tenant.id, cluster="home")
    assert docworker("tenants", "export", tenant.slug, tmp_path / "acme").exit_code == 0
