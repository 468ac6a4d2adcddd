"""Computes the graph of a run's steps and their dependencies. A template draws it. Pure functions."""

from collections.abc import Mapping, Sequence

import msgspec

from exporter.queries.records import StepReport

BOX_WIDTH, BOX_HEIGHT = 168, 40
GAP_X, GAP_Y = 44, 14
MARGIN = 6
MAX_STEPS = 150
"""Maximum number of steps in a graph. Larger graphs are not readable."""
MAX_LETTERS = 19
"""Maximum number of letters in a box."""


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
    boxes = _boxes(by_name, columns(by_name))
    pairs = [(name, box) for box in boxes.values() for name in box.step.dependencies if name != box.step.name]
    return Graph(
        boxes=tuple(boxes.values()),
        lines=tuple(_line(boxes[name], box) for name, box in pairs if name in boxes),
        width=max(box.x for box in boxes.values()) + BOX_WIDTH + MARGIN,
        height=max(box.y for box in boxes.values()) + BOX_HEIGHT + MARGIN,
    )


def columns(by_name: Mapping[str, StepReport]) -> Mapping[str, int]:
    """Return the column of each step: it is to the right of all dependencies. One dependency per cycle is ignored."""
    # Recursion would overflow Python's stack in a long chain of dependencies.
    found: dict[str, int] = {}
    for first in by_name:
        waiting, path = [first], set()
        while waiting:
            name = waiting[-1]
            needs = [need for need in by_name[name].dependencies if need in by_name]
            path.add(name)
            # A dependency that is in `path` depends on this step: a cycle.
            new = [need for need in needs if need not in found and need not in path]
            if new and name not in found:
                waiting += new
                continue
            found.setdefault(name, 1 + max((found[need] for need in needs if need in found), default=-1))
            waiting.pop()
    return found


def _boxes(by_name: Mapping[str, StepReport], places: Mapping[str, int]) -> dict[str, Box]:
    rows: dict[int, int] = {}
    boxes = {}
    for name, step in by_name.items():
        column = places[name]
        row = rows[column] = rows.get(column, -1) + 1
        boxes[name] = Box(
            step=step,
            text=name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…",
            x=MARGIN + column * (BOX_WIDTH + GAP_X),
            y=MARGIN + row * (BOX_HEIGHT + GAP_Y),
        )
    return boxes


def _line(before: Box, after: Box) -> str:
    # From the right side of one box to the left side of the other. Only the part in the last gap is curved.
    x1, y1 = before.x + BOX_WIDTH, before.y + BOX_HEIGHT // 2
    x2, y2 = after.x, after.y + BOX_HEIGHT // 2
    middle = x2 - GAP_X // 2
    return f"M{x1} {y1}H{x2 - GAP_X}C{middle} {y1} {middle} {y2} {x2} {y2}"
