"""Organizations from the shell: added once, and listed."""

from docworker.worker.local.stack import LocalStack
from tests.support.commands import docworker


def test_organizations_are_added_and_listed(environment: dict[str, str], stack: LocalStack) -> None:
    added = docworker("organizations", "add", "acme-ltd", "--name", "Acme Ltd.", "--json")
    assert added.json["slug"] == "acme-ltd"
    stack.wait_for_replicas()
    listed = docworker("tenants", "list", "--json")
    assert added.json["organization_id"] in [one["organization_id"] for one in listed.json]
    assert any(line[0] == "acme-ltd" for line in docworker("tenants", "list").lines)
    again = docworker("organizations", "add", "acme-ltd")
    assert again.exit_code == 1
    assert again.err.startswith("docworker: an organization with the slug 'acme-ltd' exists already")


def test_they_are_listed_by_one_command(environment: dict[str, str]) -> None:
    assert docworker("organizations", "list").exit_code == 2
