"""What can be expected of a job without an objective, learned from its past: pure functions."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import msgspec

from exporter.learning.cadence import MINUTE, NEAR, Cadence, cadence, typical_maximum
from exporter.model import PastRun, Result

ENOUGH = 10
"""Successful runs below which nothing is learned about durations."""

LATEST = 50
"""Latest successful runs from which it is known how long one takes."""


class Learned(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What was learned of a job; None where there is not enough to go by.

    Attributes:
        cadence: When it usually starts.
        freshness: Largest age that its last success usually has, in seconds.
        duration_budget: Seconds that a run may take.
        at: When it was learned.
        last_run: The run that had completed last then.
    """

    cadence: Cadence | None = None
    freshness: float | None = None
    duration_budget: float | None = None
    at: float | None = None
    last_run: str = ""


NOTHING = Learned()


def learn(runs: Sequence[PastRun], activity: Sequence[float] = ()) -> Learned:
    """Return what a job's latest runs teach, in any order. `activity`: see `cadence`."""
    found = cadence(sorted(run.start for run in runs if run.start is not None), activity)
    succeeded = sorted((run for run in runs if run.result is Result.SUCCESS), key=lambda run: run.end or 0.0)
    budget = duration_budget([run.duration for run in succeeded if run.duration is not None])
    ends = [run.end for run in succeeded if run.end is not None]
    return Learned(
        cadence=found,
        freshness=None if found is None or not ends else freshness(found, budget, ends),
        duration_budget=budget,
    )


def duration_budget(durations: Sequence[float]) -> float | None:
    """Return the seconds that a run may take, given how long successful runs took, oldest first."""
    latest = durations[-LATEST:]
    if len(latest) < ENOUGH:
        return None
    usual = median(latest)
    return _whole_minutes(max(1.5 * typical_maximum(latest), 2 * usual, usual + 5 * MINUTE))


def freshness(found: Cadence, budget: float | None, ends: Sequence[float]) -> float:
    """Return the largest age of the last success: two runs may fail in a row, or as many as usually do.

    Args:
        found: When the job starts.
        budget: How long a run may take.
        ends: Ends of successful runs, in order.
    """
    gaps = [after - before for before, after in pairwise(ends)]
    usual = 1.1 * typical_maximum(gaps) if gaps else 0.0
    by_cadence = 2 * found.longest + max(found.patience, NEAR)
    return _whole_minutes(max(by_cadence, usual) + (budget or 0.0))


def _whole_minutes(seconds: float) -> float:
    """Round up: a number that people read must not change all the time."""
    return math.ceil(seconds / MINUTE) * MINUTE
