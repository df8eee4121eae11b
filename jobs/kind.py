"""`Kind`: the name of a kind of job, its arguments, its limits, and the function that runs it.

A kind is a Celery task as well; how its jobs run is in `jobs.task`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import PydanticSerializationError
from sqlalchemy.orm import Session

from docworker.db.errors import ConfigurationError, InvalidArgumentError, UnacceptedArgumentsError
from docworker.db.ledger import Failure
from docworker.db.ledger.values import MAX_ATTEMPTS, SCALARS, check_integer, check_kind, check_nesting, shortened

MAX_SHOWN = 2000
TURN_SECONDS = 1.0
CONCURRENT_TURN_SECONDS = 5.0
"""Longer, as its last jobs leave the places of the others empty."""
_TAKEN = {"run_at", "priority", "unique_key", "max_attempts", "id", "parent_id", "organization_id", "job_ids"}
"""Names that `enqueue` and plain Celery calls use for themselves."""


class Arguments(BaseModel):
    """Base of the arguments of a kind: nothing unknown gets in."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


@dataclass(frozen=True)
class Kind:
    """Limits are in seconds, for one job; for one message where the kind takes batches: several jobs of an organization
    at a time."""

    name: str
    arguments: type[BaseModel]
    run: Callable[[Any], Any]
    """Takes a `Batch` of such jobs."""
    max_attempts: int = 5
    priority: int = 5
    soft_limit_seconds: float = 240
    hard_limit_seconds: float = 300
    max_running: int | None = None
    takes_batches: bool = False
    concurrency: int | None = None
    """Of a coroutine kind: how many of its jobs one process runs at the same time. `run` then takes one `AsyncAttempt`
    and is awaited."""
    on_failure: Callable[[Session, UUID, dict[str, Any], Failure], None] | None = None
    """Called with the job's id, arguments and reason in the transaction in which a worker fails it for good: for the
    state of what the job was about. A job that is lost with its worker is failed elsewhere, without this."""

    def __post_init__(self) -> None:
        if not 0 < self.soft_limit_seconds < self.hard_limit_seconds:
            raise ConfigurationError(
                f"{self.name}: the soft limit ({self.soft_limit_seconds} s) must be positive and below the hard limit "
                f"({self.hard_limit_seconds} s)"
            )
        try:
            check_kind(self.name)
            check_integer("max_attempts", self.max_attempts, 1, MAX_ATTEMPTS)
            check_integer("priority", self.priority, 0, 9, " (first)")
        except InvalidArgumentError as error:
            raise ConfigurationError(f"{self.name}: {error}") from None
        if self.max_running is not None and (type(self.max_running) is not int or self.max_running < 1):
            raise ConfigurationError(
                f"{self.name}: max_running must be at least 1, got {self.max_running}; leave it out for no cap"
            )
        if self.concurrency is not None and (type(self.concurrency) is not int or self.concurrency < 1):
            raise ConfigurationError(f"{self.name}: concurrency must be at least 1, got {self.concurrency}")
        taken = sorted(_TAKEN & self.arguments.model_fields.keys())
        if taken:
            raise ConfigurationError(
                f"{self.name}: an argument cannot be called {', '.join(taken)}: enqueue() uses that name itself"
            )

    @property
    def turn_seconds(self) -> float:
        """For so long a message begins jobs, where each is claimed when it starts; it may run for so much longer than
        one job."""
        if self.takes_batches:
            return 0.0
        return TURN_SECONDS if self.concurrency is None else CONCURRENT_TURN_SECONDS

    def serialize(self, arguments: Any) -> dict[str, Any]:
        """Arguments as the ledger keeps them; raises InvalidArgumentError naming each wrong one, also for those that an
        attempt could not read back."""
        if type(arguments) is not dict and not isinstance(arguments, Mapping):
            raise InvalidArgumentError(f"{self.name} takes a mapping of names to arguments, got {shortened(arguments)}")
        check_nesting(arguments, f"the arguments of {self.name}")
        try:
            given = self.arguments.model_validate(dict(arguments))
            kept = given.model_dump(mode="json")
            read_back = self.arguments.model_validate(kept)
        except ValidationError as error:
            raise self._refusal(_problems(error)) from None
        except (PydanticSerializationError, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise self._refusal(f"{shortened(arguments)} cannot be kept as JSON: {error}") from error
        for name in type(given).model_fields:
            one = getattr(given, name)
            if type(one) not in SCALARS and not _same_keys(one, getattr(read_back, name)):
                raise self._refusal(f"{name}: its keys would be kept as other ones: use texts as keys")
        return kept

    def accept(self, kept: dict[str, Any]) -> BaseModel:
        """Arguments as the function gets them; raises UnacceptedArgumentsError naming each that this release, unlike
        the one that enqueued the job, does not take."""
        try:
            return self.arguments.model_validate(kept)
        except ValidationError as error:
            problems = _problems(error).encode("utf-8", "backslashreplace").decode()
            raise UnacceptedArgumentsError(
                f"this release's {self.name} does not take the job's arguments: {problems[:MAX_SHOWN]}. Run a release "
                "that does, then `docworker jobs retry`; a new argument needs a default, an old one has to stay "
                "until its jobs are done"
            ) from None

    def _refusal(self, problems: str) -> InvalidArgumentError:
        shown = problems.encode("utf-8", "backslashreplace").decode()
        return InvalidArgumentError(f"{self.name} cannot take these arguments: {shown[:MAX_SHOWN]}")


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())


def _same_keys(given: Any, kept: Any) -> bool:
    """Whether each mapping in `given` has the same keys in `kept`, which is not nested deeper than its writer goes."""
    if isinstance(given, Mapping) and isinstance(kept, Mapping):
        return given.keys() == kept.keys() and all(_same_keys(given[key], kept[key]) for key in given)
    if isinstance(given, list | tuple) and isinstance(kept, list | tuple):
        return all(map(_same_keys, given, kept))
    return True


def check_function(function: Callable[..., Any]) -> None:
    """Raises ConfigurationError for a function that would only make a generator, and run nothing."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{function.__name__}: a job is a function and no generator: take out `yield`")


def arguments_of(function: Callable[..., Any]) -> type[BaseModel]:
    """The arguments model of a function whose first parameter is the attempt; raises ConfigurationError."""
    name = function.__name__
    check_function(function)
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
