"""`describe`: the OpenAPI 3.1 description of operations, made of what routes and checks are made of."""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from docworker.worker.api.answers import ProblemAnswer
from docworker.worker.api.operations import Operation
from docworker.worker.api.problems import MEDIA_TYPE

OF_EACH = (401, 403, 422, 429, 500, 503)
"""Problems that any operation may have."""
_WORDS = {
    200: "As asked.",
    201: "Made.",
    202: "Taken; a job does it.",
    204: "Done.",
    401: "No token, or none that is good.",
    403: "The token has not the scope, or its organization is not served.",
    404: "Not there, for this organization.",
    409: "Not as things are.",
    413: "Too large.",
    415: "No format that is read.",
    422: "Not what can be asked.",
    429: "Too often, or too many jobs wait: try again after `Retry-After` seconds.",
    500: "A fault of docworker's.",
    503: "Not now: try again after `Retry-After` seconds.",
}
_REFERENCE = "#/components/schemas/{model}"


def describe(operations: Iterable[Operation]) -> dict[str, Any]:
    """All of it as JSON; each model stands once, under its name."""
    listed = list(operations)
    models: dict[type[BaseModel], str] = {ProblemAnswer: "serialization"}
    for one in listed:
        if isinstance(one.body, type):
            models[one.body] = "validation"
        models |= {model: "serialization" for model in one.answers.values() if model is not None}
    wanted: Any = [*models.items()]
    references, definitions = models_json_schema(wanted, ref_template=_REFERENCE)
    schemas = {model: references[model, mode] for model, mode in wanted}
    paths: dict[str, dict[str, Any]] = {}
    for one in listed:
        paths.setdefault(one.template, {})[one.method.lower()] = _described(one, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "docworker", "version": version("docworker")},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation, schemas: Mapping[type[BaseModel], Any]) -> dict[str, Any]:
    problem = {MEDIA_TYPE: {"schema": schemas[ProblemAnswer]}}
    answers: dict[str, Any] = {}
    for status, model in operation.answers.items():
        answers[str(status)] = {"description": _WORDS[status], **_content(status, model, schemas)}
    for status in sorted({*OF_EACH, *operation.problems}):
        answers[str(status)] = {"description": _WORDS[status], "content": problem}
    described = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Needs the scope `{operation.scope}`.",
        "parameters": [*_of_path(operation), *_of_query(operation.query), *map(_of_header, operation.headers)],
        "responses": answers,
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _of_body(operation.body, schemas)}
    return described


def _of_body(body: type[BaseModel] | str, schemas: Mapping[type[BaseModel], Any]) -> dict[str, Any]:
    return {body: {}} if isinstance(body, str) else {"application/json": {"schema": schemas[body]}}


def _content(status: int, model: type[BaseModel] | None, schemas: Mapping[type[BaseModel], Any]) -> dict[str, Any]:
    if model is not None:
        return {"content": {"application/json": {"schema": schemas[model]}}}
    return {} if status == 204 else {"content": {"text/plain": {"schema": {"type": "string"}}}}


def _of_path(operation: Operation) -> list[dict[str, Any]]:
    names = re.findall(r"\{([a-z_]+):uuid\}", operation.path)
    schema = {"type": "string", "format": "uuid"}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _of_query(model: type[BaseModel]) -> list[dict[str, Any]]:
    described = model.model_json_schema()
    required = described.get("required", [])
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": schema.pop("description", ""),
            "schema": schema,
        }
        for name, schema in described.get("properties", {}).items()
    ]


def _of_header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string", "maxLength": 255}}
