"""Whatever a file does to its reader, it ends in a text or in a reason, in time, and the next document is read."""

import time
from collections.abc import Iterator

import pytest

from docworker.jobs.pipeline.draft import Original, PipelineError, Reason
from docworker.jobs.pipeline.limits import MIB, Limits
from docworker.jobs.pipeline.media_types import HTML
from docworker.jobs.pipeline.registry import Pipeline
from tests.support.hostile import BOMBS, SEEDS, damaged

LIMITS = Limits(memory_bytes=512 * MIB, cpu_seconds=2, wall_seconds=20, output_bytes=4 * MIB)
SOAK = [pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline.load(LIMITS) as pipeline:
        yield pipeline


def came_of(pipeline: Pipeline, media_type: str, data: bytes) -> str:
    """A reason, or "text". Raises what is no PipelineError, and AssertionError for what takes too long."""
    began = time.monotonic()
    try:
        pipeline.run(Original(media_type=media_type, data=data))
    except PipelineError as error:
        return str(Reason(error.reason))
    finally:
        assert time.monotonic() - began < 2 * LIMITS.wall_seconds
    return "text"


@pytest.mark.parametrize("times", [40, pytest.param(10_000, marks=SOAK)])
@pytest.mark.parametrize("media_type", BOMBS)
def test_bomb_ends_in_a_text_or_a_reason_and_is_no_crash(pipeline: Pipeline, media_type: str, times: int) -> None:
    said = {name: came_of(pipeline, media_type, bomb(times)) for name, bomb in BOMBS[media_type].items()}
    assert "crashed" not in said.values(), said


@pytest.mark.parametrize("seeds", [2, pytest.param(200, marks=SOAK)])
@pytest.mark.parametrize("media_type", SEEDS)
def test_damaged_file_ends_in_a_text_or_a_reason_and_is_no_crash(
    pipeline: Pipeline, media_type: str, seeds: int
) -> None:
    assert came_of(pipeline, media_type, SEEDS[media_type]) == "text"
    said = {seed: came_of(pipeline, media_type, damaged(SEEDS[media_type], seed)) for seed in range(seeds)}
    assert "crashed" not in said.values(), said


def test_open_comments_do_not_cost_the_square_of_their_number(pipeline: Pipeline) -> None:
    assert came_of(pipeline, HTML, BOMBS[HTML]["open comments"](13_000)) == "empty"
