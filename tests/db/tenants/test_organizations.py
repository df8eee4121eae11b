"""Organizations are made once, found by slug, and found also when the replica does not know them yet."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from docworker.db.errors import InvalidArgumentError, NotFoundError
from docworker.db.models import Organization
from docworker.db.sessions import reading
from docworker.db.tenants.organizations import create_organization, list_organizations, organization_id_of
from docworker.worker.local.stack import LocalStack
from tests.support.tenants import Tenant

pytestmark = pytest.mark.usefixtures("opened")


def test_organization_is_found_by_its_slug() -> None:
    tenant = Tenant()
    assert organization_id_of(tenant.slug) == tenant.id


def test_organization_has_a_name_its_slug_by_default() -> None:
    organization_id = create_organization("acme", "Acme Ltd.")
    with reading(organization_id, source="master") as session:
        assert session.scalar(select(Organization.name)) == "Acme Ltd."
    other_id = create_organization("unnamed")
    with reading(other_id, source="master") as session:
        assert session.scalar(select(Organization.name)) == "unnamed"


def test_unknown_slug_says_how_to_make_it() -> None:
    with pytest.raises(NotFoundError, match="docworker organizations add nobody"):
        organization_id_of("nobody")


def test_taken_slug_is_refused() -> None:
    tenant = Tenant()
    with pytest.raises(InvalidArgumentError, match=f"'{tenant.slug}' exists already"):
        create_organization(tenant.slug)


def test_of_many_who_want_one_slug_one_gets_it() -> None:
    def attempt(_: int) -> bool:
        try:
            create_organization("wanted-by-many")
        except InvalidArgumentError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


@pytest.mark.parametrize("slug", ["", "A", "a b", "-a", "a-", "a/b", "ä", "a" * 64, "a\n"])
def test_malformed_slug_is_refused(slug: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be a slug"):
        create_organization(slug)


def test_all_organizations_are_listed_by_slug(stack: LocalStack) -> None:
    mine = {Tenant().slug, Tenant().slug}
    stack.wait_for_replicas()
    listed = [placement.slug for placement in list_organizations()]
    assert mine <= set(listed)
    assert listed == sorted(listed)


def test_the_slug_of_the_installations_own_jobs_is_reserved(environment: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError, match="choose another slug"):
        create_organization("system")
