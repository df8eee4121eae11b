"""Tenants from the shell: made in each model, listed, shown, suspended, dropped."""

import pytest

from docworker.db.models import PlacementState
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.owner import placement_of, set_placement
from tests.support.commands import docworker


def test_tenants_are_made_listed_and_shown(clusters: None, stack: LocalStack) -> None:
    made = docworker("tenants", "create", "globex", "--model", "schema", "--cluster", "east", "--json").json
    assert made["created"]
    assert made["schema"].startswith("tenant_globex_")
    assert docworker("tenants", "create", "globex", "--model", "schema", "--cluster", "east").out.startswith(
        "exists already: globex"
    )
    assert docworker("tenants", "create", "initech", "--model", "database", "--place-name", "initech").exit_code == 0
    stack.wait_for_replicas()
    listed = {one["slug"]: one for one in docworker("tenants", "list", "--json").json}
    assert (listed["globex"]["model"], listed["globex"]["cluster"]) == ("schema", "east")
    assert (listed["initech"]["model"], listed["initech"]["database"]) == ("database", "initech")
    shown = docworker("tenants", "show", "globex", "--json").json
    assert shown == listed["globex"]
    assert any(line[0] == "initech" for line in docworker("tenants", "list").lines)


def test_a_suspended_tenant_is_refused_in_every_command(clusters: None) -> None:
    docworker("tenants", "create", "paused")
    assert docworker("tenants", "suspend", "paused").out == "suspended paused\n"
    refused = docworker("documents", "--organization", "paused")
    assert refused.exit_code == 1
    assert "is suspended: `docworker tenants resume` makes it active again" in refused.err
    assert docworker("tenants", "resume", "paused").exit_code == 0
    assert docworker("documents", "--organization", "paused").exit_code == 0


@pytest.mark.parametrize(
    ("state", "command"),
    [
        (PlacementState.CREATING, "create"),
        (PlacementState.IMPORTING, "import"),
        (PlacementState.LEAVING, "move"),
        (PlacementState.MOVING, "move"),
        (PlacementState.DROPPING, "drop"),
    ],
)
def test_who_suspends_one_on_which_a_command_was_killed_is_told_how_to_finish_that(
    clusters: None, state: PlacementState, command: str
) -> None:
    docworker("tenants", "create", "unfinished")
    set_placement(placement_of("unfinished").organization_id, state=state)
    for refused in (docworker("tenants", "suspend", "unfinished"), docworker("tenants", "resume", "unfinished")):
        assert refused.exit_code == 1
        assert f"'unfinished' is {state}: " in refused.err
        assert f"run `docworker tenants {command}`" in refused.err
    assert docworker("tenants", "drop", "unfinished", "--yes").exit_code == 0


def test_dropping_asks_first(clusters: None) -> None:
    docworker("tenants", "create", "leaving", "--model", "schema")
    asked = docworker("tenants", "drop", "leaving")
    assert asked.exit_code == 1
    assert "nothing was deleted" in asked.err or "Aborted" in asked.err
    assert docworker("tenants", "drop", "leaving", "--yes").out == "dropped leaving\n"
    gone = docworker("tenants", "show", "leaving")
    assert (gone.exit_code, "no organization has the slug 'leaving'" in gone.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "private"], "'private' is not one of 'shared', 'schema', 'database'"),
        (["--cluster", "west"], "no cluster is called 'west'"),
        (["--model", "schema", "--place-name", "No"], "'No' cannot be the name of a schema"),
    ],
)
def test_what_cannot_be_made_says_why(clusters: None, arguments: list[str], complaint: str) -> None:
    refused = docworker("tenants", "create", "never", *arguments)
    assert refused.exit_code in (1, 2)
    assert complaint in refused.err
