"""Organizations: who there is, and where each of them is placed."""

from docworker.db.tenants.organizations import (
    create_organization,
    list_organizations,
    organization_id_of,
    slugs_of,
)

__all__ = ["create_organization", "list_organizations", "organization_id_of", "slugs_of"]
