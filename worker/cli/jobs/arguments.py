"""`keys_and_values`: the arguments of a kind of job, as a command is given them."""

import json
from typing import Any

from docworker.db.errors import InvalidArgumentError


def keys_and_values(arguments: tuple[str, ...]) -> dict[str, Any]:
    """Of `KEY=VALUE`; values are read as JSON where they are JSON, else as text. Raises InvalidArgumentError."""
    given: dict[str, Any] = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or not key.isidentifier():
            raise InvalidArgumentError(f"{argument!r} is not KEY=VALUE")
        if key in given:
            raise InvalidArgumentError(f"{key!r} is given twice")
        given[key] = _value(value)
    return given


def _value(text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError:
        return text
