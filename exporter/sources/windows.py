"""Windows of time that a poll reads: pure functions of the clock, the watermark and the API's limits."""

import math
from collections.abc import Iterator

import msgspec

from exporter.config.source import SourceSettings
from exporter.model import Window
from exporter.sources.source import View

# Seconds by which our estimate of the API's clock may be wrong; every window ends at least this long ago.
CLOCK_MARGIN = 5.0


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of an API that is read by windows, and those of the config, all in seconds.

    Attributes:
        api: How far back the API shows anything.
        margin: Taken off `api`, so that the oldest time is still accepted when the request arrives.
        maximum: The longest window.
        lookback: How far back a poll catches up.
        overlap: How much before the watermark every poll reads again.
        settle: Anything younger than this does not count as complete.
    """

    api: float
    margin: float
    maximum: float
    lookback: float
    overlap: float
    settle: float


def reach_of(settings: SourceSettings, *, api: float, maximum: float, margin: float = 0.0) -> Reach:
    """Return the limits of an API and those of a source's config."""
    lookback, overlap, settle = settings.lookback, settings.overlap, settings.settle
    return Reach(api=api, margin=margin, maximum=maximum, lookback=lookback, overlap=overlap, settle=settle)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of one poll, oldest first, and the one that can no longer be read."""

    windows: tuple[Window, ...]
    unobserved: Window | None = None
    through: float

    def proves(self, window: Window) -> float:
        """Return the time up to which everything is read once this window is."""
        return min(window.end, self.through)


def plan(now: float, watermark: float | None, reach: Reach, *, sweep: float | None = None) -> Plan:
    """Return the windows to read now.

    Args:
        now: The current time by the API's clock; a window that ends later would be refused.
        watermark: Up to where everything has been read; None at the first start, which reads the API's whole reach.
        reach: The limits.
        sweep: The length of the sweep window if this poll sweeps, else None.
    """
    end = math.floor(now - CLOCK_MARGIN)
    horizon = math.ceil(now - reach.api + reach.margin)
    floor = horizon if watermark is None else max(horizon, math.ceil(now - reach.lookback))
    # A watermark in the future was set by a wrong clock and proves nothing.
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


def plan_poll(view: View, settings: SourceSettings, reach: Reach, scope: str = "") -> Plan:
    """Return the windows of a scope that a poll reads; those of a sweep are longer."""
    sweep = settings.sweep.window if view.sweep_due and settings.sweep else None
    return plan(view.now, view.watermark(scope), reach, sweep=sweep)


def split(window: Window, maximum: float) -> Iterator[Window]:
    """Yield consecutive parts of at most `maximum` seconds, oldest first."""
    start = window.start
    while window.end - start > maximum:
        yield Window(start, start + maximum)
        start += maximum
    yield Window(start, window.end)


def halves(window: Window) -> tuple[Window, Window] | None:
    """Return the two halves, split at a whole second; None for a window of one second."""
    middle = window.start + (window.length // 2)
    if middle <= window.start:
        return None
    return Window(window.start, middle), Window(middle, window.end)
