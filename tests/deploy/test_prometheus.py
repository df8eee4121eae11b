"""Prometheus' configuration and alerts: checked by promtool, and only about metrics that there are."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.support.project import PROJECT

PROMETHEUS = PROJECT / "deploy" / "prometheus"

EVERY_METRIC = """
import docworker.db.metrics, docworker.jobs.metrics
import docworker.worker.beat.loop, docworker.worker.consumer.consumer, docworker.worker.dispatcher.loop
from prometheus_client import REGISTRY
from docworker.worker.http.health import LoopHealth
from docworker.worker.http.server import WithReadiness
health = LoopHealth(stuck_after_seconds=60, ready_within_seconds=60)
for metric in WithReadiness(REGISTRY, health).collect():
    print(metric.name)
"""


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: it comes with Prometheus")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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


def test_alerts_are_about_metrics_that_exist() -> None:
    named = set(re.findall(r"\bdocworker_\w+", (PROMETHEUS / "alerts.yml").read_text()))
    # In a process of its own: here other tests may have defined metrics as well.
    listed = subprocess.run([sys.executable, "-c", EVERY_METRIC], capture_output=True, text=True, check=True)
    existing = set(listed.stdout.split())
    assert {name.removesuffix("_total") for name in named} <= existing
