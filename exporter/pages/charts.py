"""Computes the charts of a run and of a job's recent runs. Templates draw them. Pure functions."""

from collections.abc import Mapping, Sequence

import msgspec

from exporter.model import FAILING
from exporter.pages.formatting import plural, tone
from exporter.queries.records import RECENT, CompletedRun, StepReport

# --- recent runs of a job, a bar for each ---

BAR_WIDTH = 4
BAR_DISTANCE = 6
"""Pixels from the start of one bar to the start of the next."""
HEIGHT = 22
TOP = 5
"""Pixels above the highest bar for the marks of failed runs."""
MIN_HEIGHT = 3


class Sparkline(msgspec.Struct, frozen=True, kw_only=True):
    """One SVG path per tone, with bars from the oldest to the latest run. `label`: the chart in words."""

    good: str
    bad: str
    calm: str
    label: str
    width: int = RECENT * BAR_DISTANCE - (BAR_DISTANCE - BAR_WIDTH)
    height: int = HEIGHT


def sparkline(runs: Sequence[CompletedRun]) -> Sparkline:
    """Return the chart of runs, oldest first. If there are more than RECENT, the latest are shown.

    A bar's height is the run's duration; failed runs have a mark above the bar.
    """
    # A path per tone instead of an element per run keeps a page of 500 jobs small.
    paths = {"good": "", "bad": "", "calm": ""}
    shown = runs[-RECENT:]
    longest = max((run.duration or 0.0 for run in shown), default=0.0) or 1.0
    for number, run in enumerate(shown, RECENT - len(shown)):
        x, height = number * BAR_DISTANCE, round((HEIGHT - TOP - MIN_HEIGHT) * (run.duration or 0.0) / longest)
        mark = f"M{x} 0h{BAR_WIDTH}l-{BAR_WIDTH // 2} 3z" if run.result in FAILING else ""
        paths[tone(run.result)] += f"M{x} {HEIGHT}v-{MIN_HEIGHT + height}h{BAR_WIDTH}v{MIN_HEIGHT + height}z{mark}"
    failing = sum(run.result in FAILING for run in shown)
    return Sparkline(
        good=paths["good"],
        bad=paths["bad"],
        calm=paths["calm"],
        label=f"{plural(len(shown), 'recent run')}, {failing or 'none'} failed" if shown else "no runs yet",
    )


# --- dependencies of steps, a graph ---

BOX_WIDTH, BOX_HEIGHT = 168, 40
GAP_X, GAP_Y = 44, 14
MARGIN = 6
MAX_STEPS = 150
"""Maximum number of steps in a graph. Larger graphs are not readable."""
MAX_CHARACTERS = 19
"""Maximum number of characters in a box."""


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """A step in the graph. `text`: its name, truncated to the width of the box."""

    step: StepReport
    text: str
    x: int
    y: int


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """Boxes, and SVG paths of the lines between them."""

    boxes: tuple[Box, ...]
    lines: tuple[str, ...]
    width: int
    height: int


def graph(steps: Sequence[StepReport]) -> Graph | None:
    """Return the graph of steps; None if there are too many steps, or no dependencies."""
    by_name = {step.name: step for step in steps[:MAX_STEPS]}
    if len(steps) > MAX_STEPS or not any(name in by_name for step in steps for name in step.dependencies):
        return None
    boxes = _boxes(by_name)
    pairs = [(name, box) for box in boxes.values() for name in box.step.dependencies if name != box.step.name]
    return Graph(
        boxes=tuple(boxes.values()),
        lines=tuple(_line(boxes[name], box) for name, box in pairs if name in boxes),
        width=max(box.x for box in boxes.values()) + BOX_WIDTH + MARGIN,
        height=max(box.y for box in boxes.values()) + BOX_HEIGHT + MARGIN,
    )


