"""The command `explain`: lists the runs behind a number, from the state of a running daemon."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from difflib import get_close_matches
from pathlib import Path
from typing import TextIO

from exporter.assembly import configured_source
from exporter.commands.explain.selector import Selector, SelectorError, parse
from exporter.commands.explain.series import RUNS_BEHIND, Explained, Rows, SeriesLine, job_series, unobserved_time
from exporter.commands.table import table
from exporter.config import Config
from exporter.counting.classify import CountState
from exporter.counting.labels import clean
from exporter.counting.records import JobState
from exporter.duration import format_duration
from exporter.exposition.textformat import labels as pairs
from exporter.ledger.ledger_state import as_open
from exporter.links import run_url
from exporter.metrics.families import FAMILIES, REQUEST_FAMILIES, UNOBSERVED
from exporter.metrics.family import Family, Kind, Level
from exporter.queries import runs as run_reports
from exporter.queries.reader import StoredState, reader_of
from exporter.snapshot.builder import ViewBuilder
from exporter.times import format_utc

HEADINGS = ("RUN", "JOB", "END", "RESULT", "DURATION", "MARK", "ADDS", "LINK")

SUFFIXES = ("_count", "_sum", "_bucket")

ADDED = {family.name for family in FAMILIES if family.level is Level.JOB and family.kind is not Kind.GAUGE}
EXPLAINED = {*ADDED, *RUNS_BEHIND, UNOBSERVED}
"""Families whose values can be explained by runs or time ranges in the state."""


class Explainer:
    """Finds series in a state, and the runs behind them."""

    def __init__(self, config: Config, state: StoredState) -> None:
        self._state = state
        configured = {each.name: configured_source(each, config) for each in config.sources}
        self._views = ViewBuilder(config, configured)
        self._sources = {source.name: source for source in state.sources() if source.name in configured}
        self._jobs = [job for job in state.jobs() if job.source in configured]

    def series(self, family: Family, selector: Selector) -> Iterator[Explained]:
        """Yield all series that a selector matches."""
        if family.level is Level.SOURCE:
            for source in self._sources.values():
                if selector.matches({"source": source.name}):
                    yield from unobserved_time(source, family)
            return
        for job in self._jobs:
            if selector.may_match(_labels(job)):
                rows = self._rows(job)
                view = self._views.job(job, [as_open(row, each) for each, row in rows if row.mark is CountState.OPEN])
                yield from job_series(view, rows, family, selector, self._sources[job.source].pruned_before)

    def folded(self, selector: Selector) -> list[str]:
        """Return the names of the folded jobs that a selector may match."""
        return [job.name for job in self._jobs if job.folded and selector.may_match(_labels(job))]

    def _rows(self, job: JobState) -> Rows:
        """Return a job's runs, newest first; for `__other__` the runs of all folded jobs."""
        jobs = [job]
        if job.overflow:
            jobs = [other for other in self._jobs if other.folded and other.source == job.source]
        rows = [(each, row) for each in jobs for row in self._state.runs_of(each.key)]
        return sorted(rows, key=lambda pair: pair[1].ended_at, reverse=True)


def _labels(job: JobState) -> dict[str, str]:
    return {"source": job.source, "project": job.project, "job_name": job.name}


def explain(config: Config, text: str, out: TextIO, err: TextIO) -> int:
    """Print the runs behind the series that a selector matches. Return the exit code.

    The exit code is 1 if no series matches, and 2 if the selector is invalid. Raises StateError if the state cannot be
    read.
    """
    try:
        selector = parse(text)
        family = _family(selector)
    except SelectorError as error:
        print(f"{error}", file=err)
        return 2
    reader = reader_of(Path(config.state.path), config.state.database())
    with closing(reader), reader.state() as state:
        explainer = Explainer(config, state)
        found = 0
        for series in explainer.series(family, selector):
            out.write("\n" if found else "")
            out.writelines(f"{line}\n" for line in _report(series, selector.name, family, config))
            found += 1
        if not found:
            print(_no_match(explainer.folded(selector)), file=err)
    if family.name in config.metrics.exclude:
        print("note: the config excludes this metric: it is counted, but not served", file=err)
    if not reader.complete:
        print("note: the state's journal cannot be read, so the latest runs may be missing", file=err)
    return 0 if found else 1


def _family(selector: Selector) -> Family:
    """Return the family that a selector names. Raises SelectorError if it cannot be explained."""
    name, in_state = selector.name, [family for family in FAMILIES if family.level is not Level.PROCESS]
    family = next((family for family in in_state if name in _names(family)), None)
    if family is None:
        raise SelectorError(_unknown(name, {family.name for family in in_state}))
    if family.name not in EXPLAINED:
        raise SelectorError(f"{name} is not computed from runs: {family.help}")
    labels = {*family.all_labels, *(["le"] if name.endswith("_bucket") else [])}
    unknown = sorted({matcher.label for matcher in selector.matchers} - labels)
    if unknown:
        raise SelectorError(f"{name} has no label {', '.join(unknown)}; it has {', '.join(sorted(labels))}")
    return family


def _names(family: Family) -> list[str]:
    return [family.name + suffix for suffix in (SUFFIXES if family.kind is Kind.HISTOGRAM else ("",))]


def _unknown(name: str, known: Collection[str]) -> str:
    if name in known:
        return f"{name} is a histogram; ask for its _count, _sum or _bucket"
    own = [family for family in (*FAMILIES, *REQUEST_FAMILIES) if family.level is Level.PROCESS]
    if name.startswith("process_") or any(name in (family.name, *_names(family)) for family in own):
        return f"{name} is not in the state; only the running process knows it"
    close = get_close_matches(name, sorted(known), n=3)
    return f"there is no metric {name}" + (f"; did you mean {' or '.join(close)}?" if close else "")


def _no_match(folded: Sequence[str]) -> str:
    if folded:
        names = ", ".join(map(clean, folded[:5]))
        return f'counted under __other__, because there are too many series: {names}; ask for job_name="__other__"'
    return "the state has no series that match this selector"


def _report(series: Explained, name: str, family: Family, config: Config) -> Iterable[str]:
    """Yield the lines about a series."""
    shown = f"{series.value:.10g}"
    if name.endswith("_timestamp_seconds"):
        shown = f"{series.value:.14g} ({format_utc(series.value)})"
    yield f"{name}{{{pairs(tuple(series.labels), tuple(series.labels.values()))}}} {shown}"
    if series.ranges:
        ranges = [(format_utc(start), format_utc(end), f"{end - start:g}") for start, end in series.ranges]
        yield from _indented_table([("FROM", "TO", "SECONDS"), *ranges])
    elif series.lines:
        yield from _indented_table([HEADINGS, *(_row(line, family, config) for line in series.lines)])
    if series.summed:
        yield from series.verdict()
    yield from series.notes


def _row(line: SeriesLine, family: Family, config: Config) -> tuple[str, ...]:
    run = line.row.run
    settings = next(each for each in config.sources if each.name == line.job.source)
    return (
        clean(run.run_id),
        " / ".join(filter(None, (line.job.source, line.job.project, line.job.name))),
        "" if run.end is None else format_utc(run.end),
        run.result or run.state or clean(run.unmapped),
        "" if run.duration is None else format_duration(run.duration),
        run_reports.mark_of(line.row),
        "" if family.kind is Kind.GAUGE else f"{line.adds:g}",
        run_url(config.web.external_url, settings, line.job.job, run.run_id),
    )


def _indented_table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a table without empty columns."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    return (f"  {line}" for line in table(zip(*columns, strict=True)))
