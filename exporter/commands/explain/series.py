"""Finds the series of a job or source that match a selector, each with the runs behind it. Pure functions."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

import msgspec

from exporter.commands.explain.contributions import ADDED_TO_SOURCE, RUN_COUNTS, RUNS_BEHIND, adder
from exporter.commands.explain.selector import Selector
from exporter.counting.classify import CountState
from exporter.counting.records import Counted, JobState
from exporter.counting.series import SEPARATOR
from exporter.exposition.textformat import bounds_of
from exporter.metrics.families import UNOBSERVED
from exporter.metrics.family import Family, Kind
from exporter.snapshot.job import JobView
from exporter.snapshot.source import SourceView
from exporter.state.schema import StepState, StoredRun
from exporter.times import format_utc

TOLERANCE = 1e-6
"""Relative tolerance of sums. A sum of floats depends on the order of addition."""

RESTARTED = "the series started again at 0 (the job was renamed, gone or folded for a while)"
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
        notes: More sentences about the value.
    """

    labels: Mapping[str, str]
    value: float
    lines: Sequence[SeriesLine] = ()
    ranges: Sequence[tuple[float, float]] = ()
    summed: bool = True
    notes: Sequence[str] = ()

    @property
    def found(self) -> float:
        """Return the sum over the runs or ranges."""
        return math.fsum(end - start for start, end in self.ranges) + math.fsum(line.adds for line in self.lines)


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A job or a source with its runs.

    Attributes:
        view: The view of the job or source.
        rows: Returns its runs; for `__other__` the runs of all folded jobs.
        pruned_before: Time before which completed runs were pruned; None if none were.
    """

    view: JobView | SourceView
    rows: Callable[[], Rows]
    pruned_before: float | None = None


def explain(subject: Subject, family: Family, selector: Selector) -> Iterator[Explained]:
    """Yield all series of a job or a source that match a selector."""
    view = subject.view
    known = [each for each in _series(view, family, selector.name) if selector.matches(each[1].labels)]
    if isinstance(view, SourceView):
        yield from (_source_series(subject, view, family, *each) for each in known)
    elif family.kind is Kind.GAUGE:
        yield from (_gauge(subject, view.state, family, series) for _, series in known)
    elif known:
        lines = _lines(view.state, subject.rows(), family, selector.name)
        yield from (_sum(subject, view.state, family, series, lines[own]) for own, series in known)


def _series(view: JobView | SourceView, family: Family, name: str) -> Iterator[tuple[OwnLabels, Explained]]:
    """Yield the series that are served under a name, without their runs."""
    values: Iterable[tuple[OwnLabels, float, bool]] = ()
    if family.samples is not None:
        values = ((own, value, True) for own, value in family.samples(view)) if view.gauged else ()
    elif view.has_series(family.name):
        values = _counted(view.state, family, name)
    names = (*family.all_labels, "le")
    for own, value, released in values:
        notes = ["It is still served as 0 (metrics.zero_first)."] if value and not released else []
        labels = dict(zip(names, view.common_labels + own, strict=False))
        yield own, Explained(labels=labels, value=value, notes=notes)


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


def _source_series(subject: Subject, view: SourceView, family: Family, own: OwnLabels, series: Explained) -> Explained:
    if family.name == UNOBSERVED:
        pending = view.state.pending_unobserved
        note = f"{pending:g} s are pending: they are added after a scrape has read the restored value."
        notes = [note] if pending else []
        return msgspec.structs.replace(series, ranges=view.state.unobserved, notes=[*series.notes, *notes])
    adds = ADDED_TO_SOURCE[family.name]
    lines = [SeriesLine(job, row, 1.0) for job, row in subject.rows() if own in adds(row)]
    notes = ["Some runs are no longer in the state."] if series.value > len(lines) else []
    return msgspec.structs.replace(series, lines=lines, notes=[*series.notes, *notes])


def _gauge(subject: Subject, job: JobState, family: Family, series: Explained) -> Explained:
    rows = RUNS_BEHIND[family.name](job, [row for _, row in subject.rows()], series.labels)
    is_count = family.name in RUN_COUNTS
    lines = [SeriesLine(job, row, 1.0 if is_count else series.value) for row in rows]
    notes = [] if lines or not series.value else ["Its runs are no longer in the state."]
    series = msgspec.structs.replace(series, lines=lines, summed=is_count, notes=notes)
    return _compared(subject, series) if is_count else series


def _lines(job: JobState, rows: Rows, family: Family, name: str) -> Mapping[OwnLabels, list[SeriesLine]]:
    lines: defaultdict[OwnLabels, list[SeriesLine]] = defaultdict(list)
    add = adder(job, family.name)
    for owner, row in rows:
        for own, amount, _ in _counted(add(row), family, name):
            if amount or name.endswith("_sum"):
                lines[own].append(SeriesLine(owner, row, amount))
    return lines


def _sum(subject: Subject, job: JobState, family: Family, series: Explained, runs: Sequence[SeriesLine]) -> Explained:
    # Baseline runs are in no counter, so they are not listed. A note has their number.
    lines = [line for line in runs if line.row.mark is not CountState.BASELINE]
    notes = [*series.notes, *_notes(job, family, subject.rows(), len(runs) - len(lines))]
    return _compared(subject, msgspec.structs.replace(series, lines=lines, notes=notes))


def _notes(job: JobState, family: Family, rows: Rows, baseline: int) -> Iterator[str]:
    if baseline:
        yield f"{baseline} more runs completed before the baseline: they are in no counter."
    earlier = sum(len(row.earlier) for _, row in rows)
    if earlier:
        yield f"{earlier} earlier completions of reopened runs are counted too; only the last result is stored."
    waiting = sum(row.steps is StepState.PENDING for _, row in rows)
    if waiting and "step" in family.name:
        yield f"The steps of {waiting} runs are not fetched yet."
    if job.overflow:
        yield "Jobs are counted here while there are too many series. The list has the runs of currently folded jobs."
    if job.excluded:
        yield "The configuration excludes the job: its series is not served."


def _compared(subject: Subject, series: Explained) -> Explained:
    """Return the series, with a note if the sum of its runs differs from its value."""
    difference = series.value - series.found
    if abs(difference) <= TOLERANCE * max(1.0, abs(series.value)):
        return series
    if difference < 0:
        note = (
            f"{-difference:g} more are listed than counted: {RESTARTED}, or the runs changed after they were counted."
        )
    else:
        cut = "" if subject.pruned_before is None else PRUNED.format(format_utc(subject.pruned_before))
        note = f"{difference:g} come {cut}from runs that changed after they were counted: a counter never falls."
    return msgspec.structs.replace(series, notes=[*series.notes, note])
