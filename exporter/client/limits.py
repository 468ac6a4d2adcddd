"""Parses the headers of a response about rate limits and time.

Rate limits are in `X-RateLimit-Limit`, `-Remaining` and `-Reset`, in variants such as `RateLimit-Limit`, or in the
headers `RateLimit` and `RateLimit-Policy` of the IETF drafts. Of several limits, the one with the fewest remaining
requests is used. Implausible values are ignored and reported.
"""

import email.utils
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC

import msgspec

from exporter.times import epoch_seconds, parse_timestamp

MAX_RESET = 3600.0
"""Maximum plausible seconds until a reset."""
MAX_TIME_DISTANCE = 86400.0
"""A number in `Retry-After` is a Unix time if it differs from the current Unix time by less than this."""
MAX_REQUESTS = 1e9
"""Maximum plausible number of requests of a limit."""
# A larger number is a Unix time, because nobody waits for three years.
MIN_UNIX_SECONDS = 1e8
NUMBER = re.compile(r"[+-]?\d{1,30}(?:\.\d{1,30})?")
ZONED = re.compile(r"\d{4}-.*(?:Z|[+-]\d\d:?\d\d)", re.IGNORECASE)
PREFIXES = ("x-ratelimit-", "x-rate-limit-", "ratelimit-")
FIELDS = ("limit", "remaining", "reset")
COMBINED_KEYS = {**dict(zip(FIELDS, FIELDS, strict=True)), "q": "limit", "r": "remaining", "t": "reset"}
"""Fields by their keys in the header `RateLimit`, such as `"default";r=50;t=30` or `limit=100, remaining=50`."""
ITEM = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
"""One item of a list. A comma within quotes is part of the item."""
HTTP_DATE = re.compile(r"(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Satur|Sat|Sun)(?:day)?,[^,]*", re.IGNORECASE)
PAIR = re.compile(r'([a-z]+)\s*=\s*"?([+-]?\d+(?:\.\d+)?)"?(?=[\s;,]|$)')


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """A server's tightest rate limit; values are None if unknown.

    Attributes:
        limit: Number of requests.
        remaining: Number of remaining requests.
        reset_seconds: Seconds until the reset.
        ignored: Headers with implausible values, and why they are implausible.
    """

    limit: float | None = None
    remaining: float | None = None
    reset_seconds: float | None = None
    ignored: tuple[str, ...] = ()


LimitTexts = tuple[str, Mapping[str, str]]
"""One limit: the name of its header, and the texts of its values by the names in FIELDS."""


