"""Instants, lengths and hostile texts as people read them: pure functions."""

import datetime as dt
import unicodedata
from urllib.parse import urlsplit

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

UNITS = ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "m"), (MINUTE, "m", 1.0, "s"))
"""A unit, its letter, and the next smaller one, which is shown beside it."""

NOW = 1.0
"""What is nearer than this many seconds is now."""

PICTURES = 0x2400
"""Where Unicode has its pictures of control characters."""

TURNING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Unicode's classes of characters that change the direction of what follows them."""


def span(seconds: float) -> str:
    """A stretch of time in two units at most: `320ms`, `4.2s`, `45s`, `12m 5s`, `3h`, `2d 4h`."""
    seconds = max(0.0, seconds)
    if round(seconds * 1000) < 1000:
        return f"{round(seconds * 1000)}ms"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    if round(seconds) < MINUTE:
        return f"{round(seconds)}s"
    unit, letter, smaller, small_letter = next(row for row in UNITS if round(seconds / row[2]) * row[2] >= row[0])
    large, rest = divmod(round(seconds / smaller) * smaller, unit)
    small = round(rest / smaller)
    return f"{large:.0f}{letter} {small}{small_letter}" if small else f"{large:.0f}{letter}"


def age(timestamp: float, now: float) -> str:
    """How far an instant is away, in one unit: `now`, `40s ago`, `3h ago`, `in 5m`."""
    far = abs(now - timestamp)
    if far < NOW:
        return "now"
    size, letter = next(((unit, letter) for unit, letter, *_ in UNITS if far >= unit), (1.0, "s"))
    text = f"{int(far / size)}{letter}"
    return f"{text} ago" if timestamp <= now else f"in {text}"


def machine_time(timestamp: float) -> str:
    """`2026-11-22T04:21:06Z`, for a `<time>`."""
    return f"{_written(timestamp, 'T')}Z"


def full_time(timestamp: float) -> str:
    """`2026-11-22 04:21:06 UTC`."""
    return f"{_written(timestamp, ' ')} UTC"


def _written(timestamp: float, between: str) -> str:
    try:
        when = dt.datetime.fromtimestamp(int(timestamp), dt.UTC)
    except (ValueError, OverflowError, OSError):  # beyond the years 1 to 9999, which a vendor may well claim
        when = dt.datetime.fromtimestamp(0, dt.UTC)
    return when.replace(tzinfo=None).isoformat(between, "seconds")


def visible(text: str) -> str:
    """A text from outside on one line that turns nothing around: with pictures in place of control characters.

    It must still be escaped.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if unicodedata.bidirectional(character) in TURNING:
        return "\N{REPLACEMENT CHARACTER}"
    if unicodedata.category(character) != "Cc":
        return character
    code = ord(character)
    return chr(PICTURES + code) if code < 0x20 else "\N{SYMBOL FOR DELETE}"


def web_link(url: str) -> str:
    """The URL if it is one of the web; "" for all others (`javascript:`), which nobody should follow."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme in {"http", "https"} and parts.netloc else ""


def many(count: int, one: str, more: str = "") -> str:
    """A number with its noun: `1 job`, `1,200 jobs`."""
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"
