"""What is shown of a job, and the gauges that are made of it.

A gauge is a pure function from a view to rows; a row is the values of the labels that the gauge has beyond
`source, project, job_name`, and the sample's value. What is not known has no row.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from exporter.counting.records import JobState, clean, clean_url, oldest
from exporter.model import Result, State

Row = tuple[tuple[str, ...], float]
Rows = Callable[["JobView"], Iterable[Row]]


STATES = tuple((state, (state.value,)) for state in State)
RESULTS = tuple((result, (result.value,)) for result in Result)


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job's state together with what the configuration and the open runs add to it.

    Attributes:
        state: Its state as committed; only read here.
        active: Open state → how many runs are in it, and the earliest of their starts if one is known.
        results: The results that its source can produce, seeded at 0.
        has_steps: Whether its runs have steps.
        freshness: Largest age of the last success, in seconds.
        duration_budget: Seconds that a run may take.
        next_expected: When the next run should start.
        schedule: In words of its vendor or of the configuration.
        unparsed: Whether nobody can tell what that means.
        learned: Which of `freshness`, `duration_budget` and `next_run` come from its past alone.
        objective: The number of the objective that it has, counted from 0.
        team: Who looks after it.
        page: The highest severity that it may page with.
        failures_to_page: Failed runs in a row after which somebody is paged.
        labels: Names and values of more labels of jobrun_job_info; every job has the same names.
        job_url: Where a person finds it.
        failed_run_url: Where a person finds its last failed run.
        step_histograms: Whether the durations of its steps are shown.
        withheld: True while its counters and histograms are not to be shown yet.
    """

    state: JobState
    active: Mapping[State, tuple[int, float | None]] = {}
    results: tuple[Result, ...] = ()
    has_steps: bool = False
    freshness: float | None = None
    duration_budget: float | None = None
    next_expected: float | None = None
    schedule: str = ""
    unparsed: bool = False
    learned: tuple[str, ...] = ()
    objective: int | None = None
    team: str = ""
    page: str = "critical"
    failures_to_page: int = 3
    labels: tuple[tuple[str, str], ...] = ()
    job_url: str = ""
    failed_run_url: str = ""
    step_histograms: bool = True
    withheld: bool = False

    @property
    def counted(self) -> bool:
        """Whether it has counters and histograms of its own."""
        return not (self.state.gone or self.state.folded)

    @property
    def gauged(self) -> bool:
        """Whether it has gauges: a job beyond the bound has none, nor has the one that stands for those."""
        return self.counted and not self.state.overflow


def active_of(begun: Iterable[tuple[State | None, float]]) -> dict[State, tuple[int, float | None]]:
    """`JobView.active` of open runs: what each is doing, and since when."""
    active: dict[State, tuple[int, float | None]] = {}
    for state, start in begun:
        if state is not None:
            count, earliest = active.get(state, (0, start))
            active[state] = (count + 1, oldest((earliest, start)))
    return active


def single(value: Callable[[JobView], float | None]) -> Rows:
    """A gauge without labels of its own, absent while its value is not known."""

    def rows(view: JobView) -> Iterable[Row]:
        known = value(view)
        return () if known is None else (((), known),)

    return rows


def of_last_run(value: Callable[..., float | None]) -> Rows:
    """A gauge without labels of its own, made of the run that ended last."""
    return single(lambda view: None if view.state.last_run is None else value(view.state.last_run))


def active_runs(view: JobView) -> Iterator[Row]:
    """How many runs are in each open state, those without any included."""
    for state, labels in STATES:
        yield labels, view.active.get(state, (0, None))[0]


def oldest_active_starts(view: JobView) -> Iterator[Row]:
    """The earliest start of the runs in each open state."""
    for state, labels in STATES:
        start = view.active.get(state, (0, None))[1]
        if start is not None:
            yield labels, start


def last_run_status(view: JobView) -> Iterator[Row]:
    """1 for the result of the run that ended last; one that was not seeded is shown too."""
    last = None if view.state.last_run is None else view.state.last_run.result
    for result, labels in RESULTS:
        if result == last or result in view.results:
            yield labels, result == last


def last_run_steps(view: JobView) -> Iterator[Row]:
    """How many steps of the latest run with known steps ended in each result."""
    steps = {} if view.state.last_steps is None else view.state.last_steps.results
    for result, labels in RESULTS if view.has_steps and view.state.job.has_steps else ():
        if result in steps or result in view.results:
            yield labels, steps.get(result, 0)


def last_failed_run(view: JobView) -> Iterator[Row]:
    """Which run failed last, and why."""
    failure = view.state.last_failure
    if failure is not None:
        step, error_type = clean(failure.failed_step), clean(failure.error_type)
        yield (clean(failure.run_id), clean_url(view.failed_run_url), step, error_type), 1


def job_info(view: JobView) -> Iterator[Row]:
    """What a person wants to know of the job."""
    job = view.state.job
    own, job_url = tuple(value for _, value in view.labels), view.job_url
    yield (
        (
            clean(job.job_id),
            clean(view.schedule),
            view.team,
            view.page,
            clean(job.stop_cause),
            clean_url(job_url),
            *own,
        ),
        1,
    )


def configured_labels(view: JobView) -> tuple[str, ...]:
    """Names of the labels that `job_info` has from the configuration."""
    return tuple(name for name, _ in view.labels)


def learned_expectations(view: JobView) -> Iterator[Row]:
    """Which expectations nobody has configured and no vendor has said."""
    for name in view.learned:
        yield (name,), 1
