"""`Pipeline`: the installed processors in their order.

Processors come from the entry point group `docworker.processors` of every installed package, our own
included, and from `@processor`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Self

from docworker.jobs.pipeline.draft import (
    Draft,
    Original,
    PipelineError,
    Processed,
    ProcessorError,
    Reason,
    check_output,
)
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.processor import Options, Processor, declared, path_of

ENTRY_POINT_GROUP = "docworker.processors"
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


def installed_processors() -> list[type[Processor]]:
    """Every processor of this installation, in the order in which they run.

    Raises ProcessorError for one that cannot be loaded, is declared wrongly, or whose name is taken.
    """
    found = [*_from_entry_points(entry_points(group=ENTRY_POINT_GROUP)), *((each, "@processor") for each in declared)]
    if not found:
        raise ProcessorError(
            f"no processors are installed: the entry point group {ENTRY_POINT_GROUP!r} is empty. "
            "Install docworker itself as a package, e.g. with `pip install -e .`"
        )
    return in_order(found)


def in_order(found: Iterable[tuple[type[Processor], str]]) -> list[type[Processor]]:
    """Check processors, each given with where it comes from, and sort them by `order`, then name."""
    by_name: dict[str, tuple[type[Processor], str]] = {}
    for kind, origin in found:
        _check(kind, origin)
        taken, taken_by = by_name.setdefault(kind.name, (kind, origin))
        if taken is not kind:
            raise ProcessorError(
                f"two processors are called {kind.name!r}: {path_of(taken)} ({taken_by}) and "
                f"{path_of(kind)} ({origin}). Rename one of them, or uninstall its package"
            )
    return sorted((kind for kind, _ in by_name.values()), key=lambda kind: (kind.order, kind.name))


def signature_of(processors: Iterable[Processor | type[Processor]]) -> str:
    """What a version says it was made by: the names and versions of the processors, in their order."""
    return " ".join(f"{each.name}/{each.version}" for each in processors)


def installed_signature() -> str:
    """What a version says that the processors of this installation make now. Raises as `installed_processors` does."""
    return signature_of(installed_processors())


class Pipeline:
    """The processors of this installation, ready to run. One for each process; safe to use from threads."""

    def __init__(self, processors: Iterable[Processor], limits: Limits | None = None) -> None:
        self.processors = tuple(processors)
        self.limits = limits or Limits()
        self.signature = signature_of(self.processors)
        self._steps = tuple(each.process for each in self.processors)

    @classmethod
    def load(cls, limits: Limits | None = None, *, documents_per_child: int = 200) -> Self:
        """The pipeline of all installed processors.

        `limits` and `documents_per_child` are for extraction: see `Limits` and `Sandbox`.
        """
        options = Options(limits or Limits(), documents_per_child)
        return cls((kind.build(options) for kind in installed_processors()), options.limits)

    def run(self, source: Original) -> Processed:
        """Process one document. Raises PipelineError when the document is at fault."""
        document = Draft(source)
        for step in self._steps:
            document = step(document)
        content = document.text
        if not content:
            raise PipelineError(Reason.EMPTY, "the document holds no text")
        encoded = content.encode()
        # NFC can make three times the bytes of what was read, a processor of one's own any number.
        check_output(len(encoded), self.limits.output_bytes)
        return Processed(
            content=content,
            content_sha256=hashlib.sha256(encoded).hexdigest(),
            title=document.title,
            facts=dict(document.facts),
            pipeline=self.signature,
        )

    def close(self) -> None:
        """Let every processor let go of what it holds. The pipeline can be used again afterwards."""
        for each in self.processors:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _from_entry_points(points: Iterable[EntryPoint]) -> Iterator[tuple[type[Processor], str]]:
    for point in points:
        package = point.dist.name if point.dist else "unknown package"
        origin = f"entry point {point.name!r} of {package}"
        try:
            kind = point.load()
        except Exception as error:
            raise ProcessorError(
                f"{origin} cannot be loaded from {point.value!r}: {type(error).__name__}: {error}"
            ) from error
        if not (isinstance(kind, type) and issubclass(kind, Processor)):
            raise ProcessorError(f"{origin}: {point.value!r} is not a subclass of Processor but {kind!r}")
        if point.name != getattr(kind, "name", None):
            raise ProcessorError(f"{origin}: the processor calls itself {getattr(kind, 'name', None)!r}; use one name")
        yield kind, origin


def _check(kind: type[Processor], origin: str) -> None:
    name, version, order = (getattr(kind, attribute, None) for attribute in ("name", "version", "order"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ProcessorError(
            f"{path_of(kind)} ({origin}): name must be lower-case letters, digits, '-' and '_', got {name!r}"
        )
    if type(version) is not int or version < 1:
        raise ProcessorError(f"processor {name!r} ({origin}): version must be an integer from 1, got {version!r}")
    if type(order) is not int:
        raise ProcessorError(f"processor {name!r} ({origin}): order must be an integer, got {order!r}")
    if kind.__abstractmethods__:
        raise ProcessorError(f"processor {name!r} ({origin}): {path_of(kind)} does not implement process()")
