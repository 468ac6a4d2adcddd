"""What the ledger must know of a configured source, free of any vendor."""

import functools
from collections.abc import Callable, Sequence

import msgspec

from exporter.counting.records import Filter, JobState, label_of
from exporter.model import FAILING, Result
from exporter.patterns import Pattern, PatternError


@functools.lru_cache(maxsize=65536)
def included(patterns: Filter, job_name: str) -> bool:
    """Return whether patterns include a job's name; they must match the whole of it."""
    return any(_matches(pattern, job_name) for pattern in patterns.include) and not any(
        _matches(pattern, job_name) for pattern in patterns.exclude
    )


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Pattern | None:
    try:
        return Pattern(pattern)
    except PatternError:  # once in force, in a version that knew more
        return None


def _matches(pattern: str, text: str) -> bool:
    compiled = _compiled(pattern)
    return compiled is not None and compiled.fullmatch(text)


def included_since(history: Sequence[Filter], job_name: str) -> float | None:
    """Return since when a job's name has been included without a break; None if not at all, or from the first."""
    since = None
    for patterns in reversed(history):
        if not included(patterns, job_name):
            return since
        since = patterns.since
    return None


class SourceRules(msgspec.Struct, frozen=True, kw_only=True):
    """A source's rules.

    Attributes:
        name: Its name: the label `source`.
        identity: The API and account; a state refuses another one under the same name.
        results: The results seeded for each job.
        attempts: Whether the vendor tells of attempts.
        steps: `all`, `failed` or `off`.
        reopens: Whether an ended run's id can come back to life.
        max_run_age: How long an open run is followed, in seconds.
        reach: How far back the API shows runs, in seconds.
        poll_interval: In seconds.
        include: Patterns of the jobs that are read.
        exclude: Patterns of those that are not.
        max_series: The bound on the series of all jobs but the overflow jobs, for which there is room beyond it.
        series_of: How many series a job needs, with or without histograms of its steps.
        run_buckets: The bounds of a job's run durations, in seconds.
        never_expires: Whether a job is kept without runs, because somebody has set an objective for it.
    """

    name: str
    identity: str
    results: tuple[Result, ...]
    attempts: bool
    steps: str
    reopens: bool
    max_run_age: float
    reach: float
    poll_interval: float
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    max_series: int
    series_of: Callable[[JobState, bool], int]
    run_buckets: Callable[[JobState], tuple[float, ...]]
    never_expires: Callable[[JobState], bool]

    def wants(self, job_name: str) -> bool:
        """Return whether a job's name is included now."""
        return included(self.filter_since(0), job_name)

    def shows(self, job: JobState) -> bool:
        """Return whether a job's series are served."""
        return not job.gone and (job.overflow or self.wants(label_of(job.job)))

    def weight(self, job: JobState, *, step_histograms: bool) -> int:
        """Return how many series a job takes of `max_series`: none while it is not served.

        `max_series` leaves out the room that the overflow job needs.
        """
        return self.series_of(job, step_histograms) if self.shows(job) and not job.overflow else 0

    def filter_since(self, since: float) -> Filter:
        """Return the current patterns, as in force since a time."""
        return Filter(since=since, include=self.include, exclude=self.exclude)

    def wants_steps(self, result: Result | None) -> bool:
        """Return whether the steps of a run with this result are fetched."""
        return self.steps == "all" or (self.steps == "failed" and result in FAILING)
