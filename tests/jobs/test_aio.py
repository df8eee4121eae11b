"""The asyncio twins give what the synchronous functions give, and wait without holding up the event loop."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import astuple
from itertools import pairwise
from typing import Any, TypeVar

import pytest

import docworker
from docworker import Attempt, NotFoundError, Progress, aio, enqueue, get_job, job, new_id, watch_jobs, writing
from docworker.db import find_document, list_documents, list_versions, metrics
from docworker.db.documents.store import source_store
from docworker.db.errors import BadInputError
from docworker.db.settings import settings
from docworker.jobs.testing import dispatch_due, drain, run
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

T = TypeVar("T")


@job(name="tests.count_letters", max_attempts=1)
def count_letters(attempt: Attempt, text: str) -> None:
    if not text:
        raise BadInputError("no text")
    attempt.finish(lambda _: {"letters": len(text)})


def with_asyncio(work: Callable[[], Awaitable[T]]) -> T:
    async def opened() -> T:
        await aio.open_database(settings())
        try:
            return await work()
        finally:
            await aio.close_database()

    return asyncio.run(opened())


def enqueued(tenant: Tenant, *texts: str) -> list[Any]:
    with writing(tenant.id) as session:
        return [enqueue(session, count_letters, text=text) for text in texts]


def test_organizations_and_documents_are_found(opened: Any, tenant: Tenant) -> None:
    document_id = tenant.write("/plans/drill.md", "All meet in the yard.", "Nobody meets.", title="Drill")

    async def look() -> list[Any]:
        made = await aio.create_organization(f"made-{new_id().hex}")
        return [
            await aio.organization_id_of(tenant.slug),
            await aio.search_documents(tenant.id, "nobody"),
            await aio.find_document(tenant.id, "/plans/drill.md"),
            await aio.list_documents(tenant.id, under="/plans"),
            await aio.list_versions(tenant.id, document_id),
            await aio.list_documents(made),
        ]

    assert with_asyncio(look) == [
        docworker.organization_id_of(tenant.slug),
        docworker.search_documents(tenant.id, "nobody"),
        find_document(tenant.id, "/plans/drill.md"),
        list_documents(tenant.id, under="/plans"),
        list_versions(tenant.id, document_id),
        [],
    ]


def test_errors_are_those_of_the_synchronous_functions(opened: Any, tenant: Tenant) -> None:
    async def unknown() -> None:
        await aio.organization_id_of("nobody-has-this")

    async def no_job() -> None:
        await aio.get_job(tenant.id, new_id())

    for work in (unknown, no_job):
        with pytest.raises(NotFoundError):
            with_asyncio(work)
    with pytest.raises(NotFoundError):
        get_job(tenant.id, new_id())


def test_state_result_and_reason_of_a_job(opened: Any, tenant: Tenant) -> None:
    good, bad = enqueued(tenant, "four", "")
    assert get_job(tenant.id, good).state == "queued"
    drain({"tests.count_letters": count_letters.kind})

    async def look() -> Any:
        stories = [await aio.get_story(tenant.id, one) for one in (good, bad)]
        assert [one.attempts[-1].outcome for one in stories] == ["succeeded", "failed"]
        return [await aio.get_job(tenant.id, one) for one in (good, bad)]

    for found in (with_asyncio(look), [get_job(tenant.id, one) for one in (good, bad)]):
        assert [(one.state, one.result, one.error_message) for one in found] == [
            ("succeeded", {"letters": 4}, None),
            ("failed", None, "no text"),
        ]


def test_watching_tells_each_change_until_all_have_ended(opened: Any, tenant: Tenant) -> None:
    kinds = {"tests.count_letters": count_letters.kind}

    def steps() -> Any:
        """What happens between one look and the next."""
        yield lambda: None
        messages = dispatch_due(kinds)
        yield lambda: messages
        yield lambda: run(messages, kinds)

    ids = enqueued(tenant, "a", "b")
    seen: list[Progress] = []
    step = steps()
    next(step)
    for progress in watch_jobs(tenant.id, ids, every_seconds=0):
        seen.append(progress)
        next(step, lambda: None)()
    ids = enqueued(tenant, "c", "d")
    again = steps()
    next(again)

    async def watch() -> None:
        async for progress in aio.watch_jobs(tenant.id, ids, every_seconds=0):
            seen.append(progress)
            await asyncio.to_thread(next(again, lambda: None))

    with_asyncio(watch)
    assert [astuple(one) for one in seen] == 2 * [(0, 2, 0, 0, 0), (0, 0, 2, 0, 0), (2, 0, 0, 0, 0)]


def test_the_store_is_read_in_threads(opened: Any, tenant: Tenant) -> None:
    key = source_store().put(tenant.id, io.BytesIO(b"bytes")).key

    async def use() -> list[Any]:
        store = aio.source_store()
        found = [await store.exists(key), await store.get(key)]
        await store.delete(key)
        return [*found, await store.exists(key)]

    assert with_asyncio(use) == [True, b"bytes", False]


def test_a_thread_that_works_meanwhile_uses_its_own_database(opened: Any, tenant: Tenant) -> None:
    """The twin is used by its own task alone, not by what runs beside it."""

    async def both() -> Any:
        return await asyncio.gather(
            aio.organization_id_of(tenant.slug), asyncio.to_thread(docworker.organization_id_of, tenant.slug)
        )

    assert with_asyncio(both) == [tenant.id, tenant.id]
    assert docworker.organization_id_of(tenant.slug) == tenant.id


def test_twins_use_connections_of_asyncio_alone(opened: Any, tenant: Tenant) -> None:
    docworker.close_database()  # the synchronous one

    async def look() -> list[Any]:
        watch = aio.JobWatch(tenant.id, [])
        return [
            await aio.organization_id_of(tenant.slug),
            await aio.list_documents(tenant.id),
            (await watch.look()).live,
        ]

    assert with_asyncio(look) == [tenant.id, [], 0]


def test_watching_tells_nothing_while_nothing_changes(opened: Any, tenant: Tenant) -> None:
    ids = enqueued(tenant, "a")
    looks = metrics.READS.labels("master", "asked")._value

    async def watch() -> list[Progress]:
        return [progress async for progress in aio.watch_jobs(tenant.id, ids, every_seconds=0.001)]

    async def work_meanwhile() -> list[Progress]:
        before = looks.get()
        watching = asyncio.create_task(watch())
        await asyncio.to_thread(eventually, lambda: looks.get() >= before + 5)
        await asyncio.to_thread(drain, {"tests.count_letters": count_letters.kind})
        return await watching

    seen = with_asyncio(work_meanwhile)
    assert [before for before, after in pairwise(seen) if before == after] == []
    assert (astuple(seen[0]), astuple(seen[-1])) == ((0, 1, 0, 0, 0), (1, 0, 0, 0, 0))
