"""`Every`, `Solar`, `rule_of`, `text_of`: rules that give due times, also as a text; crontab(5) is in `cron`.

A due time belongs to the rule, not to a process: everybody computes the same ones. All moments have a time zone.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Any, Protocol

from celery.schedules import solar

from docworker.db.errors import ConfigurationError
from docworker.db.ledger.values import shortened
from docworker.jobs.schedules.cron import Cron, zone_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_LONGEST_NIGHT_DAYS = 367
"""In which the sun rises anywhere, and sets."""


class When(Protocol):
    """A rule that gives due times."""

    def next_after(self, moment: datetime, /) -> datetime: ...

    def latest_until(self, moment: datetime, /) -> datetime | None:
        """The last due time that is not after `moment`."""
        ...


@dataclass(frozen=True)
class Every:
    """Each full multiple of some seconds since 1970; raises ConfigurationError for what is no number of seconds."""

    MOST = 10 * 366 * 86_400

    seconds: int

    def __post_init__(self) -> None:
        if type(self.seconds) is not int or not 1 <= self.seconds <= self.MOST:
            raise ConfigurationError(
                f"a schedule's period is a whole number of seconds from 1 to {self.MOST}, got {shortened(self.seconds)}"
            )

    def latest_until(self, moment: datetime) -> datetime:
        period = timedelta(seconds=self.seconds)
        return _EPOCH + (moment - _EPOCH) // period * period

    def next_after(self, moment: datetime) -> datetime:
        return self.latest_until(moment) + timedelta(seconds=self.seconds)

    def __str__(self) -> str:
        return f"every {timedelta(seconds=self.seconds)}"


@dataclass(frozen=True)
class Solar:
    """When the sun does that at a place, in degrees north and east: Celery's `solar` has the names of events. There is
    no due time on a day on which it does not.

    Raises ConfigurationError for what is no event or no place, and where the package `ephem` is missing.
    """

    event: str
    latitude: float
    longitude: float

    def __post_init__(self) -> None:
        try:
            self._sun  # noqa: B018 - it is made, and refuses what is wrong
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"times of the sun need the package {error.name!r}: install docworker[solar]"
            ) from None
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{self}: {error}") from None

    def next_after(self, moment: datetime) -> datetime:
        day = moment.astimezone(UTC).date()
        for days in range(_LONGEST_NIGHT_DAYS):
            due = self._due_on(day + days * _DAY)
            if due is not None and due > moment:
                return due
        raise OverflowError(f"{self} is not due after {moment.isoformat()}")

    def latest_until(self, moment: datetime) -> datetime | None:
        day = moment.astimezone(UTC).date()
        for days in range(_LONGEST_NIGHT_DAYS):
            due = self._due_on(day - days * _DAY)
            if due is not None and due <= moment:
                return due
        return None

    def _due_on(self, day: date) -> datetime | None:
        """Sought from midnight (UTC) on, whoever asks: from another start the search ends some microseconds beside."""
        start = datetime.combine(day, time(), UTC)
        sun, options = self._sun, {"use_center": True} if self._sun.use_center else {}
        sun.cal.date = start
        try:
            found = getattr(sun.cal, sun.method)(sun.ephem.Sun(), start=start, **options)
        except sun.ephem.CircumpolarError:
            return None
        due: datetime = found.datetime().replace(microsecond=0, tzinfo=UTC)
        return due if due.date() == day else None

    @cached_property
    def _sun(self) -> Any:
        return solar(self.event, self.latitude, self.longitude)

    def __str__(self) -> str:
        return f"solar {self.event} {self.latitude} {self.longitude}"


def rule_of(when: Any, zone: str = "UTC") -> When:
    """The rule that is meant by a rule, or by a text: a cron expression by the clocks of a zone, `every 600` (seconds),
    `solar sunset 52.5 13.4`. Raises ConfigurationError."""
    if isinstance(when, str):
        zone_of(zone)
        match when.split():
            case ["every", seconds]:
                return Every(_whole(seconds))
            case ["solar", event, latitude, longitude]:
                return Solar(event, _degrees(latitude), _degrees(longitude))
        return Cron(when, zone)
    if not (callable(getattr(when, "next_after", None)) and callable(getattr(when, "latest_until", None))):
        raise ConfigurationError(f"due times come from Every, Cron, Solar or a cron expression, got {shortened(when)}")
    rule: When = when
    return rule


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ConfigurationError(f"a period is a whole number of seconds, got {shortened(text)}")
    return int(text)


def _degrees(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"a latitude or longitude is a number of degrees, got {shortened(text)}") from None


def text_of(rule: When) -> tuple[str, str]:
    """A rule as a text and a time zone, of which `rule_of` makes it again; of a rule of somebody's own a text that
    differs from others'."""
    match rule:
        case Cron(both_days=False):
            return rule.expression, rule.zone
        case Every():
            return f"every {rule.seconds}", "UTC"
        case _ if type(rule).__str__ is not object.__str__:
            return str(rule), "UTC"
        case _:
            return f"{type(rule).__module__}.{type(rule).__qualname__}", "UTC"
