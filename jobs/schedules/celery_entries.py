"""`schedules_of`: the entries of a Celery app's `beat_schedule`, as they would be with Celery's own beat.

Celery reckons from when an entry was last run; here each has absolute due times, so that all beats mean the same ticks.
An entry that cannot be understood is a schedule that is set aside, with the reason.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, NoReturn
from uuid import UUID

from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import BaseSchedule, crontab, schedule, solar

from docworker.db.errors import ConfigurationError
from docworker.db.ledger.values import shortened
from docworker.jobs.kind import Kind
from docworker.jobs.schedules.cron import FIELDS, Cron, values_of
from docworker.jobs.schedules.rules import Every, Solar, When
from docworker.jobs.schedules.schedule import Schedule
from docworker.jobs.schedules.tasks import TaskSchedule

PLACE = "beat_schedule of the Celery app"
OPTIONS = ("organization_id", "each_organization", "missed", "priority", "timezone")
"""What `options` of an entry may say for a kind of job."""


class Refused:
    """The rule of an entry that cannot be understood: asked for a time, it raises the reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def next_after(self, _moment: datetime, /) -> NoReturn:
        raise ConfigurationError(self.reason)

    def latest_until(self, _moment: datetime, /) -> NoReturn:
        raise ConfigurationError(self.reason)

    def __str__(self) -> str:
        return "not understood"


def schedules_of(app: Celery, kinds: Mapping[str, Kind]) -> Iterator[Schedule]:
    """Raises ConfigurationError for a name that no schedule can have."""
    for name, entry in app.conf.beat_schedule.items():
        try:
            _check(entry)
            yield _schedule_of(app, kinds, ScheduleEntry(**dict(entry, name=name, app=app)))
        except Exception as error:  # noqa: BLE001 - whatever an entry is, the others go on
            task = entry.get("task") if isinstance(entry, Mapping) else None
            reason = f"{PLACE}, {shortened(name)}: {error}"
            yield Schedule(name, Refused(reason), task if isinstance(task, str) and task else "unknown", place=PLACE)


def _check(entry: Any) -> None:
    """What Celery would stumble over."""
    when = entry.get("schedule") if isinstance(entry, Mapping) else None
    if not isinstance(when, BaseSchedule | timedelta | int | float) or isinstance(when, bool):
        raise _no_rule(when)
    if not isinstance(entry.get("task"), str):
        raise ConfigurationError(f"its task is a name, got {shortened(entry.get('task'))}")


def _no_rule(when: Any) -> ConfigurationError:
    return ConfigurationError(
        f"its schedule is a crontab, a timedelta, a number of seconds or solar, got {shortened(when)}"
    )


def _schedule_of(app: Celery, kinds: Mapping[str, Kind], entry: Any) -> Schedule:
    options = dict(entry.options)
    rule = _rule_of(entry.schedule, options.pop("timezone", None))
    missed = options.pop("missed", "latest")
    if entry.task in kinds:
        return _of_kind(kinds[entry.task], entry, rule, options, missed)
    if entry.task not in app.tasks:
        raise ConfigurationError(f"there is no task {entry.task!r} in this app: is its module imported?")
    return TaskSchedule(
        entry.name,
        rule,
        entry.task,
        positional=entry.args or (),
        named=entry.kwargs,
        options=options,
        missed=missed,
        place=PLACE,
    )


def _of_kind(kind: Kind, entry: Any, rule: When, options: dict[str, Any], missed: str) -> Schedule:
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise ConfigurationError(
            f"{kind.name} is a kind of job, for which the option {unknown[0]!r} means nothing: {', '.join(OPTIONS)} do"
        )
    names = list(kind.arguments.model_fields)
    if len(entry.args or ()) > len(names):
        raise ConfigurationError(f"{kind.name} takes {len(names)} arguments, got {len(entry.args)}")
    arguments = {**dict(zip(names, entry.args or (), strict=False)), **entry.kwargs}
    organization = options.pop("organization_id", arguments.pop("organization_id", None))
    return Schedule(
        entry.name,
        rule,
        kind.name,
        arguments,
        organization_id=UUID(organization) if isinstance(organization, str) else organization,
        missed=missed,
        place=PLACE,
        **options,
    )


def _rule_of(when: BaseSchedule, zone: str | None) -> When:
    for known, make in _RULES:
        if isinstance(when, known) and _is_celerys(when, known):
            return make(when, zone)
    raise _no_rule(when)


def _is_celerys(when: BaseSchedule, known: type[BaseSchedule]) -> bool:
    """Whether it is due when Celery's own class is: a subclass may say otherwise."""
    return all(getattr(type(when), name) is getattr(known, name) for name in ("is_due", "remaining_estimate"))


def _cron(when: crontab, zone: str | None) -> Cron:
    """Of Celery's crontab a day matches both fields."""
    minute, hour, day, month, weekday = FIELDS
    fields = [
        (when._orig_minute, when.minute, minute),
        (when._orig_hour, when.hour, hour),
        (when._orig_day_of_month, when.day_of_month, day),
        (when._orig_month_of_year, when.month_of_year, month),
        (when._orig_day_of_week, when.day_of_week, weekday),
    ]
    expression = " ".join(_field(str(text), values, field) for text, values, field in fields)
    return Cron(expression, zone or _zone_name(_zone_of(when)), both_days=_is_both(expression))


def _is_both(expression: str) -> bool:
    _, _, day, _, weekday = expression.split()
    return not (day.startswith("*") or weekday.startswith("*"))


def _field(text: str, values: set[int], field: Any) -> str:
    """As it was written if it begins with `*`, which has a meaning where clocks are changed; else its numbers."""
    if text.startswith("*"):
        try:
            if {one % 7 if field.last == 7 else one for one in values_of(text, field)} == values:
                return text
        except ValueError:
            pass
    return ",".join(map(str, sorted(values)))


def _zone_of(when: crontab) -> tzinfo | None:
    """That of the entry's own clock if it has one, else the app's."""
    now = when.nowfun() if when.nowfun else None
    zone: tzinfo | None = when.tz if now is None or now.tzinfo is None else now.tzinfo
    return zone


def _zone_name(zone: Any) -> str:
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if isinstance(name, str):
        return name
    if zone in (UTC, timezone.utc):  # noqa: UP017 - whichever it is
        return "UTC"
    raise ConfigurationError(f"its time zone {shortened(zone)} has no name: give one such as Europe/Berlin")


def _every(when: schedule, _zone: str | None) -> Every:
    seconds = when.run_every.total_seconds()
    if not seconds.is_integer():
        raise ConfigurationError(f"its period is a whole number of seconds, got {seconds}")
    return Every(int(seconds))


_RULES: list[tuple[type[BaseSchedule], Callable[[Any, str | None], When]]] = [
    (crontab, _cron),
    (solar, lambda when, _: Solar(when.event, when.lat, when.lon)),
    (schedule, _every),
]
"""A crontab is a `schedule` as well, so it comes first."""
