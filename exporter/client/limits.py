"""What an answer's headers say about rate limits, whichever vendor's habit they follow."""

import email.utils
import math
import re
from collections.abc import Mapping

import msgspec

EPOCH = 1e8
"""A reset beyond this is an instant (as seconds it would be three years away)."""
EPOCH_MILLISECONDS = 1e11
NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?")
PREFIXES = ("x-ratelimit-", "ratelimit-", "x-rate-limit-")
COMBINED = {"limit": "limit", "q": "limit", "remaining": "remaining", "r": "remaining", "reset": "reset", "t": "reset"}
"""Keys of the single header `RateLimit` in its drafts, e.g. `"default";r=50;t=30` or `limit=100, remaining=50`."""
PAIR = re.compile(r"([a-z]+)=(\d{1,15})")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """A server's limit, what remains of it, and the seconds until it starts anew; None where it does not say."""

    limit: float | None = None
    remaining: float | None = None
    reset_seconds: float | None = None


def parse_limits(headers: Mapping[str, str], now: float) -> Limits | None:
    """The limits named by an answer's headers, None if there are none; `now` is the server's clock."""
    for prefix in PREFIXES:
        found = {key: _number(headers.get(prefix + key)) for key in ("limit", "remaining", "reset")}
        if found["remaining"] is not None or found["limit"] is not None:
            return _limits(found, now)
    words = f"{headers.get('ratelimit-policy', '')};{headers.get('ratelimit', '')}".lower()
    pairs = {COMBINED[key]: float(value) for key, value in PAIR.findall(words) if key in COMBINED}
    return _limits(pairs, now) if "remaining" in pairs else None


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, from `Retry-After` as seconds or as an HTTP date; None if absent or unreadable."""
    value = headers.get("retry-after", "").strip()
    if NUMBER.fullmatch(value):
        return float(value)
    instant = parse_date(value)
    return None if instant is None else max(0.0, instant - now)


def parse_date(value: str) -> float | None:
    """An HTTP date as Unix seconds; None if it is not one."""
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _limits(found: Mapping[str, float | None], now: float) -> Limits:
    reset = found.get("reset")
    return Limits(
        limit=found.get("limit"),
        remaining=found.get("remaining"),
        reset_seconds=None if reset is None else _seconds_to(reset, now),
    )


def _seconds_to(reset: float, now: float) -> float:
    """Seconds to a reset that is given as such, or as an instant in seconds or milliseconds."""
    if reset >= EPOCH_MILLISECONDS:
        reset /= 1000
    return max(0.0, math.ceil(reset - now)) if reset >= EPOCH else reset


def _number(value: str | None) -> float | None:
    """The first number of a header such as `100, 100;w=60`."""
    match = NUMBER.match(value.strip()) if value else None
    return float(match.group()) if match else None
