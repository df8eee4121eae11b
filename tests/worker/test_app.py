"""The app: when it is built, how messages travel, and what it refuses."""

import sys
from typing import Any

import pytest
from celery import Celery

from docworker.db.errors import ConfigurationError
from docworker.db.settings import Settings
from docworker.jobs.task import known_kinds
from docworker.worker import app as app_module
from docworker.worker.app import build_app, celery_app
from docworker.worker.consumer.worker import check_time_limits
from tests.support.processes import Processes
from tests.support.waiting import eventually
from tests.support.workers import Workers


def test_only_json_travels_and_nothing_is_prefetched_or_kept() -> None:
    conf = build_app(Settings(broker_url="redis://broker/0")).conf

    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.result_backend is None
    assert conf.task_ignore_result


def test_results_are_kept_where_asked_for() -> None:
    conf = build_app(Settings(result_backend_url="redis://results/1")).conf

    assert conf.result_backend == "redis://results/1"
    assert not conf.task_ignore_result


def test_the_app_is_built_once_and_found_where_celery_looks_for_it() -> None:
    module: Any = app_module

    assert celery_app() is celery_app()
    assert module.app is celery_app()
    with pytest.raises(AttributeError, match="has no attribute 'celery'"):
        _ = module.celery


def test_celerys_own_commands_run_a_worker_and_ask_it(workers: Workers, processes: Processes) -> None:
    celery = [sys.executable, "-m", "celery", "-A", "docworker.worker.app"]
    worker = processes.start_command("celery", [*celery, "worker", "--loglevel=info"])
    workers.send("write", path=workers.path("out"))
    eventually(lambda: workers.lines("out") == ["ran"], within_seconds=40)

    asked = processes.start_command("inspect", [*celery, "inspect", "ping", "--timeout=20"])

    assert asked.wait(within_seconds=60) == 0, asked.log
    assert "pong" in asked.log
    assert worker.stop() == 0, worker.log


def test_celerys_own_commands_name_a_wrong_setting(processes: Processes) -> None:
    asked = processes.start_command(
        "inspect",
        [sys.executable, "-m", "celery", "-A", "docworker.worker.app", "inspect", "ping"],
        environment={"DOCWORKER_BROKER_URL": "http://broker"},
    )

    assert asked.wait(within_seconds=60) != 0
    assert "DOCWORKER_BROKER_URL: not a redis://" in asked.log


def test_the_kinds_of_our_own_tasks_are_known() -> None:
    assert {"process_document", "process_folder", "reconcile_documents"} <= set(known_kinds(celery_app()))


def test_a_time_limit_beyond_the_visibility_timeout_is_refused_with_what_to_change() -> None:
    celery = Celery("limits", set_as_current=False)

    @celery.task(name="long_one", time_limit=5000, shared=False)
    def long_one() -> None: ...

    check_time_limits(celery, Settings(visibility_timeout=5001))
    with pytest.raises(ConfigurationError, match=r"long_one may run for 5000 s.*DOCWORKER_VISIBILITY_TIMEOUT"):
        check_time_limits(celery, Settings(visibility_timeout=5000))


def test_a_worker_with_limits_that_do_not_fit_says_so_and_exits_1(workers: Workers) -> None:
    worker = workers.start(ready=False, visibility_timeout="30")

    assert worker.wait(within_seconds=20) == 1
    assert "DOCWORKER_VISIBILITY_TIMEOUT" in worker.log
    assert "Traceback" not in worker.log


def test_tasks_of_an_installed_package_run(workers: Workers) -> None:
    workers.start()

    workers.send("write", path=workers.path("out"), line="from a package")

    eventually(lambda: workers.lines("out") == ["from a package"], within_seconds=20)
