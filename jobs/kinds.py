"""What a kind of job is: its name, its arguments, its limits, and the function that runs it.

A kind is a Celery task as well; how its jobs run is in `jobs.task`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from db.errors import ConfigurationError, InvalidArgumentError

if TYPE_CHECKING:
    from jobs.attempts import Batch

MAX_ATTEMPTS = 1000
_PRIORITIES = range(10)
_TAKEN = {"run_at", "priority", "unique_key", "max_attempts", "id", "parent_id", "organization_id", "job_ids"}
"""Names that `enqueue` and plain Celery calls use for themselves."""


class Arguments(BaseModel):
    """Base of the arguments of a kind: nothing unknown gets in."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


@dataclass(frozen=True)
class Kind:
    """Limits are in seconds, for one message. `takes_batches` kinds get several jobs of one organization at a time."""

    name: str
    arguments: type[BaseModel]
    run: "Callable[[Batch], None]"
    max_attempts: int = 5
    priority: int = 5
    soft_limit_seconds: float = 240
    hard_limit_seconds: float = 300
    max_running: int | None = None
    takes_batches: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.soft_limit_seconds < self.hard_limit_seconds:
            raise ConfigurationError(
                f"{self.name}: the soft limit ({self.soft_limit_seconds} s) must be positive and below the hard limit "
                f"({self.hard_limit_seconds} s)"
            )
        if not 1 <= self.max_attempts <= MAX_ATTEMPTS:
            raise ConfigurationError(
                f"{self.name}: max_attempts goes from 1 to {MAX_ATTEMPTS}, got {self.max_attempts}"
            )
        if self.priority not in _PRIORITIES:
            raise ConfigurationError(f"{self.name}: priority goes from 0 (first) to 9, got {self.priority}")
        if self.max_running is not None and self.max_running < 1:
            raise ConfigurationError(
                f"{self.name}: max_running must be at least 1, got {self.max_running}; leave it out for no cap"
            )
        taken = sorted(_TAKEN & self.arguments.model_fields.keys())
        if taken:
            raise ConfigurationError(
                f"{self.name}: an argument cannot be called {', '.join(taken)}: enqueue() uses that name itself"
            )

    def serialize(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments as the ledger keeps them; raises InvalidArgumentError naming each wrong one."""
        try:
            return self.arguments.model_validate(arguments).model_dump(mode="json")
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise InvalidArgumentError(f"{self.name} cannot take these arguments: {problems}") from None


def arguments_of(function: Callable[..., Any]) -> type[BaseModel]:
    """The arguments model of a function whose first parameter is the attempt; raises ConfigurationError."""
    name = function.__name__
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{name}: a job is an ordinary function, not an async one")
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    if not parameters:
        raise ConfigurationError(f"{name}: a job takes the attempt as its first parameter")
    fields: dict[str, Any] = {}
    for one in parameters[1:]:
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            raise ConfigurationError(f"{name}: a job's arguments have names; {one} has none")
        fields[one.name] = (
            Any if one.annotation is inspect.Parameter.empty else one.annotation,
            ... if one.default is inspect.Parameter.empty else one.default,
        )
    return create_model(f"{name}_arguments", __base__=Arguments, **fields)
