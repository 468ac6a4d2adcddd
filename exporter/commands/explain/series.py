"""Explains numbers: pure functions from records and rows to the series that a selector means, each with its runs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from exporter.commands.explain.contributions import ADDED, ADDED_TO_SOURCE, BEHIND, NUMBERS, UNOBSERVED, Labels, added
from exporter.commands.explain.selector import Selector
from exporter.counting.classify import CountState
from exporter.counting.records import SEPARATOR, Count, Distribution, JobState, SourceState
from exporter.exposition.textformat import number as written
from exporter.metrics.families import FAMILIES, Family, Kind
from exporter.snapshot.job import JobView
from exporter.state.schema import StepState, StoredRun

SUFFIXES = ("_count", "_sum", "_bucket")

TOLERANCE = 1e-6
"""Sums of floats differ by the order in which they were added."""


class SeriesLine(msgspec.Struct, frozen=True):
    """A run, and what it adds to the number."""

    job: JobState
    row: StoredRun
    adds: float


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One series.

    Attributes:
        labels: By name.
        value: As the state holds it.
        lines: The runs that make it up, newest first.
        found: What they add up to; None where the number is no sum.
        ranges: The stretches of time that make it up, where it is not runs that do.
        notes: Sentences about what the runs do not say.
    """

    labels: Mapping[str, str]
    value: float
    lines: tuple[SeriesLine, ...] = ()
    found: float | None = None
    ranges: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()


Rows = Sequence[tuple[JobState, StoredRun]]
"""Runs with their jobs, newest first."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A job with its runs.

    Attributes:
        view: What is shown of it.
        rows: Gives its runs; for `__other__` those of all jobs that are folded now.
        forgotten: Runs that ended before this time have been pruned.
    """

    view: JobView
    rows: Callable[[], Rows]
    forgotten: float | None = None


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A series of a job. `labels`: all of them; `values`: those beyond its level's; `le`: of a bucket."""

    family: Family
    suffix: str
    labels: Mapping[str, str]
    values: Labels
    value: float
    released: bool = True
    le: float = math.inf


def family_of(name: str) -> tuple[Family, str] | None:
    """The family of a metric's name, and the suffix if that is one of a histogram's."""
    for family in FAMILIES:
        for suffix in SUFFIXES if family.kind is Kind.HISTOGRAM else ("",):
            if name == family.name + suffix:
                return family, suffix
    return None


def can_explain(family: Family) -> bool:
    """Whether a family is made of runs, or of stretches of time that the state holds."""
    return family.name in {*ADDED, *ADDED_TO_SOURCE, *BEHIND, UNOBSERVED}


# --- series of jobs ---


def explain_job(subject: Subject, family: Family, suffix: str, selector: Selector) -> Iterator[Explained]:
    """The series of a job that a selector means."""
    wanted = [series for series in _series(subject.view, family, suffix) if selector.matches(series.labels)]
    rows = subject.rows() if wanted else ()
    for series in wanted:
        yield _gauge(subject, series, rows) if family.kind is Kind.GAUGE else _sum(subject, series, rows)


def _series(view: JobView, family: Family, suffix: str) -> Iterator[Series]:
    """All series of a metric that a job has."""
    state = view.state
    common = {"source": state.source, "project": state.project, "job_name": state.name}

    def named(values: Labels) -> dict[str, str]:
        return {**common, **dict(zip(family.labels_of(view), values, strict=True))}

    if family.samples is not None:
        for values, value in family.samples(view) if view.gauged else ():
            yield Series(family=family, suffix="", labels=named(values), values=values, value=value)
    for key, count in state.counts.get(family.name, {}).items():
        values = _values(family, key)
        yield Series(
            family=family,
            suffix="",
            labels=named(values),
            values=values,
            value=count.value,
            released=count.released,
        )
    for key, distribution in state.distributions.get(family.name, {}).items():
        values = _values(family, key)
        for le, value in _numbers(distribution, suffix):
            bound = {"le": written(le)} if suffix == "_bucket" else {}
            yield Series(
                family=family,
                suffix=suffix,
                labels={**named(values), **bound},
                values=values,
                value=value,
                released=distribution.released,
                le=le,
            )


def _values(family: Family, key: str) -> Labels:
    return tuple(key.split(SEPARATOR)) if family.labels else ()


def _numbers(distribution: Distribution, suffix: str) -> Iterator[tuple[float, float]]:
    """The numbers of a histogram under a suffix, each with its bound."""
    distribution = distribution.shown()
    if suffix == "_sum":
        yield math.inf, distribution.sum
    elif suffix == "_count":
        yield math.inf, sum(distribution.counts)
    else:
        for index, bound in enumerate((*distribution.bounds, math.inf), start=1):
            yield bound, sum(distribution.counts[:index])


