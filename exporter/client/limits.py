"""Parses the headers of a response about rate limits."""

import math
import re
from collections.abc import Mapping, Sequence

import msgspec

from exporter.times import parse_timestamp

MAX_RESET = 3600.0
"""Maximum plausible seconds until a reset."""
MAX_REQUESTS = 1e9
"""Maximum plausible number of requests of a limit."""
# A larger number is a Unix time, because nobody waits for 30 years.
MIN_UNIX_SECONDS = 1e9
NUMBER = re.compile(r"[+-]?\d{1,30}(?:\.\d{1,30})?", re.ASCII)
# A comma between two values, but not the comma after the weekday of a date.
COMMA = re.compile(r"(?<![a-z]),")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """A server's tightest rate limit; values are None if unknown.

    `reset_seconds`: seconds until the reset. `ignored`: headers with implausible values, and why they are implausible.
    """

    limit: float | None = None
    remaining: float | None = None
    reset_seconds: float | None = None
    ignored: Sequence[str] = ()


def parse_limits(headers: Mapping[str, str], now: float) -> Limits:
    """Return the tightest limit in the headers `X-RateLimit-Limit`, `-Remaining` and `-Reset`.

    A server with several limits sends a value for each, joined by commas. A single value is used for all limits.
    `now`: time by the server's clock.
    """
    lists = [_values(headers.get(f"x-ratelimit-{field}", "")) for field in ("limit", "remaining", "reset")]
    ignored: list[str] = []
    limits: list[Limits] = []
    for index in range(max(map(len, lists[:2]))):
        texts = [values[0] if len(values) == 1 else "".join(values[index : index + 1]) for values in lists]
        limits += _parse(*texts, now=now, ignored=ignored)
    tightest = min(limits, key=_tightness, default=Limits())
    return msgspec.structs.replace(tightest, ignored=tuple(dict.fromkeys(ignored)))


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds of `Retry-After`, which may be a time; None if absent or unreadable."""
    # A proxy may add a value to the server's. The longest wait is used.
    waits = [_seconds_until(value, now) for value in _values(headers.get("retry-after", ""))]
    return max((wait for wait in waits if wait is not None and wait >= 0), default=None)


def _values(header: str) -> list[str]:
    return [value for part in COMMA.split(header) if (value := part.strip())]


def _parse(limit: str, remaining: str, reset: str, *, now: float, ignored: list[str]) -> list[Limits]:
    """Return the limit with these values; nothing if it is unusable. Add implausible values to `ignored`."""
    parsed = Limits(limit=_number(limit), remaining=_number(remaining), reset_seconds=_seconds_until(reset, now))
    if limit and not _is_between(1, parsed.limit, MAX_REQUESTS):
        ignored.append(f"x-ratelimit-limit is not a number between 1 and {MAX_REQUESTS:.0f}")
        return []
    if remaining and not _is_between(0, parsed.remaining, MAX_REQUESTS):
        ignored.append(f"x-ratelimit-remaining is not a number between 0 and {MAX_REQUESTS:.0f}")
        parsed = msgspec.structs.replace(parsed, remaining=None)
    if reset and not _is_between(0, parsed.reset_seconds, MAX_RESET):
        ignored.append("x-ratelimit-reset is neither a number of seconds nor a time within an hour")
        parsed = msgspec.structs.replace(parsed, reset_seconds=None)
    return [] if parsed.limit is None and parsed.remaining is None else [parsed]


def _is_between(least: float, number: float | None, most: float) -> bool:
    return number is not None and least <= number <= most


def _tightness(limits: Limits) -> tuple[float, float]:
    """Return the sort key of a limit: fewest remaining requests first, then the latest reset."""
    remaining = math.inf if limits.remaining is None else limits.remaining
    return remaining, -(limits.reset_seconds or 0.0)


def _seconds_until(text: str, now: float) -> float | None:
    """Return a number of seconds, or the seconds until a time; 0 for a time in the past."""
    number = _number(text)
    if number is not None and number < MIN_UNIX_SECONDS:
        return number
    timestamp = parse_timestamp(text)
    return None if timestamp is None else max(0.0, timestamp - now)


def _number(text: str) -> float | None:
    return float(text) if NUMBER.fullmatch(text) else None
