"""Which tests are of the whole system, and which files of tests begin first."""

import pytest

from tests.support.project import PROJECT

TESTS = PROJECT / "tests"
OWN_PROCESSES = frozenset({"processes", "bare_workers", "own_stack", "new_stack", "dispatchers"})
"""Fixtures that start our processes, or servers for one test alone."""
SYSTEM = (
    "system",
    "db/invariants",
    "db/ledger/waiting/test_keys_model.py",
    "db/ledger/waiting/test_order_model.py",
    "jobs/kinds/test_webhooks.py",
    "deploy",
    "worker/api/test_api.py",
    "worker/api/test_documented.py",
    "worker/api",
    "worker/brokers",
    "worker/consumer",
    "worker/local",
    "worker/cli",
    "worker/console",
    "worker/doctor",
    "worker/tenants",
    "test_installation.py",
    "test_readme.py",
    "migrations/test_example.py",
    "support/test_browser.py",
    "support/test_growth.py",
    "support/test_signals.py",
)
"""Folders and files whose tests start programs by other means, commands, and tests that take long."""
LONGEST = (
    "worker/consumer/test_keeper.py",
    "system/test_chaos.py",
    "system/test_main_job.py",
    "worker/brokers/test_faults.py",
    "support/test_growth.py",
    "test_installation.py",
    "worker/cli/run/test_demo.py",
    "system/test_failover.py",
    "db/cluster/test_failover.py",
    "worker/consumer/test_pool.py",
    "worker/dispatcher/test_loop.py",
    "jobs/imports/test_importing.py",
    "jobs/kinds/test_documents.py",
    "worker/http/test_health.py",
    "worker/http/test_server.py",
    "worker/consumer/test_watchdog.py",
    "worker/dispatcher/test_judge.py",
    "test_readme.py",
    "worker/brokers/test_link.py",
    "db/ledger/test_model.py",
    "db/ledger/test_plans.py",
    "worker/tenants/test_moving.py",
    "worker/cli/people/test_audit.py",
    "worker/cli/reports/test_report.py",
    "worker/cli/documents/test_editing.py",
    "worker/cli/tenants/test_documented.py",
)
"""Of few tests that take long: at the end the others would wait for them. First those in which much is killed or stands
still, which get on badly beside what takes a processor for itself."""


def begin_with_the_longest(items: list[pytest.Item]) -> None:
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def mark_system_tests(items: list[pytest.Item]) -> None:
    """Those that start processes or servers of their own."""
    places = [TESTS / name for name in SYSTEM]
    for item in items:
        has_own = not OWN_PROCESSES.isdisjoint(getattr(item, "fixturenames", ()))
        if has_own or any(item.path.is_relative_to(place) for place in places):
            item.add_marker("system")
