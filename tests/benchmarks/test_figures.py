"""What the benchmark makes of its measurements."""

import os
import subprocess
import sys

import pytest

from benchmarks.report import at_share, print_comparison, print_peers, ratio
from benchmarks.turns import Measured
from benchmarks.usage import cpu_seconds, resident_bytes
from tests.support.waiting import eventually


@pytest.mark.parametrize(
    ("share", "value"),
    [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)],
)
def test_share_of_values_is_the_nearest_rank(share: float, value: int) -> None:
    assert at_share(list(range(100, 0, -1)), share) == value


def test_ratio_sets_turns_side_by_side() -> None:
    # The machine was slow in the second turn, for both.
    assert ratio(Measured(document_rates=[100, 50, 110]), Measured(document_rates=[1000, 500, 990])) == 10


def test_comparison_shows_latency_at_99_percent_and_the_keeper_apart(capsys: pytest.CaptureFixture[str]) -> None:
    latencies = [number / 1000 for number in range(1, 101)]
    use = {"parent": 90e6, "children": 190e6}
    usual = Measured(document_rates=[100], enqueue_rates=[1000], log=[2, 8, 4], latencies=latencies, memory=[use])
    ours = Measured(
        document_rates=[1500], enqueue_rates=[9000], log=[3], latencies=latencies, memory=[use | {"keeper": 40e6}]
    )

    print_comparison(usual, ours, 20_000, 8000)

    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["one", "document,", "99", "%,", "ms", "99.0", "99.0", "1.00"] in said
    assert ["MB", "of", "log", "for", "each", "MB", "of", "text", "4.0", "3.0", "0.75"] in said
    assert ["keeper,", "MB", "at", "the", "end", "0.0", "40.0"] in said
    assert ["children,", "MB", "at", "the", "end", "190.0", "190.0"] in said


def test_each_peer_gets_a_line_also_one_that_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    one = Measured(noop_rates=[10, 400, 390], document_rates=[200, 5, 210])

    print_peers(["celery", "oban"], {"celery": one}, {"oban": "oban needs Python 3.12 or newer\nlog of it"})

    said = capsys.readouterr()
    assert said.out == ("peer celery noop 390 document 200\npeer oban left out: oban needs Python 3.12 or newer\n")
    assert said.err == "log of it"


def test_cpu_and_memory_are_those_of_a_process() -> None:
    burn = "memory = bytearray(64 * 2**20)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", burn]) as process:
        try:
            eventually(lambda: resident_bytes(process.pid) > 64 * 2**20, within_seconds=30)
            eventually(lambda: cpu_seconds(process.pid) > 0.1, within_seconds=30)
        finally:
            process.kill()
    assert (resident_bytes(process.pid), cpu_seconds(process.pid)) == (0, 0)
    assert cpu_seconds(os.getpid(), ended_children=True) > cpu_seconds(os.getpid())
