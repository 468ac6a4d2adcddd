"""Instants and durations as APIs write them, read tolerantly: what cannot be understood is None, never an error."""

import datetime as dt
import math
import re

import isodate  # type: ignore[import-untyped]  # it has no types
import msgspec

MILLISECONDS = 1e11
"""Epoch numbers beyond this are milliseconds: as seconds it would be the year 5138, as milliseconds it is 1973."""
LATEST = 253402300800.0
"""The year 10000, in which no run has happened."""
DAY = 86400.0
YEAR = 365.2425 * DAY
"""The mean year of the Gregorian calendar; a month is its twelfth."""
LONGEST_TEXT = 64
LONGEST = 100 * YEAR
"""A duration beyond this is a mistake."""
EPOCH_TEXT = re.compile(r"\d{9,15}(?:\.\d+)?", re.ASCII)
NUMBER_TEXT = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
PART = r"(?:([+-]?\d+(?:\.\d+)?){})?"
SIGNED = re.compile(
    "P" + "".join(map(PART.format, "YMWD")) + "(?:T" + "".join(map(PART.format, "HMS")) + ")?", re.ASCII
)
REFUSED = (msgspec.ValidationError, UnicodeEncodeError)
"""What msgspec raises for a text that it does not read."""
FACTORS = (YEAR, YEAR / 12, 7 * DAY, DAY, 3600.0, 60.0, 1.0)
"""Seconds of each group of `SIGNED`."""


def parse_instant(value: str | float | None) -> float | None:
    """Unix seconds from ISO 8601 (any offset, UTC where there is none) or an epoch number in seconds or milliseconds.

    Instants at or before 1970 stand for "none" in the languages that vendors use, and are None.
    """
    instant = _instant_text(value) if isinstance(value, str) else _epoch(_finite(value))
    return instant if instant is not None and 0 < instant < LATEST else None


def parse_duration(value: str | float | None) -> float | None:
    """Seconds from an ISO 8601 duration or a number of seconds; negative ones are 0.

    A year is 365.2425 days and a month a twelfth of it: an average, as there is no date to count from.
    """
    seconds = _duration_text(value) if isinstance(value, str) else _finite(value)
    return max(0.0, seconds) if seconds is not None and seconds < LONGEST else None


def _finite(value: float | None) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _epoch(number: float | None) -> float | None:
    return number / 1000 if number is not None and number >= MILLISECONDS else number


def _instant_text(text: str) -> float | None:
    """Msgspec reads the everyday style ten times as fast as anything else, and refuses the others."""
    try:
        return _timestamp(msgspec.convert(text, dt.datetime))
    except REFUSED:
        text = text.strip()[:LONGEST_TEXT].upper()
    if EPOCH_TEXT.fullmatch(text):
        return _epoch(float(text))
    try:
        return _timestamp(dt.datetime.fromisoformat(text))
    except ValueError:
        return None


def _timestamp(instant: dt.datetime) -> float:
    return (instant if instant.tzinfo else instant.replace(tzinfo=dt.UTC)).timestamp()


def _duration_text(text: str) -> float | None:
    """Msgspec reads the everyday styles fast; for the others see below."""
    try:
        return msgspec.convert(text, dt.timedelta).total_seconds()
    except REFUSED:
        return _odd_duration(text.strip()[:LONGEST_TEXT].upper().replace(",", "."))


def _odd_duration(text: str) -> float | None:
    """Isodate knows most styles, but neither signs of single parts (`PT-5S`) nor bare numbers; and `PT` is not 0."""
    if NUMBER_TEXT.fullmatch(text):
        return float(text)
    if not any(character.isdecimal() for character in text):
        return None
    try:
        return _seconds(isodate.parse_duration(text))
    except (isodate.ISO8601Error, ValueError, ArithmeticError):
        return _signed_parts(text)


def _seconds(duration: dt.timedelta | isodate.Duration) -> float:
    if isinstance(duration, dt.timedelta):
        return duration.total_seconds()
    months = float(duration.years) * 12 + float(duration.months)
    return months * YEAR / 12 + float(duration.tdelta.total_seconds())


def _signed_parts(text: str) -> float | None:
    match = SIGNED.fullmatch(text)
    if match is None:
        return None
    return sum(float(part) * factor for part, factor in zip(match.groups(default="0"), FACTORS, strict=True))
