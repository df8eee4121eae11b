"""`Cron`: due times by the five fields of crontab(5), in UTC. Pure arithmetic, without a clock."""

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import NamedTuple

from docworker.db.errors import ConfigurationError
from docworker.db.ledger.values import shortened


class Field(NamedTuple):
    """One field of an expression: its name in messages, its range, and the names that stand for numbers."""

    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_SUNDAY = 7
FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of month", 1, 31),
    Field("month", 1, 12, _MONTHS),
    Field("day of week", 0, _SUNDAY, _DAYS),  # 0 and 7 are Sunday
)
_LONGEST_MONTH = {month: calendar.monthrange(2024, month)[1] for month in range(1, 13)}


@dataclass(frozen=True)
class Cron:
    """Minute, hour, day of month, month, day of week, as in crontab(5): `*`, numbers, names of months and days, ranges,
    lists, steps over `*` or a range; Sunday is 0 or 7. When both days are restricted (neither field begins with `*`),
    a day that matches either is one: `0 0 13 * 5` is each 13th and each Friday.

    Raises ConfigurationError for an expression that is malformed or never due.
    """

    expression: str

    def __post_init__(self) -> None:
        if not isinstance(self.expression, str):
            raise ConfigurationError(
                f"a cron expression is a text such as '7 * * * *', got {shortened(self.expression)}"
            )
        fields = self.expression.split()
        if len(fields) != len(FIELDS):
            raise ConfigurationError(
                f"cron expression {self.expression!r} has {len(fields)} fields: give five, "
                "minute, hour, day of month, month, day of week"
            )
        try:
            possible = any(day <= _LONGEST_MONTH[month] for month in self._months for day in self._days_of_month)
        except ValueError as error:
            raise ConfigurationError(f"cron expression {self.expression!r}: {error}") from None
        if not (possible or self._either_day):
            raise ConfigurationError(f"cron expression {self.expression!r} is never due: no such month has such a day")

    def next_after(self, moment: datetime) -> datetime:
        """The first due time after `moment`, which has a time zone."""
        moment = moment.astimezone(UTC)
        for day in self._days_from(moment.date(), forwards=True):
            due = (datetime.combine(day, one, UTC) for one in self._times)
            if (found := next((one for one in due if one > moment), None)) is not None:
                return found
        raise OverflowError(f"cron expression {self.expression!r} is not due after {moment.isoformat()}")

    def latest_until(self, moment: datetime) -> datetime | None:
        """The last due time that is not after `moment`."""
        moment = moment.astimezone(UTC)
        for day in self._days_from(moment.date(), forwards=False):
            due = (datetime.combine(day, one, UTC) for one in reversed(self._times))
            if (found := next((one for one in due if one <= moment), None)) is not None:
                return found
        return None

    def _days_from(self, day: date, *, forwards: bool) -> Iterator[date]:
        """The matching days from `day` on, as far as the calendar goes; months that do not match are passed over."""
        one = timedelta(days=1 if forwards else -1)
        try:
            while True:
                if day.month not in self._months:
                    last = calendar.monthrange(day.year, day.month)[1]
                    day = day.replace(day=last if forwards else 1)
                elif self._is_due_on(day):
                    yield day
                day += one
        except OverflowError:
            return

    def _is_due_on(self, day: date) -> bool:
        of_month, of_week = day.day in self._days_of_month, day.isoweekday() % 7 in self._days_of_week
        return (of_month or of_week) if self._either_day else (of_month and of_week)

    @cached_property
    def _sets(self) -> tuple[frozenset[int], ...]:
        return tuple(
            _values_of(text, field) for text, field in zip(self.expression.lower().split(), FIELDS, strict=True)
        )

    @cached_property
    def _times(self) -> list[time]:
        return [time(hour, minute) for hour in sorted(self._sets[1]) for minute in sorted(self._sets[0])]

    @property
    def _days_of_month(self) -> frozenset[int]:
        return self._sets[2]

    @property
    def _months(self) -> frozenset[int]:
        return self._sets[3]

    @cached_property
    def _days_of_week(self) -> frozenset[int]:
        return frozenset(day % 7 for day in self._sets[4])

    @cached_property
    def _either_day(self) -> bool:
        _, _, day_of_month, _, day_of_week = self.expression.split()
        return not (day_of_month.startswith("*") or day_of_week.startswith("*"))

    def __str__(self) -> str:
        return self.expression


def _values_of(text: str, field: Field) -> frozenset[int]:
    """The numbers that a field stands for; raises ValueError saying what is wrong with it."""
    values: set[int] = set()
    for part in text.split(","):
        span, has_step, step = part.partition("/")
        first, has_last, last = span.partition("-")
        if span == "*":
            low, high = field.first, field.last
        else:
            low = _number(first, field)
            high = _number(last, field) if has_last else low
            if has_last and field.names is _DAYS and high == 0 < low:
                high = _SUNDAY  # `fri-sun`
        if has_step and not (span == "*" or has_last):
            raise ValueError(f"{field.name} {part!r}: a step goes over * or a range, such as {first}-{field.last}/2")
        if has_step and not (step.isascii() and step.isdigit() and 0 < int(step) <= field.last + 1):
            raise ValueError(f"{field.name} {part!r}: a step is a number from 1 to {field.last + 1}")
        if low > high:
            raise ValueError(f"{field.name} {part!r}: the range ends before it begins")
        values.update(range(low, high + 1, int(step) if has_step else 1))
    return frozenset(values)


def _number(text: str, field: Field) -> int:
    if text in field.names:
        return field.names.index(text) + (field.first if field.names is _MONTHS else 0)
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and field.first <= int(text) <= field.last):
        names = f" or a name ({', '.join(field.names)})" if field.names else ""
        raise ValueError(f"{field.name} {text!r} is not a number from {field.first} to {field.last}{names}")
    return int(text)
