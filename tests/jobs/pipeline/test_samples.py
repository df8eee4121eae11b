"""Every sample ends as samples/expected.json says, and the samples are what their generator writes."""

import json
from collections.abc import Iterator

import pytest

from docworker.jobs.pipeline.draft import Original, PipelineError, Reason
from docworker.jobs.pipeline.limits import MIB, Limits
from docworker.jobs.pipeline.media_types import HEAD_BYTES, media_type_of
from docworker.jobs.pipeline.registry import Pipeline
from samples import make_samples
from tests.support.sample_files import SAMPLES, sample

EXPECTED: dict[str, dict[str, str | None]] = json.loads((SAMPLES / "expected.json").read_text())


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline.load(Limits(memory_bytes=512 * MIB)) as pipeline:
        yield pipeline


def outcome(pipeline: Pipeline, name: str) -> tuple[str, str | None]:
    data = sample(name)
    if media_type_of(name, data[:HEAD_BYTES]) is None:
        return "unsupported", "unsupported"
    try:
        pipeline.run(Original(filename=name, data=data))
    except PipelineError as error:
        return "failed", error.reason
    return "processed", None


@pytest.mark.parametrize("name", EXPECTED)
def test_sample_ends_as_expected(pipeline: Pipeline, name: str) -> None:
    assert outcome(pipeline, name) == (EXPECTED[name]["status"], EXPECTED[name]["reason"])


@pytest.mark.parametrize(
    ("name", "language", "title"),
    [
        ("handbook/onboarding.md", "en", "Welcome to the Northlight Society"),
        ("handbook/travel-policy.html", "en", "Travel policy of the Northlight Society"),
        ("handbook/annual-report.pdf", "en", "Annual report of the Northlight Society"),
        ("correspondence/inventory.docx", "en", "Inventory of the lamp room"),
        ("correspondence/invitation.pdf", "fr", "Invitation à la fête du phare"),
        ("correspondence/note-windows-1252.txt", "de", "Notiz für den Leuchtturmwärter"),
        ("correspondence/acta-utf-16.txt", "es", "Acta de la reunión anual"),
    ],
)
def test_good_sample_is_described(pipeline: Pipeline, name: str, language: str, title: str) -> None:
    processed = pipeline.run(Original(filename=name, data=sample(name)))
    assert (processed.facts["language"], processed.title) == (language, title)


def test_expected_names_every_sample_and_known_reasons_only() -> None:
    documents = SAMPLES / "documents"
    found = {str(path.relative_to(documents)) for path in documents.rglob("*") if path.is_file()}
    assert set(EXPECTED) == found
    assert {each["reason"] for each in EXPECTED.values()} <= {None, *Reason}


def test_samples_are_what_their_generator_writes() -> None:
    assert sample("correspondence/invitation.pdf") == make_samples.pdf(
        make_samples.INVITATION, title=make_samples.INVITATION_TITLE
    )
    assert sample("notes/minutes.txt").decode() == make_samples.MINUTES
