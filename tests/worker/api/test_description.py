"""The OpenAPI description is valid, and says of each operation what it does."""

from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from docworker.db.models.base import new_id
from docworker.worker.api import documents, searching
from docworker.worker.api.jobs import operations_on_jobs
from docworker.worker.api.openapi import describe
from docworker.worker.http.rates import MOST_REMEMBERED, Rates

OPERATIONS = (*documents.OPERATIONS, *operations_on_jobs({}), *searching.OPERATIONS)


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return describe(OPERATIONS)


def test_the_description_is_valid(description: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(description).validate()
    described = {one["operationId"] for path in description["paths"].values() for one in path.values()}
    assert described == {one.name for one in OPERATIONS}


def test_parameters_and_answers_are_described(description: dict[str, Any]) -> None:
    upload = description["paths"]["/v1/documents"]["post"]
    assert {one["name"]: one["required"] for one in upload["parameters"]} == {
        "name": True,
        "folder": False,
        "if_taken": False,
        "Idempotency-Key": False,
    }
    assert {"200", "201", "401", "403", "409", "413", "415", "422", "429", "503"} <= upload["responses"].keys()
    text = description["paths"]["/v1/documents/{document_id}/text"]["get"]
    assert text["responses"]["200"]["content"] == {"text/plain": {"schema": {"type": "string"}}}
    assert {"error", "waits"} <= description["components"]["schemas"]["Job"]["properties"].keys()


def test_a_bucket_fills_with_time_and_only_those_that_asked_last_are_remembered() -> None:
    rates, one, other = Rates(2.0, most=4.0), new_id(), new_id()
    assert [rates.seconds_to_wait(one, 100.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]
    assert rates.seconds_to_wait(other, 100.0) == 0.0
    assert rates.seconds_to_wait(one, 100.5) == 0.0
    assert rates.seconds_to_wait(one, 100.5) == 0.5
    assert [rates.seconds_to_wait(one, 1000.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5], "no more than a burst"
    for _ in range(MOST_REMEMBERED):
        rates.seconds_to_wait(new_id(), 1000.0)
    assert len(rates._left) == MOST_REMEMBERED
