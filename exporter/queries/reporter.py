"""Answers queries: jobs and sources from the latest snapshot, runs from the state on disk.

Queries never wait for a poll or a transaction, and never delay them.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from exporter.config import Config
from exporter.config.source import SourceSettings
from exporter.counting.classify import CountState
from exporter.counting.records import JobState
from exporter.errors import StateError
from exporter.model import Step
from exporter.queries import runs
from exporter.queries.errors import QueryError
from exporter.queries.filters import MAX_LIMIT, JobQuery, RunQuery
from exporter.queries.jobs import count_statuses, in_order, job_report, job_reports, matches
from exporter.queries.problems import problems
from exporter.queries.reader import Reader
from exporter.queries.records import (
    RECENT,
    JobList,
    JobReport,
    LogReport,
    Problem,
    RunList,
    RunPage,
    RunReport,
    SourceReport,
)
from exporter.queries.run_list import RunSelection
from exporter.queries.sources import source_report
from exporter.queries.vendor import VendorQueries
from exporter.snapshot.snapshot import Snapshot
from exporter.sources import SOURCES
from exporter.sources.source import Source
from exporter.state.schema import StoredRun

USUAL_RUNS = 100
"""Number of latest successful runs from which usual durations are computed."""

MAX_OUTPUT = 200_000
"""Maximum number of characters of output; the last ones are shown."""


@dataclass(kw_only=True)
class Reporter:
    """Answers queries. All methods raise QueryError. Thread-safe; it reads from disk, so it blocks an event loop.

    The functions return current values.
    """

    snapshot: Callable[[], Snapshot]
    reader: Reader
    vendors: VendorQueries
    config: Callable[[], Config]
    polled_sources: Callable[[], Mapping[str, Source]]
    clock: Callable[[], float] = time.time

    @property
    def now(self) -> float:
        """Return the current time in Unix seconds."""
        return self.clock()

    # --- sources, jobs, problems ---

    def sources(self) -> tuple[SourceReport, ...]:
        """Return the status of each source, in the order of the config."""
        now = self.now
        return tuple(source_report(view, now) for view in self.snapshot().sources.values())

    def jobs(self, wanted: JobQuery) -> JobList:
        """Return a page of jobs."""
        self._check(wanted.source, wanted.limit, wanted.page)
        matching = {key: job for key, job in job_reports(self.snapshot()).items() if matches(job, wanted)}
        chosen = {key: job for key, job in matching.items() if wanted.status in ("", job.status)}
        first = (wanted.page - 1) * wanted.limit
        shown = {key: chosen[key] for key in in_order(chosen, wanted.order)[first : first + wanted.limit]}
        return JobList(
            jobs=self._with_recent(shown) if wanted.recent else tuple(shown.values()),
            total=len(chosen),
            page=wanted.page,
            pages=max(1, -(-len(chosen) // wanted.limit)),
            statuses=count_statuses(matching.values()),
        )

    def _with_recent(self, jobs: Mapping[int, JobReport]) -> tuple[JobReport, ...]:
        with _readable():
            recent = self.reader.recent(jobs.keys(), RECENT) if jobs else {}
        return tuple(msgspec.structs.replace(job, recent=recent.get(key, ())) for key, job in jobs.items())

    def problems(self) -> tuple[Problem, ...]:
        """Return current problems, the most urgent first."""
        snapshot = self.snapshot()
        return problems(self.sources(), snapshot.jobs.values(), snapshot.exporter, self.now)

    # --- runs ---

    def runs(self, wanted: RunQuery) -> RunList:
        """Return a page of runs."""
        self._check(wanted.source, wanted.limit)
        known = self.snapshot().records
        selection = RunSelection(
            sources=[wanted.source] if wanted.source else self._settings().keys(),
            jobs=_keys(known.values(), wanted),
            result=wanted.result,
            state=wanted.state,
            run_id=wanted.run_id or None,
            after=wanted.after,
            before=wanted.before,
        )
        place = runs.decode_cursor(wanted.cursor) if wanted.cursor else None
        with _readable():
            # One more run than the limit shows whether there is a next page.
            found = self.reader.runs(selection, wanted.limit + 1, place)
        more = len(found) > wanted.limit and not wanted.run_id
        found = found[: wanted.limit]
        return RunList(
            runs=self._run_reports(each.row for each in found),
            cursor=runs.encode_cursor(found[-1].place) if more else "",
        )

    def _check(self, source: str, limit: int, page: int = 1) -> None:
        names = self._settings().keys()
        if source and source not in names:
            raise QueryError(400, f"no source has this name; configured: {', '.join(names)}", parameter="source")
        if not 1 <= limit <= MAX_LIMIT:
            raise QueryError(400, f"must be from 1 to {MAX_LIMIT}", parameter="limit")
        if page < 1:
            raise QueryError(400, "must be 1 or more", parameter="page")

    def _settings(self) -> dict[str, SourceSettings]:
        return {settings.name: settings for settings in self.config().sources}

    def _run_reports(self, rows: Iterable[StoredRun]) -> tuple[RunReport, ...]:
        known, settings = self.snapshot().records, self._settings()
        external_url = self.config().web.external_url
        # A run may be newer than the snapshot, so that its job is unknown, and a reload may remove its source.
        pairs = [(row, known[row.job]) for row in rows if row.job in known and known[row.job].source in settings]
        return tuple(runs.run_report(row, job, settings[job.source], external_url) for row, job in pairs)

    def _find(self, source: str, run_id: str) -> tuple[StoredRun, JobState, SourceSettings]:
        settings = self._settings().get(source)
        if settings is not None:
            with _readable():
                row = self.reader.run(source, run_id)
            job = None if row is None else self.snapshot().records.get(row.job)
            if row is not None and job is not None:
                return row, job, settings
        raise QueryError(404, "the state has no such run; it may be older than state.retention")

    def run(self, source: str, run_id: str, *, live: bool = True) -> RunPage:
        """Return one run with its job, steps and previous runs. `live`: fetch steps from the API."""
        row, job, settings = self._find(source, run_id)
        snapshot, web = self.snapshot(), self.config().web
        with _readable():
            successes = self.reader.successes(job.key, USUAL_RUNS)
            # all completed runs precede an active run
            before = float("inf") if row.mark is CountState.OPEN else row.ended_at
            previous = self.reader.before(job.key, before, RECENT)
        view = snapshot.jobs.get(job.key)
        report = None if view is None else job_report(view, snapshot.watermark(source))
        has_steps = job.job.has_steps and SOURCES[settings.type].has_steps
        steps, steps_from, error = self._steps(source, row, live=live and has_steps)
        return RunPage(
            run=runs.run_report(row, job, settings, web.external_url),
            job=None if report is None else self._with_recent({job.key: report})[0],
            steps=runs.step_reports(steps, runs.usual_steps(text for _, text in successes)),
            steps_from=steps_from,
            steps_error=error,
            failed_step=runs.failed_step(steps, run_id, job),
            usual=runs.usual((duration for duration, _ in successes), view.duration_budget if view else None),
            previous=tuple(runs.run_report(each, job, settings, web.external_url) for each in previous),
            logs=web.logs,
        )

    def _steps(self, source: str, row: StoredRun, *, live: bool) -> tuple[Sequence[Step], str, str]:
        """Return the steps of a run, their origin (`api` or `state`), and why the API did not return them."""
        stored, error = runs.stored_steps(row.step_results), ""
        if live:
            try:
                return self.vendors.steps(source, self._source(source), row.run), "api", ""
            except QueryError as failed:
                error = str(failed)
        return stored, "state" if stored else "", error

    def _source(self, name: str) -> Source:
        source = self.polled_sources().get(name)
        if source is None:
            raise QueryError(404, "this source was just removed from the config")
        return source

    def log(self, source: str, run_id: str, step: str) -> LogReport:
        """Return the output of a step from the API; for the step "" the run's error text."""
        if not self.config().web.logs:
            raise QueryError(403, "output and error texts are shown only with web.logs: true in the config")
        row, _, _ = self._find(source, run_id)  # only known runs, so that users cannot probe the API
        log = self.vendors.log(self._source(source), row.run, step)
        return LogReport(
            source=source,
            run_id=run_id,
            step=step,
            stdout=log.stdout[-MAX_OUTPUT:],
            stderr=log.stderr[-MAX_OUTPUT:],
        )


def _keys(jobs: Iterable[JobState], wanted: RunQuery) -> frozenset[int] | None:
    if wanted.project is None and not wanted.job_name:
        return None
    return frozenset(
        job.key
        for job in jobs
        if wanted.source in ("", job.source)
        and wanted.project in (None, job.project)
        and wanted.job_name in ("", job.name)
    )


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except StateError as error:
        raise QueryError(503, f"the state cannot be read: {error}") from None
