"""Finds the series of a job or source that match a selector, each with the runs behind it. Pure functions."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

import msgspec

from exporter.commands.explain.selector import Selector
from exporter.counting import counters
from exporter.counting.classify import CountState, count_earlier_completions
from exporter.counting.labels import OTHER, clean
from exporter.counting.names import ERRORS
from exporter.counting.records import Counted, JobState, LastFailure, LastRun, LastSteps, SourceState
from exporter.counting.series import SEPARATOR
from exporter.exposition.textformat import bounds_of
from exporter.metrics.family import Family, Kind
from exporter.model import FAILING, Result
from exporter.queries.runs import stored_steps
from exporter.snapshot.job import JobView
from exporter.state.schema import StepState, StoredRun
from exporter.times import format_utc

TOLERANCE = 1e-6
"""Relative tolerance of sums. A sum of floats depends on the order of addition."""

RESTARTED = "the series restarted at 0 (the job was renamed, or was gone or folded for a while)"
PRUNED = "from runs that ended before {} and are no longer in the state (state.retention), or "

Rows = Sequence[tuple[JobState, StoredRun]]
"""Runs with their jobs, newest first."""

OwnLabels = tuple[str, ...]
"""Values of a family's own labels, such as `result`, without the job's or source's labels. Buckets also have `le`."""


class SeriesLine(msgspec.Struct, frozen=True):
    """A run, and how much it adds to the value of a series."""

    job: JobState
    row: StoredRun
    adds: float


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One series.

    Attributes:
        labels: Values of all labels by name.
        value: The value in the state.
        lines: The runs behind the value, newest first.
        ranges: The time ranges behind the value, if it is a sum of time.
        summed: Whether the value is a sum over the runs or ranges.
        pruned_before: Time before which completed runs were pruned; None if none were.
        notes: More sentences about the value.
    """

    labels: Mapping[str, str]
    value: float
    lines: Sequence[SeriesLine] = ()
    ranges: Sequence[tuple[float, float]] = ()
    summed: bool = True
    pruned_before: float | None = None
    notes: Sequence[str] = ()

    @property
    def sum(self) -> float:
        """Return the sum over the listed runs or ranges."""
        return math.fsum(end - start for start, end in self.ranges) + math.fsum(line.adds for line in self.lines)

    def verdict(self) -> Iterator[str]:
        """Yield sentences that compare the value with the sum, and say why they may differ."""
        noun, count = ("range", len(self.ranges)) if self.ranges else ("run", len(self.lines))
        same = math.isclose(self.sum, self.value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        listed = f"{count} {noun}{'' if count == 1 else 's'} listed, {self.sum:.10g} together"
        yield f"{listed}; the state says {self.value:.10g}: {'the same' if same else 'not the same'}."
        if same or self.ranges:
            return
        missing = self.value - self.sum
        if missing < 0:
            more = f"{-missing:g} more are listed than counted"
            yield f"{more}: {RESTARTED}, or the runs changed after they were counted."
        else:
            pruned = "" if self.pruned_before is None else PRUNED.format(format_utc(self.pruned_before))
            yield f"{missing:g} come {pruned}from runs that changed after they were counted: a counter never falls."


IsBehind = Callable[[JobState, StoredRun], bool]
"""Returns whether a run is behind a gauge of its job."""


def _named_by(last_event: Callable[[JobState], LastRun | LastFailure | LastSteps | None]) -> IsBehind:
    """Return a function that returns whether a run is the one that `last_event` of the job's record names."""

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


def unobserved_time(source: SourceState, family: Family) -> Iterator[Explained]:
    """Yield the series of the seconds that a source has not observed, with their time ranges."""
    for _, value, released in _counted(source, family, family.name):
        notes = _pending_note(value, released=released)
        if source.pending_unobserved:
            seconds = f"{source.pending_unobserved:g} s"
            notes.append(f"{seconds} are pending: they are added after a scrape has read the restored value.")
        yield Explained(labels={"source": source.name}, value=value, ranges=source.unobserved, notes=notes)


