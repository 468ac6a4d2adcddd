"""Whose turn it is: which job is asked for its runs next, where one request tells of one job only."""

import enum
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

import msgspec

from exporter.cron import next_tick, parse_schedule

Ask = TypeVar("Ask")

FAST_SHARE = 3
"""So many requests for what is open go before one for the others, so that the others are never forgotten."""

TIME_SHARE = 0.8
"""The part of an interval in which a poll asks."""

RECENT = 3600.0
"""A job with a schedule that started by hand so many seconds ago is looked at as if it were due."""

IDLE = 86400.0
"""A job without a schedule that did not start for so many seconds is idle."""


class Schedule(msgspec.Struct, frozen=True):
    """When a job runs by itself: a cron expression and its time zone, "" where there is none."""

    expression: str = ""
    timezone: str = ""


class PollTier(enum.IntEnum):
    """How often a job is asked: each poll, every third, or every tenth; see `spacing`."""

    FAST = 1
    NORMAL = 3
    SLOW = 10


LONGEST = {PollTier.FAST: 60.0, PollTier.NORMAL: 180.0, PollTier.SLOW: 600.0}
"""Where polls are rare, a tier skips none if they are further apart than so many seconds."""


class JobActivity(msgspec.Struct, frozen=True, kw_only=True):
    """What tells how urgent a job is.

    Attributes:
        open: Whether it has a run that has not ended, or its last answer differed from the one before.
        enabled: False while it is suspended.
        schedule: Its schedule.
        last_start: When its latest run started.
    """

    open: bool
    enabled: bool | None
    schedule: Schedule
    last_start: float | None


class ScheduledRequest(msgspec.Struct, Generic[Ask], frozen=True, kw_only=True):
    """Something that may be asked for.

    Attributes:
        ask: What.
        tier: How often; None for what is not about runs.
        late: How long it has waited, in parts of its spacing.
        due: Whether it is to be asked in this poll.
        begun: Whether its pages were begun in an earlier one.
        again: Whether it comes only because the last try failed: after all others, so that it keeps none of them.
    """

    ask: Ask
    tier: PollTier | None
    late: float
    due: bool = True
    begun: bool = False
    again: bool = False


def spacing(tier: PollTier, poll_interval: float) -> float:
    """Seconds between two looks at a job, if the budget allows."""
    return min(tier * poll_interval, max(poll_interval, LONGEST[tier]))


def tier(activity: JobActivity, now: float, poll_interval: float) -> PollTier:
    """How often a job shall be asked now."""
    if activity.open:
        return PollTier.FAST
    if activity.enabled is False:
        return PollTier.SLOW
    since = float("inf") if activity.last_start is None else now - activity.last_start
    near = has_tick(activity.schedule, now - spacing(PollTier.SLOW, poll_interval), now + poll_interval)
    if near is None:
        return PollTier.NORMAL if since < IDLE else PollTier.SLOW
    return PollTier.NORMAL if near or since < RECENT else PollTier.SLOW


def has_tick(schedule: Schedule, start: float, end: float) -> bool | None:
    """Whether a schedule names an instant in this stretch; None if there is none, or it is not understood."""
    try:
        parsed = parse_schedule(schedule.expression, schedule.timezone)
    except ValueError:
        return None
    tick = None if parsed.every else next_tick(parsed, start)
    return None if tick is None else tick <= end


def overdue_ratio(asked: float | None, now: float, tier: PollTier, poll_interval: float) -> float:
    """How long a job has waited, in parts of its spacing; infinite if it was never asked, or only by a wrong clock."""
    return float("inf") if asked is None or asked > now else (now - asked) / spacing(tier, poll_interval)


def should_ask(asked: float | None, now: float, tier: PollTier, poll_interval: float) -> bool:
    """Whether a job shall be asked in this poll: at the next one it would have waited for too long."""
    return asked is None or asked > now or now - asked >= spacing(tier, poll_interval) - poll_interval


def is_due(due: float, now: float, longest: float) -> bool:
    """Whether an instant has come that was set to `longest` seconds ahead at most: else a wrong clock has set it."""
    return not now < due <= now + longest


def ordered(turns: Iterable[ScheduledRequest[Ask]]) -> Iterator[Ask]:
    """What is begun, then the open ones mixed with the others, each kind the latest first.

    While some were never asked, every second turn is one of theirs.
    """
    given = list(turns)
    due = sorted((turn for turn in given if turn.due), key=lambda turn: -turn.late)
    begun = [turn.ask for turn in due if turn.begun]
    fast = [turn.ask for turn in due if turn.tier is PollTier.FAST and not turn.begun]
    others = [turn.ask for turn in due if turn.tier is not PollTier.FAST and not turn.begun]
    unread = any(math.isinf(turn.late) for turn in due)
    yield from begun
    yield from interleaved(fast, others, 1 if unread else FAST_SHARE)
    yield from (turn.ask for turn in given if turn.again and not turn.due)


def interleaved(fast: Sequence[Ask], others: Sequence[Ask], share: int) -> Iterator[Ask]:
    """The fast ones, one of the others after each `share` of them, and then the rest of the others."""
    rest = iter(others)
    for number, ask in enumerate(fast, start=1):
        yield ask
        if number % share == 0:
            yield from islice(rest, 1)
    yield from rest


def round_seconds(tiers: Iterable[PollTier], poll_interval: float, requests_per_minute: float) -> float:
    """Seconds in which every job is asked once, as the budget allows."""
    counted = list(tiers)
    if not counted:
        return 0.0
    supply = max(1.0, TIME_SHARE * requests_per_minute * poll_interval / 60)
    fast = counted.count(PollTier.FAST)
    for_others = max(supply - fast, supply / (1 + FAST_SHARE))
    others = [spacing(tier, poll_interval) for tier in counted if tier is not PollTier.FAST]
    demand = sum(poll_interval / seconds for seconds in others)
    slowest = max(others, default=poll_interval) * max(1.0, demand / for_others)
    if len(others) < len(counted) and others:
        supply -= supply / (1 + FAST_SHARE)
    return max(slowest, poll_interval * fast / supply)
