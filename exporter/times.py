"""Parses times and durations of APIs. An unreadable value is None, never an error."""

import datetime as dt
import math
import re
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

import isodate
import msgspec

MIN_MILLISECONDS = 1e11
"""Epoch numbers from here on are milliseconds. As seconds, 1e11 is in the year 5138; as milliseconds, in 1973.

Numbers from 1000 times this one on are microseconds, and from 1,000,000 times on nanoseconds.
"""
MAX_TIME = 253402300800.0
"""The year 10000. Times from here on are ignored."""
DAY = 86400.0
YEAR = 365.2425 * DAY
"""Seconds of a mean year of the Gregorian calendar. A month is a twelfth of it."""
MAX_TEXT = 64
"""Further characters of a text are ignored."""
MAX_DURATION = 100 * YEAR
"""Longer durations are ignored."""
EPOCH_TEXT = re.compile(r"\d{9,19}(?:\.\d+)?", re.ASCII)
DATE_AND_TIME = re.compile(
    r"(\d{4}[-/]?\d\d[-/]?\d\d)[T ]+(\d\d:?\d\d)(?:(:?)(\d\d)([.,]\d+)?)?\s*([+-]\d\d(?::?\d\d)?)?\s*(.*)", re.ASCII
)
"""Groups: date, hours and minutes, colon before the seconds, seconds, fraction, offset, zone."""
UTC_NAMES = frozenset({"", "Z", "UTC", "GMT", "ETC/UTC", "ETC/GMT"})
HTTP_DATE = re.compile(r"[A-Z]{3,9},? .*\d\d:\d\d:\d\d( (GMT|UTC|[+-]\d{4}))?( \d{4})?", re.ASCII)
CLOCK_TEXT = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d+)?)", re.ASCII)
UNITS = {
    name: seconds
    for names, seconds in (
        ("MS MSEC MILLISECOND", 0.001),
        ("S SEC SECOND", 1.0),
        ("M MIN MINUTE", 60.0),
        ("H HR HOUR", 3600.0),
        ("D DAY", DAY),
    )
    for name in names.split()
}
"""Seconds of each unit, by names in upper case and singular."""
UNIT_TEXT = re.compile(r"(\d+(?:\.\d+)?) ?([A-Z]+)(?:[.,]? (?:AND )?|(?=\d)|$)", re.ASCII)
NUMBER_TEXT = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
PART = r"(?:([+-]?\d+(?:\.\d+)?){})?"
SIGNED_DURATION = re.compile(
    "P" + "".join(map(PART.format, "YMWD")) + "(?:T" + "".join(map(PART.format, "HMS")) + ")?", re.ASCII
)
PARSE_ERRORS = (msgspec.ValidationError, UnicodeEncodeError)
"""Errors of msgspec for a text that it cannot parse."""
SIGNED_SECONDS = (YEAR, YEAR / 12, 7 * DAY, DAY, 3600.0, 60.0, 1.0)
"""Seconds of each group of `SIGNED_DURATION`."""


def parse_timestamp(value: str | float | None) -> float | None:
    """Return the Unix seconds of an ISO 8601 time, an HTTP date, or an epoch number; None if it is unreadable.

    An ISO 8601 time has an offset or the name of a zone (` UTC`, `[Europe/Berlin]`); otherwise it is UTC. Epoch numbers
    are seconds, milliseconds, microseconds or nanoseconds. Times up to the start of 1970 are None, because many
    programs use them for a missing time.
    """
    number = None if isinstance(value, str) else _finite(value)
    timestamp = _parse_time_text(value) if isinstance(value, str) else number and epoch_seconds(number)
    return timestamp if timestamp is not None and 0 < timestamp < MAX_TIME else None


def parse_vendor_duration(value: str | float | None) -> float | None:
    """Return the seconds of an ISO 8601 duration, `00:05:03`, `5m 3s`, or a number of seconds; at least 0.

    None if it is unreadable. A year is 365.2425 days, and a month is a twelfth of it.
    """
    seconds = _parse_duration_text(value) if isinstance(value, str) else _finite(value)
    return max(0.0, seconds) if seconds is not None and seconds < MAX_DURATION else None


def from_iso(text: str) -> float:
    """Return the Unix seconds of an ISO 8601 time or date; without an offset it is UTC. Raises ValueError."""
    return _timestamp(dt.datetime.fromisoformat(text))


def format_utc(timestamp: float) -> str:
    """Return a time as `2026-11-22T04:21:06Z`; the start of 1970 if its year is impossible."""
    try:
        when = dt.datetime.fromtimestamp(int(timestamp), dt.UTC)
    except (ValueError, OverflowError, OSError):  # the year is not between 1 and 9999
        when = dt.datetime.fromtimestamp(0, dt.UTC)
    return when.replace(tzinfo=None).isoformat() + "Z"


def is_number(value: str | float | None) -> bool:
    """Return whether a duration is a number without a unit."""
    if isinstance(value, str):
        # Most durations are ISO 8601. Without the pattern, thousands of them per poll are faster.
        return not value.startswith("P") and bool(NUMBER_TEXT.fullmatch(value.strip()[:MAX_TEXT]))
    return value is not None and not isinstance(value, bool)


