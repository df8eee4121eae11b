"""What a process says of itself over HTTP: pages and metrics."""

from urllib.error import HTTPError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from docworker.db.settings import settings
from docworker.worker import process_directory


def port(process: str = "worker") -> int:
    """The metrics port of the one process of this name."""
    (found,) = process_directory.ports(settings().state_directory, process)
    return found


def get(path: str, *, process: str = "worker") -> tuple[int, str]:
    """Status and body of a page of its HTTP server."""
    try:
        with urlopen(f"http://127.0.0.1:{port(process)}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def samples(process: str = "worker") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All metrics of the process."""
    status, body = get("/metrics", process=process)
    assert status == 200, body
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def metric(name: str, *, process: str = "worker", **labels: str) -> float:
    """The sum of the metric's samples that have these labels; 0 when there is none."""
    wanted = set(labels.items())
    return sum(value for (found, given), value in samples(process).items() if found == name and wanted <= given)
