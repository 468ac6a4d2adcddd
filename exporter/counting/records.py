"""Records of jobs and sources: counters, histograms and the data of gauges.

The state stores one JSON document per record. A transaction changes copies, which replace the committed records after
they are on disk. A committed record is never changed. Times are Unix seconds, durations seconds.
"""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import TypeVar

import msgspec

from exporter.counting.names import STEPS
from exporter.counting.series import SEPARATOR, Count, Distribution
from exporter.learning.learned import NOTHING, Learned
from exporter.model import Job, Result, State


class LastRun(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """The completed run with the latest end. `order`: its end or, if unknown, when its completion was first seen."""

    run_id: str
    result: Result
    order: float
    start: float | None = None
    end: float | None = None
    duration: float | None = None


class LastFailure(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The failed run with the latest end. `order`: as for `LastRun`."""

    run_id: str
    order: float
    end: float | None = None
    error_type: str = ""
    failed_step: str = ""


class LastSteps(msgspec.Struct, frozen=True, kw_only=True):
    """Number of steps per result, of the latest run whose steps are known. `order`: as for `LastRun`."""

    run_id: str
    order: float
    results: dict[str, int]


class Counted(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A record's counters and histograms, by family, and by label values joined with SEPARATOR."""

    counts: dict[str, dict[str, Count]] = {}
    distributions: dict[str, dict[str, Distribution]] = {}

    def count(self, family: str, *labels: str, amount: float = 1) -> Count:
        """Add to a counter series. An amount of 0 creates it."""
        series = self.counts.setdefault(family, {})
        key = SEPARATOR.join(labels)
        count = series.get(key)
        if count is None:
            count = series[key] = Count()
        count.value += amount
        return count

    def distribution(self, family: str, *labels: str, bounds: Sequence[float]) -> Distribution:
        """Return the histogram series of these labels, empty if it is new."""
        series = self.distributions.setdefault(family, {})
        key = SEPARATOR.join(labels)
        distribution = series.get(key)
        if distribution is None:
            distribution = series[key] = Distribution.empty(bounds)
        elif distribution.shown_bounds != tuple(bounds):
            distribution = series[key] = distribution.with_bounds(bounds)
        return distribution

    def raise_to(self, known: "Counted") -> None:
        """Raise each series to its value in `known` if that is higher."""
        # A database failover may lose commits whose values scrapes have read.
        for family, series in known.counts.items():
            for labels, count in series.items():
                own = self.count(family, labels, amount=0)
                own.value, own.released = max(own.value, count.value), own.released or count.released
        for family, distributions in known.distributions.items():
            for labels, each in distributions.items():
                own_durations = self.distribution(family, labels, bounds=each.bounds)
                own_durations.counts = [*map(max, own_durations.counts, each.counts)]
                own_durations.sum = max(own_durations.sum, each.sum)
                own_durations.released = own_durations.released or each.released

    def expose(self) -> None:
        """Expose the values of all series from now on."""
        for table in (self.counts, self.distributions):
            for series in table.values():
                for each in series.values():
                    each.released = True


class JobState(Counted, omit_defaults=True, kw_only=True):
    """Record of one job: its names, its counters and its latest runs.

    Attributes:
        key: Number of the job in the state.
        job: Latest description from the vendor; `job.job_id` identifies the job.
        name: Label `job_name`; it ends in ` #<id>` if another job already has the name.
        baseline: Runs that completed up to this time are not counted, unless they were seen active.
        listed: Whether the vendor has listed the job. Its series then end when the lists no longer have it.
        last_start: Latest start of a completed run. Another run may have completed last.
        expected_since: When the schedule last changed, or the job was enabled again. No run was due before.
        folded: True if the job is counted under the source's `__other__` job.
        overflow: True for the `__other__` job, which has no gauges.
        gone: True after the series of the job ended.
        folded_steps: Names of steps that are counted under `__other__`.
    """

    key: int
    source: str
    job: Job
    project: str
    name: str
    discovered: float
    baseline: float
    listed: bool = False
    missing_since: float | None = None
    last_run: LastRun | None = None
    last_start: float | None = None
    expected_since: float | None = None
    last_failure: LastFailure | None = None
    last_steps: LastSteps | None = None
    last_success: float | None = None
    streak: int = 0
    failing_since: float | None = None
    folded: bool = False
    overflow: bool = False
    excluded: bool = False
    gone: bool = False
    gone_since: float | None = None
    folded_steps: list[str] = []
    learned: Learned = NOTHING

    @property
    def shown(self) -> bool:
        """Return whether the job has series. No other job can then get its labels."""
        return not (self.gone or self.excluded)

    def retire(self, now: float) -> None:
        """End the series of a job that no longer exists, and drop its counters."""
        self.gone, self.gone_since, self.folded = True, now, False
        self.counts, self.distributions, self.folded_steps = {}, {}, []

    def step_names(self) -> frozenset[str]:
        """Return the names of the steps that have series."""
        return frozenset(key.partition(SEPARATOR)[0] for key in self.counts.get(STEPS, ()))


class OpenRun(msgspec.Struct, frozen=True, kw_only=True):
    """An active run. `state` is None while its status is unmapped; `origin` is the time from which its age counts."""

    run_id: str
    job: int
    job_id: str
    scope: str
    state: State | None
    origin: float
    start: float | None = None
    scheduled: float | None = None


class ScopeState(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Record of a scope, the part of a source that is readable or unreadable as a whole.

    Attributes:
        readable: Whether the last poll could read the scope.
        complete: Whether a complete poll has read the scope.
        missing_since: Since when the API has reported the scope as deleted.
        read: Whether the scope was ever readable. Its baseline is then final.
    """

    baseline: float
    watermark: float | None = None
    readable: bool = True
    complete: bool = False
    missing_since: float | None = None
    read: bool = False


class Filter(msgspec.Struct, frozen=True):
    """Patterns of included and excluded jobs, and since when they apply."""

    since: float
    include: tuple[str, ...]
    exclude: tuple[str, ...]


class RateLimit(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Tightest rate limit that an API reports: its size, the remaining requests, and when it resets."""

    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None


class SourceStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Status of a source after its last poll.

    Attributes:
        up: Whether a scope is readable and the last poll read all readable scopes; None before the first poll.
        outcome: `success`, `partial` or `error`; "" before the first poll.
        reason: Reason of the last poll's error; "" if it had none.
        last_success: When a poll last read something.
        failures: Number of consecutive failed polls.
        pending_steps: Completed runs whose steps have yet to be fetched.
        credential_since: When `credential_expiry` was first reported.
    """

    up: bool | None = None
    outcome: str = ""
    reason: str = ""
    error: str = ""
    last_poll: float | None = None
    last_poll_duration: float | None = None
    last_success: float | None = None
    failures: int = 0
    interval: float | None = None
    pending_steps: int | None = None
    rate_limit: RateLimit = RateLimit()
    credential_expiry: float | None = None
    credential_since: float | None = None


class SourceState(Counted, omit_defaults=True, kw_only=True):
    """Record of one source: its scopes, its status and its counters.

    Attributes:
        complete: Whether a poll has ever been complete.
        filters: The history of `jobs.include` and `jobs.exclude`, oldest first.
        checkpoints: Positions from which the next poll continues to read.
        unobserved: Start and end of each time range that was never read.
        pending_unobserved: Unobserved seconds that are added to their counter after a scrape.
        listed: Time of the last list of scopes in which each scope has a record.
        clock_checked: Whether `baseline` was shifted after the API's clock jumped.
        pruned_before: Runs that ended before this time have been pruned.
    """

    name: str
    identity: str
    baseline: float | None = None
    complete: bool = False
    scopes: MutableMapping[str, ScopeState] = {}
    filters: list[Filter] = []
    checkpoints: MutableMapping[str, str] = msgspec.field(default_factory=dict, name="notes")  # the state's name for it
    unobserved: list[tuple[float, float]] = []
    pending_unobserved: float = msgspec.field(default=0.0, name="held_unobserved")  # the state's name for it
    listed: float | None = None
    last_sweep: float | None = None
    clock_checked: bool = False
    pruned_before: float | None = msgspec.field(default=None, name="forgotten")  # the state's name for it
    last_truncated: float | None = None
    last_unobserved: float | None = None
    status: SourceStatus = SourceStatus()

    def watermark(self) -> float | None:
        """Return the earliest watermark of the readable scopes; None while any readable scope has none."""
        marks = [scope.watermark for scope in self.scopes.values() if scope.readable]
        known = [mark for mark in marks if mark is not None]
        return min(known) if known and len(known) == len(marks) else None


def with_bounds(job: JobState, layouts: Mapping[str, tuple[float, ...]]) -> JobState:
    """Return the record with these exposed bounds by family; the same object if it has them already."""
    changed = {
        (family, labels): distribution.with_bounds(layouts[family])
        for family, series in job.distributions.items()
        if family in layouts
        for labels, distribution in series.items()
        if distribution.shown_bounds != layouts[family]
    }
    if not changed:
        return job
    job = copy(job)
    for (family, labels), distribution in changed.items():
        job.distributions[family][labels] = distribution
    return job


def oldest(starts: Iterable[float | None]) -> float | None:
    """Return the earliest of the known times."""
    known = [start for start in starts if start is not None]
    return min(known) if known else None


Record = TypeVar("Record", bound=msgspec.Struct)


def copy(record: Record) -> Record:
    """Return a deep copy that a transaction may change."""
    return msgspec.json.decode(msgspec.json.encode(record), type=type(record))
