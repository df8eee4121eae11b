"""`Processor`: a step of the pipeline, and how one is declared. Which ones are installed is `registry`'s business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Self

from docworker.jobs.pipeline.draft import Draft, ProcessorError
from docworker.jobs.pipeline.limits import Limits


@dataclass(frozen=True, slots=True)
class Options:
    """What a pipeline is built with; each processor takes what it needs."""

    limits: Limits = field(default_factory=Limits)
    documents_per_child: int = 200


class Processor(ABC):
    """A named, versioned step: document in, document out, no database.

    `order` says where it stands: extract is 100, normalize 200, describe 300; equal ones go by name.
    Raise `version` when the same input gives another output. A `PipelineError` says that the document
    is bad; any other error says that the step failed, and the document is tried again.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    order: ClassVar[int]

    @classmethod
    def build(cls, options: Options) -> Self:  # noqa: ARG003 -- for subclasses that need it
        """The instance that one pipeline uses; called once per pipeline."""
        return cls()

    @abstractmethod
    def process(self, document: Draft) -> Draft:
        """The document after this step. Called from several threads at once in a threaded worker."""

    def close(self) -> None:  # noqa: B027 -- most processors hold nothing
        """Let go of what the instance holds."""


declared: list[type[Processor]] = []
"""Processors declared with `@processor`, in the order of their declaration."""


def processor(*, name: str, version: int, order: int) -> Callable[[Callable[[Draft], Draft]], Callable[[Draft], Draft]]:
    """Declare a function as a processor; its module must be imported before the pipeline is loaded.

    Raises ProcessorError when another one has its name.
    A package that others install uses the entry point group `docworker.processors` instead.
    """

    def declare(function: Callable[[Draft], Draft]) -> Callable[[Draft], Draft]:
        members = {
            "name": name,
            "version": version,
            "order": order,
            "process": lambda _self, document: function(document),
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
        }
        _declare(type(function.__name__, (Processor,), members))
        return function

    return declare


def _declare(kind: type[Processor]) -> None:
    """The same function again is its module loaded anew; raises ProcessorError when the name is another's."""
    for number, earlier in enumerate(declared):
        if earlier.name == kind.name:
            if path_of(earlier) != path_of(kind):
                raise ProcessorError(
                    f"two processors are called {kind.name!r}: {path_of(earlier)} and {path_of(kind)}. "
                    "Rename one of them"
                )
            declared[number] = kind
            return
    declared.append(kind)


def path_of(kind: type[Processor]) -> str:
    """Where a processor is defined, for messages."""
    return f"{kind.__module__}.{kind.__qualname__}"
