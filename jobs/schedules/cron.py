"""`Cron`: due times by the five fields of crontab(5), by the clocks of a time zone. Pure arithmetic, without a clock.

Where clocks are changed it does what Debian's cron does. Times of day (neither minute nor hour begins with `*`) are due
once: one that comes twice at the first time, one that is skipped when the gap is over. All others are due whenever the
clock shows them, so `*/5` keeps its pace.
"""

import calendar
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cached_property
from typing import NamedTuple
from zoneinfo import ZoneInfo

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
    a day that matches either is one: `0 0 13 * 5` is each 13th and each Friday; with `both_days` only a day that
    matches both. `zone` is a name such as `Europe/Berlin`.

    Raises ConfigurationError for an expression that is malformed or never due, and for a zone that is not known.
    """

    expression: str
    zone: str = "UTC"
    both_days: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.expression, str):
            raise ConfigurationError(
                f"a cron expression is a text such as '7 * * * *', got {shortened(self.expression)}"
            )
        zone_of(self.zone)
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
        shown, again = self._shown_at(moment)
        walls = self._walls_after(shown - again)
        found: list[datetime] = []
        for wall in walls:
            found += [due for due in self._moments_of(wall) if due > moment]
            if found and wall > shown:  # before that, a later wall may come sooner
                return min(found)
        if found:
            return min(found)
        raise OverflowError(f"cron expression {self.expression!r} is not due after {moment.isoformat()}")

    def latest_until(self, moment: datetime) -> datetime | None:
        """The last due time that is not after `moment`."""
        shown, again = self._shown_at(moment)
        found: list[datetime] = []
        for wall in self._walls_until(shown + again):
            found += [due for due in self._moments_of(wall) if due <= moment]
            if found and wall <= shown:
                break
        return max(found, default=None)

    def _shown_at(self, moment: datetime) -> tuple[datetime, timedelta]:
        """What the clock shows, and if it shows this twice, by how much it is set back in between."""
        local = moment.astimezone(self._zone)
        twice = _offset(local, fold=0) - _offset(local, fold=1)
        return local.replace(tzinfo=None, fold=0), max(twice, timedelta())

    def _moments_of(self, wall: datetime) -> list[datetime]:
        """When the clock shows `wall`, in UTC, as far as that is a due time."""
        first, second = (wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first == second:
            return [first]
        is_skipped = second < first
        if self._is_time_of_day:
            return [_change_between(second, first, self._zone) if is_skipped else first]
        return [] if is_skipped else [first, second]

    def _walls_after(self, wall: datetime) -> Iterator[datetime]:
        """What a clock shows at due times, from then on, whether or not a zone's ever does."""
        for day in self._days_from(wall.date(), forwards=True):
            first = bisect_right(self._times, wall.time()) if day == wall.date() else 0
            for one in self._times[first:]:
                yield datetime.combine(day, one)

    def _walls_until(self, wall: datetime) -> Iterator[datetime]:
        for day in self._days_from(wall.date(), forwards=False):
            end = bisect_right(self._times, wall.time()) if day == wall.date() else len(self._times)
            for one in reversed(self._times[:end]):
                yield datetime.combine(day, one)

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
    def _zone(self) -> tzinfo:
        return zone_of(self.zone)

    @cached_property
    def _is_time_of_day(self) -> bool:
        minute, hour = self.expression.split()[:2]
        return not (minute.startswith("*") or hour.startswith("*"))

    @cached_property
    def _sets(self) -> tuple[frozenset[int], ...]:
        return tuple(
            values_of(text, field) for text, field in zip(self.expression.lower().split(), FIELDS, strict=True)
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
        return not (self.both_days or day_of_month.startswith("*") or day_of_week.startswith("*"))

    def __str__(self) -> str:
        both = " (both days)" if self.both_days else ""
        return f"{self.expression}{both}" if self.zone == "UTC" else f"{self.expression}{both} {self.zone}"


def zone_of(name: str) -> tzinfo:
    """The time zone of that name; raises ConfigurationError when there is none."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, TypeError, OSError):
        raise ConfigurationError(
            f"there is no time zone {shortened(name)}: give a name of the IANA database, such as Europe/Berlin"
        ) from None


def _offset(local: datetime, *, fold: int) -> timedelta:
    return local.replace(fold=fold).utcoffset() or timedelta()


def _change_between(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The moment between these two, in UTC, from which on the zone's clocks show another offset."""
    offset = before.astimezone(zone).utcoffset()
    seconds = range(int((after - before).total_seconds()))
    changed = bisect_left(
        seconds, True, key=lambda passed: (before + timedelta(seconds=passed)).astimezone(zone).utcoffset() != offset
    )
    return before + timedelta(seconds=changed)


def values_of(text: str, field: Field) -> frozenset[int]:
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
