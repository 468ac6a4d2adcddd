"""Formats times, durations, statuses and vendors' texts for people. Pure functions."""

import unicodedata
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from exporter.model import FAILING, Result
from exporter.queries.records import RunReport, StepReport
from exporter.times import format_utc

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

UNITS = ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "m"), (MINUTE, "m", 1.0, "s"))
"""Seconds and letter of each unit, and of the next smaller one."""

CONTROL_PICTURES = 0x2400
"""First of Unicode's symbols for control characters, which are in the same order."""

DIRECTIONAL = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Bidirectional classes of characters that change the direction of the text after them."""


def duration(seconds: float) -> str:
    """Return a duration in at most two units: `320ms`, `4.2s`, `45s`, `12m 5s`, `3h`, `2d 4h`."""
    seconds = max(0.0, seconds)
    if round(seconds * 1000) < 1000:
        return f"{round(seconds * 1000)}ms"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    if round(seconds) < MINUTE:
        return f"{round(seconds)}s"
    # The unit is chosen after rounding, so that 59m 59.9s is 1h.
    unit, letter, smaller, small_letter = next(row for row in UNITS if round(seconds / row[2]) * row[2] >= row[0])
    large, rest = divmod(round(seconds / smaller) * smaller, unit)
    small = round(rest / smaller)
    return f"{large:.0f}{letter} {small}{small_letter}" if small else f"{large:.0f}{letter}"


def age(timestamp: float, now: float) -> str:
    """Return how far away a time is, in one unit: `now`, `40s ago`, `3h ago`, `in 5m`."""
    distance = abs(now - timestamp)
    if distance < 1:
        return "now"
    size, letter = next(((unit, letter) for unit, letter, *_ in UNITS if distance >= unit), (1.0, "s"))
    text = f"{int(distance / size)}{letter}"
    return f"{text} ago" if timestamp <= now else f"in {text}"


def full_time(timestamp: float) -> str:
    """Return a time as `2026-11-22 04:21:06 UTC`."""
    return format_utc(timestamp).replace("T", " ").replace("Z", " UTC")


def visible(text: str) -> str:
    """Return a text on one line, with symbols instead of control characters. It must still be escaped."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    # A name with such a character could reverse the text after it.
    if unicodedata.bidirectional(character) in DIRECTIONAL:
        return "\N{REPLACEMENT CHARACTER}"
    if unicodedata.category(character) != "Cc":
        return character
    code = ord(character)
    return chr(CONTROL_PICTURES + code) if code < 0x20 else "\N{SYMBOL FOR DELETE}"


def web_link(url: str) -> str:
    """Return a URL if it is http or https, otherwise "". A `javascript:` link would be dangerous."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme in {"http", "https"} and parts.netloc else ""


def plural(count: int, one: str, more: str = "") -> str:
    """Return a number with its noun: `1 job`, `1,200 jobs`."""
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"


class Look(NamedTuple):
    """`tone`: a class of the style sheet. `symbol`: an ID in the page's sprite."""

    tone: str
    symbol: str


UNKNOWN = Look("calm", "dash")

# Each status has a symbol too, because not everybody can see the color.
LOOKS: Mapping[str, Look] = {
    "failing": Look("bad", "cross"),
    "overdue": Look("bad", "clock"),
    "stale": Look("warn", "clock"),
    "stuck": Look("warn", "stuck"),
    "ok": Look("good", "check"),
    "idle": UNKNOWN,
    "disabled": Look("calm", "pause"),
    "success": Look("good", "check"),
    "failure": Look("bad", "cross"),
    "error": Look("bad", "cross"),
    "timeout": Look("bad", "clock"),
    "cancellation": Look("calm", "stop"),
    "skip": Look("calm", "skip"),
    "unknown": Look("warn", "question"),
    "executing": Look("busy", "play"),
    "pending": Look("calm", "clock"),
    "up": Look("good", "check"),
    "down": Look("bad", "cross"),
    "partial": Look("warn", "triangle"),
    "waiting": UNKNOWN,
    "critical": Look("bad", "cross"),
    "warning": Look("warn", "triangle"),
    "info": Look("calm", "info"),
}


def look(word: str) -> Look:
    """Return the look of a status or result; a question mark if it has none."""
    return LOOKS.get(word, Look("warn", "question"))


def tone(result: Result | None) -> str:
    """Return `good` for a success, `bad` for a failure, and `calm` for other results and active runs."""
    if result is Result.SUCCESS:
        return "good"
    return "bad" if result in FAILING else "calm"


def result_word(thing: RunReport | StepReport) -> str:
    """Return the result of a run or step; its state while it is active."""
    return str(thing.result or thing.state or "unknown")
