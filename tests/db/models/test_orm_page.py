"""The examples of docs/orm.md run, in one program, as they stand there."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest

from docworker import aio
from tests.support.database import opened_database
from tests.support.project import PROJECT
from tests.support.tenants import Tenant


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", (PROJECT / "docs" / "orm.md").read_text(), re.M | re.S):
        exec(block, names)
    return names


@pytest.fixture(scope="module")
def tenant(environment: dict[str, str]) -> Iterator[Tenant]:
    with opened_database():
        yield Tenant()


def test_the_examples_write_and_load(page: dict[str, Any], tenant: Tenant) -> None:
    document_id = tenant.write("/reports/q3.txt", "text")
    tenant.write("/alone.txt", "text")
    page["assign"](tenant.id, document_id, "ada@example.org")
    lines = [page["line"](document) for document in page["newest"](tenant.id)]
    assert lines == ["reports: q3.txt (ada@example.org) ['urgent']", "/: alone.txt (nobody) []"]
    page["loads_with_three_statements"](tenant.id)

    async def asynchronously() -> list[str]:
        await aio.open_database()
        try:
            return [page["line"](document) for document in await page["newest_asynchronously"](tenant.id)]
        finally:
            await aio.close_database()

    assert sorted(asyncio.run(asynchronously())) == sorted(lines)
