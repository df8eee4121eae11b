"""A replica that is behind does not make things disappear."""

import pytest

from docworker.db.documents.reading import find_document, load_version
from docworker.db.errors import NotFoundError
from docworker.db.tenants.organizations import organization_id_of
from tests.support.database import opened_database
from tests.support.stack import InForce, OwnStack
from tests.support.tenants import Tenant


def test_what_a_lagging_replica_does_not_show_is_found_on_the_master(own_stack: OwnStack, in_force: InForce) -> None:
    stack = own_stack(migrated=True)
    in_force(stack)
    with opened_database():
        with stack.replicas[0].connect() as replica:
            replica.execute("SELECT pg_wal_replay_pause()")
        tenant = Tenant()
        document_id = tenant.write("/a/b.txt", "text")
        assert organization_id_of(tenant.slug) == tenant.id
        assert find_document(tenant.id, "/a/b.txt").id == document_id
        assert find_document(tenant.id, str(document_id)).path == "/a/b.txt"
        assert load_version(tenant.id, document_id, 1).content == "text"
        with pytest.raises(NotFoundError):
            find_document(tenant.id, "/a/c.txt")
