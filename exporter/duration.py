"""Parses and formats durations: Prometheus style (`1h30m`) and ISO 8601 (`PT1H30M`)."""

import re
from datetime import timedelta

import isodate

UNITS = {"y": 365 * 86400.0, "w": 7 * 86400.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
"""Prometheus' units in seconds. In a duration they must be in this order."""

MAX_DURATION = 100 * UNITS["y"]

_PROMETHEUS = re.compile("".join(f"(?:([0-9]{{1,15}}){unit})?" for unit in UNITS))
_ISO_8601 = re.compile(r"P(?=[0-9T])(?:[0-9.]+[WD])*(?:T(?=[0-9])(?:[0-9.]+[HMS])+)?")


def parse_duration(text: str) -> float:
    """Return the seconds of a duration: `90s`, `1h30m`, `7d`, `1w`, `500ms`, `0`, `PT1H`, `P1DT12H`.

    Raises ValueError if the text is not a duration, is longer than 100 years, or has ISO 8601's years or months, whose
    length varies.
    """
    seconds = _iso_8601(text) if text.startswith("P") else _prometheus(text)
    if seconds is None:
        raise ValueError("not a duration; write it like 90s, 1h30m, 7d or PT1H")
    if seconds > MAX_DURATION:
        raise ValueError("longer than 100 years")
    return seconds


def _prometheus(text: str) -> float | None:
    if text == "0":
        return 0.0
    match = _PROMETHEUS.fullmatch(text)
    if match is None or not text:
        return None
    counts = zip(match.groups(default="0"), UNITS.values(), strict=True)
    # The sum is computed in milliseconds, as an integer, so that 1h30m100ms is the float nearest to 5400.1.
    return sum(int(count) * round(unit * 1000) for count, unit in counts) / 1000


def _iso_8601(text: str) -> float | None:
    if not _ISO_8601.fullmatch(text):
        return None
    try:
        duration = isodate.parse_duration(text)
    except (isodate.ISO8601Error, ArithmeticError, ValueError):
        return None
    return duration.total_seconds() if isinstance(duration, timedelta) else None


def format_roughly(seconds: float) -> str:
    """Return a duration in Prometheus style; a long one without its seconds or minutes, which do not matter."""
    unit = UNITS["h"] if seconds >= UNITS["d"] else UNITS["m"] if seconds >= UNITS["h"] else 1
    return format_duration(round(max(0.0, seconds) / unit) * unit)


def format_duration(seconds: float) -> str:
    """Return seconds in Prometheus style, rounded to milliseconds, with days as the largest unit: `1h30m`, `30d`."""
    left = round(seconds * 1000)
    text = ""
    for unit, length in UNITS.items():
        count, rest = divmod(left, round(length * 1000))
        if count and unit not in {"y", "w"}:
            text += f"{count}{unit}"
            left = rest
    return text or "0s"
