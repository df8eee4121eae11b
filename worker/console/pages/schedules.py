"""`PAGE`: what is done regularly: when it was due last and is due next, and what keeps it from being done."""

from collections.abc import Mapping, Sequence
from typing import Any

from docworker.db.errors import InvalidArgumentError
from docworker.jobs.schedules.celery_entries import schedules_of
from docworker.jobs.schedules.editing import pause_schedule, resume_schedule, run_schedule
from docworker.jobs.schedules.rules import text_of
from docworker.jobs.schedules.schedule import Schedule
from docworker.jobs.schedules.sources import code_schedules
from docworker.jobs.schedules.states import ScheduleState, schedule_states
from docworker.jobs.task import known_kinds
from docworker.worker.app import celery_app
from docworker.worker.console.page import Action, Page
from docworker.worker.console.view import View


def _in_code() -> tuple[Schedule, ...]:
    app = celery_app()
    return code_schedules(schedules_of(app, known_kinds(app)))


def _show(view: View) -> Mapping[str, Any]:
    with view.home() as session:
        found = schedule_states(session, known_kinds(celery_app()), _in_code())
    return {"rows": found, "rule": _rule, "whom": _whom(view, found)}


def _rule(state: ScheduleState) -> tuple[str, str]:
    return ("", "") if state.schedule is None else text_of(state.schedule.when)


def _whom(view: View, found: Sequence[ScheduleState]) -> dict[str, str]:
    """For whom each of them is."""
    schedules = [one.schedule for one in found if one.schedule is not None]
    slugs = view.slugs([one.organization_id for one in schedules])
    return {one.name: "each organization" if one.each_organization else slugs[one.organization_id] for one in schedules}


def _name(view: View) -> str:
    name = view.asked("name")
    if name is None:
        raise InvalidArgumentError("say which schedule it is")
    return name


def _run(view: View) -> str:
    name = _name(view)
    job_id = run_schedule(name, actor=view.actor, in_code=_in_code())
    return view.said(f"the job {job_id} of {name} is enqueued", PAGE.path)


def _pause(view: View) -> str:
    name = _name(view)
    changed = pause_schedule(name, actor=view.actor, in_code=_in_code())
    return view.said(f"{name} {'is paused' if changed else 'was paused already'}", PAGE.path)


def _resume(view: View) -> str:
    name = _name(view)
    changed = resume_schedule(name, actor=view.actor, in_code=_in_code())
    return view.said(f"{name} {'goes on' if changed else 'was not paused'}", PAGE.path)


PAGE = Page(
    "schedules",
    "/schedules",
    "Schedules",
    _show,
    "Schedules",
    actions=(
        Action("run", "/schedules/run", _run),
        Action("pause", "/schedules/pause", _pause),
        Action("resume", "/schedules/resume", _resume),
    ),
    is_renewed=True,
)
