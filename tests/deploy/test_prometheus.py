"""Prometheus' configuration and alerts: checked by promtool, and only about metrics that there are."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.metrics_page import PAGE, metrics, page
from tests.support.project import PROJECT
from tests.support.promtool import promtool

PROMETHEUS = PROJECT / "deploy" / "prometheus"

EVERY_METRIC = """
import docworker.db.metrics, docworker.jobs.metrics, docworker.jobs.kinds.webhooks
import docworker.worker.beat.loop, docworker.worker.consumer.consumer, docworker.worker.dispatcher.loop
import docworker.worker.api.operations
from prometheus_client import REGISTRY
from docworker.worker.http.health import LoopHealth
from docworker.worker.http.server import WithReadiness
health = LoopHealth(stuck_after_seconds=60, ready_within_seconds=60)
for metric in WithReadiness(REGISTRY, health).collect():
    print(metric.name)
"""


def test_configuration_and_rules_are_valid() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    promtool("test", "rules", str(PROMETHEUS / "alerts.test.yml"))


def test_each_alert_is_tested() -> None:
    alerts = set(re.findall(r"alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text()))
    tests = (PROMETHEUS / "alerts.test.yml").read_text()
    fired = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", tests))
    silent = set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", tests))
    assert alerts
    assert fired == alerts
    assert silent == alerts


def test_each_alert_leads_to_the_section_that_is_about_it() -> None:
    text = (PROMETHEUS / "alerts.yml").read_text()
    alerts, links = re.findall(r"alert: (\w+)", text), re.findall(r"runbook: (\S+)", text)
    leads = [(alert, *link.split("#")) for alert, link in zip(alerts, links, strict=True)]
    wrong = [(alert, page, name) for alert, page, name in leads if f"`{alert}`" not in section(PROJECT / page, name)]
    assert wrong == []


def section(page: Path, name: str) -> str:
    """The text below a heading, by the name that links have for it; empty where there is none."""
    parts = re.split(r"^(#+ .*)$", page.read_text(), flags=re.MULTILINE)
    found = [text for heading, text in zip(parts[1::2], parts[2::2], strict=True) if slug(heading) == name]
    return found[0] if found else ""


def slug(heading: str) -> str:
    return re.sub(r"[^\w]+", "-", heading.strip("# ").lower()).strip("-")


def test_alerts_and_rules_are_about_metrics_that_exist() -> None:
    alerts, rules = ((PROMETHEUS / name).read_text() for name in ("alerts.yml", "rules.yml"))
    series = {name for one in metrics() for name in one.series}
    assert set(re.findall(r"\bdocworker_\w+", alerts + rules)) <= series
    recorded = set(re.findall(r"record: (\S+)", rules))
    assert set(re.findall(r"\bdocworker:[\w:]+", alerts + rules)) <= recorded
    tested = (PROMETHEUS / "alerts.test.yml").read_text().partition("promql_expr_test")[2]
    assert {name for name in recorded if name not in tested} == set(), "what is recorded is tested"


def test_the_page_of_metrics_is_as_the_code_has_it() -> None:
    assert PAGE.read_text() == page(), "run `make metrics`"


def test_the_page_names_what_processes_export_and_nothing_else() -> None:
    # In a process of its own: here other tests may have defined metrics as well.
    listed = subprocess.run([sys.executable, "-c", EVERY_METRIC], capture_output=True, text=True, check=True)
    exported = {name for name in listed.stdout.split() if name.startswith("docworker_")}
    known = {one.name.removesuffix("_total") for one in metrics()}
    assert known - exported == {"docworker_worker_slots", "docworker_worker_sandbox", "docworker_store_disk_bytes"}, (
        "what only a worker has"
    )
    assert exported - known == set()
