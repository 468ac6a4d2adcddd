"""Parses schedules of configs and vendors: cron expressions, their dialects, and fixed intervals."""

import functools
import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from exporter.times import parse_vendor_duration

NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_EVERY = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|[dhms]))+")
_ZONE = re.compile(r"(?:CRON_)?TZ=(\S+)\s+(.+)", re.DOTALL)


class Schedule(msgspec.Struct, frozen=True):
    """When a job runs: `every` seconds after its last start, or, if `every` is 0, by `cron` in `timezone`."""

    every: float = 0.0
    cron: str = ""
    timezone: str = "UTC"


@functools.lru_cache(maxsize=4096)
def parse_schedule(text: str, timezone: str = "") -> Schedule:
    """Return the schedule in a text. Raises ValueError if it is invalid or never fires.

    The text has five fields, or six with seconds first, `?` for any day, a nickname like `@daily`, or `@every 1h30m`.
    It may begin with `TZ=` or `CRON_TZ=`, which takes precedence over `timezone`.
    """
    if zoned := _ZONE.fullmatch(text.strip()):
        timezone, text = zoned[1], zoned[2]
    word, _, rest = text.strip().partition(" ")
    zone_of(timezone)
    if word.lower() == "@every":
        return Schedule(every=_interval(rest.strip()))
    schedule = Schedule(cron=NICKNAMES.get(text.strip().lower()) or _fields(text), timezone=timezone or "UTC")
    try:
        never = next(CronSim(schedule.cron, datetime(2024, 1, 1, tzinfo=UTC)), None) is None
    except CronSimError as error:
        raise ValueError(f"is not a cron expression: {error}") from None
    if never:
        raise ValueError("is a cron expression that never fires")
    return schedule


def _fields(text: str) -> str:
    """Return a cron expression with `*` instead of `?`, which CronSim does not support."""
    fields = text.split()
    if len(fields) not in {5, 6}:
        raise ValueError("must be a cron expression of five fields, or six with seconds first")
    for day in (-3, -1):
        fields[day] = "*" if fields[day] == "?" else fields[day]
    return " ".join(fields)


def _interval(text: str) -> float:
    if not _EVERY.fullmatch(text):
        raise ValueError("must name an interval after @every, like @every 1h30m")
    if (seconds := parse_vendor_duration(text) or 0.0) < 1:
        raise ValueError("must name an interval of at least 1s")
    return seconds


def zone_of(timezone: str) -> ZoneInfo:
    """Return the time zone with a name of the IANA database; UTC for "". Raises ValueError if it does not exist."""
    try:
        return ZoneInfo("UTC" if timezone.upper() in {"", "UTC", "Z"} else timezone)
    except (KeyError, ValueError, OSError):
        raise ValueError("is not a time zone; write it like Europe/Berlin") from None


def next_tick(schedule: Schedule, after: float) -> float | None:
    """Return the first time after `after` at which a cron expression fires; None if there is none."""
    try:
        start = datetime.fromtimestamp(after, zone_of(schedule.timezone))
        return next(CronSim(schedule.cron, start)).timestamp()
    except (CronSimError, StopIteration, ValueError, OverflowError, OSError):
        return None
