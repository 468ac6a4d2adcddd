"""Which stretches of time a poll reads: pure functions of the clock, the watermark and the API's limits."""

import math
from collections.abc import Iterator

import msgspec

from exporter.model import Window

CLOCK_MARGIN = 5.0
"""Seconds by which our idea of the API's clock may be wrong: no window ends later than so long ago."""


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """What an API that is read by windows allows and what the configuration asks, all in seconds.

    Attributes:
        api: How far back the API shows anything.
        margin: Taken off `api`, so that the oldest instant is not refused while the request is on its way.
        maximum: The longest window.
        lookback: How far back catching up goes.
        overlap: How much before the watermark is read again by every poll.
        settle: What is younger than this is not yet taken as complete.
    """

    api: float
    margin: float
    maximum: float
    lookback: float
    overlap: float
    settle: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of one poll, oldest first, and the stretch that can be read no more."""

    windows: tuple[Window, ...]
    unobserved: Window | None = None
    through: float

    def proves(self, window: Window) -> float:
        """Up to which instant all is read once this window is."""
        return min(window.end, self.through)


def plan(now: float, watermark: float | None, reach: Reach, *, sweep: float | None = None) -> Plan:
    """The windows to read now.

    Args:
        now: The API's present, as far as it is known; a window that ended after it would be refused.
        watermark: Up to where everything has been read; None at the first start, which reads the API's whole reach.
            One that lies in the future was set by a clock that was ahead: nothing is known to be read then.
        reach: The limits.
        sweep: The length of the sweep window if this poll sweeps, else None.
    """
    end = math.floor(now - CLOCK_MARGIN)
    horizon = math.ceil(now - reach.api + reach.margin)
    floor = horizon if watermark is None else max(horizon, math.ceil(now - reach.lookback))
    if watermark is None or watermark > now:
        start: float = floor
    else:
        start = watermark - reach.overlap
        if sweep is not None:
            start = min(start, now - sweep)
        start = max(math.floor(start), floor)
    start = max(min(start, end - 1), horizon)
    lost = Window(watermark, floor) if watermark is not None and watermark < floor else None
    return Plan(
        windows=tuple(split(Window(start, end), reach.maximum)),
        unobserved=lost,
        through=end - reach.settle,
    )


def split(window: Window, maximum: float) -> Iterator[Window]:
    """Consecutive parts of at most `maximum` seconds, oldest first."""
    start = window.start
    while window.end - start > maximum:
        yield Window(start, start + maximum)
        start += maximum
    yield Window(start, window.end)


def halves(window: Window) -> tuple[Window, Window] | None:
    """The two halves at a whole second; None for a window of one second, which cannot be halved."""
    middle = window.start + (window.length // 2)
    if middle <= window.start:
        return None
    return Window(window.start, middle), Window(middle, window.end)
