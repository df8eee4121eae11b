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
    from jobs.task import Batch


class Arguments(BaseModel):
    """Base of the arguments of a kind: nothing unknown gets in."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Kind:
    """Limits are in seconds, for one message. `takes_batches` kinds get several jobs of one organization at a time."""

    name: str
    arguments: type[BaseModel]
    run: "Callable[[Batch], None]"
    max_attempts: int
    priority: int
    soft_limit_seconds: float
    hard_limit_seconds: float
    max_running: int | None = None
    takes_batches: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.soft_limit_seconds < self.hard_limit_seconds:
            raise ConfigurationError(
                f"{self.name}: the soft limit ({self.soft_limit_seconds} s) must be positive and below the hard limit "
                f"({self.hard_limit_seconds} s)"
            )
        if self.max_attempts < 1:
            raise ConfigurationError(f"{self.name}: max_attempts must be at least 1, got {self.max_attempts}")

    def serialize(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments as the ledger keeps them; raises InvalidArgumentError naming each wrong one."""
        try:
            return self.arguments.model_validate(arguments).model_dump(mode="json")
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise InvalidArgumentError(f"{self.name} cannot take these arguments: {problems}") from None


def arguments_of(function: Callable[..., Any]) -> type[BaseModel]:
    """The arguments model of a function whose first parameter is the attempt."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    fields: dict[str, Any] = {
        one.name: (
            Any if one.annotation is inspect.Parameter.empty else one.annotation,
            ... if one.default is inspect.Parameter.empty else one.default,
        )
        for one in parameters
    }
    return create_model(f"{function.__name__}_arguments", __base__=Arguments, **fields)
