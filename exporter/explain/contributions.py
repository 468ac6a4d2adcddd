"""Which runs make up a number, a table a kind: what a run's row adds to counters, and behind which gauges it stands."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from exporter.counting.classify import CountState, root_failure
from exporter.counting.records import OTHER, JobState, clean
from exporter.model import FAILING, Result
from exporter.queries.runs import ended_at, stored_steps
from exporter.state.schema import StepState, StoredRun

Labels = tuple[str, ...]
"""Values of the labels that a family has beyond those of its level."""

Amounts = Iterable[tuple[Labels, float]]
"""What a row adds: to which series, and how much; to a histogram, what was observed."""

UNOBSERVED = "jobrun_source_unobserved_seconds_total"

# --- what runs add ---


def _ended(row: StoredRun) -> bool:
    """Whether its ending was counted with all that belongs to it; what was given up adds to one counter only."""
    return row.mark is CountState.COUNTED


def _result(row: StoredRun) -> str:
    return (row.run.result or Result.UNKNOWN).value


def _runs(row: StoredRun, _job: JobState) -> Amounts:
    return [((_result(row),), 1.0)] if row.mark in {CountState.COUNTED, CountState.EXPIRED} else []


def _retries(row: StoredRun, _job: JobState) -> Amounts:
    return [((), float(row.run.retries))] if _ended(row) and row.run.retries else []


def _recovered(row: StoredRun, _job: JobState) -> Amounts:
    return [((), 1.0)] if _ended(row) and row.run.recovered else []


def _errors(row: StoredRun, job: JobState) -> Amounts:
    run = row.run
    if not _ended(row) or run.result not in FAILING or not run.error_type:
        return []
    word = clean(run.error_type)
    return [((word if word in job.counts.get("jobrun_run_errors_total", {}) else OTHER,), 1.0)]


def _durations(row: StoredRun, _job: JobState) -> Amounts:
    duration = row.run.duration
    return [((_result(row),), duration)] if _ended(row) and duration is not None else []


def _queued(row: StoredRun, _job: JobState) -> Amounts:
    waited = row.run.queue_duration
    return [((), waited)] if _ended(row) and waited is not None and not row.earlier else []


def _step_label(name: str, job: JobState) -> str:
    return name if name in job.step_names() else OTHER


def _steps(row: StoredRun, job: JobState) -> Amounts:
    if not _ended(row):
        return
    for step in stored_steps(row.step_results):
        yield (_step_label(step.name, job), (step.result or Result.UNKNOWN).value), 1.0


def _step_durations(row: StoredRun, job: JobState) -> Amounts:
    if not _ended(row):
        return
    for step in stored_steps(row.step_results):
        if step.duration is not None and step.result is not None:
            yield (_step_label(step.name, job),), step.duration


def _root_failures(row: StoredRun, job: JobState) -> Amounts:
    failed = root_failure(stored_steps(row.step_results)) if _ended(row) else ""
    return [((_step_label(failed, job),), 1.0)] if failed else []


ADDED: Mapping[str, Callable[[StoredRun, JobState], Amounts]] = {
    "jobrun_runs_total": _runs,
    "jobrun_run_duration_seconds": _durations,
    "jobrun_run_queue_duration_seconds": _queued,
    "jobrun_run_retries_total": _retries,
    "jobrun_runs_recovered_total": _recovered,
    "jobrun_run_errors_total": _errors,
    "jobrun_steps_total": _steps,
    "jobrun_step_root_failures_total": _root_failures,
    "jobrun_step_duration_seconds": _step_durations,
}

ADDED_TO_SOURCE: Mapping[str, Callable[[StoredRun], Iterable[Labels]]] = {
    "jobrun_source_steps_lost_total": lambda row: [()] if row.steps is StepState.LOST and _ended(row) else [],
    "jobrun_source_unmapped_status_total": lambda row: [(clean(word)[:60],) for word in row.words.split("\n") if word],
}
"""To which series of its source's own counters a row adds 1."""


# --- what runs stand behind ---


def _the(run_id: str | None) -> Callable[[Sequence[StoredRun]], list[StoredRun]]:
    return lambda rows: [row for row in rows if row.run.run_id == run_id]


def _last(job: JobState, rows: Sequence[StoredRun], _labels: Labels) -> list[StoredRun]:
    return _the(job.last_run.run_id if job.last_run else None)(rows)


def _last_failure(job: JobState, rows: Sequence[StoredRun], _labels: Labels) -> list[StoredRun]:
    return _the(job.last_failure.run_id if job.last_failure else None)(rows)


def _last_steps(job: JobState, rows: Sequence[StoredRun], _labels: Labels) -> list[StoredRun]:
    return _the(job.last_steps.run_id if job.last_steps else None)(rows)


def _last_success(job: JobState, rows: Sequence[StoredRun], _labels: Labels) -> list[StoredRun]:
    return [row for row in rows if row.run.result is Result.SUCCESS and ended_at(row) == job.last_success]


def _streak(job: JobState, rows: Sequence[StoredRun], _labels: Labels) -> list[StoredRun]:
    since = float("-inf") if job.last_success is None else job.last_success
    noted = {CountState.COUNTED, CountState.BASELINE}
    return [row for row in rows if row.run.result in FAILING and row.mark in noted and ended_at(row) > since]


def _streak_start(job: JobState, rows: Sequence[StoredRun], labels: Labels) -> list[StoredRun]:
    return _streak(job, rows, labels)[-1:]


def _active(_job: JobState, rows: Sequence[StoredRun], labels: Labels) -> list[StoredRun]:
    return [row for row in rows if row.mark is CountState.OPEN and row.run.state == labels[0]]


def _oldest_active(job: JobState, rows: Sequence[StoredRun], labels: Labels) -> list[StoredRun]:
    active = _active(job, rows, labels)
    return [min(active, key=lambda row: row.origin)] if active else []


BEHIND: Mapping[str, Callable[[JobState, Sequence[StoredRun], Labels], list[StoredRun]]] = {
    "jobrun_active_runs": _active,
    "jobrun_oldest_active_run_start_timestamp_seconds": _oldest_active,
    "jobrun_last_run_status": _last,
    "jobrun_last_run_start_timestamp_seconds": _last,
    "jobrun_last_run_end_timestamp_seconds": _last,
    "jobrun_last_run_duration_seconds": _last,
    "jobrun_last_success_timestamp_seconds": _last_success,
    "jobrun_last_failure_timestamp_seconds": _last_failure,
    "jobrun_last_failed_run_info": _last_failure,
    "jobrun_consecutive_failures": _streak,
    "jobrun_failing_since_timestamp_seconds": _streak_start,
    "jobrun_last_run_steps": _last_steps,
}

NUMBERS = frozenset({"jobrun_active_runs", "jobrun_consecutive_failures"})
"""Gauges that are the number of the runs behind them."""
