"""Reads the runs and the schedule of one job at a time."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import msgspec

from exporter.config.source import DAY, HOUR
from exporter.counting.records import OpenRun
from exporter.errors import ForbiddenError, NotFoundError
from exporter.model import Batch, Run, Window
from exporter.sources.northflank.jobs import JobCommit, Project, TrackedJob, UnlistedRun, encode_checkpoint
from exporter.sources.northflank.page_cursor import PageCursor, cursor_to_floor
from exporter.sources.northflank.request_queue import (
    PollTier,
    ScheduledRequest,
    is_turn,
    overdue_ratio,
    spacing,
)
from exporter.sources.northflank.requests import NorthflankApi
from exporter.sources.northflank.settings import NorthflankSettings
from exporter.sources.northflank.watermark import Watermarks
from exporter.sources.rest import is_gone
from exporter.sources.view import View

REACH = 365 * DAY
"""The vendor documents no retention of runs."""

BASELINE_DEPTH = DAY

# Seconds for which a job must be missing in lists before its active runs are requested by ID.
MISSING_AFTER = 900.0


class JobReader:
    """Builds the requests for jobs, and batches from their responses.

    Args:
        watermarks: Computes the time up to which projects are read.

    Attributes:
        urgent: Requests to send next, because of a response.
        schedule_spacing: Seconds between two requests for the schedule of a job.
    """

    def __init__(self, settings: NorthflankSettings, api: NorthflankApi, watermarks: Watermarks) -> None:
        self._settings = settings
        self._api = api
        self._watermarks = watermarks
        self.urgent: list[ScheduledRequest] = []
        self.schedule_spacing = HOUR

    def tier(self, job: TrackedJob, open_runs: Mapping[str, OpenRun], now: float) -> PollTier:
        """Return how often a job is polled. Unlisted active runs do not count, because they are requested by ID."""
        is_open = len(job.unlisted_open_runs) < len(open_runs)
        return job.tier(now, self._settings.poll_interval, is_open=is_open)

    def requests(
        self, project: Project, job: TrackedJob, open_runs: Mapping[str, OpenRun], now: float
    ) -> Iterator[ScheduledRequest]:
        """Yield the requests for a job: its runs, its unlisted active runs, and its schedule."""
        interval = self._settings.poll_interval
        job.unlisted_open_runs = {each: state for each, state in job.unlisted_open_runs.items() if each in open_runs}
        for run_id, state in job.unlisted_open_runs.items():
            overdue = overdue_ratio(state.tried or 0.0, job.listed, now, PollTier.FAST, interval)
            yield self._run_request(project, job, open_runs[run_id], overdue)
        tier = self.tier(job, open_runs, now)
        interrupted = job.cursor is not None
        yield ScheduledRequest(
            part=job.part,
            send=partial(self._read_runs, project, job),
            overdue=float("inf") if interrupted else overdue_ratio(job.requested, job.listed, now, tier, interval),
            due=is_turn(job.requested, now, tier, interval),
            retry=job.failed,
        )
        if job.row.cron and job.requested is not None and job.schedule_age(now) >= self.schedule_spacing:
            # A schedule that was never read waits about as long as an idle job.
            overdue = 1.0 if job.checkpoint.detailed is None else job.schedule_age(now) / self.schedule_spacing
            send = partial(self._read_schedule, project, job)
            yield ScheduledRequest(part=f"schedule of job {job.row.job_id}", send=send, overdue=overdue)
        if job.checkpoint.read is not None and not job.checkpoint.whole:
            overdue = max(0.0, now - job.checkpoint.read) / HOUR
            send = partial(self._read_older_runs, project, job)
            yield ScheduledRequest(part=f"older runs of job {job.row.job_id}", send=send, overdue=overdue)

    # --- pages ---

    def _read_runs(self, project: Project, job: TrackedJob, view: View) -> Batch | None:
        """Read the runs of a job, page by page. Return None if time or budget ends before the last page."""
        job.requested, job.failed = view.now, True
        cursor, job.cursor = job.cursor, None
        # A start in the future was set by a wrong clock.
        if cursor is None or cursor.began > view.now:
            cursor = self._new_cursor(project, job, view)
        try:
            while self._api.next_page(job.row, cursor, view):
                if not self._api.may_send(view):
                    job.cursor, job.failed = cursor, False
                    return None
        except (ForbiddenError, NotFoundError) as error:
            # The list of jobs will show whether the job is gone or forbidden. It is requested a little later, because
            # it may lag behind.
            project.due = min(project.due, view.now + spacing(PollTier.NORMAL, self._settings.poll_interval))
            if isinstance(error, ForbiddenError):
                raise
            project.jobs.pop(job.row.slug, None)
            return None
        job.failed = False
        return self._to_batch(project, job, cursor, view)

    def _new_cursor(self, project: Project, job: TrackedJob, view: View) -> PageCursor:
        baseline, floor = view.baseline(project.name), view.now - self._settings.lookback
        if job.checkpoint.read is None:
            floor = max(floor, baseline - BASELINE_DEPTH)
        return PageCursor(began=view.now, floor=floor, baseline=baseline)

    def _to_batch(self, project: Project, job: TrackedJob, cursor: PageCursor, view: View) -> Batch:
        open_runs = {run.run_id: run for run in view.open_runs(project.name) if run.job_id == job.row.job_id}
        # An active run that no page shows may have moved to a page that was already read: it is requested at once.
        for run_id in open_runs.keys() - cursor.runs.keys() - job.unlisted_open_runs.keys():
            job.unlisted_open_runs[run_id] = UnlistedRun()
            self.urgent.append(self._run_request(project, job, open_runs[run_id]))
        for run_id in cursor.runs.keys() & job.unlisted_open_runs.keys():
            del job.unlisted_open_runs[run_id]
        checkpoint = job.checkpoint.after(cursor)
        if not checkpoint.whole and job.checkpoint.read is None:
            job.older = cursor_to_floor(cursor.began, cursor.floor, behind=cursor)
        unchanged = cursor.pages == 1 and cursor.first == job.digest
        shown: Iterable[Run] = [] if unchanged else cursor.runs.values()
        runs = [run for run in shown if run.run_id in open_runs or self._is_new(run, job, view.now)]
        read = checkpoint.read if checkpoint.read == cursor.began else None
        return Batch(
            scope=project.name,
            jobs=[job.job()],
            runs=runs,
            unchanged=len(cursor.runs) - len(runs),
            invalid=cursor.invalid,
            through=None if read is None else self._watermarks.of(project, view, job.row.slug, read),
            unobserved=self._unobserved(job, cursor),
            truncated=0 if cursor.complete else 1,
            checkpoints=encode_checkpoint(job.row.job_id, checkpoint),
            memory=JobCommit(
                project=project.name,
                slug=job.row.slug,
                checkpoint=checkpoint,
                digest=cursor.first,
                last_start=max((run.start for run in cursor.runs.values() if run.start is not None), default=None),
            ),
        )

    def _is_new(self, run: Run, job: TrackedJob, now: float) -> bool:
        if job.checkpoint.read is None:
            return True
        # The ledger may have pruned a run that completed long before the last read, and would count it again.
        last = run.start if run.end is None else run.end
        kept = max(self._settings.lookback, self._settings.max_run_age)
        return last is None or last >= min(now - kept, job.checkpoint.read)

    def _unobserved(self, job: TrackedJob, cursor: PageCursor) -> list[Window]:
        """Return the window between the last read and the earliest run, if the pages did not reach the last read."""
        if cursor.reached is None or job.checkpoint.read is None or not cursor.newest_first:
            return []
        before = job.checkpoint.read - self._settings.settle
        return [Window(before, cursor.reached)] if before < cursor.reached else []

    def _read_older_runs(self, project: Project, job: TrackedJob, view: View) -> Batch | None:
        """Read active runs on the pages after those of a job's first read."""
        baseline = view.baseline(project.name)
        cursor = job.older = job.older or cursor_to_floor(view.now, baseline - BASELINE_DEPTH)
        while self._api.next_page(job.row, cursor, view):
            if not self._api.may_send(view):
                return None
        job.older, checkpoint = None, msgspec.structs.replace(job.checkpoint, whole=True)
        return Batch(
            scope=project.name,
            jobs=[job.job()],
            runs=[run for run in cursor.runs.values() if run.result is None or (run.end or 0.0) > baseline],
            checkpoints=encode_checkpoint(job.row.job_id, checkpoint),
            memory=JobCommit(project=project.name, slug=job.row.slug, checkpoint=checkpoint),
        )

    # --- single runs ---

    def _run_request(
        self, project: Project, job: TrackedJob, run: OpenRun, overdue: float = float("inf")
    ) -> ScheduledRequest:
        send = partial(self._read_run, project, job, run)
        return ScheduledRequest(part=f"run {run.run_id}", send=send, overdue=overdue)

    def _read_run(self, project: Project, job: TrackedJob, run: OpenRun, view: View) -> Batch | None:
        now, state = view.now, job.unlisted_open_runs.get(run.run_id, UnlistedRun())
        job.unlisted_open_runs[run.run_id] = UnlistedRun(state.read, now)
        try:
            found = self._api.run(project.name, job.row.slug, run.run_id)
        except NotFoundError:
            job.unlisted_open_runs[run.run_id] = UnlistedRun(now, now)
            return Batch(scope=project.name, gone=[run.run_id]) if is_gone(run, now, REACH) else None
        job.unlisted_open_runs[run.run_id] = UnlistedRun(now, now)
        return Batch(scope=project.name, jobs=[job.job()], runs=[found], through=self._watermarks.of(project, view))

    def request_runs_of_missing_jobs(self, project: Project, view: View) -> None:
        """Request the active runs of jobs that have been missing in lists for a while, to see whether they are gone."""
        runs = [run for run in view.open_runs(project.name) if slug_of(project, run) not in project.jobs]
        project.absent = {run.job_id: project.absent.get(run.job_id, view.now) for run in runs}
        for run in runs:
            if not 0 <= view.now - project.absent[run.job_id] <= MISSING_AFTER:
                send = partial(self._read_run_of_missing_job, project, run)
                self.urgent.append(ScheduledRequest(part=f"run {run.run_id}", send=send))

    def _read_run_of_missing_job(self, project: Project, run: OpenRun, view: View) -> Batch:  # noqa: ARG002  # as all
        try:
            found = self._api.run(project.name, slug_of(project, run), run.run_id)
        except NotFoundError:
            return Batch(scope=project.name, gone=[run.run_id])
        return Batch(scope=project.name, runs=[found])

    # --- schedules ---

    def _read_schedule(self, project: Project, job: TrackedJob, view: View) -> Batch | None:
        now = view.now
        try:
            schedule = self._api.schedule(job.row)
        except (ForbiddenError, NotFoundError):
            schedule = job.checkpoint.schedule
        checkpoint = msgspec.structs.replace(job.checkpoint, schedule=schedule, detailed=now)
        return Batch(
            scope=project.name,
            jobs=[job.row.job(schedule)],
            checkpoints=encode_checkpoint(job.row.job_id, checkpoint),
            memory=JobCommit(project=project.name, slug=job.row.slug, checkpoint=checkpoint),
        )


def slug_of(project: Project, run: OpenRun) -> str:
    """Return the slug of an active run's job."""
    return run.job_id.removeprefix(f"{project.name}/")
