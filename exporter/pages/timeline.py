"""Computes bars for the steps of a run on one time axis, which a template draws. Pure functions."""

from collections.abc import Mapping, Sequence

import msgspec

from exporter.pages.graph import columns
from exporter.queries.records import StepReport

WIDTH = 1000.0
"""Length of the axis in units of the SVG."""
MIN_WIDTH = 4.0
"""Minimum width of a bar, so that it stays visible."""


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """The bar of a step. `usual`: place where it usually ends; None if that is unknown or beyond the axis."""

    x: float
    width: float
    usual: float | None = None
    offset: float | None = None
    """Seconds from the start of the axis."""


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Bars of steps; None for a step without a duration.

    `placed`: `exact` if the vendor reports when steps started; `derived` if bars start as early as their dependencies
    allow; "" if all bars start at 0.
    """

    bars: tuple[Bar | None, ...]
    length: float
    placed: str


Span = tuple[float, float]
"""Start and end, in seconds on the axis."""


def timeline(steps: Sequence[StepReport], start: float | None, now: float) -> Timeline:
    """Return the bars of steps. `start`: start of the run. The bar of an active step ends at `now`."""
    # A run's reported start may be later than its first step's, so the axis starts at the earliest of them.
    starts = [step.start for step in steps if step.start is not None]
    if starts:
        begin = min([*starts, start] if start is not None else starts)
        placed, spans = "exact", [_exact(step, begin, now) for step in steps]
    else:
        placed = "derived" if any(step.dependencies for step in steps) else ""
        spans = _derived(steps)
    whole = max((end for _, end in filter(None, spans)), default=0.0)
    bars = tuple(_bar(step, span, whole) for step, span in zip(steps, spans, strict=True))
    return Timeline(bars=bars, length=whole, placed=placed)


def _derived(steps: Sequence[StepReport]) -> list[Span | None]:
    # Each step starts when the last of its dependencies has ended.
    by_name = {step.name: step for step in steps}
    ends: dict[str, float] = {}
    for name, _ in sorted(columns(by_name).items(), key=lambda item: item[1]):
        ends[name] = _begin(by_name[name], ends) + (by_name[name].duration or 0.0)
    begins = [_begin(step, ends) for step in steps]
    return [
        None if step.duration is None else (begin, begin + step.duration)
        for step, begin in zip(steps, begins, strict=True)
    ]


def _begin(step: StepReport, ends: Mapping[str, float]) -> float:
    return max((ends[name] for name in step.dependencies if name in ends and name != step.name), default=0.0)


def _exact(step: StepReport, begin: float, now: float) -> Span | None:
    if step.start is None:
        return None
    # A completed step without an end and a duration is a point.
    open_end = now if step.result is None else step.start
    end = step.end if step.end is not None else step.start + step.duration if step.duration is not None else open_end
    return step.start - begin, max(step.start, end) - begin


def _bar(step: StepReport, span: Span | None, whole: float) -> Bar | None:
    if span is None:
        return None
    scale = WIDTH / whole if whole > 0 else 0.0
    begin, end = span
    width = max(MIN_WIDTH, (end - begin) * scale)
    usual = None if step.usual is None else (begin + step.usual) * scale
    return Bar(
        x=round(min(begin * scale, WIDTH - MIN_WIDTH), 1),
        width=round(width, 1),
        usual=round(usual, 1) if usual is not None and usual <= WIDTH else None,
        offset=begin,
    )
