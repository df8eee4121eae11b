"""`Message`: what travels to the broker, the ids of jobs of one kind."""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID


class Part(NamedTuple):
    """The jobs of one organization in a message."""

    organization_id: UUID
    job_ids: tuple[UUID, ...]


@dataclass(frozen=True)
class Message:
    """What travels to the broker: jobs of one kind."""

    id: UUID
    kind: str
    parts: tuple[Part, ...]
    traces: tuple[str, ...] = ()
    """In which the jobs were enqueued, each once; they do not travel."""

    @property
    def job_ids(self) -> tuple[UUID, ...]:
        return tuple(one for part in self.parts for one in part.job_ids)
