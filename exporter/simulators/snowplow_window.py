"""Checks Snowplow's parameters `from` and `to`, and trims responses as Snowplow does."""

import heapq
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain

from exporter.model import Window
from exporter.simulators.message import Refused
from exporter.simulators.response_view import Seen
from exporter.simulators.world import SimRun

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
DURATION = re.compile(r"([+-]?)P(?:([+-]?\d+)D)?(?:T(?:([+-]?\d+)H)?(?:([+-]?\d+)M)?(?:([+-]?\d+(?:\.\d+)?)S)?)?")


def asked_window(query: Mapping[str, str], now: float) -> Window:
    """Return the window of `from` and `to`. Raises Refused 400 if one is missing, unreadable, or of another kind."""
    values = [query.get(name) or "" for name in ("from", "to")]
    if not all(values):
        raise Refused(400, "from and to are required")
    if all(TIMESTAMP.fullmatch(value) for value in values):
        return Window(*(_time(value) for value in values))
    if all(DURATION.fullmatch(value) for value in values):
        return Window(*(now + _seconds(value) for value in values))
    raise Refused(400, "from and to must both be timestamps (2020-12-02T03:40:00Z) or both durations (PT-12H)")


def events(run: SimRun) -> list[float]:
    """Return the times of a run's state changes: 3 of the run, one per group of steps of equal depth, one per step."""
    depths: dict[str, int] = {}
    groups: dict[int, float] = {}
    ends = []
    for step in run.steps:
        depth = depths[step.name] = 1 + max((depths[parent] for parent in step.dependencies), default=0)
        begin = step.start if step.start is not None else step.end
        if begin is not None:
            groups[depth] = min(begin, groups.get(depth, begin))
        if step.end is not None:
            ends.append(step.end)
    own = (run.created, run.start) if run.end is None else (run.created, run.start, run.end)
    return [*own, *groups.values(), *ends]


def survivors(seen: Sequence[Seen], limit: int, within: Window | None = None) -> list[Seen]:
    """Return the runs that have one of the latest `limit` events. Later events than the time shown do not count.

    `within`: count only events in this window, and omit runs without such an event.
    """
    if within is None and sum(3 + 2 * len(one.run.steps) for one in seen) <= limit:
        return list(seen)
    counted = [
        [
            (event, place)
            for event in events(run)
            if event <= now and (within is None or within.start <= event < within.end)
        ]
        for place, (run, now) in enumerate(seen)
    ]
    kept = {place for _, place in heapq.nlargest(limit, chain.from_iterable(counted))}
    return [one for place, one in enumerate(seen) if place in kept]


def _time(text: str) -> float:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise Refused(400, "no such time") from error


def _seconds(text: str) -> float:
    found = DURATION.fullmatch(text)
    sign, *parts = found.groups() if found else ("", "", "", "", "")
    total = sum(float(part or 0) * unit for part, unit in zip(parts, (86400.0, 3600.0, 60.0, 1.0), strict=True))
    return -total if sign == "-" else total
