"""Samples of labeled gauges: pure functions of a view.

A row has the values of the gauge's own labels, and the value of the sample. Unknown values have no row.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from exporter.counting.labels import clean, clean_url
from exporter.counting.records import LastRun
from exporter.model import Result, State
from exporter.snapshot.job import JobView
from exporter.snapshot.snapshot import ExporterView
from exporter.snapshot.source import SourceView

Row = tuple[tuple[str, ...], float]

View = TypeVar("View", JobView, SourceView, ExporterView)

STATES = tuple((state, (state.value,)) for state in State)
RESULTS = tuple((result, (result.value,)) for result in Result)


def single(value: Callable[[View], float | None]) -> Callable[[View], Iterable[Row]]:
    """Return a function that returns the only row of a gauge; no row if the value is None."""

    def rows(view: View) -> Iterable[Row]:
        number = value(view)
        return () if number is None else (((), number),)

    return rows


# --- jobs ---


def of_last_run(value: Callable[[LastRun], float | None]) -> Callable[[JobView], float | None]:
    """Return a function from a view to a value of the job's last completed run; None if there is no such run."""
    return lambda view: None if view.state.last_run is None else value(view.state.last_run)


def active_runs(view: JobView) -> Iterator[Row]:
    """Return the number of active runs per state, including 0."""
    for state, labels in STATES:
        yield labels, view.active.get(state, (0, None))[0]


def oldest_active_starts(view: JobView) -> Iterator[Row]:
    """Return the earliest start of the active runs per state."""
    for state, labels in STATES:
        start = view.active.get(state, (0, None))[1]
        if start is not None:
            yield labels, start


def last_run_status(view: JobView) -> Iterator[Row]:
    """Return 1 for the result of the last completed run, and 0 for the other results that the source can have."""
    last = None if view.state.last_run is None else view.state.last_run.result
    for result, labels in RESULTS:
        if result == last or result in view.results:
            yield labels, result == last


def last_run_steps(view: JobView) -> Iterator[Row]:
    """Return the number of steps per result, for the latest run whose steps are known."""
    steps = {} if view.state.last_steps is None else view.state.last_steps.results
    for result, labels in RESULTS if view.has_steps and view.state.job.has_steps else ():
        if result in steps or result in view.results:
            yield labels, steps.get(result, 0)


def last_failed_run(view: JobView) -> Iterator[Row]:
    """Return the labels of the run that failed last."""
    failure = view.state.last_failure
    if failure is not None:
        step, error_type = clean(failure.failed_step), clean(failure.error_type)
        yield (clean(failure.run_id), clean_url(view.failed_run_url), step, error_type), 1


def job_info(view: JobView) -> Iterator[Row]:
    """Return the details of the job as labels."""
    job, extra_labels = view.state.job, tuple(value for _, value in view.labels)
    details = clean(job.job_id), clean(view.schedule), view.team, view.page, clean(job.stop_cause)
    yield (*details, clean_url(view.job_url), *extra_labels), 1


def configured_labels(view: JobView) -> tuple[str, ...]:
    """Return the names of the labels that the config adds to `job_info`."""
    return tuple(name for name, _ in view.labels)


def learned_expectations(view: JobView) -> Iterator[Row]:
    """Return 1 for each learned expectation."""
    for name in view.learned:
        yield (name,), 1


# --- sources ---


def source_info(view: SourceView) -> Iterator[Row]:
    """Return the provider and the API of a source."""
    if view.provider:
        yield (view.provider, view.api_url), 1


def scopes(view: SourceView) -> Iterator[Row]:
    """Return the number of readable and unreadable scopes."""
    if view.known:
        unreadable = len(view.unreadable)
        yield ("readable",), len(view.state.scopes) - unreadable
        yield ("unreadable",), unreadable


# --- the exporter ---


def build_info(view: ExporterView) -> Iterator[Row]:
    """Return the version of the program as labels."""
    if view.build is not None:
        yield (view.build.version, view.build.revision, view.build.python_version), 1


def owned_sources(view: ExporterView) -> Iterator[Row]:
    """Return 1 for each source that this replica polls."""
    if view.ownership is not None:
        yield from (((name, view.ownership.replica), 1) for name in sorted(view.ownership.sources))


def ownership_changes(view: ExporterView) -> Iterator[Row]:
    """Return how often this replica took over each source."""
    if view.ownership is not None:
        yield from (((name,), count) for name, count in sorted(view.ownership.taken.items()))


def objective_jobs(view: ExporterView) -> Iterator[Row]:
    """Return the number of jobs per objective."""
    for index, jobs in enumerate(view.objective_jobs):
        yield (str(index),), jobs


def served_series(view: ExporterView) -> Iterator[Row]:
    """Return the number of series per family on `/metrics`."""
    for family, series in view.series.items():
        yield (family,), series
