"""Reads Northflank. One request reads the runs of one job, so the most overdue jobs are requested first."""

from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from exporter.client.client import Client
from exporter.config.source import DAY, HOUR
from exporter.counting.records import OpenRun
from exporter.errors import ForbiddenError, NotFoundError, RateLimitedError
from exporter.model import Batch, Listing, Result
from exporter.sources.northflank.api import (
    JOB,
    JOBS,
    PROJECTS,
    RUN,
    RUNS,
    STATUSES,
    NorthflankJob,
    parse_job,
    parse_project,
)
from exporter.sources.northflank.job_reader import REACH, JobReader
from exporter.sources.northflank.jobs import JobCheckpoint, Project, TrackedJob, checkpoint_key, decode_checkpoint
from exporter.sources.northflank.request_queue import (
    PollTier,
    ScheduledRequest,
    is_due,
    ordered,
    seconds_per_round,
    spacing,
)
from exporter.sources.northflank.requests import NorthflankApi
from exporter.sources.northflank.settings import NorthflankSettings
from exporter.sources.payload import usable
from exporter.sources.rest import bearer_access, path, status_table
from exporter.sources.source import Access, Source, SourceType
from exporter.sources.view import View

# After this many failures and no success in a poll, the list of projects is requested, to see whether the API responds.
FAILURES_BEFORE_CHECK = 3

# Consecutive failed parts after which all others wait for the next poll.
MAX_FAILURES = 10

# Maximum fraction of the budget for lists. The schedules of jobs get the same fraction again.
LISTS_SHARE = 0.05

# Seconds after which the checkpoint of a job that is no longer listed is deleted.
KEEP_CHECKPOINTS = 90 * DAY


