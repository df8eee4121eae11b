"""Writes docs/metrics.md, from where metrics are defined: `python -m tests.support.metrics_page`.

They are read out of the code, not out of a process, of which no one has them all.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.support.house import Code
from tests.support.project import PROJECT

PAGE = PROJECT / "docs" / "metrics.md"
TYPES = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "GaugeMetricFamily": "gauge"}
PROCESSES = {
    "db.metrics": "each",
    "jobs.kinds.webhooks": "worker",
    "jobs.metrics": "worker",
    "worker.api.operations": "api",
    "worker.beat.loop": "beat",
    "worker.brokers.channel": "dispatcher",
    "worker.consumer.consumer": "worker",
    "worker.consumer.worker": "worker",
    "worker.dispatcher.gauges": "dispatcher",
    "worker.dispatcher.judge": "dispatcher",
    "worker.dispatcher.loop": "dispatcher",
    "worker.http.server": "each",
}
"""Who counts what a module defines."""
UNITS = {
    "_timestamp_seconds": "seconds since 1970",
    "_seconds": "seconds",
    "_seconds_total": "seconds",
    "_bytes": "bytes",
}
HEAD = """\
# Metrics

<!-- Written by `make metrics` from the code: change it there. -->

What the processes export at `/metrics`; where that is, and what to be woken for, is in [operations.md](operations.md).
A histogram `X` has the series `X_bucket`, `X_sum` and `X_count`. Labels are bounded: kinds, clusters, outcomes and
reasons are few, and none grows with tenants or documents, but one: `DOCWORKER_METRICS_ORGANIZATIONS` says of how many
organizations, those whose jobs have been waiting longest, the dispatcher tells how long (0 unless it is set). A series
ends when its organization is none of these any more. Several dispatchers tell of the same ledgers: take
`max by (cluster)`.

How long jobs wait and run: `docworker_job_queue_seconds` is of those that have begun, from due to claimed, and
`docworker_job_run_seconds` of attempts that have ended; what has not begun yet is seen in
`docworker_ledger_oldest_due_of_kind_seconds` alone. `deploy/prometheus/rules.yml` records of them what the alerts and
the dashboard (`deploy/grafana/dashboards/docworker.json`) ask.

| metric | type | labels | unit | process | meaning |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Metric:
    """One metric, as the module that counts it defines it."""

    name: str
    type: str
    labels: tuple[str, ...]
    process: str
    meaning: str

    @property
    def unit(self) -> str:
        fitting = [unit for suffix, unit in UNITS.items() if self.name.endswith(suffix)]
        return fitting[0] if fitting else "number"

    @property
    def series(self) -> frozenset[str]:
        """The names under which Prometheus has it."""
        if self.type != "histogram":
            return frozenset({self.name})
        return frozenset(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))

    @property
    def row(self) -> str:
        labels = ", ".join(f"`{one}`" for one in self.labels)
        return f"| `{self.name}` | {self.type} | {labels} | {self.unit} | {self.process} | {self.meaning} |"


def metrics() -> list[Metric]:
    """All of them, by process and name. Raises KeyError for a module of which nobody has said who counts it."""
    code = Code(PROJECT)
    found = [one for module, tree in code.trees.items() for one in _defined_in(module, tree)]
    return sorted(found, key=lambda one: (one.process, one.name))


def page() -> str:
    return HEAD + "".join(f"{one.row}\n" for one in metrics())


def _defined_in(module: str, tree: ast.Module) -> Iterator[Metric]:
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in TYPES:
            continue
        texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if texts and texts[0].startswith("docworker_"):
            name, meaning = texts
            yield Metric(name, TYPES[node.func.id], _labels(node, constants), PROCESSES[module], meaning)


def _labels(call: ast.Call, constants: Mapping[str, ast.expr]) -> tuple[str, ...]:
    given = [one.value for one in call.keywords if one.arg == "labels"]
    labels = [*call.args[2:3], *given]
    if not labels:
        return ()
    (one,) = labels
    return tuple(ast.literal_eval(constants[one.id] if isinstance(one, ast.Name) else one))


if __name__ == "__main__":
    PAGE.write_text(page())
