"""The records that the state keeps of jobs and sources: counters, histograms, and what gauges are made of.

These records are stored as JSON, one document a job or source, and rewritten in the transaction of the reading that
changed them. A committed record is never mutated: a transaction works on a copy and swaps it in when it is on disk.
"""

import bisect
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import TypeVar

import msgspec

from exporter.learning.learned import NOTHING, Learned
from exporter.model import Job, Result, State

SEPARATOR = "\x1f"
"""Between the label values of a series of more than one label; no vendor's name can hold it (`clean` sees to that)."""

MAX_LABEL = 200
"""Characters of a label that comes from a vendor."""

MAX_URL = 1000
"""Characters of an address in a label."""

MAX_BOUNDS = 200
"""Bounds of a histogram that are remembered after the configuration has changed them."""

OTHER = "__other__"
"""The label value that stands for everything beyond a bound."""


class Exemplar(msgspec.Struct, frozen=True, gc=False):
    """A run that shows what a number is made of. `timestamp`: the end of the run."""

    run_id: str
    value: float
    timestamp: float = msgspec.field(name="instant")  # the state's name for it


class Count(msgspec.Struct, omit_defaults=True):
    """A counter series. Until `released` it is served as 0, if its family is zero-first."""

    value: float = 0.0
    released: bool = False
    exemplar: Exemplar | None = None


class Distribution(msgspec.Struct, omit_defaults=True):
    """A histogram series.

    Attributes:
        bounds: All bounds that it was ever shown with, so that no bucket falls when the configured ones change back.
        counts: One number per bound and one for what is beyond, not cumulative.
        layout: The bounds that it is shown with, if those are not all.
        exemplars: The newest of each bucket of `bounds`, by its place.
    """

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float = 0.0
    released: bool = False
    exemplars: dict[int, Exemplar] = {}
    layout: tuple[float, ...] | None = None

    @classmethod
    def empty(cls, bounds: Sequence[float]) -> "Distribution":
        """Return one that has seen nothing."""
        return cls(bounds=tuple(bounds), counts=[0] * (len(bounds) + 1))

    def observe(self, value: float, exemplar: Exemplar | None = None) -> None:
        """Add one observation; the newest exemplar of a bucket stays."""
        bucket = bisect.bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        if exemplar is not None:
            self._exemplify(bucket, exemplar)

    @property
    def shown_bounds(self) -> tuple[float, ...]:
        """The bounds that it is served with."""
        return self.bounds if self.layout is None else self.layout

    def shown(self) -> "Distribution":
        """Return it as it is served: with the bounds of its layout alone."""
        return self if self.layout is None else self._with_bounds(self.layout)

    def laid_out(self, layout: Sequence[float]) -> "Distribution":
        """Return the same observations, to be shown with other bounds.

        What lay between two old bounds is only known to be at most the upper one, and stays there. So no bucket ever
        falls, also of a bound that was left out for a while.
        """
        known = sorted({*self.bounds, *layout})
        new = self._with_bounds(known if len(known) <= MAX_BOUNDS else layout)
        new.layout = None if new.bounds == tuple(layout) else tuple(layout)
        return new

    def _with_bounds(self, bounds: Sequence[float]) -> "Distribution":
        new = Distribution.empty(bounds)
        new.sum, new.released = self.sum, self.released
        places = [bisect.bisect_left(new.bounds, upper) for upper in (*self.bounds, float("inf"))]
        for place, count in zip(places, self.counts, strict=True):
            new.counts[place] += count
        for bucket, exemplar in self.exemplars.items():
            new._exemplify(places[bucket], exemplar)  # noqa: SLF001  # of its own class
        return new

    def _exemplify(self, bucket: int, exemplar: Exemplar) -> None:
        known = self.exemplars.get(bucket)
        if known is None or known.timestamp <= exemplar.timestamp:
            self.exemplars[bucket] = exemplar