def job_series(
    view: JobView, rows: Rows, family: Family, selector: Selector, pruned_before: float | None
) -> Iterator[Explained]:
    """Yield the series of a job that match a selector.

    Args:
        view: The job.
        rows: Its runs; for `__other__` the runs of all folded jobs.
        family: The family that the selector names.
        selector: Its name is the family's, for a histogram with a suffix.
        pruned_before: Time before which completed runs were pruned; None if none were.
    """
    find = _gauges if family.kind is Kind.GAUGE else _sums
    for series in find(view, rows, family, selector):
        yield msgspec.structs.replace(series, pruned_before=pruned_before)


def _gauges(view: JobView, rows: Rows, family: Family, selector: Selector) -> Iterator[Explained]:
    is_behind, is_count = RUNS_BEHIND[family.name], family.name in RUN_COUNTS
    for own, value in family.samples(view) if family.samples and view.gauged else ():
        labels = _labels(view, family, own)
        if not selector.matches(labels):
            continue
        found = [
            SeriesLine(job, row, 1.0 if is_count else value)
            for job, row in rows
            if is_behind(job, row) and labels.get("state") in {None, row.run.state}
        ]
        if found and family.name in FIRST_RUNS:
            found = [min(found, key=lambda line: line.row.origin if line.row.run.end is None else line.row.run.end)]
        notes = ["Its runs are no longer in the state."] if value and not found else []
        yield Explained(labels=labels, value=value, lines=found, summed=is_count, notes=notes)


def _sums(view: JobView, rows: Rows, family: Family, selector: Selector) -> Iterator[Explained]:
    """Yield the series of a counter or histogram."""
    lines: defaultdict[OwnLabels, list[SeriesLine]] = defaultdict(list)
    add = _adder(view.state, family.name)
    for job, row in rows:
        for own, amount, _ in _counted(add(row), family, selector.name):
            if amount or selector.name.endswith("_sum"):
                lines[own].append(SeriesLine(job, row, amount))
    for own, value, released in _counted(view.state, family, selector.name) if view.has_series(family.name) else ():
        if selector.matches(labels := _labels(view, family, own)):
            # Baseline runs are in no counter, so they are not listed. A note has their number.
            found = [line for line in lines[own] if line.row.mark is not CountState.BASELINE]
            notes = _pending_note(value, released=released)
            notes += _notes(view.state, family, rows, len(lines[own]) - len(found))
            yield Explained(labels=labels, value=value, lines=found, notes=notes)


def _adder(job: JobState, family: str) -> Callable[[StoredRun], JobState]:
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


def _counted(record: Counted, family: Family, name: str) -> Iterator[tuple[OwnLabels, float, bool]]:
    """Yield the values of a record's counters or histograms under a name, and whether they are exposed."""
    for key, count in record.counts.get(family.name, {}).items():
        yield _own_labels(family, key), count.value, count.released
    for key, each in record.distributions.get(family.name, {}).items():
        own, shown = _own_labels(family, key), each.shown()
        if name.endswith("_bucket"):
            for bound, value in zip(bounds_of(shown.bounds), accumulate(shown.counts), strict=True):
                yield (*own, bound), value, each.released
        else:
            yield own, shown.sum if name.endswith("_sum") else sum(shown.counts), each.released


def _own_labels(family: Family, key: str) -> OwnLabels:
    return tuple(key.split(SEPARATOR, len(family.labels) - 1)) if family.labels else ()


def _labels(view: JobView, family: Family, own: OwnLabels) -> dict[str, str]:
    return dict(zip((*family.all_labels, "le"), view.common_labels + own, strict=False))


def _pending_note(value: float, *, released: bool) -> list[str]:
    return ["It is still served as 0 (metrics.zero_first)."] if value and not released else []


def _notes(job: JobState, family: Family, rows: Rows, baseline: int) -> Iterator[str]:
    if baseline:
        yield f"{baseline} more runs completed before the baseline: they are in no counter."
    earlier = sum(count_earlier_completions(row, job.baseline) for _, row in rows)
    if earlier:
        yield f"{earlier} earlier completions of reopened runs are counted too; only the last result is stored."
    waiting = sum(row.steps is StepState.PENDING for _, row in rows)
    if waiting and "step" in family.name:
        yield f"The steps of {waiting} runs are not fetched yet."
    if job.overflow:
        yield "Jobs are counted here while there are too many series. The list has the runs of currently folded jobs."
    if job.excluded:
        yield "The configuration excludes the job: its series is not served."
