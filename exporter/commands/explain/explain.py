"""The command `explain`: lists the runs behind a number, from the state of a running daemon."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import TextIO

from exporter.assembly import configured_source
from exporter.commands.explain.contributions import ADDED_TO_SOURCE, RUNS_BEHIND
from exporter.commands.explain.selector import Selector, SelectorError, parse
from exporter.commands.explain.series import Explained, Rows, SeriesLine, Subject
from exporter.commands.explain.series import explain as explain_series
from exporter.commands.table import table
from exporter.config import Config
from exporter.counting.classify import CountState
from exporter.counting.labels import clean
from exporter.counting.records import JobState
from exporter.duration import format_duration
from exporter.exposition.textformat import labels as pairs
from exporter.ledger.open_runs import as_open
from exporter.links import run_url
from exporter.metrics.families import FAMILIES, REQUEST_FAMILIES, UNOBSERVED
from exporter.metrics.family import Family, Kind, Level
from exporter.queries import runs as run_reports
from exporter.queries.reader import StoredState, reader_of
from exporter.snapshot.builder import ViewBuilder
from exporter.times import format_utc

HEADINGS = ("RUN", "JOB", "END", "RESULT", "DURATION", "MARK", "ADDS", "LINK")

SUFFIXES = ("_count", "_sum", "_bucket")

ONLY_ACTIVE = frozenset({"jobrun_active_runs", "jobrun_oldest_active_run_start_timestamp_seconds"})
"""Families that depend on active runs only."""

ADDED = {family.name for family in FAMILIES if family.level is Level.JOB and family.kind is not Kind.GAUGE}
EXPLAINED = {*ADDED, *ADDED_TO_SOURCE, *RUNS_BEHIND, UNOBSERVED}
"""Families whose values can be explained by runs or time ranges in the state."""


class Explainer:
    """Finds series in a state, and the runs behind them."""

    def __init__(self, config: Config, state: StoredState) -> None:
        self._config = config
        self._state = state
        self._settings = {settings.name: settings for settings in config.sources}
        self._views = ViewBuilder(config, {each.name: configured_source(each, config) for each in config.sources})
        self._sources = {source.name: source for source in state.sources()}
        self._jobs = [job for job in state.jobs() if job.source in self._settings]

    def series(self, family: Family, selector: Selector) -> Iterator[Explained]:
        """Yield all series that a selector matches."""
        subjects = self._sources_with_labels() if family.level is Level.SOURCE else self._jobs_with_labels(family)
        for labels, subject in subjects:
            if selector.may_match(labels):
                yield from explain_series(subject(), family, selector)

    def _sources_with_labels(self) -> Iterator[tuple[dict[str, str], Callable[[], Subject]]]:
        for source in self._sources.values():
            if source.name in self._settings:
                view = self._views.source(source)
                rows = cache(partial(self._rows_of_source, source.name))
                yield {"source": source.name}, partial(Subject, view=view, rows=rows)

    def _jobs_with_labels(self, family: Family) -> Iterator[tuple[dict[str, str], Callable[[], Subject]]]:
        for job in self._jobs:
            yield _labels(job), partial(self._subject, job, family)

    def folded(self, selector: Selector) -> list[str]:
        """Return the names of the folded jobs that a selector may match."""
        return [job.name for job in self._jobs if job.folded and selector.may_match(_labels(job))]

    def _subject(self, job: JobState, family: Family) -> Subject:
        rows = self._state.runs_of(job.key) if family.name in ONLY_ACTIVE else []
        view = self._views.job(job, [as_open(row, job) for row in rows if row.mark is CountState.OPEN])
        return Subject(
            view=view, rows=cache(partial(self._rows, job)), pruned_before=self._sources[job.source].pruned_before
        )

    def _rows(self, job: JobState) -> Rows:
        """Return a job's runs, newest first; for `__other__` the runs of all folded jobs."""
        jobs = [job]
        if job.overflow:
            jobs = [other for other in self._jobs if other.folded and other.source == job.source]
        rows = [(each, row) for each in jobs for row in self._state.runs_of(each.key)]
        return sorted(rows, key=lambda pair: pair[1].ended_at, reverse=True)

    def _rows_of_source(self, source: str) -> Rows:
        return [pair for job in self._jobs if job.source == source and not job.overflow for pair in self._rows(job)]

    def link(self, line: SeriesLine) -> str:
        """Return the link to a run."""
        settings = self._settings[line.job.source]
        return run_url(self._config.web.external_url, settings, line.job.job, line.row.run.run_id)


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
            out.writelines(f"{line}\n" for line in _report(series, selector.name, family, explainer))
            found += 1
        if not found:
            print(_no_match(explainer, selector), file=err)
    if family.name in config.metrics.exclude:
        print("note: the config excludes this metric: it is counted, but not served", file=err)
    if not reader.complete:
        print("note: the state's journal cannot be read, so the latest runs may be missing", file=err)
    return 0 if found else 1


def _family(selector: Selector) -> Family:
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


def _no_match(explainer: Explainer, selector: Selector) -> str:
    folded = explainer.folded(selector)
    if folded:
        names = ", ".join(map(clean, folded[:5]))
        return f'counted under __other__, because there are too many series: {names}; ask for job_name="__other__"'
    return "the state has no series that match this selector"


def _report(series: Explained, name: str, family: Family, explainer: Explainer) -> Iterable[str]:
    yield f"{name}{{{pairs(tuple(series.labels), tuple(series.labels.values()))}}} {_value(series.value, name)}"
    if series.ranges:
        ranges = [(format_utc(start), format_utc(end), f"{end - start:g}") for start, end in series.ranges]
        yield from _indented_table([("FROM", "TO", "SECONDS"), *ranges])
    elif series.lines:
        yield from _indented_table([HEADINGS, *(_row(line, family, explainer) for line in series.lines)])
    if series.summed:
        noun, count = ("range", len(series.ranges)) if series.ranges else ("run", len(series.lines))
        same = "the same" if math.isclose(series.found, series.value, rel_tol=1e-6, abs_tol=1e-6) else "not the same"
        listed = f"{count} {noun}{'' if count == 1 else 's'} listed"
        yield f"{listed}, {series.found:.10g} together; the state says {series.value:.10g}: {same}."
    yield from series.notes


def _value(value: float, name: str) -> str:
    return f"{value:.14g} ({format_utc(value)})" if name.endswith("_timestamp_seconds") else f"{value:.10g}"


def _row(line: SeriesLine, family: Family, explainer: Explainer) -> tuple[str, ...]:
    run = line.row.run
    return (
        clean(run.run_id),
        " / ".join(filter(None, (line.job.source, line.job.project, line.job.name))),
        "" if run.end is None else format_utc(run.end),
        run.result or run.state or clean(run.unmapped),
        "" if run.duration is None else format_duration(run.duration),
        run_reports.mark_of(line.row),
        "" if family.kind is Kind.GAUGE else f"{line.adds:g}",
        explainer.link(line),
    )


def _indented_table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a table without empty columns."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    return (f"  {line}" for line in table(zip(*columns, strict=True)))