class LastRun(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """The completed run with the latest end. `order`: its end, or when its completion was first seen if it has none."""

    run_id: str
    result: Result
    order: float
    start: float | None = None
    end: float | None = None
    duration: float | None = None


class LastFailure(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The failed run with the latest end."""

    run_id: str
    order: float
    end: float | None = None
    error_type: str = ""
    failed_step: str = ""


class LastSteps(msgspec.Struct, frozen=True, kw_only=True):
    """The results of the steps of the latest run whose steps are known."""

    run_id: str
    order: float
    results: dict[str, int]


class Counted(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A record with counters and histograms: by family, then by label values joined by SEPARATOR."""

    counts: dict[str, dict[str, Count]] = {}
    distributions: dict[str, dict[str, Distribution]] = {}

    def count(self, family: str, *labels: str, amount: float = 1) -> Count:
        """Add to a counter series, which starts at 0 if it is new; an amount of 0 seeds it."""
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
            distribution = series[key] = distribution.laid_out(bounds)
        return distribution

    def expose(self) -> None:
        """Expose all series at their value from now on."""
        for table in (self.counts, self.distributions):
            for series in table.values():
                for each in series.values():
                    each.released = True


class JobState(Counted, omit_defaults=True, kw_only=True):
    """One job: its names, its counters and what is known of its latest runs.

    Attributes:
        key: Its number in the state.
        source: The source's name.
        job: What the vendor last said of it; `job.job_id` is its identity.
        project: Label, as exported.
        name: Label, as exported: ` #<id>` is appended where another job had the name first.
        discovered: When the exporter first knew it.
        baseline: Runs that ended up to this time are not counted, unless they were seen open.
        listed: Whether the vendor's discovery shows it; then it lives as long as it is shown.
        missing_since: Since when discovery has not shown it.
        last_start: The latest start of all its runs that have ended; not always that of the last run to end.
        expected_since: When the vendor last changed its schedule or enabled it again: nothing was due before.
        streak: Failing runs since the last success.
        folded: True if its counters go to the source's `__other__` job.
        overflow: True for that `__other__` job itself, which has no gauges.
        excluded: True while the configuration leaves its name out.
        gone: True once it has expired; no series are exported.
        gone_since: Since when it is gone.
        folded_steps: Steps whose series go to `__other__`.
        learned: What its past teaches.
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
        """Whether it has its labels: no other job can get them."""
        return not (self.gone or self.excluded)

    def retire(self, now: float) -> None:
        """End its series, and drop what it counted: it does not exist anymore."""
        self.gone, self.gone_since, self.folded = True, now, False
        self.counts, self.distributions, self.folded_steps = {}, {}, []

    def step_names(self) -> frozenset[str]:
        """Return the names of the steps that have series."""
        return frozenset(key.partition(SEPARATOR)[0] for key in self.counts.get("jobrun_steps_total", ()))


class OpenRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has not ended. `state` is None while its status is unmapped."""

    run_id: str
    job: int
    job_id: str
    scope: str
    state: State | None
    origin: float
    start: float | None = None
    scheduled: float | None = None


class ScopeState(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What is readable or not as a whole.

    `watermark`: all its endings up to here are counted. `complete`: a complete poll has read it. `missing_since`: since
    when it has been said to exist no more. `read`: it was readable once, so that its baseline stands.
    """

    baseline: float
    watermark: float | None = None
    readable: bool = True
    complete: bool = False
    missing_since: float | None = None
    read: bool = False


class Filter(msgspec.Struct, frozen=True):
    """Which jobs were included since when."""

    since: float
    include: tuple[str, ...]
    exclude: tuple[str, ...]


class RateLimit(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The tightest rate limit that an API reports: its size, what is left of it, and when it starts again."""

    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None


class SourceStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How a source stands after its last poll.

    Attributes:
        up: Whether the last poll read at least one scope; None before the first.
        outcome: `success`, `partial` or `error`.
        reason: Of the last poll's error, "" if there was none.
        error: The same in words for people.
        last_poll: When the last poll ended.
        last_poll_duration: In seconds.
        last_success: When a poll last read something.
        failures: Failed polls since the last one that did not fail.
        interval: Seconds between polls that are in force.
        pending_steps: Completed runs whose steps have yet to be fetched.
        rate_limit: As the API last reported it.
        credential_expiry: When the credential in use expires.
        credential_since: When that time was first seen.
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
    """One source: up to where it is read, how it stands, and its own counters.

    Attributes:
        identity: The API and account under this name.
        baseline: The start of its first poll.
        complete: Whether a poll has ever been complete.
        scopes: By scope.
        filters: The history of `jobs.include` and `jobs.exclude`, oldest first.
        notes: The source's own bookmarks.
        unobserved: Ranges that were never read, by their bounds.
        held_unobserved: Seconds of them not yet in the counter (see design of the start with a state).
        listed: When the scopes were last listed, as far as all that were shown then have a record here.
        last_sweep: When the sweep window was last read.
        clock_checked: Whether `baseline` has been corrected by the API's clock.
        forgotten: Runs that ended before this time have been pruned.
        last_truncated: When an answer last came trimmed.
        last_unobserved: When a range was last found that was never read.
        status: How it stands.
    """

    name: str
    identity: str
    baseline: float | None = None
    complete: bool = False
    scopes: MutableMapping[str, ScopeState] = {}
    filters: list[Filter] = []
    notes: MutableMapping[str, str] = {}
    unobserved: list[tuple[float, float]] = []
    held_unobserved: float = 0.0
    listed: float | None = None
    last_sweep: float | None = None
    clock_checked: bool = False
    forgotten: float | None = None
    last_truncated: float | None = None
    last_unobserved: float | None = None
    status: SourceStatus = SourceStatus()

    def watermark(self) -> float | None:
        """Return the least of the readable scopes' watermarks; None while one has none."""
        marks = [scope.watermark for scope in self.scopes.values() if scope.readable]
        known = [mark for mark in marks if mark is not None]
        return min(known) if known and len(known) == len(marks) else None


def laid_out(job: JobState, layouts: Mapping[str, tuple[float, ...]]) -> JobState:
    """Return a job whose histograms are shown with these bounds, by family; the same one if they already are."""
    # Observations between two old bounds stay in the bucket of the upper one: that is all that is known of them. So no
    # bucket ever falls, also not of a bound that was missing for a while.
    changed = {
        (family, labels): distribution.laid_out(layouts[family])
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


def clean(name: str) -> str:
    """Return a vendor's word as a label: without control characters, at most MAX_LABEL characters."""
    text = name if name.isprintable() else "".join(char if char.isprintable() else " " for char in name)
    return text.strip()[:MAX_LABEL].strip()


def clean_url(url: str) -> str:
    """Return an address as a label, or "" if it cannot be one: a part of it would lead nowhere."""
    return url if url.isprintable() and len(url) <= MAX_URL else ""


def label_of(job: Job) -> str:
    """Return a job's name as a label, before another job's equal name is considered."""
    return clean(job.name) or "unknown"


def name_apart(name: str, job_id: str, number: int) -> str:
    """Return the label of a job whose name another job has: its name and ` #ID`, at most MAX_LABEL characters.

    `number` tells apart what is still equal: 1 adds nothing.
    """
    ending = f" #{clean(job_id)[:100]}" + (f" ({number})" if number > 1 else "")
    return name[: MAX_LABEL - len(ending)].rstrip() + ending


def oldest(starts: Iterable[float | None]) -> float | None:
    """Return the least of those that are known."""
    known = [start for start in starts if start is not None]
    return min(known) if known else None


Record = TypeVar("Record", bound=msgspec.Struct)

Value = TypeVar("Value")


def copy(record: Record) -> Record:
    """Return a deep copy, to be changed by a transaction."""
    return msgspec.json.decode(msgspec.json.encode(record), type=type(record))


def fork(source: SourceState) -> SourceState:
    """Return a copy of a source, to be changed by a transaction."""
    # There may be thousands of scopes and notes, so they are not copied: changes lie over them until `joined`.
    counts = {
        family: {labels: msgspec.structs.replace(count) for labels, count in series.items()}
        for family, series in source.counts.items()
    }
    distributions = {
        family: {
            labels: msgspec.structs.replace(each, counts=list(each.counts), exemplars=dict(each.exemplars))
            for labels, each in series.items()
        }
        for family, series in source.distributions.items()
    }
    return msgspec.structs.replace(
        source,
        counts=counts,
        distributions=distributions,
        scopes=ChainMap({}, source.scopes),
        notes=ChainMap({}, source.notes),
        filters=list(source.filters),
        unobserved=list(source.unobserved),
    )


def joined(table: MutableMapping[str, Value]) -> MutableMapping[str, Value]:
    """Return a table with the changes that lie over it."""
    # Values are replaced in the table itself: a reader that walks through it sees either value. A table that changes
    # its length is copied, because that reader would fail.
    if not isinstance(table, ChainMap):
        return table
    changes, base = table.maps
    if not changes.keys() <= base.keys():
        return {**base, **changes}
    base.update(changes)
    return base
