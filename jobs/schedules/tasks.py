"""`TaskSchedule`: a plain Celery task, that is no kind of job, sent through the broker when it is due."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from celery import Celery
from celery.beat import BeatLazyFunc

from docworker.jobs.schedules.rules import When
from docworker.jobs.schedules.schedule import Schedule


@dataclass(frozen=True, init=False)
class TaskSchedule(Schedule):
    """Sent when its tick is committed, so at most once: what a beat that is killed in between has not sent, nobody
    sends. `options` are those of `apply_async`."""

    positional: Sequence[Any] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        name: str,
        when: When,
        task: str,
        *,
        positional: Sequence[Any],
        named: Mapping[str, Any],
        options: Mapping[str, Any],
        missed: str,
        place: str,
    ) -> None:
        super().__init__(name, when, task, missed=missed, place=place)
        for attribute, value in {"positional": positional, "named": named, "options": options}.items():
            object.__setattr__(self, attribute, value)

    def send(self, app: Celery, task_id: UUID) -> None:
        """Raises what the broker's client raises."""
        app.tasks[self.kind].apply_async(
            [_now(value) for value in self.positional],
            {name: _now(value) for name, value in self.named.items()},
            task_id=str(task_id),
            **self.options,
        )


def _now(value: Any) -> Any:
    """Celery's way to have an argument made when the task is sent."""
    return value() if isinstance(value, BeatLazyFunc) else value