def _finite(value: float | None) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def epoch_seconds(number: float) -> float:
    """Return the seconds of an epoch number in seconds, milliseconds, microseconds or nanoseconds."""
    for _ in range(3):
        number = number / 1000 if number >= MIN_MILLISECONDS else number
    return number


def _parse_time_text(text: str) -> float | None:
    # msgspec parses only the usual format, but ten times as fast as other parsers.
    try:
        return _timestamp(msgspec.convert(text, dt.datetime))
    except PARSE_ERRORS:
        text = text.strip()[:MAX_TEXT].upper()
    if EPOCH_TEXT.fullmatch(text):
        return epoch_seconds(float(text))
    try:
        return from_iso(text)
    except ValueError:
        return _parse_unusual_time(text)


def _parse_unusual_time(text: str) -> float | None:
    """Return a time that `fromisoformat` refuses: with `24:00:00`, `:60` or the name of a zone, or an HTTP date."""
    match = DATE_AND_TIME.fullmatch(text)
    try:
        if match is not None:
            return _unix_seconds(match)
        if HTTP_DATE.fullmatch(text) and (parts := parsedate_tz(text)) is not None:
            return float(mktime_tz((*parts[:9], parts[9] or 0)))
    except (ValueError, OverflowError, KeyError, OSError):  # a KeyError is an unknown zone
        pass
    return None


def _unix_seconds(match: re.Match[str]) -> float | None:
    """Return the Unix seconds of a match of DATE_AND_TIME."""
    date, clock, colon, seconds, fraction, offset, name = match.groups(default="")
    name = name.removeprefix("Z").strip("[] ") if name[:2] == "Z[" else name.strip("[] ")
    added = 0.0
    if clock.replace(":", "") == "2400" and not seconds.strip("0") and not fraction.strip(".,0"):
        clock, added = clock.replace("24", "00", 1), DAY
    if seconds == "60":
        seconds, added = "59", 1.0
    text = f"{date.replace('/', '-')}T{clock}" + (f"{colon}{seconds}{fraction}" if seconds else "")
    time = dt.datetime.fromisoformat(text + (offset or ("Z" if name in UTC_NAMES else "")))
    if time.tzinfo is None:
        time = time.replace(tzinfo=ZoneInfo(_exact_zone(name)))
    return time.timestamp() + added


def _exact_zone(name: str) -> str:
    """Return the exact name of a zone that is given in any letter case. Raises ValueError or KeyError."""
    if "/" not in name:  # an abbreviation, which is ambiguous
        raise ValueError(name)
    return _zones()[name]


@cache
def _zones() -> Mapping[str, str]:
    return {name.upper(): name for name in available_timezones()}


def _timestamp(timestamp: dt.datetime) -> float:
    return (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=dt.UTC)).timestamp()


def _parse_duration_text(text: str) -> float | None:
    # msgspec parses the usual formats fast.
    try:
        return msgspec.convert(text, dt.timedelta).total_seconds()
    except PARSE_ERRORS:
        return _parse_unusual_duration(text.strip()[:MAX_TEXT].upper().replace(",", "."))


def _parse_unusual_duration(text: str) -> float | None:
    # isodate parses most formats, but neither signed parts (`PT-5S`) nor plain numbers, and it parses `PT` as 0.
    if NUMBER_TEXT.fullmatch(text):
        return float(text)
    if not any(character.isdecimal() for character in text):
        return None
    if match := CLOCK_TEXT.fullmatch(text):
        hours, minutes, seconds = map(float, match.groups())
        return hours * 3600 + minutes * 60 + seconds
    try:
        return _seconds(isodate.parse_duration(text))
    except (isodate.ISO8601Error, ValueError, ArithmeticError):
        return _sum_of_signed_parts(text) if text.lstrip("+-").startswith("P") else _sum_of_units(text)


def _sum_of_units(text: str) -> float | None:
    """Return the seconds of `1h30m`, `60 seconds` or `5 minutes 3 s`; None if the text contains anything else."""
    total, position = 0.0, 0
    while match := UNIT_TEXT.match(text, position):
        unit = UNITS.get(match[2]) or UNITS.get(match[2].removesuffix("S"))
        if unit is None:
            return None
        total, position = total + float(match[1]) * unit, match.end()
    return total if position == len(text) else None


def _seconds(duration: dt.timedelta | isodate.Duration) -> float:
    if isinstance(duration, dt.timedelta):
        return duration.total_seconds()
    months = float(duration.years) * 12 + float(duration.months)
    return months * YEAR / 12 + float(duration.tdelta.total_seconds())


def _sum_of_signed_parts(text: str) -> float | None:
    match = SIGNED_DURATION.fullmatch(text)
    if match is None:
        return None
    return sum(float(part) * factor for part, factor in zip(match.groups(default="0"), SIGNED_SECONDS, strict=True))
