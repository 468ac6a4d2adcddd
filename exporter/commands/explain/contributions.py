"""Computes what a run adds to its job's series, and which run a gauge is about."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from exporter.counting import counters
from exporter.counting.classify import CountState
from exporter.counting.labels import OTHER, clean
from exporter.counting.records import JobState, LastFailure, LastRun, LastSteps
from exporter.model import FAILING, Result
from exporter.queries.runs import ended_at, stored_steps
from exporter.state.schema import StepState, StoredRun

Labels = Mapping[str, str]
"""All labels of a series."""

UNOBSERVED = "jobrun_source_unobserved_seconds_total"

ADDED = frozenset(
    {
        "jobrun_runs_total",
        "jobrun_run_duration_seconds",
        "jobrun_run_queue_duration_seconds",
        "jobrun_run_retries_total",
        "jobrun_runs_recovered_total",
        "jobrun_run_errors_total",
        "jobrun_steps_total",
        "jobrun_step_root_failures_total",
        "jobrun_step_duration_seconds",
    }
)
"""Counters and histograms of a job to which runs add."""


def added(row: StoredRun, job: JobState) -> JobState:
    """Return an empty record of the job to which only this run was added.

    A baseline run is added as if it counted.
    """
    record = msgspec.structs.replace(job, counts={}, distributions={})
    if row.mark is CountState.EXPIRED:
        counters.count_expired(record)
    elif row.mark is not CountState.OPEN:
        _count(record, job, row)
    record.expose()
    return record


def _count(record: JobState, job: JobState, row: StoredRun) -> None:
    word = clean(row.run.error_type)
    run = counters.as_counted(row, word if word in job.counts.get("jobrun_run_errors_total", {}) else OTHER)
    counters.count_ending(record, run, attempts=True)
    if run.duration is not None:
        counters.observe_duration(record, run, _rules(job, "jobrun_run_duration_seconds"))
    if run.queue_duration is not None:
        counters.observe_queue(record, run, _rules(job, "jobrun_run_queue_duration_seconds"))
    names, steps = job.step_names(), stored_steps(row.step_results)
    labels = {step.name: step.name if step.name in names else OTHER for step in steps}
    counters.count_steps(record, steps, labels, _rules(job, "jobrun_step_duration_seconds"), histograms=True)


def _rules(job: JobState, family: str) -> counters.Rules:
    """Return rules with the bounds of a job's histograms."""
    bounds = next((each.shown_bounds for each in job.distributions.get(family, {}).values()), ())
    return counters.Rules(run_buckets=bounds, step_buckets=bounds)


ADDED_TO_SOURCE: Mapping[str, Callable[[StoredRun], Iterable[tuple[str, ...]]]] = {
    "jobrun_source_steps_lost_total": lambda row: (
        [()] if row.steps is StepState.LOST and row.mark is CountState.COUNTED else []
    ),
    "jobrun_source_unmapped_status_total": lambda row: [(clean(word)[:60],) for word in row.words.split("\n") if word],
}
"""To which series of its source's own counters a row adds 1, by the values of their own labels."""


# --- gauges about runs ---

Behind = Callable[[JobState, Sequence[StoredRun], Labels], list[StoredRun]]


def _only(chosen: Callable[[JobState], LastRun | LastFailure | LastSteps | None]) -> Behind:
    """Return what finds the run that a record names."""

    def find(job: JobState, rows: Sequence[StoredRun], _labels: Labels) -> list[StoredRun]:
        named = chosen(job)
        return [row for row in rows if named is not None and row.run.run_id == named.run_id]

    return find


def _last_success(job: JobState, rows: Sequence[StoredRun], _labels: Labels) -> list[StoredRun]:
    return [row for row in rows if row.run.result is Result.SUCCESS and ended_at(row) == job.last_success]


def _streak(job: JobState, rows: Sequence[StoredRun], _labels: Labels) -> list[StoredRun]:
    since = float("-inf") if job.last_success is None else job.last_success
    noted = {CountState.COUNTED, CountState.BASELINE}
    return [row for row in rows if row.run.result in FAILING and row.mark in noted and ended_at(row) > since]


def _active(_job: JobState, rows: Sequence[StoredRun], labels: Labels) -> list[StoredRun]:
    return [row for row in rows if row.mark is CountState.OPEN and row.run.state == labels["state"]]


def _oldest_active(job: JobState, rows: Sequence[StoredRun], labels: Labels) -> list[StoredRun]:
    active = _active(job, rows, labels)
    return [min(active, key=lambda row: row.origin)] if active else []


_last, _last_failure = _only(lambda job: job.last_run), _only(lambda job: job.last_failure)

BEHIND: Mapping[str, Behind] = {
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
    "jobrun_failing_since_timestamp_seconds": lambda *found: _streak(*found)[-1:],
    "jobrun_last_run_steps": _only(lambda job: job.last_steps),
}

NUMBERS = frozenset({"jobrun_active_runs", "jobrun_consecutive_failures"})
"""Gauges whose value is a number of runs."""
