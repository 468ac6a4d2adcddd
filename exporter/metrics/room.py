"""Computes how many series of `metrics.max_series` a job uses: those that it has and those that are expected."""

import functools
from collections.abc import Sequence

from exporter.counting.labels import OTHER
from exporter.counting.records import JobState, LastFailure, LastRun
from exporter.metrics.families import ERRORS, FAMILIES, QUEUE_DURATION, RUN_DURATION
from exporter.metrics.family import Level
from exporter.model import Job, Result, State
from exporter.snapshot.job import JobView

EXPECTED_RESULTS = (Result.SUCCESS, Result.FAILURE)
"""Results for which each job is expected to have a histogram of durations."""

STEP_COUNTERS = 3
"""Counter series of a step from its first run on: successes, failures and root failures."""


def bucket_lines(bounds: Sequence[float]) -> int:
    """Return the number of lines of a histogram series: one per bound, and those of +Inf, sum and count."""
    return len(bounds) + 3


def series_needed(view: JobView, run_buckets: Sequence[float], step_buckets: Sequence[float]) -> int:
    """Return how many series a job has or is expected to have. Each line of a histogram counts as one."""
    # The series of a first completed run are counted from the start: gauges, durations of EXPECTED_RESULTS, and
    # `__other__` steps and error types. So a job that gets its own series can keep them.
    if not view.counted:
        return 0
    counts, distributions = view.state.counts, view.state.distributions
    durations = {*distributions.get(RUN_DURATION, ()), *EXPECTED_RESULTS}
    needed = len(durations) * bucket_lines(run_buckets)
    needed += len(distributions.get(QUEUE_DURATION, ())) * bucket_lines(run_buckets)
    needed += sum(map(len, counts.values())) + (OTHER not in counts.get(ERRORS, ()))
    if view.has_steps and view.state.job.has_steps:
        steps = view.state.step_names()
        missing = OTHER not in steps
        needed += STEP_COUNTERS * missing
        needed += (len(steps) + missing) * bucket_lines(step_buckets) * view.step_histograms
    return needed + (_gauges(view.results, view.has_steps and view.state.job.has_steps) if view.gauged else 0)


def overflow_room(results: Sequence[Result], lines: tuple[int, int], *, attempts: bool, step_histograms: bool) -> int:
    """Return the maximum number of series of a source's `__other__` job.

    Args:
        results: Results that the source can produce.
        lines: Lines of a histogram of runs and of a histogram of steps; 0 for steps if the source has none.
        attempts: Whether it has counters of attempts.
        step_histograms: Whether the durations of steps are observed.
    """
    of_runs, of_steps = lines
    counted = len({*results, Result.UNKNOWN})
    counters = counted + 2 * attempts + 1  # 1 for the error type
    histograms = (counted + 1) * of_runs  # 1 for queue durations
    return counters + histograms + ((counted + 1 + of_steps * step_histograms) if of_steps else 0)


@functools.lru_cache(maxsize=256)
def _gauges(results: tuple[Result, ...], has_steps: bool) -> int:  # noqa: FBT001  # the key of a cache
    """Return how many gauges a job has if everything usual is known about it."""
    ended = LastRun(run_id="r", result=Result.SUCCESS, order=0.0, start=0.0, end=0.0, duration=0.0)
    state = JobState(
        key=0,
        source="",
        job=Job(job_id="", name="", enabled=True, has_steps=has_steps),
        project="",
        name="",
        discovered=0.0,
        baseline=0.0,
        last_run=ended,
        last_failure=LastFailure(run_id="r", order=0.0, end=0.0),
        last_success=0.0,
        failing_since=0.0,
    )
    view = JobView(
        state=state,
        active={State.EXECUTING: (1, 0.0)},
        results=results,
        has_steps=has_steps,
        freshness=0.0,
        duration_budget=0.0,
        next_expected=0.0,
        learned=("next_run", "freshness", "duration_budget"),
    )
    # Computed once per type of source, because all its jobs have the same gauges.
    gauges = [family for family in FAMILIES if family.level is Level.JOB and family.samples is not None]
    return sum(1 for family in gauges for _ in (family.samples(view) if family.samples else ()))
