"""Answers queries: for jobs and sources from the latest snapshot, for runs from the stored state.

Queries and polls never wait for each other.
"""

import math
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
from exporter.queries.filters import JobQuery, RunQuery
from exporter.queries.jobs import count_statuses, in_order, job_report, job_reports, matches
from exporter.queries.problems import find_problems
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
    """Answers queries. All methods may raise QueryError, and may block while they read from disk. Thread-safe.

    Attributes:
        snapshot: Returns the latest snapshot.
        reader: Reads runs.
        vendors: Queries of vendors' APIs.
        config: Returns the current config.
        polled_sources: Returns the current sources by name.
        clock: Returns Unix seconds.
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

    def jobs(self, query: JobQuery) -> JobList:
        """Return a page of jobs."""
        self._check(query.source)
        with_any_status = {key: job for key, job in job_reports(self.snapshot()).items() if matches(job, query)}
        found = {key: job for key, job in with_any_status.items() if query.status in ("", job.status)}
        first = (query.page - 1) * query.limit
        page = {key: found[key] for key in in_order(found, query.order)[first : first + query.limit]}
        return JobList(
            jobs=self._with_recent(page) if query.recent else tuple(page.values()),
            total=len(found),
            page=query.page,
            pages=max(1, math.ceil(len(found) / query.limit)),
            statuses=count_statuses(with_any_status.values()),
        )

    def _with_recent(self, jobs: Mapping[int, JobReport]) -> tuple[JobReport, ...]:
        with _reading():
            recent = self.reader.recent(jobs.keys(), RECENT) if jobs else {}
        return tuple(msgspec.structs.replace(job, recent=recent.get(key, ())) for key, job in jobs.items())

    def problems(self) -> tuple[Problem, ...]:
        """Return current problems, the most urgent first."""
        snapshot = self.snapshot()
        return find_problems(self.sources(), snapshot.jobs.values(), snapshot.exporter, self.now)

    # --- runs ---

    def runs(self, query: RunQuery) -> RunList:
        """Return a page of runs."""
        self._check(query.source)
        selection = RunSelection(
            query=query,
            sources=[query.source] if query.source else self._settings().keys(),
            jobs=_matching_jobs(self.snapshot().records.values(), query),
        )
        after = runs.decode_cursor(query.cursor) if query.cursor else None
        with _reading():
            # One additional run shows whether there is another page.
            found = self.reader.runs(selection, query.limit + 1, after)
        page = found[: query.limit]
        return RunList(
            runs=self._run_reports(each.row for each in page),
            cursor=runs.encode_cursor(page[-1].place) if len(found) > query.limit else "",
        )

    def _check(self, source: str) -> None:
        names = self._settings().keys()
        if source and source not in names:
            raise QueryError(400, f"no source has this name; configured: {', '.join(names)}", parameter="source")

    def _settings(self) -> dict[str, SourceSettings]:
        return {settings.name: settings for settings in self.config().sources}

    def _run_reports(self, rows: Iterable[StoredRun]) -> tuple[RunReport, ...]:
        known, settings = self.snapshot().records, self._settings()
        external_url = self.config().web.external_url
        # The job of a run that is newer than the snapshot may be unknown. A reload may have removed the run's source.
        pairs = [(row, known[row.job]) for row in rows if row.job in known and known[row.job].source in settings]
        return tuple(runs.run_report(row, job, settings[job.source], external_url) for row, job in pairs)

    def _find(self, source: str, run_id: str) -> tuple[StoredRun, JobState, SourceSettings]:
        settings = self._settings().get(source)
        if settings is not None:
            with _reading():
                row = self.reader.run(source, run_id)
            job = None if row is None else self.snapshot().records.get(row.job)
            if row is not None and job is not None:
                return row, job, settings
        raise QueryError(404, "the state has no such run; it may be older than state.retention")

    def run(self, source: str, run_id: str, *, live: bool = True) -> RunPage:
        """Return one run with its job, steps and previous runs. `live`: fetch steps from the API."""
        row, job, settings = self._find(source, run_id)
        snapshot, web = self.snapshot(), self.config().web
        with _reading():
            successes = self.reader.successes(job.key, USUAL_RUNS)
            # All completed runs are earlier than an active one.
            before = math.inf if row.mark is CountState.OPEN else row.ended_at
            previous = self.reader.before(job.key, before, RECENT)
        view = snapshot.jobs.get(job.key)
        report = None if view is None else job_report(view, snapshot.watermark(source))
        has_steps = job.job.has_steps and SOURCES[settings.type].has_steps
        steps, steps_from, error = self._steps(source, row, live=live and has_steps)
        return RunPage(
            run=runs.run_report(row, job, settings, web.external_url),
            job=None if report is None else self._with_recent({job.key: report})[0],
            steps=runs.step_reports(steps, runs.usual_step_durations(text for _, text in successes)),
            steps_from=steps_from,
            steps_error=error,
            failed_step=runs.failed_step(steps, run_id, job),
            usual=runs.usual_durations((duration for duration, _ in successes), view.duration_budget if view else None),
            previous=tuple(runs.run_report(each, job, settings, web.external_url) for each in previous),
            logs=web.logs,
        )

    def _steps(self, source: str, row: StoredRun, *, live: bool) -> tuple[Sequence[Step], str, str]:
        """Return the steps of a run, where they come from (`api` or `state`), and why the API did not return them."""
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
        """Return the output of a step, fetched from the API. The step "" stands for the run's error text."""
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


def _matching_jobs(jobs: Iterable[JobState], query: RunQuery) -> frozenset[int] | None:
    """Return the keys of the jobs that a query selects; None for any."""
    if query.project is None and not query.job_name:
        return None
    return frozenset(
        job.key
        for job in jobs
        if query.source in ("", job.source)
        and query.project in (None, job.project)
        and query.job_name in ("", job.name)
    )


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except StateError as error:
        raise QueryError(503, f"the state cannot be read: {error}") from None