class NorthflankSource(Source):
    """Reads the jobs of one account or team."""

    def __init__(self, settings: NorthflankSettings, client: Client) -> None:
        super().__init__(client)
        self._settings = settings
        self._api = NorthflankApi(client, status_table(STATUSES, settings.status_map), settings.poll_interval)
        self._reader = JobReader(settings, self._api, self._failing)
        self._projects: dict[str, Project] = {}
        self._projects_due = 0.0
        self._listing: Listing | None = None
        self._seconds_per_round = 0.0

    # --- one poll ---

    def fetch(self, view: View) -> Iterator[Batch]:
        """Read due lists, then jobs, the most overdue first, within the poll's time and budget.

        Raises PartialError if some parts could not be read. If nothing could be read, request the list of projects, and
        raise its error.
        """
        if (wait := self._client.wait()) > spacing(PollTier.SLOW, self._settings.poll_interval):
            raise RateLimitedError(f"no request may be sent for {wait:.0f} s: the budget is used up")
        self._failing.start_poll()
        responds, tried, failures = False, False, 0
        for request in self._requests(view):
            if not self._api.may_send(view):
                break
            if self._failing.skips(request.part, view.now):
                continue
            tried = True
            with self._failing.read(request.part, view):
                yield from request.send(view)
            if request.part in self._failing.errors:
                failures += 1
            else:
                responds, failures = True, 0
            if failures == FAILURES_BEFORE_CHECK and not responds:
                self._list_projects(view)
                responds = True
            if failures == MAX_FAILURES:
                break
        if self._failing.errors and tried and not responds:
            self._list_projects(view)
        yield from self._unreadable_projects(view)
        self._failing.raise_errors((project.part for project in self._projects.values()), view.now)

    def _requests(self, view: View) -> Iterator[ScheduledRequest]:
        """Yield the requests of this poll one after the other. Lists that failed last time come last."""
        self._reader.urgent.clear()
        longest = self._lists_spacing()
        failed = [each for each in self._projects.values() if each.failed and not is_due(each.due, view.now, longest)]
        if is_due(self._projects_due, view.now, longest):
            yield ScheduledRequest(part="the list of projects", send=self._list_projects)
        for project in sorted(self._projects.values(), key=lambda project: project.due):
            if is_due(project.due, view.now, longest):
                yield ScheduledRequest(part=project.part, send=partial(self._list_jobs, project))
                yield from self._urgent()
        for request in ordered(self._job_requests(view)):
            yield request
            yield from self._urgent()
        yield from (ScheduledRequest(part=each.part, send=partial(self._list_jobs, each)) for each in failed)

    def _urgent(self) -> Iterator[ScheduledRequest]:
        while self._reader.urgent:
            yield self._reader.urgent.pop()

    def _job_requests(self, view: View) -> list[ScheduledRequest]:
        open_runs: dict[str, dict[str, OpenRun]] = {}
        for run in view.open_runs():
            open_runs.setdefault(run.job_id, {})[run.run_id] = run
        requests: list[ScheduledRequest] = []
        tiers: list[PollTier] = []
        readable = [project for project in self._projects.values() if project.readable]
        jobs = [(project, job) for project in readable for job in project.included(view)]
        self._reader.schedule_spacing = self._affordable_spacing(sum(bool(job.row.cron) for _, job in jobs))
        for project, job in jobs:
            active = open_runs.get(job.row.job_id, {})
            requests += self._reader.requests(project, job, active, view.now)
            tiers += [PollTier.FAST] * len(job.unlisted_open_runs)
            tiers.append(self._reader.tier(job, active, view.now))
        interval, rate = self._settings.poll_interval, self._settings.requests_per_minute
        self._seconds_per_round = max(self._lists_spacing(), seconds_per_round(tiers, interval, rate)) if tiers else 0.0
        return requests

    # --- lists ---

    def _list_projects(self, view: View) -> Sequence[Batch]:
        """Read the list of projects. Return no batches: the list alone commits nothing."""
        requested = view.now
        rows = self._api.list(PROJECTS, "projects")
        names = usable(rows, parse_project, "a project")
        self._listing = Listing(requested, frozenset(names))
        # The jobs of a project that is no longer listed are still requested: the response shows whether it is gone.
        all_names = dict.fromkeys([*names, *sorted(view.scopes)])
        self._projects = {name: self._projects.get(name) or Project(name=name) for name in all_names}
        for project in self._projects.values():
            project.listed = project.name in names
        self._projects_due = view.now + self._lists_spacing()
        return ()

    def _list_jobs(self, project: Project, view: View) -> Iterator[Batch]:
        """Read the jobs of a project. A job that the list no longer shows stays as long as its runs can be read."""
        now = view.now
        project.due, project.failed = now + self._lists_spacing(), True
        try:
            raws = self._api.list(JOBS, "jobs", projectId=project.name)
        except (ForbiddenError, NotFoundError) as error:
            project.readable, project.last_listed, project.failed = False, None, False
            gone = isinstance(error, NotFoundError) and not project.listed
            yield Batch(scope=project.name, readable=False, exists=not gone, listing=self._listing)
            return
        rows = {row.slug: row for row in usable(raws, lambda raw: parse_job(raw, project.name), "a job")}
        missing = {slug: job for slug, job in project.jobs.items() if slug not in rows}
        for job in missing.values():
            job.missing_since = now if job.missing_since is None else job.missing_since
        project.jobs = {slug: self._track(project, row, view) for slug, row in rows.items()} | missing
        project.readable, project.failed = True, False
        self._reader.request_runs_of_missing_jobs(project, view)
        yield Batch(
            scope=project.name,
            jobs=[job.job() for job in project.jobs.values() if job.exists],
            catalog=True,
            listing=self._listing,
            invalid=len(raws) - len(rows),
            through=self._reader.read_through(project, view, listed_at=now),
            checkpoints=self._expired_checkpoints(view),
        )
        project.last_listed = now

    def _lists_spacing(self) -> float:
        return self._affordable_spacing(1 + len(self._projects))

    def _affordable_spacing(self, requests: int) -> float:
        """Return the seconds between two rounds of requests: those of the slow tier, or more if the budget is small."""
        slow = spacing(PollTier.SLOW, self._settings.poll_interval)
        return max(slow, min(HOUR, 60 * requests / (LISTS_SHARE * self._settings.requests_per_minute)))

    @staticmethod
    def _track(project: Project, row: NorthflankJob, view: View) -> TrackedJob:
        known = project.jobs.get(row.slug)
        if known is not None:
            known.row, known.missing_since = row, None
            return known
        checkpoint = decode_checkpoint(view.checkpoints.get(checkpoint_key(row.job_id)))
        return TrackedJob(row=row, checkpoint=checkpoint, first_listed=view.now, requested=checkpoint.read_at)

    def _expired_checkpoints(self, view: View) -> dict[str, str]:
        """Return the checkpoints to delete: the checkpoints of jobs that are not listed and were last read long ago."""
        listed = {checkpoint_key(job.row.job_id) for each in self._projects.values() for job in each.jobs.values()}
        return {
            key: ""
            for key, text in view.checkpoints.items()
            if key not in listed
            and (msgspec.json.decode(text, type=JobCheckpoint).read_at or 0.0) < view.now - KEEP_CHECKPOINTS
        }

    def _unreadable_projects(self, view: View) -> Iterator[Batch]:
        for project in self._projects.values():
            if project.readable and self._reader.is_unreadable(project, view):
                yield Batch(scope=project.name, readable=False, listing=self._listing)

    # --- other commands ---

    def probe(self) -> str:
        """List the projects."""
        return f"signed in, {len(self._api.list(PROJECTS, 'projects'))} projects"

    def seconds_per_round(self) -> float:
        """Return the seconds that it takes to read every job once within the budget."""
        return self._seconds_per_round


def _access(settings: NorthflankSettings) -> Access:
    team = "" if settings.team_id is None else path("/teams/{team}", team=settings.team_id)
    return bearer_access(settings, settings.auth.api_token, team)


TYPE = SourceType(
    settings=NorthflankSettings,
    build=NorthflankSource,
    access=_access,
    identity=lambda settings: f"northflank {settings.base_url} team {settings.team_id or ''}".strip(),
    results=(Result.SUCCESS, Result.FAILURE, Result.UNKNOWN),
    has_attempts=True,
    endpoints=(PROJECTS, JOBS, JOB, RUNS, RUN),
    reach=REACH,
)
