"""One name, one function: kinds of job, and Celery tasks beside them."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from celery import Celery, Task

from docworker.db.errors import ConfigurationError
from docworker.db.settings import Settings
from docworker.jobs.task import Attempt, job, known_kinds
from docworker.worker.app import build_app
from tests.support.adhoc_kinds import deliver, enter, state
from tests.support.tenants import Tenant

MODULE = """
from docworker.jobs.task import job

@job{options}
def {function}(attempt):
    attempt.finish(lambda _: {{"by": "{by}"}})
"""


class Modules:
    """Modules that each define a kind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, module: str, *, function: str = "cleanup", options: str = "", by: str = "") -> None:
        text = MODULE.format(function=function, options=options, by=by or module)
        (self._directory / f"{module}.py").write_text(text)

    def load(self, module: str) -> ModuleType:
        importlib.invalidate_caches()
        sys.modules.pop(module, None)
        return importlib.import_module(module)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Modules:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Modules(tmp_path)


def test_a_second_kind_of_one_name_is_refused_where_it_is_defined(modules: Modules) -> None:
    modules.write("accounts_jobs", function="cleanup_of_names")
    modules.write("billing_jobs", function="cleanup_of_names")
    modules.load("accounts_jobs")
    with pytest.raises(
        ConfigurationError,
        match=r"called 'cleanup_of_names': accounts_jobs:cleanup_of_names \(.*accounts_jobs.py:4\) and "
        r"billing_jobs:cleanup_of_names \(.*billing_jobs.py:4\)",
    ):
        modules.load("billing_jobs")


@pytest.mark.parametrize("taken", ["process_document", "process_folder"])
def test_a_kind_cannot_take_the_name_of_one_of_ours(taken: str) -> None:
    def mine(attempt: Attempt) -> None: ...

    known_kinds(build_app(Settings()))
    with pytest.raises(ConfigurationError, match=rf"called '{taken}': docworker\.jobs\..*:{taken} .* and .*mine"):
        job(name=taken)(mine)


def test_a_module_that_is_loaded_anew_brings_its_new_function(tenant: Tenant, modules: Modules) -> None:
    modules.write("reloaded_jobs", function="reloaded", by="old")
    old = modules.load("reloaded_jobs").reloaded
    assert old.kind.name == "reloaded"
    modules.write("reloaded_jobs", function="reloaded", by="new")
    task = modules.load("reloaded_jobs").reloaded
    job_id = enter(tenant, task)
    deliver(task)
    assert state(job_id).result == {"by": "new"}


def test_a_kind_and_a_celery_task_of_one_name_are_refused_when_the_app_is_complete() -> None:
    app = build_app(Settings())

    @app.task(name="tests.both", shared=False)
    def plain() -> None: ...

    def kind(attempt: Attempt) -> None: ...

    job(name="tests.both")(kind)
    with pytest.raises(
        ConfigurationError, match=r"two tasks are called 'tests.both': .*(kind|plain) and .*(kind|plain)"
    ):
        app.finalize()


def test_a_task_registered_over_a_kind_is_refused_when_the_kinds_are_asked_for() -> None:
    class Plain(Task):
        name = "tests.over"  # type: ignore[assignment]

    app = Celery("over", set_as_current=False)

    def kind(attempt: Attempt) -> None: ...

    job(name="tests.over")(kind)
    assert "tests.over" in known_kinds(app)
    app.register_task(Plain())
    with pytest.raises(
        ConfigurationError, match=r"a kind of job and a Celery task are called 'tests.over': .*kind.*Plain"
    ):
        known_kinds(app)


def test_each_new_app_takes_all_tasks_again() -> None:
    first, second = build_app(Settings()), build_app(Settings())
    assert known_kinds(first).keys() == known_kinds(second).keys()
