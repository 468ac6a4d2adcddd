"""Adds a completed run and its steps to the counters and histograms of a job."""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from exporter.counting.classify import RunRecord
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
from exporter.counting.records import JobState
from exporter.counting.series import Exemplar
from exporter.model import FAILING, Result, Run, Step

MAX_ERROR_TYPES = 50
"""Maximum number of error types per job. Further ones are counted under `__other__`."""


class CountingRules(msgspec.Struct, frozen=True, kw_only=True):
    """How runs and steps are counted.

    Attributes:
        step_buckets: Bounds of step durations, in seconds.
        step_histograms: Whether step durations are counted.
        zero_first: Whether new series are exposed as 0 first.
        excluded: Families that are counted but not served.
    """

    step_buckets: tuple[float, ...]
    step_histograms: bool = True
    zero_first: bool = True
    excluded: frozenset[str] = frozenset()


def seed(job: JobState, results: Collection[Result], *, has_attempts: bool) -> None:
    """Create, at 0, the series that each job has before its first run."""
    for result in results:
        job.count(RUNS, result, amount=0)
    if has_attempts:
        job.count(RETRIED, amount=0)
        job.count(RECOVERED, amount=0)


def count_completion(job: JobState, run: Run, *, has_attempts: bool) -> None:
    """Add one completed run to a job's counters."""
    result = run.result or Result.UNKNOWN
    exemplar = None if run.end is None else Exemplar(run.run_id, 1.0, run.end)
    counter = job.count(RUNS, result)
    if exemplar and (counter.exemplar is None or counter.exemplar.timestamp <= exemplar.timestamp):
        counter.exemplar = exemplar
    if has_attempts:
        job.count(RETRIED, amount=run.retries)
        job.count(RECOVERED, amount=int(run.recovered))
    if result in FAILING and run.error_type:
        job.count(ERRORS, bounded_error_type(job, run.error_type))


def count_expired(job: JobState) -> None:
    """Add one expired run to a job's counters, as `unknown` and without a duration."""
    job.count(RUNS, Result.UNKNOWN)


def as_counted(record: RunRecord, error_type: str) -> Run:
    """Return a completed run as it is counted: with the label of its error type, and without a wrong queue time."""
    if not record.earlier and record.run.error_type == error_type:
        return record.run
    # The queue time of a reopened run is wrong: it is measured from before the first completion.
    queue_duration = None if record.earlier else record.run.queue_duration
    return msgspec.structs.replace(record.run, error_type=error_type, queue_duration=queue_duration)


def observe_duration(job: JobState, run: Run, bounds: Sequence[float]) -> None:
    """Add the duration of a run to a job's histogram."""
    result, duration = run.result or Result.UNKNOWN, run.duration or 0.0
    exemplar = None if run.end is None else Exemplar(run.run_id, duration, run.end)
    durations = job.distribution(RUN_DURATION, result, bounds=bounds)
    durations.observe(duration, exemplar)


def observe_queue(job: JobState, run: Run, bounds: Sequence[float]) -> None:
    """Add the queue time of a run to a job's histogram."""
    queue = job.distribution(QUEUE_DURATION, bounds=bounds)
    queue.observe(run.queue_duration or 0.0)


def bounded_error_type(job: JobState, error_type: str) -> str:
    """Return the error type, or `__other__` if the job has too many."""
    known = job.counts.get(ERRORS, {})
    return error_type if error_type in known or len(known) < MAX_ERROR_TYPES else OTHER


def count_steps(
    job: JobState, steps: Sequence[Step], labels: Mapping[str, str], bounds: Sequence[float] | None
) -> None:
    """Add the steps of one counted run to a job's counters and histograms.

    Args:
        job: The job's record.
        steps: The steps of the run.
        labels: The label of each step by name: the name itself, or `__other__`.
        bounds: Bounds of step durations; None if these are not counted.
    """
    for step in steps:
        label = labels[step.name]
        seed_step(job, label)
        job.count(STEPS, label, step.result or Result.UNKNOWN)
        if bounds is not None and step.duration is not None and step.result is not None:
            durations = job.distribution(STEP_DURATION, label, bounds=bounds)
            durations.observe(step.duration)
    root = root_failure(steps)
    if root:
        job.count(ROOT_FAILURES, labels[root])


def seed_step(job: JobState, name: str) -> None:
    """Create, at 0, the series that each known step has."""
    for result in (Result.SUCCESS, Result.FAILURE):
        job.count(STEPS, name, result, amount=0)
    job.count(ROOT_FAILURES, name, amount=0)


def root_failure(steps: Sequence[Step]) -> str:
    """Return the name of the step that failed first, or "" if no step failed."""
    # A step that depends on a failed step fails as a consequence. Of the other failed steps, the one that ended first
    # is the root failure. If no end is known, it is the first in the vendor's order.
    by_name = {step.name: step for step in steps}
    roots = [step for step in steps if step.result in FAILING and not _has_failed_ancestor(step, by_name)]
    if not roots:
        return next((step.name for step in steps if step.result in FAILING), "")
    return min(roots, key=lambda step: float("inf") if step.end is None else step.end).name


def _has_failed_ancestor(step: Step, by_name: dict[str, Step]) -> bool:
    """Return whether a step that this one depends on has failed. Dependencies may be circular."""
    to_visit, seen = list(step.dependencies), {step.name}
    while to_visit:
        name = to_visit.pop()
        if name in seen or name not in by_name:
            continue
        seen.add(name)
        if by_name[name].result in FAILING:
            return True
        to_visit.extend(by_name[name].dependencies)
    return False
