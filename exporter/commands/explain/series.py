"""Explains numbers: pure functions from views and rows to the matching series, each with its runs.

The series of a state, and what a run adds to them, are parsed from the text that the daemon would serve.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from exporter.commands.explain.contributions import ADDED_TO_SOURCE, BEHIND, NUMBERS, UNOBSERVED, added
from exporter.commands.explain.selector import Selector
from exporter.counting.classify import CountState
from exporter.counting.records import JobState
from exporter.exposition.exposition import block_of
from exporter.exposition.textformat import prefix_of
from exporter.metrics.family import Family, Kind
from exporter.snapshot.job import JobView
from exporter.snapshot.source import SourceView
from exporter.state.schema import StepState, StoredRun

TOLERANCE = 1e-6
"""Tolerance of sums: sums of floats depend on the order of addition."""

Rows = Sequence[tuple[JobState, StoredRun]]
"""Runs with their jobs, newest first."""

Samples = list[tuple[Mapping[str, str], float]]
"""Labels and value of each series."""


class SeriesLine(msgspec.Struct, frozen=True):
    """A run, and what it adds to the number."""

    job: JobState
    row: StoredRun
    adds: float


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One series.

    Attributes:
        labels: Labels by name.
        value: Value in the state.
        lines: The runs behind it, newest first.
        found: Sum of the runs; None if the value is not a sum.
        ranges: The time ranges behind it, if it is not about runs.
        notes: More sentences about the value.
    """

    labels: Mapping[str, str]
    value: float
    lines: Sequence[SeriesLine] = ()
    found: float | None = None
    ranges: Sequence[tuple[float, float]] = ()
    notes: Sequence[str] = ()


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A job or a source with its runs.

    Attributes:
        view: Its view, of a record that no other code uses.
        rows: Returns its runs; for `__other__` those of all folded jobs.
        forgotten: Runs that completed before this time were pruned.
    """

    view: JobView | SourceView
    rows: Callable[[], Rows]
    forgotten: float | None = None


def explain(subject: Subject, family: Family, selector: Selector) -> Iterator[Explained]:
    """Yield all series of a job or a source that match a selector."""
    served = _samples(subject.view, family, selector)
    subject.view.record.expose()
    known = _samples(subject.view, family, selector)
    if isinstance(subject.view, SourceView):
        explained: Iterator[Explained] = (_of_source(subject, subject.view, family, *sample) for sample in known)
    elif family.kind is Kind.GAUGE:
        explained = (_gauge(subject, subject.view.state, family, *sample) for sample in known)
    else:
        explained = _sums(subject, subject.view, family, selector, known)
    for each, (_, shown) in zip(explained, served, strict=True):
        pending = ["It is still served as 0 (metrics.zero_first)."] if shown != each.value else []
        yield msgspec.structs.replace(each, notes=[*each.notes, *pending])


def _samples(view: JobView | SourceView, family: Family, selector: Selector) -> Samples:
    """Return the series that match a selector, with their served values."""
    text = block_of(family, prefix_of(family.level, view.common_labels), view).plain.decode()
    samples = (sample for metric in text_string_to_metric_families(text) for sample in metric.samples)
    found = [(each.labels, each.value) for each in samples if each.name == selector.name]
    return [(labels, value) for labels, value in found if selector.matches(labels)]


def _of_source(
    subject: Subject, view: SourceView, family: Family, labels: Mapping[str, str], value: float
) -> Explained:
    if family.name == UNOBSERVED:
        ranges, held = view.state.unobserved, view.state.held_unobserved
        notes = [f"{held:g} s of it are added once the restored value has been served for a while."] if held else []
        found = math.fsum(end - start for start, end in ranges)
        return Explained(labels=labels, value=value, found=found, ranges=ranges, notes=notes)
    own, adds = tuple(labels[name] for name in family.labels), ADDED_TO_SOURCE[family.name]
    lines = [SeriesLine(job, row, 1.0) for job, row in subject.rows() if own in adds(row)]
    notes = ["Some of it is of runs that are no longer in the state."] if value > len(lines) else []
    return Explained(labels=labels, value=value, lines=lines, found=float(len(lines)), notes=notes)


def _gauge(subject: Subject, job: JobState, family: Family, labels: Mapping[str, str], value: float) -> Explained:
    behind = BEHIND[family.name](job, [row for _, row in subject.rows()], labels)
    counts = family.name in NUMBERS
    lines = [SeriesLine(job, row, 1.0 if counts else value) for row in behind]
    missing = [] if lines or not value else ["No run of it is in the state any more."]
    if not counts:
        return Explained(labels=labels, value=value, lines=lines, notes=missing)
    found = float(len(lines))
    notes = [*missing, *_difference(subject, value, found)]
    return Explained(labels=labels, value=value, lines=lines, found=found, notes=notes)


def _sums(subject: Subject, view: JobView, family: Family, selector: Selector, known: Samples) -> Iterator[Explained]:
    rows = subject.rows() if known else ()
    # a baseline run counts nowhere; what it would have added is printed next to the number
    amounts = [
        (owner, row, _samples(msgspec.structs.replace(view, state=added(row, view.state)), family, selector))
        for owner, row in rows
    ]
    for labels, value in known:
        adding = [(owner, row, amount) for owner, row, all_of in amounts for own, amount in all_of if own == labels]
        if not selector.name.endswith("_sum"):
            adding = [each for each in adding if each[2]]
        lines = [SeriesLine(*each) for each in adding if each[1].mark is not CountState.BASELINE]
        found = math.fsum(line.adds for line in lines)
        notes = [*_notes(view.state, family, rows, len(adding) - len(lines)), *_difference(subject, value, found)]
        yield Explained(labels=labels, value=value, lines=lines, found=found, notes=notes)


def _notes(job: JobState, family: Family, rows: Rows, baseline: int) -> Iterator[str]:
    """Yield more sentences about a counter."""
    if baseline:
        yield f"{baseline} more ended before counting began (baseline): they are in no counter."
    earlier = sum(len(row.earlier) for _, row in rows)
    if earlier:
        yield f"{earlier} earlier endings of runs that came back to life are counted too; only the last result is kept."
    waiting = sum(row.steps is StepState.PENDING for _, row in rows)
    if waiting and "step" in family.name:
        yield f"The steps of {waiting} runs have yet to be fetched."
    if job.overflow:
        yield "Jobs are counted here while there are too many series; listed are the runs of those that are folded now."
    if job.excluded:
        yield "The configuration excludes the job: its series is not served."


def _difference(subject: Subject, value: float, found: float) -> Iterator[str]:
    """Yield why the listed runs do not add up to the value."""
    difference = value - found
    if abs(difference) <= TOLERANCE * max(1.0, abs(value)):
        return
    if difference < 0:
        yield (
            f"{-difference:g} more are listed than counted: the series began again after them (the job was renamed, "
            "gone or folded for a while), or they changed after they were counted."
        )
    elif subject.forgotten is not None:
        yield (
            f"{difference:g} are of runs that ended before {utc(subject.forgotten)} and are no longer in the state "
            "(state.retention), or of runs that changed after they were counted: a counter never goes back."
        )
    else:
        yield f"{difference:g} are of runs that changed after they were counted: a counter never goes back."


def utc(timestamp: float) -> str:
    """Return a time as text in UTC."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
