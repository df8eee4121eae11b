"""Jobs that come after others, as applications enqueue them."""

import asyncio
import re
from typing import Any
from uuid import UUID

import psycopg
import pytest

from docworker import InvalidArgumentError, aio, enqueue, enqueue_many, get_job, new_id, writing
from docworker.db import ledger
from docworker.db.models import Job
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import settings
from docworker.jobs.testing import drain
from tests.support.project import PROJECT
from tests.support.tenants import Tenant

PAGE = PROJECT / "docs" / "jobs.md"


@pytest.fixture(scope="module")
def defined() -> dict[str, Any]:
    """The example of docs/jobs.md, and the lines that enqueue it."""
    page = PAGE.read_text()
    (kinds,) = (block for block in _blocks(page) if "def add_up" in block)
    (lines,) = (block for block in _blocks(page) if "after=pages" in block)
    defined: dict[str, Any] = {"lines": lines}
    exec(kinds, defined)
    return defined


def _blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def _nothing_before(tenant: Tenant) -> None:
    with all_jobs_session() as session:
        session.query(Job).delete()


def drained(defined: dict[str, Any]) -> int:
    kinds = [one.kind for one in (defined["count_page"], defined["add_up"])]
    return drain(kinds={kind.name: kind for kind in kinds})


def test_the_example_adds_up_what_it_waited_for(tenant: Tenant, defined: dict[str, Any]) -> None:
    there = {"writing": writing, "enqueue": enqueue, "enqueue_many": enqueue_many, "organization_id": tenant.id}
    done: dict[str, Any] = {}
    exec(defined["lines"], there | defined, done)
    assert get_job(tenant.id, done["total"]).state == "waiting"
    assert drained(defined) == 3
    assert get_job(tenant.id, done["total"]).result == {"pages": 2, "words": 300}


def test_the_example_of_a_tree_and_a_chain_runs(tenant: Tenant, defined: dict[str, Any]) -> None:
    (lines,) = (block for block in _blocks(PAGE.read_text()) if "after_children_of=" in block)
    there = {"writing": writing, "enqueue": enqueue, "enqueue_many": enqueue_many, "organization_id": tenant.id}
    done: dict[str, Any] = {}
    exec(lines, there | defined, done)
    assert drained(defined) == 6
    whole, behind, last = (get_job(tenant.id, done[name]) for name in ("whole", "behind", "last"))
    assert whole.result == {"pages": 3, "words": 300}
    ended = [one.finished_at for one in (whole, behind, last)]
    assert ended == sorted(ended)  # type: ignore[type-var]  # all have ended


def test_the_example_runs_in_order(tenant: Tenant, defined: dict[str, Any]) -> None:
    (lines,) = (block for block in _blocks(PAGE.read_text()) if "order_key=" in block)
    done: dict[str, Any] = {}
    exec(lines, {"writing": writing, "enqueue": enqueue, "organization_id": tenant.id} | defined, done)
    assert drained(defined) == 2
    first, second = (get_job(tenant.id, done[name]) for name in ("first", "second"))
    assert first.finished_at is not None
    assert second.claimed_at is not None
    assert first.finished_at < second.claimed_at


def test_a_transaction_of_another_program_enqueues_what_waits(tenant: Tenant, defined: dict[str, Any]) -> None:
    with writing(tenant.id) as session:
        page = enqueue(session, defined["count_page"], page=3)
    with psycopg.connect(settings().master_database_url()) as connection:
        total = enqueue(connection, defined["add_up"], organization_id=tenant.id, after=[page])
        with pytest.raises(InvalidArgumentError, match="there is no job"), connection.transaction():
            enqueue(connection, defined["add_up"], organization_id=tenant.id, after=[new_id()])
    assert get_job(tenant.id, total).state == "waiting"
    assert drained(defined) == 2
    assert get_job(tenant.id, total).result == {"pages": 1, "words": 300}


def test_a_transaction_of_another_program_enqueues_in_order(tenant: Tenant, defined: dict[str, Any]) -> None:
    pages = [{"page": 1}, {"page": 2}]
    with psycopg.connect(settings().master_database_url()) as connection:
        first, second = enqueue_many(
            connection, defined["count_page"], pages, organization_id=tenant.id, order_keys=["a", "a"]
        )
        last = enqueue(connection, defined["add_up"], organization_id=tenant.id, order_key="a", after=[second])
    assert {get_job(tenant.id, one).state for one in (first, second, last)} == {"waiting"}
    assert drained(defined) == 3
    ended = [get_job(tenant.id, one).finished_at for one in (first, second, last)]
    assert ended == sorted(ended)  # type: ignore[type-var]  # all have ended


def test_a_transaction_of_another_program_enqueues_under_a_key(tenant: Tenant, defined: dict[str, Any]) -> None:
    with psycopg.connect(settings().master_database_url()) as connection:
        pages = enqueue_many(
            connection, defined["count_page"], [{"page": 1}, {"page": 2}], organization_id=tenant.id, limit_key="a"
        )
        total = enqueue(connection, defined["add_up"], organization_id=tenant.id, limit_key="a", after=pages)
    told = [get_job(tenant.id, one) for one in (*pages, total)]
    assert {(one.state, one.limit_key) for one in told} == {("waiting", "a")}
    assert drained(defined) == 3
    assert get_job(tenant.id, total).result == {"pages": 2, "words": 300}


def test_asyncio_enqueues_what_waits(tenant: Tenant, defined: dict[str, Any]) -> None:
    async def produce() -> UUID:
        async with aio.lifespan(), aio.writing(tenant.id) as session:
            page = await enqueue(session, defined["count_page"], page=3)
            return await enqueue(session, defined["add_up"], after_children_of=page, when="any")

    assert get_job(tenant.id, asyncio.run(produce())).state == "waiting"


def test_what_cannot_wait_is_refused_before_the_server_sees_it(tenant: Tenant, defined: dict[str, Any]) -> None:
    job_id, add_up = new_id(), defined["add_up"]
    with writing(tenant.id) as session:
        for wrong, options in (
            ("no unique_key", {"after": [job_id], "unique_key": "k"}),
            ("does not wait for itself", {"after": [job_id], "id": job_id}),
            ("when is one of", {"after": [job_id], "when": "later"}),
            ("no unique_key", {"order_key": "a", "unique_key": "k"}),
            ("on_failure is one of", {"order_key": "a", "on_failure": "stop"}),
            ("an order_key", {"order_key": ""}),
            ("a limit_key", {"limit_key": ""}),
            ("no unique_key and no order_key", {"limit_key": "a", "unique_key": "k"}),
            ("no unique_key and no order_key", {"limit_key": "a", "order_key": "b"}),
            ("after", {"after": 7}),
            ("after", {"after": ["x"]}),
        ):
            with pytest.raises(InvalidArgumentError, match=wrong):
                enqueue(session, add_up, **options)
        enqueue(session, add_up, after=[])
    with all_jobs_session() as session:
        assert [one.state for one in ledger.find(session, ledger.Filter(), limit=9).jobs] == ["queued"]
