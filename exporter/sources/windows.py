"""Computes the time windows that a poll reads, from the clock, the watermark and the API's limits, without I/O."""

import math
from collections.abc import Iterator

import msgspec

from exporter.config.source import SourceSettings
from exporter.model import Window
from exporter.sources.view import View

# Seconds by which the estimate of the API's clock may be wrong. Every window ends this long before the estimate.
CLOCK_MARGIN = 5.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of one poll, oldest first.

    Attributes:
        windows: Windows to read.
        unobserved: Time that the API no longer shows, and that no poll has read.
        through: Time up to which all runs are read after the last window.
    """

    windows: tuple[Window, ...]
    unobserved: Window | None = None
    through: float

    def through_after(self, window: Window) -> float:
        """Return the time up to which all runs are read after this window."""
        return min(window.end, self.through)


def plan_poll(view: View, settings: SourceSettings, scope: str = "", *, api: float, maximum: float) -> Plan:
    """Return the windows of a scope that this poll reads. For `api` and `maximum`, see `plan`."""
    sweep = settings.sweep.window if view.sweep_due and settings.sweep else None
    return plan(view.now, view.watermark(scope), settings, api=api, maximum=maximum, sweep=sweep)


def plan(  # noqa: PLR0913  # all that decides about windows
    now: float,
    watermark: float | None,
    settings: SourceSettings,
    *,
    api: float,
    maximum: float,
    sweep: float | None = None,
) -> Plan:
    """Return the windows to read now.

    Args:
        now: The current time by the API's clock. The API refuses windows that end later.
        watermark: Time up to which all runs were read; None at the first poll, which reads all that the API shows.
        settings: How far back a poll reads after downtime and before the watermark, and how far it stays behind.
        api: How far back the API shows runs, in seconds.
        maximum: The longest window that the API accepts, in seconds.
        sweep: Length of the sweep window in seconds; None if this poll does not sweep.
    """
    end = math.floor(now - CLOCK_MARGIN)
    horizon = math.ceil(now - api)
    floor = horizon if watermark is None else max(horizon, math.ceil(now - settings.lookback))
    # A watermark in the future was set by a wrong clock, so it is ignored.
    if watermark is None or watermark > now:
        start: float = floor
    else:
        start = watermark - settings.overlap
        if sweep is not None:
            start = min(start, now - sweep)
        start = max(math.floor(start), floor)
    start = max(min(start, end - 1), horizon)
    lost = Window(watermark, floor) if watermark is not None and watermark < floor else None
    windows = tuple(split(Window(start, end), maximum))
    return Plan(windows=windows, unobserved=lost, through=end - settings.settle)


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
