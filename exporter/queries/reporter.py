"""Answers what pages and JSON ask: jobs and sources from what is committed, runs from the state on disk.

Nothing here waits for a poll or a transaction, or makes one wait.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from exporter.assembly import Assembly
from exporter.config.config import Config
from exporter.counting.classify import CountState
from exporter.counting.records import JobState
from exporter.errors import StateError
from exporter.model import Step
from exporter.queries import jobs as job_reports
from exporter.queries import runs as run_reports
from exporter.queries.errors import BusyError, InvalidParameterError, LogsOffError, ReportError, UnknownError
from exporter.queries.filters import MAX_LIMIT, JobQuery, RunQuery
from exporter.queries.jobs import AssessedJob
from exporter.queries.problems import Standing, problems
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
from exporter.queries.sources import report as source_report
from exporter.queries.vendor import VendorQueries
from exporter.snapshot.snapshot import Snapshot
from exporter.sources import SOURCES
from exporter.sources.source import Source
from exporter.state.schema import StoredRun

USUAL = 100
"""Successful runs from which it is known how long a job takes."""

LONGEST_LOG = 200_000
"""Characters of output that are shown, the last ones."""


class Dependencies(NamedTuple):
    """What the answers are made of. `config` and `assembly` are those in force, `snapshot` is the latest."""

    snapshot: Callable[[], Snapshot]
    reader: Reader
    asking: VendorQueries
    config: Callable[[], Config]
    assembly: Callable[[], Assembly]
    clock: Callable[[], float] = time.time


class Reporter:
    """Implements `exporter.queries.records.Reports`."""

    def __init__(self, parts: Dependencies) -> None:
        self._parts = parts

    @property
    def now(self) -> float:
        """The present."""
        return self._parts.clock()

    # --- sources, jobs, problems ---

    def sources(self) -> tuple[SourceReport, ...]:
        """Return how each source stands, in the order of the configuration."""
        shown, now = self._parts.assembly().shown, self.now
        return tuple(
            source_report(view, shown[name].settings.requests_per_minute, now)
            for name, view in self._parts.snapshot().sources.items()
            if name in shown
        )

    def jobs(self, wanted: JobQuery) -> JobList:
        """Jobs, in the order asked for."""
        self._check(wanted.source, wanted.limit)
        if wanted.page < 1:
            raise InvalidParameterError("page", "must be 1 or more")
        fitting = [job for job in self._judged() if job_reports.fits(job, wanted)]
        chosen = [job for job in fitting if wanted.status in ("", job.status)]
        first = (wanted.page - 1) * wanted.limit
        shown = job_reports.ordered(chosen, wanted.order)[first : first + wanted.limit]
        return JobList(
            jobs=self._reported(shown, recent=wanted.recent),
            total=len(chosen),
            page=wanted.page,
            pages=max(1, -(-len(chosen) // wanted.limit)),
            statuses=job_reports.statuses(fitting),
        )

    def _reported(self, jobs: Collection[AssessedJob], *, recent: bool = True) -> tuple[JobReport, ...]:
        keys = [job.view.state.key for job in jobs]
        with _readable():
            endings = self._parts.reader.recent(keys, RECENT) if recent and keys else {}
        return tuple(job_reports.report(job, endings.get(job.view.state.key, ())) for job in jobs)

    def problems(self) -> tuple[Problem, ...]:
        """Return what is wrong now, the most urgent first."""
        snapshot = self._parts.snapshot()
        exporter = snapshot.exporter
        return problems(
            Standing(
                now=self.now,
                sources=self.sources(),
                jobs=tuple(self._judged()),
                watermarks={name: source.watermark for name, source in snapshot.sources.items()},
                refused=exporter.reload.error if exporter.reload else "",
                state_error=exporter.state_error,
                unmatched=exporter.unmatched,
            )
        )

    def _judged(self) -> list[AssessedJob]:
        """Return all jobs that are served, as on the page of metrics that was made last."""
        snapshot = self._parts.snapshot()
        views = (view for view in snapshot.jobs.values() if not view.state.overflow)
        return [job_reports.judged(view, snapshot.watermark(view.state.source)) for view in views]

    def _judge(self, job: JobState) -> AssessedJob | None:
        """Return one job; None if it is not served."""
        snapshot = self._parts.snapshot()
        view = snapshot.jobs.get(job.key)
        return None if view is None else job_reports.judged(view, snapshot.watermark(job.source))

    # --- runs ---

    def runs(self, wanted: RunQuery) -> RunList:
        """Runs, from the state."""
        self._check(wanted.source, wanted.limit)
        jobs = self._parts.snapshot().records
        selection = RunSelection(
            sources=[wanted.source] if wanted.source else self._parts.assembly().shown.keys(),
            jobs=_keys(jobs.values(), wanted),
            result=wanted.result,
            state=wanted.state,
            run_id=wanted.run_id or None,
            after=wanted.after,
            before=wanted.before,
        )
        place = run_reports.decode_cursor(wanted.cursor) if wanted.cursor else None
        with _readable():
            found = self._parts.reader.runs(selection, wanted.limit + 1, place)
        more = len(found) > wanted.limit and not wanted.run_id
        found = found[: wanted.limit]
        return RunList(
            # The snapshot may not know the job of a run that was committed a moment ago.
            runs=tuple(self._run_report(each.row) for each in found if each.row.job in jobs),
            cursor=run_reports.encode_cursor(found[-1].place) if more else "",
        )

    def _check(self, source: str, limit: int) -> None:
        """What every filter has. Raises InvalidParameterError."""
        names = self._parts.assembly().shown.keys()
        if source and source not in names:
            raise InvalidParameterError("source", f"there is none of this name; there are {', '.join(names)}")
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidParameterError("limit", f"must be from 1 to {MAX_LIMIT}")

    def _run_report(self, row: StoredRun) -> RunReport:
        job = self._parts.snapshot().records[row.job]
        settings = self._parts.assembly().shown[job.source].settings
        return run_reports.report(row, job, settings, self._parts.config().web.external_url)

    def _find(self, source: str, run_id: str) -> StoredRun:
        if source in self._parts.assembly().shown:
            with _readable():
                found = self._parts.reader.run(source, run_id)
            if found is not None and found.job in self._parts.snapshot().records:
                return found
        raise UnknownError("the state holds no such run; it may be older than state.retention")

    def run(self, source: str, run_id: str, *, live: bool = True) -> RunPage:
        """One run."""
        row = self._find(source, run_id)
        job, run = self._parts.snapshot().records[row.job], row.run
        with _readable():
            successes = self._parts.reader.successes(job.key, USUAL)
            before = float("inf") if row.mark is CountState.OPEN else run_reports.ended_at(row)
            previous = self._parts.reader.before(job.key, before, RECENT)
        judged = self._judge(job)
        steps, steps_from, error = self._steps(job, row, live=live)
        budget = judged.view.duration_budget if judged else None
        return RunPage(
            run=self._run_report(row),
            job=self._reported([judged])[0] if judged else None,
            steps=run_reports.step_reports(steps, run_reports.usual_steps(text for _, text in successes)),
            steps_from=steps_from,
            steps_error=error,
            failed_step=run_reports.failed_step(steps, run.run_id, job),
            usual=run_reports.usual((duration for duration, _ in successes), budget),
            previous=tuple(self._run_report(each) for each in previous),
            logs=self._parts.config().web.logs,
        )

    def _steps(self, job: JobState, row: StoredRun, *, live: bool) -> tuple[Sequence[Step], str, str]:
        """A run's steps, where they are from, and why the API did not tell them."""
        stored, error = run_reports.stored_steps(row.step_results), ""
        if live and self._has_steps(job):
            try:
                return self._parts.asking.steps(job.source, self._source(job.source), row.run), "api", ""
            except ReportError as refused:
                error = str(refused)
        return stored, "state" if stored else "", error

    def _has_steps(self, job: JobState) -> bool:
        return job.job.has_steps and SOURCES[self._parts.assembly().shown[job.source].settings.type].has_steps

    def _source(self, name: str) -> Source:
        return self._parts.assembly().sources[name]

    def log(self, source: str, run_id: str, step: str) -> LogReport:
        """Output of a step, asked of the API."""
        if not self._parts.config().web.logs:
            raise LogsOffError("output and error texts are shown only with web.logs: true in the config")
        run = self._find(source, run_id).run
        said = self._parts.asking.log(self._source(source), run, step)
        return LogReport(
            source=source,
            run_id=run_id,
            step=step,
            stdout=said.stdout[-LONGEST_LOG:],
            stderr=said.stderr[-LONGEST_LOG:],
        )


def _keys(jobs: Iterable[JobState], wanted: RunQuery) -> frozenset[int] | None:
    """The keys of the jobs whose runs are wanted; None if those of all are."""
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
    """A state that cannot be read now is no fault of the question."""
    try:
        yield
    except StateError as error:
        raise BusyError(f"the state cannot be read: {error}") from None
