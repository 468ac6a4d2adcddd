"""Computes a Gantt chart of a run's steps. A template draws it. Pure functions."""

from collections.abc import Mapping, Sequence

import msgspec

from exporter.pages.graph import columns
from exporter.queries.records import StepReport

WIDTH = 1000.0
"""Length of the time axis in units of the SVG."""
MIN_WIDTH = 4.0
"""Minimum width of a bar, so that it stays visible."""


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """The bar of a step.

    Attributes:
        usual: Where the bar usually ends; None if this is unknown or beyond the axis.
        offset: Seconds from the start of the axis to the bar.
    """

    x: float
    width: float
    usual: float | None = None
    offset: float | None = None


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """The chart.

    Attributes:
        bars: The bar of each step; None for a step without a duration.
        length: Length of the axis in seconds.
        placed: `exact` if bars start when the vendor says; `derived` if they start when the step's dependencies end;
            "" if all start at 0.
    """

    bars: tuple[Bar | None, ...]
    length: float
    placed: str


Span = tuple[float, float]
"""Start and end, in seconds on the axis."""


def timeline(steps: Sequence[StepReport], start: float | None, now: float) -> Timeline:
    """Return the chart. `start`: start of the run. `now`: end of the bars of active steps."""
    # A vendor may report a step that started before its run.
    starts = [step.start for step in steps if step.start is not None]
    if starts:
        begin = min([*starts, start] if start is not None else starts)
        placed, spans = "exact", [_exact(step, begin, now) for step in steps]
    else:
        placed = "derived" if any(step.dependencies for step in steps) else ""
        spans = _derived(steps)
    length = max((end for _, end in filter(None, spans)), default=0.0)
    bars = tuple(_bar(step, span, length) for step, span in zip(steps, spans, strict=True))
    return Timeline(bars=bars, length=length, placed=placed)


def _derived(steps: Sequence[StepReport]) -> list[Span | None]:
    # A step starts when the last of its dependencies ends.
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
    if step.end is not None:
        end = step.end
    elif step.duration is not None:
        end = step.start + step.duration
    else:  # an active step, or a completed one of unknown length
        end = now if step.result is None else step.start
    return step.start - begin, max(step.start, end) - begin


def _bar(step: StepReport, span: Span | None, length: float) -> Bar | None:
    if span is None:
        return None
    scale = WIDTH / length if length > 0 else 0.0
    begin, end = span
    width = max(MIN_WIDTH, (end - begin) * scale)
    usual = None if step.usual is None else (begin + step.usual) * scale
    return Bar(
        x=round(min(begin * scale, WIDTH - MIN_WIDTH), 1),
        width=round(width, 1),
        usual=round(usual, 1) if usual is not None and usual <= WIDTH else None,
        offset=begin,
    )
