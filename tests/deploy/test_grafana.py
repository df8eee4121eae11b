"""The dashboard: each query is one that Prometheus takes, about metrics that there are, and labels that they have."""

import json
import re
from pathlib import Path
from typing import Any

from tests.support.metrics_page import metrics
from tests.support.project import PROJECT
from tests.support.promtool import promtool

GRAFANA = PROJECT / "deploy" / "grafana"
BOARD = json.loads((GRAFANA / "dashboards" / "docworker.json").read_text())
PANELS = [one for one in BOARD["panels"] if one["type"] != "row"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
OF_PROMETHEUS = {"job", "instance", "le"}


def test_each_query_is_valid(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    queries = [one["expr"].replace("$__rate_interval", "5m").replace("$cluster", ".*") for one in TARGETS]
    assert not [one for one in queries if "$" in one]
    listed = [{"record": f"query{number}", "expr": query} for number, query in enumerate(queries)]
    rules.write_text(json.dumps({"groups": [{"name": "queries", "rules": listed}]}))
    promtool("check", "rules", str(rules))


def test_queries_are_about_metrics_and_rules_that_exist() -> None:
    series = {name for one in metrics() for name in one.series}
    recorded = set(re.findall(r"record: (\S+)", (PROJECT / "deploy" / "prometheus" / "rules.yml").read_text()))
    text = " ".join([*(one["expr"] for one in TARGETS), BOARD["templating"]["list"][1]["query"]["query"]])
    assert set(re.findall(r"\bdocworker_\w+", text)) <= series
    assert set(re.findall(r"\bdocworker:[\w:]+", text)) <= recorded


def test_legends_name_labels_that_the_query_leaves() -> None:
    for target in TARGETS:
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert shown <= _labels_of(target["expr"]), target


def _labels_of(query: str) -> set[str]:
    """Those that are grouped by; of what is not grouped, those of the rule that records it."""
    rules = (PROJECT / "deploy" / "prometheus" / "rules.yml").read_text()
    for name in re.findall(r"\bdocworker:[\w:]+", query):
        query += rules.partition(f"record: {name}\n")[2].partition("- record:")[0]
        if name == "docworker:backlog:late_ratio_1d":
            query += " by (cluster)"  # of the rule that it is an average of
    return {label for found in re.findall(r"by \(([\w, ]+)\)", query) for label in found.split(", ")} - {"le"}


def test_panels_do_not_overlap_and_have_a_source() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                assert other == panel["title"], f"{panel['title']} lies over {other}"
    source: Any = {"type": "prometheus", "uid": "${datasource}"}
    assert all(one["datasource"] == source for one in [*PANELS, *TARGETS])
    provisioned = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    assert f"uid: {BOARD['templating']['list'][0]['current']['value']}\n" in provisioned