def _gauge(subject: Subject, series: Series, rows: Rows) -> Explained:
    job = subject.view.state
    behind = BEHIND[series.family.name](job, [row for _, row in rows], series.values)
    counts = series.family.name in NUMBERS
    lines = tuple(SeriesLine(job, row, 1.0 if counts else series.value) for row in behind)
    missing = () if lines or not series.value else ("No run of it is in the state any more.",)
    found = float(len(lines)) if counts else None
    notes = [*missing, *_difference(subject, series.value, found)] if found is not None else missing
    return Explained(labels=series.labels, value=series.value, lines=lines, found=found, notes=tuple(notes))


def _sum(subject: Subject, series: Series, rows: Rows) -> Explained:
    job = subject.view.state
    amounts = ((owner, row, _amount(series, added(row, job))) for owner, row in rows)
    lines = tuple(SeriesLine(owner, row, amount) for owner, row, amount in amounts if amount is not None)
    found = math.fsum(line.adds for line in lines)
    return Explained(
        labels=series.labels,
        value=series.value,
        lines=lines,
        found=found,
        notes=(*_standing(subject, series, rows), *_difference(subject, series.value, found)),
    )


def _amount(series: Series, record: JobState) -> float | None:
    """Return what a record adds to a series; None if that is nothing."""
    name, key = series.family.name, SEPARATOR.join(series.values)
    if series.family.kind is not Kind.HISTOGRAM:
        count = record.counts.get(name, {}).get(key)
        return count.value if count is not None and count.value else None
    distribution = record.distributions.get(name, {}).get(key)
    if distribution is None:
        return None
    amount = dict(_numbers(distribution, series.suffix)).get(series.le)
    return amount if amount or series.suffix == "_sum" else None


def _standing(subject: Subject, series: Series, rows: Rows) -> Iterator[str]:
    """Yield what else is to be known of a counter."""
    state = subject.view.state
    uncounted = (row for _, row in rows if row.mark is CountState.BASELINE)
    baseline = sum(_amount(series, added(_as_counted(row), state)) is not None for row in uncounted)
    if baseline:
        yield f"{baseline} more ended before counting began (baseline): they are in no counter."
    earlier = sum(len(row.earlier) for _, row in rows)
    if earlier:
        yield f"{earlier} earlier endings of runs that came back to life are counted too; only the last result is kept."
    waiting = sum(row.steps is StepState.PENDING for _, row in rows)
    if waiting and "step" in series.family.name:
        yield f"The steps of {waiting} runs have yet to be fetched."
    if state.overflow:
        yield "Jobs are counted here while there are too many series; listed are the runs of those that are folded now."
    if state.gone:
        yield "The job is gone: its series is served no more."
    if state.excluded:
        yield "The configuration excludes the job: its series is not served."
    if not series.released and series.value:
        yield "It is still served as 0 (metrics.zero_first)."


def _as_counted(row: StoredRun) -> StoredRun:
    return msgspec.structs.replace(row, mark=CountState.COUNTED)


def _difference(subject: Subject, value: float, found: float) -> Iterator[str]:
    """Why what is listed is not the number."""
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


# --- series of sources ---


def explain_source(
    source: SourceState, rows: Callable[[], Rows], family: Family, selector: Selector
) -> Iterator[Explained]:
    """The series of a source that a selector means."""
    for key, count in source.counts.get(family.name, {}).items():
        values = _values(family, key)
        labels = {"source": source.name, **dict(zip(family.labels, values, strict=True))}
        if not selector.matches(labels):
            continue
        if family.name == UNOBSERVED:
            yield _ranges(source, labels, count)
            continue
        adds = ADDED_TO_SOURCE[family.name]
        lines = tuple(SeriesLine(job, row, 1.0) for job, row in rows() if values in adds(row))
        notes = ("Some of it is of runs that are no longer in the state.",) if count.value > len(lines) else ()
        yield Explained(labels=labels, value=count.value, lines=lines, found=float(len(lines)), notes=notes)


def _ranges(source: SourceState, labels: Mapping[str, str], count: Count) -> Explained:
    held = source.held_unobserved
    return Explained(
        labels=labels,
        value=count.value,
        found=math.fsum(end - start for start, end in source.unobserved),
        ranges=tuple(source.unobserved),
        notes=(f"{held:g} s of it are added once the restored value has been served for a while.",) if held else (),
    )


def utc(timestamp: float) -> str:
    """Return a time for people."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
