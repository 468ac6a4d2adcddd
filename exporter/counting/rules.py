"""The part of a source's config that the ledger needs, the same for all vendors."""

import functools
from collections.abc import Callable, Sequence

import msgspec

from exporter.counting.labels import label_of
from exporter.counting.records import Filter, JobState
from exporter.model import FAILING, Result
from exporter.patterns import Pattern, PatternError


@functools.lru_cache(maxsize=65536)
def included(patterns: Filter, job_name: str) -> bool:
    """Return whether a filter includes a job. A pattern must match the whole name."""
    return any(_matches(pattern, job_name) for pattern in patterns.include) and not any(
        _matches(pattern, job_name) for pattern in patterns.exclude
    )


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Pattern | None:
    try:
        return Pattern(pattern)
    except PatternError:  # an older version accepted and stored it
        return None


def _matches(pattern: str, text: str) -> bool:
    compiled = _compiled(pattern)
    return compiled is not None and compiled.fullmatch(text)


def included_since(history: Sequence[Filter], job_name: str) -> float | None:
    """Return since when a job is included; None if it always was, or is excluded now."""
    since = None
    for patterns in reversed(history):
        if not included(patterns, job_name):
            return since
        since = patterns.since
    return None


class SourceRules(msgspec.Struct, frozen=True, kw_only=True):
    """How the ledger treats a source.

    Attributes:
        identity: The API and account. The state refuses another identity under the same name.
        results: Results of which each job has a series from the start.
        steps: `all`, `failed` or `off`.
        reopens: Whether a completed run can become active again under its ID.
        max_run_age: How long an active run is followed, in seconds.
        reach: Maximum age of the runs that the API shows, in seconds.
        settle: Seconds by which a watermark stays behind the time of the poll.
        max_series: Maximum number of series of all jobs, without overflow jobs.
        series_of: Returns how many series a job needs, with or without step histograms.
        run_buckets: Returns the bounds of a job's run durations, in seconds.
        has_objective: Returns whether a job has an objective. Then its series stay, even without runs.
    """

    name: str
    identity: str
    results: tuple[Result, ...]
    has_attempts: bool
    steps: str
    reopens: bool
    max_run_age: float
    reach: float
    poll_interval: float
    settle: float
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    max_series: int
    series_of: Callable[[JobState, bool], int]
    run_buckets: Callable[[JobState], tuple[float, ...]]
    has_objective: Callable[[JobState], bool]

    def includes(self, job_name: str) -> bool:
        """Return whether a job's name is included now."""
        return included(self.filter_since(0), job_name)

    def serves(self, job: JobState) -> bool:
        """Return whether a job's series are served. Those of a newly included job are, from the next poll on."""
        return job.shown and (job.overflow or self.includes(label_of(job.job)))

    def series_needed(self, job: JobState, *, step_histograms: bool) -> int:
        """Return how many series of a job count against `max_series`; 0 for an overflow or unserved job."""
        return self.series_of(job, step_histograms) if self.serves(job) and not job.overflow else 0

    def filter_since(self, since: float) -> Filter:
        """Return the current patterns as a filter that applies since this time."""
        return Filter(since=since, include=self.include, exclude=self.exclude)

    def wants_steps(self, result: Result | None) -> bool:
        """Return whether the steps of a run with this result are fetched."""
        return self.steps == "all" or (self.steps == "failed" and result in FAILING)
