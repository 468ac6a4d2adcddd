"""Computes how much a run adds to a counter or histogram, and finds the runs behind a gauge."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from exporter.counting import counters
from exporter.counting.classify import CountState
from exporter.counting.labels import OTHER, clean
from exporter.counting.names import ERRORS
from exporter.counting.records import JobState, LastFailure, LastRun, LastSteps
from exporter.metrics.families import STEPS_LOST, UNMAPPED
from exporter.model import FAILING, Result
from exporter.queries.runs import stored_steps
from exporter.state.schema import StepState, StoredRun

Labels = Mapping[str, str]
"""All labels of a series."""


def adder(job: JobState, family: str) -> Callable[[StoredRun], JobState]:
    """Return a function that counts one run in an empty record of the job, and returns the record.

    The record is complete for `family` only. A baseline run is counted like any other.
    """
    error_types, names = job.counts.get(ERRORS, {}), job.step_names()
    bounds = next((each.shown_bounds for each in job.distributions.get(family, {}).values()), ())

    def add(row: StoredRun) -> JobState:
        record = msgspec.structs.replace(job, counts={}, distributions={})
        if row.mark is CountState.EXPIRED:
            counters.count_expired(record)
        elif row.mark is not CountState.OPEN and "_step" in family:
            steps = stored_steps(row.step_results)
            labels = {step.name: step.name if step.name in names else OTHER for step in steps}
            counters.count_steps(record, steps, labels, bounds)
        elif row.mark is not CountState.OPEN:
            word = clean(row.run.error_type)
            run = counters.as_counted(row, word if word in error_types else OTHER)
            counters.count_completion(record, run, has_attempts=True)
            if run.duration is not None:
                counters.observe_duration(record, run, bounds)
            if run.queue_duration is not None:
                counters.observe_queue(record, run, bounds)
        return record

    return add


ADDED_TO_SOURCE: Mapping[str, Callable[[StoredRun], Iterable[tuple[str, ...]]]] = {
    STEPS_LOST: lambda row: [()] if row.steps is StepState.LOST and row.mark is CountState.COUNTED else [],
    UNMAPPED: lambda row: [(clean(word)[:60],) for word in row.statuses.split("\n") if word],
}
"""Functions that return the series of a source's counter to which a run adds 1, as values of the family's labels."""


# --- gauges about runs ---

FindRuns = Callable[[JobState, Sequence[StoredRun], Labels], list[StoredRun]]


def _run_named_by(last_event: Callable[[JobState], LastRun | LastFailure | LastSteps | None]) -> FindRuns:
    """Return a function that finds the run of a record's last event."""

    def find(job: JobState, rows: Sequence[StoredRun], _labels: Labels) -> list[StoredRun]:
        event = last_event(job)
        return [row for row in rows if event is not None and row.run.run_id == event.run_id]

    return find


def _last_success(job: JobState, rows: Sequence[StoredRun], _labels: Labels) -> list[StoredRun]:
    return [row for row in rows if row.run.result is Result.SUCCESS and row.ended_at == job.last_success]


def _streak(job: JobState, rows: Sequence[StoredRun], _labels: Labels) -> list[StoredRun]:
    since = float("-inf") if job.last_success is None else job.last_success
    completed = {CountState.COUNTED, CountState.BASELINE}
    return [row for row in rows if row.run.result in FAILING and row.mark in completed and row.ended_at > since]


def _active(_job: JobState, rows: Sequence[StoredRun], labels: Labels) -> list[StoredRun]:
    return [row for row in rows if row.mark is CountState.OPEN and row.run.state == labels["state"]]


def _oldest_active(job: JobState, rows: Sequence[StoredRun], labels: Labels) -> list[StoredRun]:
    active = _active(job, rows, labels)
    return [min(active, key=lambda row: row.origin)] if active else []


_last, _last_failure = _run_named_by(lambda job: job.last_run), _run_named_by(lambda job: job.last_failure)

RUNS_BEHIND: Mapping[str, FindRuns] = {
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
    "jobrun_last_run_steps": _run_named_by(lambda job: job.last_steps),
}

RUN_COUNTS = frozenset({"jobrun_active_runs", "jobrun_consecutive_failures"})
"""Gauges that count runs."""