def _columns(by_name: Mapping[str, StepReport]) -> Mapping[str, int]:
    """Return each step's column, which is to the right of all its dependencies. One dependency per cycle is ignored."""
    # Recursion would overflow Python's stack in a long chain of dependencies.
    found: dict[str, int] = {}
    for first in by_name:
        waiting, visited = [first], set()
        while waiting:
            name = waiting[-1]
            needs = [need for need in by_name[name].dependencies if need in by_name]
            visited.add(name)
            # If a dependency was visited but has no column yet, it also depends on this step, so there is a cycle.
            new = [need for need in needs if need not in found and need not in visited]
            if new and name not in found:
                waiting += new
                continue
            found.setdefault(name, 1 + max((found[need] for need in needs if need in found), default=-1))
            waiting.pop()
    return found


def _boxes(by_name: Mapping[str, StepReport]) -> dict[str, Box]:
    columns, rows, boxes = _columns(by_name), dict.fromkeys(range(MAX_STEPS), 0), {}
    for name, step in by_name.items():
        column = columns[name]
        boxes[name] = Box(
            step=step,
            text=name if len(name) <= MAX_CHARACTERS else f"{name[: MAX_CHARACTERS - 1]}…",
            x=MARGIN + column * (BOX_WIDTH + GAP_X),
            y=MARGIN + rows[column] * (BOX_HEIGHT + GAP_Y),
        )
        rows[column] += 1
    return boxes


def _line(before: Box, after: Box) -> str:
    # From the right side of one box to the left side of the other. Only the part in the last gap is curved.
    x1, y1 = before.x + BOX_WIDTH, before.y + BOX_HEIGHT // 2
    x2, y2 = after.x, after.y + BOX_HEIGHT // 2
    middle = x2 - GAP_X // 2
    return f"M{x1} {y1}H{x2 - GAP_X}C{middle} {y1} {middle} {y2} {x2} {y2}"


# --- times of steps, a Gantt chart ---

AXIS = 1000.0
"""Length of the time axis in units of the SVG."""
MIN_LENGTH = 4.0
"""Minimum length of a bar, so that it stays visible."""


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """The bar of a step.

    Attributes:
        usual: Where the bar usually ends; None if this is unknown or beyond the axis.
        offset: Seconds from the start of the axis to the bar.
    """

    x: float
    width: float
    usual: float | None
    offset: float


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
        placed, spans = "exact", [_exact_span(step, begin, now) for step in steps]
    else:
        placed = "derived" if any(step.dependencies for step in steps) else ""
        spans = _derived_spans(steps)
    length = max((end for _, end in filter(None, spans)), default=0.0)
    bars = tuple(span and _bar(step, span, length) for step, span in zip(steps, spans, strict=True))
    return Timeline(bars=bars, length=length, placed=placed)


def _derived_spans(steps: Sequence[StepReport]) -> list[Span | None]:
    # A step starts when the last of its dependencies ends.
    by_name = {step.name: step for step in steps}
    ends: dict[str, float] = {}

    def begin(step: StepReport) -> float:
        return max((ends[name] for name in step.dependencies if name in ends and name != step.name), default=0.0)

    for name, _ in sorted(_columns(by_name).items(), key=lambda item: item[1]):
        ends[name] = begin(by_name[name]) + (by_name[name].duration or 0.0)
    return [None if step.duration is None else (begin(step), begin(step) + step.duration) for step in steps]


def _exact_span(step: StepReport, begin: float, now: float) -> Span | None:
    if step.start is None:
        return None
    if step.end is not None:
        end = step.end
    elif step.duration is not None:
        end = step.start + step.duration
    else:  # an active step, or a completed one of unknown length
        end = now if step.result is None else step.start
    return step.start - begin, max(step.start, end) - begin


def _bar(step: StepReport, span: Span, length: float) -> Bar:
    begin, end = span
    scale = AXIS / length if length > 0 else 0.0
    usual = None if step.usual is None else round((begin + step.usual) * scale, 1)
    return Bar(
        x=round(min(begin * scale, AXIS - MIN_LENGTH), 1),
        width=round(max(MIN_LENGTH, (end - begin) * scale), 1),
        usual=usual if usual is not None and usual <= AXIS else None,
        offset=begin,
    )
