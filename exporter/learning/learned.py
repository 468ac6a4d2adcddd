"""Learns the cadence, freshness and duration budget of a job from its past runs: pure functions."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import msgspec

from exporter.learning.cadence import MINUTE, NEAR, Cadence, cadence, typical_maximum
from exporter.model import PastRun, Result

MIN_RUNS = 10
"""Minimum number of successful runs from which a duration budget is learned."""

MAX_RUNS = 50
"""Number of successful runs, the latest ones, from which a duration budget is learned."""


class Learned(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Values learned about a job. A value is None if too little is known.

    Attributes:
        cadence: When it usually starts.
        freshness: Maximum usual age of its last success, in seconds.
        duration_budget: Maximum usual duration of a run, in seconds.
        at: When it was learned.
        last_run: ID of the job's last completed run at that time.
    """

    cadence: Cadence | None = None
    freshness: float | None = None
    duration_budget: float | None = None
    at: float | None = None
    last_run: str = ""


NOTHING = Learned()


def learn(runs: Sequence[PastRun], activity: Sequence[float] = ()) -> Learned:
    """Learn from a job's latest runs, given in any order. `activity`: see `cadence`."""
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
    """Return the duration budget in seconds, given durations of successful runs, oldest first."""
    latest = durations[-MAX_RUNS:]
    if len(latest) < MIN_RUNS:
        return None
    usual = median(latest)
    return _whole_minutes(max(1.5 * typical_maximum(latest), 2 * usual, usual + 5 * MINUTE))


def freshness(found: Cadence, budget: float | None, ends: Sequence[float]) -> float:
    """Return the maximum age of the last success. It allows two consecutive failures, or more if more are usual.

    Args:
        found: The cadence of the job.
        budget: The duration budget.
        ends: Ends of successful runs, sorted.
    """
    gaps = [after - before for before, after in pairwise(ends)]
    usual = 1.1 * typical_maximum(gaps) if gaps else 0.0
    by_cadence = 2 * found.longest + max(found.patience, NEAR)
    return _whole_minutes(max(by_cadence, usual) + (budget or 0.0))


def _whole_minutes(seconds: float) -> float:
    """Return the seconds rounded up to whole minutes, so that the value does not change all the time."""
    return math.ceil(seconds / MINUTE) * MINUTE