def parse_limits(headers: Mapping[str, str], now: float) -> Limits | None:
    """Return the tightest limit in the headers; None if there is none. `now`: time by the server's clock.

    Names of headers are lower case. Several headers of one name are joined by commas.
    """
    limit_texts = [*_separate_headers(headers), *_combined_headers(headers)]
    if not limit_texts:
        return None
    ignored: list[str] = []
    plausible = [limits for each in limit_texts if (limits := _parsed(each, now, ignored)) is not None]
    tightest = min(plausible, key=_tightness, default=Limits())
    return msgspec.structs.replace(tightest, ignored=tuple(dict.fromkeys(ignored)))


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds of `Retry-After`, which may be a time; None if absent or unreadable."""
    # A proxy may add a value to the server's. The longest wait is used.
    value = headers.get("retry-after", "")
    waits = [_wait(text.strip(), now) for text in HTTP_DATE.findall(value) or value.split(",")]
    return max((wait for wait in waits if wait is not None), default=None)


def _wait(value: str, now: float) -> float | None:
    number = _number(value)
    if number is not None and abs(number - now) > MAX_TIME_DISTANCE:
        return number if number >= 0 else None
    timestamp = number or parse_date(value) or _zoned_time(value)
    return None if timestamp is None else max(0.0, timestamp - now)


def parse_date(value: str) -> float | None:
    """Return an HTTP date as Unix seconds, in UTC if it has no zone; None if it is not a date."""
    try:
        date = email.utils.parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def parse_age(value: str) -> float:
    """Return the seconds that a response was in a cache, by its `Age` header; 0 without the header."""
    return float(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0.0


def _separate_headers(headers: Mapping[str, str]) -> Iterator[LimitTexts]:
    """Yield the limits in headers such as `X-RateLimit-Remaining`. Each header lists one value per limit."""
    for prefix in PREFIXES:
        lists = [_values(headers.get(prefix + field, "")) for field in FIELDS]
        if not lists[2]:
            lists[2] = _values(headers.get(prefix + "reset-after", ""))
        for index in range(max(map(len, lists[:2])) or len(lists[2])):
            texts = (_at(values, index) for values in lists)
            yield prefix.removesuffix("-"), dict(zip(FIELDS, texts, strict=True))


def _values(header: str) -> Sequence[str]:
    """Return the values in a header. Items such as `100;w=60` are policies, used only if there are no others."""
    dates = HTTP_DATE.findall(header)
    if dates:
        return [date.strip() for date in dates]
    items = [item.strip() for item in ITEM.findall(header) if item.strip()]
    values = [item for item in items if ";" not in item]
    return values or [item.partition(";")[0].strip() for item in items]


def _at(values: Sequence[str], index: int) -> str:
    """Return the value at an index; "" if there is none. A single value is used for all indexes."""
    if len(values) == 1:
        return values[0]
    return values[index] if index < len(values) else ""


def _combined_headers(headers: Mapping[str, str]) -> Iterator[LimitTexts]:
    """Yield the limits of `RateLimit`, each with the quota of its policy in `RateLimit-Policy`."""
    text = headers.get("ratelimit", "")
    if not text:
        return
    policies = {_name(item): _pairs(item) for item in ITEM.findall(headers.get("ratelimit-policy", ""))}
    items = [item.strip() for item in ITEM.findall(text)]
    # A single limit: limit=100, remaining=50, reset=30.
    if all("=" in item.partition(";")[0] for item in items):
        items = [";".join(items)]
    for item in items:
        policy = policies.get(_name(item)) or (next(iter(policies.values())) if len(policies) == 1 else {})
        yield "ratelimit", policy | _pairs(item)


def _name(item: str) -> str:
    return item.partition(";")[0].strip().strip('"')


def _pairs(item: str) -> dict[str, str]:
    """Return the values of an item by field. A policy may begin with its quota, as in `100;w=60`."""
    pairs = {COMBINED_KEYS[key]: value for key, value in PAIR.findall(item.lower()) if key in COMBINED_KEYS}
    return {"limit": _name(item)} | pairs if NUMBER.fullmatch(_name(item)) else pairs


def _parsed(limit_texts: LimitTexts, now: float, ignored: list[str]) -> Limits | None:
    """Parse the texts of a limit; return None if they are unusable. Add implausible values to `ignored`."""
    header, texts = limit_texts

    def ignore(field: str, why: str) -> None:
        ignored.append(f"{header} {field}: {why}")

    limit, remaining = _number(texts.get("limit", "")), _number(texts.get("remaining", ""))
    for field, number in (("limit", limit), ("remaining", remaining)):
        if texts.get(field) and number is None:
            ignore(field, "is not a number")
    if limit is not None and not 0 < limit <= MAX_REQUESTS:
        ignore("limit", f"is not between 1 and {MAX_REQUESTS:.0f}")
        return None
    if remaining is not None and not 0 <= remaining <= MAX_REQUESTS:
        ignore("remaining", f"is not between 0 and {MAX_REQUESTS:.0f}")
        remaining = None
    reset = _reset(texts.get("reset", ""), now)
    if reset is None and texts.get("reset"):
        ignore("reset", "is neither seconds nor a time")
    if reset is not None and not 0 <= reset <= MAX_RESET:
        ignore("reset", "is not within an hour")
        reset = None
    has_only_reset = reset is not None and not (texts.get("limit") or texts.get("remaining"))
    if limit is None and remaining is None and not has_only_reset:
        return None
    return Limits(limit=limit, remaining=remaining, reset_seconds=reset)


def _tightness(limits: Limits) -> tuple[float, float]:
    """Return the sort key of a limit: fewest remaining requests first, then the latest reset."""
    remaining = math.inf if limits.remaining is None else limits.remaining
    return remaining, -(limits.reset_seconds or 0.0)


def _reset(text: str, now: float) -> float | None:
    """Return the seconds to a reset that is given in seconds or as a time; 0 for a time in the past."""
    number = _number(text)
    if number is not None:
        return number if number < MIN_UNIX_SECONDS else _from_now(epoch_seconds(number), now)
    timestamp = parse_date(text) or _zoned_time(text)
    return None if timestamp is None else _from_now(timestamp, now)


def _from_now(timestamp: float, now: float) -> float:
    return max(0.0, float(math.ceil(timestamp - now)))


def _zoned_time(text: str) -> float | None:
    # A time without a zone could be the server's local time.
    return parse_timestamp(text) if ZONED.fullmatch(text.strip()) else None


def _number(text: str) -> float | None:
    return float(text) if NUMBER.fullmatch(text.strip()) else None
