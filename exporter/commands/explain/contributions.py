"""Computes how much a run adds to a counter or histogram, and finds the runs behind a gauge. Pure functions."""

from collections.abc import Callable, Mapping

import msgspec

from exporter.counting import counters
from exporter.counting.classify import CountState
from exporter.counting.labels import OTHER, clean
from exporter.counting.names import ERRORS
from exporter.counting.records import JobState, LastFailure, LastRun, LastSteps
from exporter.model import FAILING, Result
from exporter.queries.runs import stored_steps
from exporter.state.schema import StoredRun


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
            error_type = clean(row.run.error_type)
            run = counters.as_counted(row, error_type if error_type in error_types else OTHER)
            counters.count_completion(record, run, has_attempts=True)
            if run.duration is not None:
                counters.observe_duration(record, run, bounds)
            if run.queue_duration is not None:
                counters.observe_queue(record, run, bounds)
        return record

    return add


IsBehind = Callable[[JobState, StoredRun], bool]
"""Returns whether a run is behind a gauge of its job."""


def _named_by(last_event: Callable[[JobState], LastRun | LastFailure | LastSteps | None]) -> IsBehind:
    """Return a function that recognizes the run of a record's last event."""

    def is_behind(job: JobState, row: StoredRun) -> bool:
        event = last_event(job)
        return event is not None and row.run.run_id == event.run_id

    return is_behind


def _is_active(_job: JobState, row: StoredRun) -> bool:
    return row.mark is CountState.OPEN


def _is_last_success(job: JobState, row: StoredRun) -> bool:
    return row.run.result is Result.SUCCESS and row.ended_at == job.last_success


def _is_in_streak(job: JobState, row: StoredRun) -> bool:
    is_later = job.last_success is None or row.ended_at > job.last_success
    return is_later and row.run.result in FAILING and row.mark in {CountState.COUNTED, CountState.BASELINE}


_is_last, _is_last_failure = _named_by(lambda job: job.last_run), _named_by(lambda job: job.last_failure)

RUNS_BEHIND: Mapping[str, IsBehind] = {
    "jobrun_active_runs": _is_active,
    "jobrun_oldest_active_run_start_timestamp_seconds": _is_active,
    "jobrun_last_run_status": _is_last,
    "jobrun_last_run_start_timestamp_seconds": _is_last,
    "jobrun_last_run_end_timestamp_seconds": _is_last,
    "jobrun_last_run_duration_seconds": _is_last,
    "jobrun_last_success_timestamp_seconds": _is_last_success,
    "jobrun_last_failure_timestamp_seconds": _is_last_failure,
    "jobrun_last_failed_run_info": _is_last_failure,
    "jobrun_consecutive_failures": _is_in_streak,
    "jobrun_failing_since_timestamp_seconds": _is_in_streak,
    "jobrun_last_run_steps": _named_by(lambda job: job.last_steps),
}

RUN_COUNTS = frozenset({"jobrun_active_runs", "jobrun_consecutive_failures"})
"""Gauges that count runs."""

FIRST_RUNS = frozenset({"jobrun_oldest_active_run_start_timestamp_seconds", "jobrun_failing_since_timestamp_seconds"})
"""Gauges that show the earliest of the runs behind them."""
