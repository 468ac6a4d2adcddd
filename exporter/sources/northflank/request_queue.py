"""Decides which request a poll sends next. One request reads the runs of one job."""

import enum
import math
from collections.abc import Callable, Iterable, Iterator

import msgspec

from exporter.cron import next_tick, parse_schedule
from exporter.model import Batch
from exporter.sources.northflank.api import JobSchedule
from exporter.sources.view import View

# The overdue ratio of jobs with active runs is multiplied by this, so that a short budget delays idle jobs first.
FAST_WEIGHT = 2.0

TIME_SHARE = 0.8
"""Fraction of an interval that a poll spends on requests."""

# Seconds after a start for which a job with a schedule is not in the slow tier. A person may start it again.
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
        overdue: How long it has waited, in multiples of its spacing; infinite if it must come first.
        due: Whether this poll sends it.
        retry: Whether it failed last time. If it is not due, this poll sends it after all others.
    """

    part: str
    send: Callable[[View], Iterable[Batch]]
    overdue: float = math.inf
    due: bool = True
    retry: bool = False


def spacing(tier: PollTier, poll_interval: float) -> float:
    """Return the seconds between two requests for a job of a tier, if the budget allows them."""
    return min(tier * poll_interval, max(poll_interval, MAX_SPACING[tier]))


def tier_of(  # noqa: PLR0913  # the tier depends on all of them
    now: float,
    poll_interval: float,
    *,
    is_busy: bool,
    enabled: bool | None,
    schedule: JobSchedule,
    last_start: float | None,
) -> PollTier:
    """Return how often a job is polled now.

    `is_busy`: whether the job has an active run, or its last two responses differ. `enabled`: False if it is suspended.
    """
    if is_busy:
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


def overdue_ratio(requested: float | None, listed: float, now: float, tier: PollTier, poll_interval: float) -> float:
    """Return how long a job has waited, in multiples of its spacing: since `listed` if it was never requested."""
    # A time in the future was set by a wrong clock.
    if requested is None or requested > now:
        return FIRST_OVERDUE + max(0.0, now - listed) / spacing(PollTier.NORMAL, poll_interval)
    return (now - requested) / spacing(tier, poll_interval) * (FAST_WEIGHT if tier is PollTier.FAST else 1.0)


def is_job_due(requested: float | None, now: float, tier: PollTier, poll_interval: float) -> bool:
    """Return whether this poll reads a job, because the next poll would be too late."""
    return requested is None or requested > now or now - requested >= spacing(tier, poll_interval) - poll_interval


def is_due(due: float, now: float, longest: float) -> bool:
    """Return whether a time has come. A time more than `longest` seconds ahead was set by a wrong clock."""
    return not now < due <= now + longest


def ordered(requests: Iterable[ScheduledRequest]) -> Iterator[ScheduledRequest]:
    """Yield the due requests, the most overdue first, and then those to retry."""
    every = list(requests)
    yield from sorted((request for request in every if request.due), key=lambda request: -request.overdue)
    yield from (request for request in every if request.retry and not request.due)


def seconds_per_round(tiers: Iterable[PollTier], poll_interval: float, requests_per_minute: float) -> float:
    """Return the seconds that it takes to read every job once within the budget."""
    spacings = [spacing(tier, poll_interval) for tier in tiers]
    supply = max(1.0, TIME_SHARE * requests_per_minute * poll_interval / 60)
    demand = sum(poll_interval / each for each in spacings)
    return max(spacings, default=0.0) * max(1.0, demand / supply)
