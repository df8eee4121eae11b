"""The directories of running processes: each finds only the living, whoever comes and goes meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from docworker.worker.process_directory import claim, ports


def test_a_process_can_start_while_others_end(tmp_path: Path) -> None:
    def come_and_go(_: int) -> None:
        for _ in range(200):
            directory = claim(tmp_path, "worker")
            directory.write_port(4711)
            directory.remove()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(4)))
    assert ports(tmp_path, "worker") == []
