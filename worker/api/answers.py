"""What is asked and answered, as models: requests are checked by them, and the OpenAPI description is made of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

MOST_PAGE = 1000


class Asked(BaseModel):
    """Nothing unknown gets in: a name that is misspelt would have no effect, and nobody would be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answered(BaseModel):
    model_config = ConfigDict(from_attributes=True, json_schema_serialization_defaults_required=True)


class Upload(Asked):
    """Where a file is to be, and under which name."""

    name: str = Field(description="The file's name, with its ending.")
    folder: str = Field("/", description="Its folder, as a path; made where it is missing.")
    if_taken: Literal["refuse", "version", "number"] = Field(
        "refuse", description="What a name that is taken means: a refusal, a new version, or the name with a number."
    )


class PageAsked(Asked):
    folder: str = Field("/", description="Only documents in this folder and below.")
    status: Literal["pending", "processed", "failed"] | None = Field(None, description="Only those in this state.")
    after: UUID | None = Field(None, description="`next` of the page before.")
    limit: int = Field(100, ge=1, le=MOST_PAGE, description="At most so many documents.")


class TextAsked(Asked):
    version: int | None = Field(None, ge=1, le=2**31 - 1, description="Another version than the latest one.")


class SearchAsked(Asked):
    q: str = Field(description="Words, as people type them into a search box.")
    folder: str = Field("/", description="Only documents in this folder and below.")
    limit: int = Field(20, ge=1, le=100, description="At most so many documents.")
    offset: int = Field(0, ge=0, le=400, description="Passes over so many, the best ones.")


class Nothing(Asked):
    """Of operations without parameters."""


class JobAsked(Asked):
    """A job of a kind that callers may enqueue."""

    kind: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    priority: int | None = Field(None, ge=0, le=9, description="0 is first, 9 last.")


class Received(Answered):
    """What became of an upload; the job makes its text."""

    document_id: UUID
    job_id: UUID


class Document(Answered):
    """A document, without its text."""

    id: UUID
    path: str
    title: str | None
    media_type: str | None
    status: str
    status_reason: str | None
    latest_version: int
    source_bytes: int | None
    updated_at: datetime


class Page(Answered):
    """Documents in the order of their ids; `next` is None with the last of them."""

    documents: Sequence[Document]
    next: UUID | None


class Enqueued(Answered):
    job_id: UUID


class Progress(Answered):
    """What the job has told last; `done` and `of` count what it counts."""

    done: int | float | None = None
    of: int | float | None = None
    message: str | None = None
    at: datetime | None = None


class JobError(Answered):
    """Why the last attempt that failed did."""

    name: str
    message: str | None


class Waits(Answered):
    """`reasons` are those of `docworker jobs why`, the most important one first. `begins_in_seconds` is an estimate."""

    reasons: Sequence[str]
    begins_in_seconds: float | None


class Job(Answered):
    """`run_at` is when it may begin; `error` is also there while it is tried again. `waits` is there while it does not
    run yet, where the API may look at that."""

    id: UUID
    kind: str
    state: str
    attempt: int
    max_attempts: int
    created_at: datetime
    run_at: datetime
    finished_at: datetime | None
    progress: Progress | None
    result: dict[str, Any] | None
    error: JobError | None
    waits: Waits | None


class Fragment(Answered):
    text: str
    is_match: bool


class Hit(Answered):
    document_id: UUID
    path: str
    title: str | None
    rank: float
    version_number: int
    snippet: Sequence[Fragment]


class Hits(Answered):
    """The best ones first; `did_you_mean` where hardly anything was found."""

    hits: Sequence[Hit]
    did_you_mean: str | None


class ProblemAnswer(BaseModel):
    """RFC 9457; `type` says for programs what `detail` says to people."""

    model_config = ConfigDict(title="Problem", extra="allow")

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None
