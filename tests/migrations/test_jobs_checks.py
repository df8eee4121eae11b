"""What is written once is refused when it is written, as by a CHECK, and costs a later change of the job nothing."""

from typing import Any

import pytest
from psycopg.errors import CheckViolation
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from docworker.db.models.base import new_id
from docworker.db.sessions import writing
from tests.support.tenants import Tenant

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("kind", {"kind": ""}),
    ("kind", {"kind": "k" * 201}),
    ("priority", {"priority": -1}),
    ("priority", {"priority": 10}),
    ("max_attempts", {"max_attempts": 0}),
    ("unique_key", {"unique_key": ""}),
    ("unique_key", {"unique_key": "u" * 501}),
    ("order", {"order_key": "key"}),
    ("order", {"order_position": 1}),
    ("order", {"order_key": "", "order_position": 1}),
    ("limit_key", {"limit_key": ""}),
    ("limit_key", {"limit_key": "key", "unique_key": "other"}),
    ("limit_key", {"limit_key": "key", "order_key": "other", "order_position": 1}),
    ("arguments", {"arguments": "[]"}),
    ("arguments", {"arguments": "null"}),
    ("cursor", {"cursor": "7"}),
]
TAKEN: list[dict[str, Any]] = [
    {"kind": "k" * 200, "unique_key": "u" * 500, "priority": 9, "arguments": "{}"},
    {"priority": 0, "max_attempts": 1, "order_key": "key", "order_position": 1, "cursor": "null"},
    {"limit_key": "l" * 500, "cursor": '{"at": 1}'},
]
_JSON = ("arguments", "cursor")


def _value(name: str) -> str:
    return f"CAST(:{name} AS jsonb)" if name in _JSON else f":{name}"


def insert(tenant: Tenant, values: dict[str, Any]) -> Any:
    job = {"id": new_id(), "organization_id": tenant.id, "kind": "kind", "max_attempts": 3, "arguments": "{}"} | values
    job |= {"state": "queued", "priority": values.get("priority", 5), "attempt": 0, "faults": 0}
    job |= {"alone": False, "dispatches": 0}
    with writing(tenant.id) as session:
        names = ", ".join(job)
        session.execute(text(f"INSERT INTO ledger.jobs ({names}) VALUES ({', '.join(map(_value, job))})"), job)
    return job["id"]


def update(tenant: Tenant, job_id: Any, values: dict[str, Any]) -> None:
    with writing(tenant.id) as session:
        changes = ", ".join(f"{name} = {_value(name)}" for name in values)
        session.execute(text(f"UPDATE ledger.jobs SET {changes} WHERE id = :id"), values | {"id": job_id})


@pytest.mark.parametrize(("check", "values"), REFUSED)
def test_it_is_refused_by_the_name_of_its_check(tenant: Tenant, check: str, values: dict[str, Any]) -> None:
    job_id = insert(tenant, {})
    for write in (lambda: insert(tenant, values), lambda: update(tenant, job_id, values)):
        with pytest.raises(IntegrityError) as refusal:
            write()
        assert isinstance(refusal.value.orig, CheckViolation)
        told = refusal.value.orig.diag
        assert (told.schema_name, told.table_name, told.constraint_name) == ("ledger", "jobs", f"ck_jobs_{check}")


@pytest.mark.parametrize("values", TAKEN)
def test_what_may_be_is_taken(tenant: Tenant, values: dict[str, Any]) -> None:
    insert(tenant, values)
    other = Tenant()
    update(other, insert(other, {}), values)
