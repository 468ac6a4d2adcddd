"""Reads the runs and the schedule of one job at a time."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import msgspec

from exporter.config.source import DAY, HOUR
from exporter.counting.records import OpenRun
from exporter.errors import ForbiddenError, NotFoundError
from exporter.model import Batch, Run, Window
from exporter.sources.failing import FailingParts
from exporter.sources.northflank.jobs import JobCheckpoint, Project, TrackedJob, UnlistedRun, encode_checkpoint
from exporter.sources.northflank.page_cursor import PageCursor
from exporter.sources.northflank.request_queue import (
    PollTier,
    ScheduledRequest,
    is_job_due,
    overdue_ratio,
    spacing,
    tier_of,
)
from exporter.sources.northflank.requests import NorthflankApi
from exporter.sources.northflank.settings import NorthflankSettings
from exporter.sources.rest import is_gone
from exporter.sources.view import View

REACH = 365 * DAY
"""The vendor documents no retention of runs."""

BASELINE_DEPTH = DAY

# Seconds for which a job must be missing in lists before its active runs are requested by ID.
MISSING_AFTER = 900.0


class JobReader:
    """Builds the requests for jobs. Each request yields batches.

    Attributes:
        urgent: Requests to send next, because a response has shown that they are needed.
        schedule_spacing: Seconds between two requests for the schedule of a job.
    """

    def __init__(self, settings: NorthflankSettings, api: NorthflankApi, failing: FailingParts) -> None:
        self._settings = settings
        self._api = api
        self._failing = failing
        self.urgent: list[ScheduledRequest] = []
        self.schedule_spacing = HOUR

    def tier(self, job: TrackedJob, open_runs: Mapping[str, OpenRun], now: float) -> PollTier:
        """Return how often a job is polled. It counts as busy until this process has read its runs."""
        # Unlisted active runs do not count, because they are requested by ID.
        return tier_of(
            now,
            self._settings.poll_interval,
            is_busy=job.changed or len(job.unlisted_open_runs) < len(open_runs),
            enabled=None if job.checkpoint.read_at is None else job.row.enabled,
            schedule=job.checkpoint.schedule,
            last_start=job.last_start if job.first_page else now,
        )

    def requests(
        self, project: Project, job: TrackedJob, open_runs: Mapping[str, OpenRun], now: float
    ) -> Iterator[ScheduledRequest]:
        """Yield the requests for a job: its runs, its unlisted active runs, its schedule, and its older runs."""
        interval = self._settings.poll_interval
        job.unlisted_open_runs = {each: state for each, state in job.unlisted_open_runs.items() if each in open_runs}
        for run_id, state in job.unlisted_open_runs.items():
            overdue = overdue_ratio(state.tried_at or 0.0, job.first_listed, now, PollTier.FAST, interval)
            yield self._run_request(project, job, open_runs[run_id], overdue)
        tier = self.tier(job, open_runs, now)
        overdue = overdue_ratio(job.requested, job.first_listed, now, tier, interval)
        yield ScheduledRequest(
            part=job.part,
            send=partial(self._read_runs, project, job),
            overdue=overdue if job.cursor is None else float("inf"),  # interrupted reads continue first
            due=is_job_due(job.requested, now, tier, interval),
            retry=job.failed,
        )
        if job.row.cron and job.requested is not None and job.schedule_age(now) >= self.schedule_spacing:
            # The first read of a schedule is as urgent as the runs of an idle job.
            first = job.checkpoint.schedule_read_at is None
            overdue = 1.0 if first else job.schedule_age(now) / self.schedule_spacing
            send = partial(self._read_schedule, project, job)
            yield ScheduledRequest(part=f"schedule of job {job.row.job_id}", send=send, overdue=overdue)
        if job.checkpoint.read_at is not None and not job.checkpoint.older_runs_read:
            overdue = max(0.0, now - job.checkpoint.read_at) / HOUR
            send = partial(self._read_older_runs, project, job)
            yield ScheduledRequest(part=f"older runs of job {job.row.job_id}", send=send, overdue=overdue)

    # --- pages ---

    def _read_runs(self, project: Project, job: TrackedJob, view: View) -> Iterator[Batch]:
        """Read the runs of a job, page by page. Yield nothing if time or budget ends before the last page."""
        job.requested, job.failed = view.now, True
        cursor, job.cursor = job.cursor, None
        # A start in the future was set by a wrong clock.
        if cursor is None or cursor.began > view.now:
            cursor = self._new_cursor(project, job, view)
        try:
            while self._api.next_page(job.row, cursor, view):
                if not self._api.may_send(view):
                    job.cursor, job.failed = cursor, False
                    return
        except (ForbiddenError, NotFoundError) as error:
            # The list of jobs will show whether the job is gone or forbidden. The list may lag behind the job, so it is
            # not requested at once.
            project.due = min(project.due, view.now + spacing(PollTier.NORMAL, self._settings.poll_interval))
            if isinstance(error, ForbiddenError) or self._record_not_found(project, job, view.now):
                raise
            if job.missing_since is not None:
                del project.jobs[job.row.slug]
            return
        job.failed, job.not_found_since = False, None
        checkpoint = job.checkpoint.after(cursor)
        yield self._to_batch(project, job, cursor, checkpoint, view)
        job.checkpoint = checkpoint
        job.changed = bool(job.first_page) and cursor.first_page != job.first_page
        job.first_page = cursor.first_page
        job.last_start = max((run.start for run in cursor.runs.values() if run.start is not None), default=None)

    @staticmethod
    def _record_not_found(project: Project, job: TrackedJob, now: float) -> bool:
        """Record that the API does not have a job. Return whether a later list still shows it, or failed."""
        since = job.not_found_since = now if job.not_found_since is None else job.not_found_since
        return job.missing_since is None and (project.failed or (project.last_listed or 0.0) > since)

    def _new_cursor(self, project: Project, job: TrackedJob, view: View) -> PageCursor:
        baseline, floor = view.baseline(project.name), view.now - self._settings.lookback
        if job.checkpoint.read_at is None:
            floor = max(floor, baseline - BASELINE_DEPTH)
        return PageCursor(began=view.now, floor=floor, baseline=baseline)

    def _to_batch(
        self, project: Project, job: TrackedJob, cursor: PageCursor, checkpoint: JobCheckpoint, view: View
    ) -> Batch:
        open_runs = {run.run_id: run for run in view.open_runs(project.name) if run.job_id == job.row.job_id}
        # An active run may be on a page that was not read, or may have moved in the meantime. It is requested by ID.
        for run_id in open_runs.keys() - cursor.runs.keys() - job.unlisted_open_runs.keys():
            job.unlisted_open_runs[run_id] = UnlistedRun()
            self.urgent.append(self._run_request(project, job, open_runs[run_id]))
        for run_id in cursor.runs.keys() & job.unlisted_open_runs.keys():
            del job.unlisted_open_runs[run_id]
        if not checkpoint.older_runs_read and job.checkpoint.read_at is None:
            job.older_cursor = msgspec.structs.replace(
                cursor, baseline=float("-inf"), deep=True, skipped=False, unread_before=None
            )
        unchanged = cursor.pages == 1 and cursor.first_page == job.first_page
        shown: Iterable[Run] = [] if unchanged else cursor.runs.values()
        runs = [run for run in shown if run.run_id in open_runs or self._is_new(run, job, view.now)]
        read_at = checkpoint.read_at if checkpoint.read_at == cursor.began else None
        return Batch(
            scope=project.name,
            jobs=[job.job()],
            runs=runs,
            unchanged=len(cursor.runs) - len(runs),
            invalid=cursor.invalid,
            through=None if read_at is None else self.read_through(project, view, job.row.slug, read_at),
            unobserved=self._unobserved(job, cursor),
            truncated=0 if cursor.complete else 1,
            checkpoints=encode_checkpoint(job.row.job_id, checkpoint),
        )

    def _is_new(self, run: Run, job: TrackedJob, now: float) -> bool:
        if job.checkpoint.read_at is None:
            return True
        # The ledger may have pruned a run that completed long before the last read, and would count it again.
        last = run.start if run.end is None else run.end
        retention = max(self._settings.lookback, self._settings.max_run_age)
        return last is None or last >= min(now - retention, job.checkpoint.read_at)

    def _unobserved(self, job: TrackedJob, cursor: PageCursor) -> list[Window]:
        """Return the window between the last read and the earliest run, if the pages did not reach the last read."""
        if cursor.unread_before is None or job.checkpoint.read_at is None or not cursor.newest_first:
            return []
        before = job.checkpoint.read_at - self._settings.settle
        return [Window(before, cursor.unread_before)] if before < cursor.unread_before else []

    def _read_older_runs(self, project: Project, job: TrackedJob, view: View) -> Iterator[Batch]:
        """Read active runs on the pages after those of a job's first read."""
        baseline = view.baseline(project.name)
        cursor = job.older_cursor or PageCursor(began=view.now, floor=baseline - BASELINE_DEPTH, deep=True)
        job.older_cursor = cursor
        while self._api.next_page(job.row, cursor, view):
            if not self._api.may_send(view):
                return
        job.older_cursor, checkpoint = None, msgspec.structs.replace(job.checkpoint, older_runs_read=True)
        yield Batch(
            scope=project.name,
            jobs=[job.job()],
            runs=[run for run in cursor.runs.values() if run.result is None or (run.end or 0.0) > baseline],
            checkpoints=encode_checkpoint(job.row.job_id, checkpoint),
        )
        job.checkpoint = checkpoint

    # --- single runs ---

    def _run_request(
        self, project: Project, job: TrackedJob, run: OpenRun, overdue: float = float("inf")
    ) -> ScheduledRequest:
        send = partial(self._read_run, project, job, run)
        return ScheduledRequest(part=f"run {run.run_id}", send=send, overdue=overdue)

    def _read_run(self, project: Project, job: TrackedJob, run: OpenRun, view: View) -> Iterable[Batch]:
        now, state = view.now, job.unlisted_open_runs.get(run.run_id, UnlistedRun())
        job.unlisted_open_runs[run.run_id] = UnlistedRun(state.read_at, now)
        try:
            current = self._api.run(project.name, job.row.slug, run.run_id)
        except NotFoundError:
            job.unlisted_open_runs[run.run_id] = UnlistedRun(now, now)
            return [Batch(scope=project.name, gone=[run.run_id])] if is_gone(run, now, REACH) else []
        job.unlisted_open_runs[run.run_id] = UnlistedRun(now, now)
        return [Batch(scope=project.name, jobs=[job.job()], runs=[current], through=self.read_through(project, view))]

    def request_runs_of_missing_jobs(self, project: Project, view: View) -> None:
        """Request active runs of jobs that lists have not shown for a while. The responses show which runs are gone."""
        runs = [run for run in view.open_runs(project.name) if slug_of(project, run) not in project.jobs]
        project.missing_jobs = {run.job_id: project.missing_jobs.get(run.job_id, view.now) for run in runs}
        for run in runs:
            if not 0 <= view.now - project.missing_jobs[run.job_id] <= MISSING_AFTER:
                send = partial(self._read_run_of_missing_job, project, run)
                self.urgent.append(ScheduledRequest(part=f"run {run.run_id}", send=send))

    def _read_run_of_missing_job(self, project: Project, run: OpenRun, view: View) -> Iterable[Batch]:  # noqa: ARG002  # as all
        try:
            current = self._api.run(project.name, slug_of(project, run), run.run_id)
        except NotFoundError:
            return [Batch(scope=project.name, gone=[run.run_id])]
        return [Batch(scope=project.name, runs=[current])]

    # --- schedules ---

    def _read_schedule(self, project: Project, job: TrackedJob, view: View) -> Iterator[Batch]:
        now = view.now
        try:
            schedule = self._api.schedule(job.row)
        except (ForbiddenError, NotFoundError):
            schedule = job.checkpoint.schedule
        checkpoint = msgspec.structs.replace(job.checkpoint, schedule=schedule, schedule_read_at=now)
        yield Batch(
            scope=project.name,
            jobs=[job.row.job(schedule)],
            checkpoints=encode_checkpoint(job.row.job_id, checkpoint),
        )
        job.checkpoint = checkpoint

    # --- the time up to which a project is read ---

    def read_through(
        self, project: Project, view: View, slug: str = "", read_at: float | None = None, listed_at: float | None = None
    ) -> float | None:
        """Return the time up to which a project's list of jobs and all its included jobs are read, minus `settle`.

        `slug` and `read_at`: a job whose read the caller commits now, and its time. `listed_at`: the same for the list.
        """
        included = project.included(view)
        jobs = self._awaited(included, view)
        if included and not jobs:
            return None
        overdue = listed_at is None and self._failing.is_overdue(project.part, view.now)
        times = [] if overdue else [project.last_listed if listed_at is None else listed_at]
        for job in jobs:
            times.append(read_at if job.row.slug == slug else job.checkpoint.read_at)
            times += [
                state.read_at
                for run_id, state in job.unlisted_open_runs.items()
                if not self._failing.is_overdue(f"run {run_id}", view.now)
            ]
        known = [time for time in times if time is not None]
        return min(known) - self._settings.settle if known and len(known) == len(times) else None

    def is_unreadable(self, project: Project, view: View) -> bool:
        """Return whether no included job could be read for a while; without such jobs, whether the list could not."""
        included = project.included(view)
        if included:
            return not self._awaited(included, view)
        return self._failing.is_overdue(project.part, view.now)

    def _awaited(self, jobs: list[TrackedJob], view: View) -> list[TrackedJob]:
        # The watermark does not wait for a job that has failed for long. When it can be read again, it is read from the
        # time in its checkpoint.
        return [job for job in jobs if not self._failing.is_overdue(job.part, view.now)]


def slug_of(project: Project, run: OpenRun) -> str:
    """Return the slug of an active run's job."""
    return run.job_id.removeprefix(f"{project.name}/")
