"""Decides which job's runs are requested next: one request reads the runs of one job."""

import enum
import math
from collections.abc import Callable, Iterable, Iterator

import msgspec

from exporter.cron import next_tick, parse_schedule
from exporter.model import Batch
from exporter.sources.northflank.api import JobSchedule
from exporter.sources.view import View

# Jobs with active runs count as overdue by this factor, so that a short budget delays idle jobs first.
FAST_WEIGHT = 2.0

TIME_SHARE = 0.8
"""Fraction of an interval that a poll spends on requests."""

# A job with a schedule is polled as if it were due for this many seconds after a start: a person may start it again.
RECENT = 3600.0

IDLE = 86400.0
"""Seconds without a start after which a job without a schedule is idle."""

FIRST_OVERDUE = 2.0
"""Overdue ratio of a new job, whose runs were never read. It grows while the job waits."""


class PollTier(enum.IntEnum):
    """How often a job is polled: every poll, every third, or every tenth; see `spacing`."""

    FAST = 1
    NORMAL = 3
    SLOW = 10


MAX_SPACING = {PollTier.FAST: 60.0, PollTier.NORMAL: 180.0, PollTier.SLOW: 600.0}
"""Maximum seconds between two requests for a job of a tier, unless the poll interval is longer."""


class ScheduledRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that a poll may send.

    Attributes:
        part: Name of the request in errors.
        send: Sends it and yields its batches. It continues after a batch was committed.
        overdue: How long it has waited, in multiples of its spacing; infinite if it was interrupted.
        due: Whether this poll sends it.
        retry: Whether it is sent after all others if it is not due, because its last try failed.
    """

    part: str
    send: Callable[[View], Iterable[Batch]]
    overdue: float = math.inf
    due: bool = True
    retry: bool = False


def spacing(tier: PollTier, poll_interval: float) -> float:
    """Return the seconds between two requests for a job, if the budget allows."""
    return min(tier * poll_interval, max(poll_interval, MAX_SPACING[tier]))


def tier_of(  # noqa: PLR0913  # the tier depends on all of them
    now: float,
    poll_interval: float,
    *,
    is_open: bool,
    enabled: bool | None,
    schedule: JobSchedule,
    last_start: float | None,
) -> PollTier:
    """Return how often a job is polled now.

    `is_open`: the job has an active run, or its last response differed from the previous one. `enabled`: False while
    the job is suspended.
    """
    if is_open:
        return PollTier.FAST
    if enabled is False:
        return PollTier.SLOW
    since = math.inf if last_start is None else now - last_start
    near = has_tick(schedule, now - spacing(PollTier.SLOW, poll_interval), now + poll_interval)
    if near is None:
        return PollTier.NORMAL if since < IDLE else PollTier.SLOW
    return PollTier.NORMAL if near or since < RECENT else PollTier.SLOW


def has_tick(schedule: JobSchedule, start: float, end: float) -> bool | None:
    """Return whether a schedule has a tick between two times; None if there is no valid schedule."""
    try:
        parsed = parse_schedule(schedule.expression, schedule.timezone)
    except ValueError:
        return None
    tick = None if parsed.every else next_tick(parsed, start)
    return None if tick is None else tick <= end


def overdue_ratio(read: float | None, since: float, now: float, tier: PollTier, poll_interval: float) -> float:
    """Return how long a job has waited since it was read, or listed (`since`), in multiples of its spacing."""
    # A time in the future was set by a wrong clock.
    if read is None or read > now:
        return FIRST_OVERDUE + max(0.0, now - since) / spacing(PollTier.NORMAL, poll_interval)
    return (now - read) / spacing(tier, poll_interval) * (FAST_WEIGHT if tier is PollTier.FAST else 1.0)


def is_turn(read: float | None, now: float, tier: PollTier, poll_interval: float) -> bool:
    """Return whether a job is polled now, because it would have waited too long at the next poll."""
    return read is None or read > now or now - read >= spacing(tier, poll_interval) - poll_interval


def is_due(due: float, now: float, longest: float) -> bool:
    """Return whether a due time has come. A time more than `longest` seconds ahead was set by a wrong clock."""
    return not now < due <= now + longest


def ordered(requests: Iterable[ScheduledRequest]) -> Iterator[ScheduledRequest]:
    """Yield the due requests, the most overdue first, and then those to retry."""
    given = list(requests)
    yield from sorted((each for each in given if each.due), key=lambda each: -each.overdue)
    yield from (each for each in given if each.retry and not each.due)


def round_seconds(tiers: Iterable[PollTier], poll_interval: float, requests_per_minute: float) -> float:
    """Return the seconds in which every job is read once within the budget."""
    spacings = [spacing(tier, poll_interval) for tier in tiers]
    supply = max(1.0, TIME_SHARE * requests_per_minute * poll_interval / 60)
    demand = sum(poll_interval / each for each in spacings)
    return max(spacings, default=0.0) * max(1.0, demand / supply)
