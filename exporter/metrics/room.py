"""Computes how many series of a job count against `metrics.max_series`, including those that it will probably get."""

import functools
from collections.abc import Collection, Sequence

from exporter.counting.labels import OTHER
from exporter.counting.names import (
    ERRORS,
    QUEUE_DURATION,
    RECOVERED,
    RETRIED,
    ROOT_FAILURES,
    RUN_DURATION,
    RUNS,
    STEP_DURATION,
    STEPS,
)
from exporter.metrics.families import FAMILIES
from exporter.metrics.family import Level
from exporter.model import Result, State
from exporter.snapshot.job import JobView

EXPECTED_RESULTS = (Result.SUCCESS, Result.FAILURE)
"""Results that every job is expected to have. Histograms of their durations count before the first such run."""


def bucket_lines(family: str, bounds: Sequence[float], excluded: Collection[str]) -> int:
    """Return the number of lines of a histogram series: one per bound, and three for +Inf, sum and count."""
    return 0 if family in excluded else len(bounds) + 3


def step_counters(excluded: Collection[str]) -> int:
    """Return the number of counter series of a new step: successes, failures and root failures."""
    return sum(family not in excluded for family in (STEPS, STEPS, ROOT_FAILURES))


def series_needed(
    view: JobView, run_buckets: Sequence[float], step_buckets: Sequence[float], excluded: frozenset[str]
) -> int:
    """Return how many series a job has or is expected to have. Each line of a histogram counts as one.

    `excluded`: families that are not served, and so need no room.
    """
    # Series that will probably follow count before the first run: gauges, durations of EXPECTED_RESULTS, and the labels
    # `__other__` of steps and error types. So a job with its own series never lacks room for them.
    if not view.counted:
        return 0
    counts, distributions = view.state.counts, view.state.distributions
    durations = {*distributions.get(RUN_DURATION, ()), *EXPECTED_RESULTS}
    needed = len(durations) * bucket_lines(RUN_DURATION, run_buckets, excluded)
    needed += len(distributions.get(QUEUE_DURATION, ())) * bucket_lines(QUEUE_DURATION, run_buckets, excluded)
    needed += sum(len(series) for family, series in counts.items() if family not in excluded)
    needed += ERRORS not in excluded and OTHER not in counts.get(ERRORS, ())
    has_steps = view.has_steps and view.state.job.has_steps
    if has_steps:
        steps = view.state.step_names()
        missing = OTHER not in steps
        step_lines = bucket_lines(STEP_DURATION, step_buckets, excluded) * view.step_histograms
        needed += step_counters(excluded) * missing + (len(steps) + missing) * step_lines
    results = len(view.results)
    return needed + (_gauges(results, results * has_steps, excluded) if view.gauged else 0)


def overflow_room(
    results: Sequence[Result],
    run_buckets: Sequence[float],
    step_buckets: Sequence[float] | None,
    *,
    has_attempts: bool,
    excluded: Collection[str],
) -> int:
    """Return the maximum number of series of a source's `__other__` job.

    Args:
        results: Results that the source can produce.
        run_buckets: Bounds of histograms of runs.
        step_buckets: Bounds of histograms of steps; None if the source has no steps.
        has_attempts: Whether it has counters of attempts.
        excluded: Families that are not served, and so need no room.
    """
    counted = len({*results, Result.UNKNOWN})
    of_runs = len(run_buckets) + 3
    room = {RUNS: counted, ERRORS: 1, RUN_DURATION: counted * of_runs, QUEUE_DURATION: of_runs}
    if has_attempts:
        room |= {RETRIED: 1, RECOVERED: 1}
    if step_buckets is not None:
        room |= {STEPS: counted, ROOT_FAILURES: 1, STEP_DURATION: len(step_buckets) + 3}
    return sum(series for family, series in room.items() if family not in excluded)


@functools.lru_cache(maxsize=256)
def _gauges(results: int, step_results: int, excluded: frozenset[str]) -> int:
    """Return the maximum number of a job's gauges. `results`, `step_results`: numbers of possible results."""
    # Each label not listed here has one value.
    values = {"state": len(State), "status": results, "result": step_results, "expectation": 3}
    return sum(
        values.get(family.labels[0], 1) if family.labels else 1
        for family in FAMILIES
        if family.level is Level.JOB and family.samples and family.name not in excluded
    )
