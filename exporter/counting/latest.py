"""Updates what gauges show of a job: its last run, last failure, last steps and streak."""

from collections.abc import Sequence

import msgspec

from exporter.counting.counters import root_failure
from exporter.counting.labels import clean
from exporter.counting.records import JobState, LastFailure, LastRun, LastSteps, oldest
from exporter.model import FAILING, Result, Run, Step


class Streak(msgspec.Struct, frozen=True, kw_only=True):
    """A job's streak, counted from its rows.

    Attributes:
        last_success: End of the last success.
        failures: Number of failed runs after it.
        since: End of the first of these failures.
    """

    last_success: float | None
    failures: int
    since: float | None


def add_completion(job: JobState, run: Run, seen: float) -> bool:
    """Update the last runs and the streak with a new completion. It may have ended before known ones.

    Return True if the streak must be recounted from the rows: the run is a success that ended before a known failure.
    `seen`: when the completion was first seen. It replaces an unknown end.
    """
    result = run.result or Result.UNKNOWN
    order = seen if run.end is None else run.end
    update_last_runs(job, run, seen)
    if result in FAILING and (job.last_success is None or order > job.last_success):
        job.streak += 1
        job.failing_since = order if job.failing_since is None else min(job.failing_since, order)
    if result is not Result.SUCCESS or (job.last_success is not None and order <= job.last_success):
        return False
    job.last_success = order
    before_failures = job.last_failure is not None and job.last_failure.order > order
    if not before_failures:
        job.streak, job.failing_since = 0, None
    return before_failures


def update_last_runs(job: JobState, run: Run, seen: float) -> None:
    """Update the last run and the last failure with a completed run that is new or has changed."""
    result, order = run.result or Result.UNKNOWN, seen if run.end is None else run.end
    if run.start is not None and (job.last_start is None or run.start > job.last_start):
        job.last_start = run.start
    if job.last_run is None or job.last_run.order <= order or job.last_run.run_id == run.run_id:
        job.last_run = as_last_run(run, order)
    last = job.last_failure
    if result in FAILING and (last is None or last.order <= order or last.run_id == run.run_id):
        step = last.failed_step if last and last.run_id == run.run_id else ""
        job.last_failure = as_last_failure(run, order, failed_step=step)


def as_last_run(run: Run, order: float) -> LastRun:
    """Return a run as the last run of its job. `order`: its end, or when its completion was first seen."""
    result = run.result or Result.UNKNOWN
    return LastRun(run_id=run.run_id, result=result, order=order, start=run.start, end=run.end, duration=run.duration)


def as_last_failure(run: Run, order: float, *, failed_step: str = "") -> LastFailure:
    """Return a run as the last failure of its job."""
    error_type = clean(run.error_type)
    return LastFailure(run_id=run.run_id, order=order, end=run.end, error_type=error_type, failed_step=failed_step)


def set_streak(job: JobState, streak: Streak, pruned_before: float | None) -> None:
    """Set a streak that was counted from rows. Rows from before `pruned_before` may be missing."""
    began = job.failing_since if job.last_success is None else job.last_success
    if streak.last_success is None and began is not None and _is_pruned(began, pruned_before):
        job.streak = max(job.streak, streak.failures)
        job.failing_since = oldest((job.failing_since, streak.since))
        return
    job.last_success, job.streak, job.failing_since = streak.last_success, streak.failures, streak.since


def set_last_runs(
    job: JobState, last_run: LastRun | None, last_failure: LastFailure | None, pruned_before: float | None
) -> None:
    """Set the last run and the last failure from a job's rows, after a completed run changed."""
    known, failure = job.last_run, job.last_failure
    if last_run is not None or known is None or not _is_pruned(known.order, pruned_before):
        job.last_run = last_run
    if last_failure is not None or failure is None or not _is_pruned(failure.order, pruned_before):
        if failure is not None and last_failure is not None and last_failure.run_id == failure.run_id:
            last_failure = msgspec.structs.replace(last_failure, failed_step=failure.failed_step)
        job.last_failure = last_failure


def _is_pruned(order: float, pruned_before: float | None) -> bool:
    return pruned_before is not None and order < pruned_before


def update_last_steps(job: JobState, run: Run, steps: Sequence[Step], seen: float) -> None:
    """Update the last steps, and the failed step of the last failure."""
    order = seen if run.end is None else run.end
    if job.last_steps is None or job.last_steps.order <= order:
        results: dict[str, int] = {}
        for step in steps:
            result = (step.result or Result.UNKNOWN).value
            results[result] = results.get(result, 0) + 1
        job.last_steps = LastSteps(run_id=run.run_id, order=order, results=results)
    if job.last_failure is not None and job.last_failure.run_id == run.run_id:
        job.last_failure = msgspec.structs.replace(job.last_failure, failed_step=clean(root_failure(steps)))
