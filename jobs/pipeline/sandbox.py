"""`Sandbox`: parses hostile files where they can do no harm, in a warm child process per thread, within limits.

It knows no file format; `formats` does, inside the child.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Self, TypeVar

import structlog

from docworker.jobs.pipeline.formats import Attachment, Reading
from docworker.jobs.pipeline.limits import Limits
from docworker.jobs.pipeline.parser_process import ParserProcess

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Sandbox:
    """Children that parse documents, each started at its first document.

    A child serves `documents_per_child` documents and is replaced after that, or after any failure. Each
    thread has a child of its own: the kernel kills a child when the *thread* that started it ends, so one
    that is lent to another thread could die under its hands. After a fork the new process starts its own.
    """

    def __init__(self, limits: Limits, *, documents_per_child: int = 200) -> None:
        if documents_per_child < 1:
            raise ValueError(f"documents_per_child must be at least 1, got {documents_per_child!r}")
        self.limits = limits
        self.documents_per_child = documents_per_child
        self._own = threading.local()
        self._children: weakref.WeakSet[ParserProcess] = weakref.WeakSet()
        self._lock = threading.Lock()
        _sandboxes.add(self)

    def read(self, media_type: str, data: bytes) -> Reading:
        """The text of one document.

        Raises PipelineError with the reason when the document is at fault, SandboxError when it is not.
        """
        return self._served(lambda child: child.read(media_type, data))

    def render(self, media_type: str, data: bytes, page: int) -> bytes:
        """A page of a document as a picture, a PGM file; raises as `read` does."""
        return self._served(lambda child: child.render(media_type, data, page))

    def unpack(self, media_type: str, data: bytes) -> list[Attachment]:
        """The files in a document; raises as `read` does."""
        return self._served(lambda child: child.unpack(media_type, data))

    def _served(self, ask: Callable[[ParserProcess], T]) -> T:
        child = self._child()
        try:
            answer = ask(child)
        except BaseException as error:  # a soft time limit, too, leaves half an answer in the pipe
            self._end(child)
            reason = getattr(error, "reason", type(error).__name__)
            log.info("sandbox.child_ended", child=child.pid, served=child.served, reason=reason)
            raise
        if child.served >= self.documents_per_child:
            self._end(child)
        return answer

    @property
    def children(self) -> list[int]:
        """The process ids of the living children of all threads."""
        with self._lock:
            return [child.pid for child in self._children if child.is_alive()]

    def close(self) -> None:
        """End every child, of every thread; call it when no thread is reading. The next `read` starts a new one."""
        with self._lock:
            children = list(self._children)
            self._children.clear()
        self._own = threading.local()
        for child in children:
            child.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _child(self) -> ParserProcess:
        child: ParserProcess | None = getattr(self._own, "child", None)
        if child is not None and child.is_idle():
            return child
        if child is not None:  # killed or stopped while it waited, or untrue: not the next document's fault
            self._end(child)
        child = self._own.child = ParserProcess(self.limits)
        with self._lock:
            self._children.add(child)
        return child

    def _end(self, child: ParserProcess) -> None:
        self._own.child = None
        with self._lock:
            self._children.discard(child)
        child.end()

    def _forget(self) -> None:
        self._own = threading.local()
        self._children = weakref.WeakSet()
        self._lock = threading.Lock()


_sandboxes: weakref.WeakSet[Sandbox] = weakref.WeakSet()


def _forget_the_parents_children() -> None:
    for sandbox in _sandboxes:
        sandbox._forget()


os.register_at_fork(after_in_child=_forget_the_parents_children)
