"""Northflank: its settings, and how the runs of its jobs are read one job at a time within its budget."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Annotated, ClassVar, Literal

import msgspec

from exporter.client.client import Client
from exporter.client.signin import BearerAuth
from exporter.config.secret import Secret
from exporter.config.section import Section
from exporter.config.source import DAY, HOUR, MINUTE, SourceSettings
from exporter.config.values import BaseUrl, Positive, Switch, Text
from exporter.counting.records import OpenRun
from exporter.errors import AuthError, ForbiddenError, NotFoundError, RateLimitedError, SchemaError, SourceError
from exporter.model import Listing, Reading, Result, Run, Step, Window
from exporter.sources.northflank_api import (
    JOB,
    JOBS,
    PROJECTS,
    RUN,
    RUNS,
    parse_job,
    parse_page,
    parse_project,
    parse_run,
    parse_schedule,
    path,
    statuses,
    to_run,
)
from exporter.sources.source import Access, SourceType, StepLog, View
from exporter.sources.turns import Tier, Turn, has_come, is_due, lateness, ordered, round_seconds, spacing, tier
from exporter.sources.unreadable import awaited
from exporter.sources.watched import MAX_PAGES, JobNote, JobRow, Listed, Page, Project, Told, Walk, Watched, note_key

REACH = 365 * DAY
"""The vendor names no age at which runs are forgotten."""

PAGE_SIZE = 100
BASELINE_DEPTH = DAY
FAULTS_IN_A_ROW = 3
"""Failed requests after which the rest waits for the next poll."""

LISTS_SHARE = 0.05
"""The part of the budget that the lists of projects and jobs may cost."""

PATIENCE_SHARE = 0.2
"""A request that would wait for longer than this part of the interval is left to the next poll."""

FORGET_NOTES = 90 * DAY
"""After so long the reading of a job that is no longer listed is forgotten."""


Ask = Callable[[View], Reading | None]
"""One thing to ask for; gives what it brought."""


class ApiToken(Section):
    """Sign-in by an API token."""

    api_token: Secret
    """API token of a role that may read projects and jobs."""


class NorthflankSettings(SourceSettings):
    """A Northflank source."""

    api_path: ClassVar[str] = "/v1"

    type: Literal["northflank"]
    """The vendor."""
    base_url: BaseUrl = "https://api.northflank.com"
    """Scheme, host, optional port and prefix of the API, without the API's own path."""
    team_id: Text | None = None
    """Id of the team, for a token that is good for a whole organisation."""
    auth: ApiToken
    """How to sign in."""
    steps: Annotated[Literal["all", "failed", "off"], Switch] = "off"
    """Of no effect: runs have no steps."""
    requests_per_minute: Positive = 15.0
    """Budget of requests: the account's limit is 1000 an hour."""


class NorthflankSource:
    """Reads the jobs of one account or team.

    Args:
        settings: Its configuration.
        client: Its API.
    """

    def __init__(self, settings: NorthflankSettings, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._statuses = statuses(settings.status_map)
        self._projects: dict[str, Project] = {}
        self._projects_due = 0.0
        self._listing: Listing | None = None
        self._left: list[Ask] = []
        self._round = 0.0

    # --- one poll ---

    def readings(self, view: View) -> Iterator[Reading]:
        """What there is time and budget for: lists that are due, then jobs, the most urgent first.

        One job that cannot be had does not keep the others from being asked for.
        """
        if (wait := self._client.wait()) > spacing(Tier.SLOW, self._settings.poll_interval):
            raise RateLimitedError(f"no request may be sent for {wait:.0f} s: the budget is used up")
        fault, faults = None, 0
        for ask in self._asks(view):
            if not self._may_ask(view):
                break
            try:
                reading = ask(view)
            except (AuthError, RateLimitedError):
                raise
            except SourceError as error:
                fault, faults = error, faults + 1
                if faults == FAULTS_IN_A_ROW:
                    break
                continue
            faults = 0
            if reading is not None:
                yield reading
        if fault is not None:
            raise fault

    def _may_ask(self, view: View) -> bool:
        return not view.out_of_time() and self._client.wait() <= PATIENCE_SHARE * self._settings.poll_interval

    def _asks(self, view: View) -> Iterator[Ask]:
        """What is to be asked in this poll; each is done when the next is looked for. What failed lately comes last."""
        longest = self._lists_spacing()
        failed = [each for each in self._projects.values() if each.failed and not has_come(each.due, view.now, longest)]
        if has_come(self._projects_due, view.now, longest):
            yield self._list_projects
        for project in sorted(self._projects.values(), key=lambda project: project.due):
            if has_come(project.due, view.now, longest):
                yield partial(self._list_jobs, project)
        yield from self._run_asks(view)
        yield from (partial(self._list_jobs, project) for project in failed)

    def _run_asks(self, view: View) -> Iterator[Ask]:
        """Walks that were cut short, then what is open, mixed with the others, the latest first.

        Open runs that a page shows no more are asked for right after it: they may have ended since the page before.
        """
        open_runs: dict[str, list[OpenRun]] = {}
        for run in view.open_runs():
            open_runs.setdefault(run.job_id, []).append(run)
        turns: list[Turn[Ask]] = []
        for project, job in self._wanted(view):
            turns += self._turns(project, job, open_runs.get(job.row.job_id, ()), view.now)
        tiers = [turn.tier for turn in turns if turn.tier is not None]
        interval, rate = self._settings.poll_interval, self._settings.requests_per_minute
        self._round = max(self._lists_spacing(), round_seconds(tiers, interval, rate)) if tiers else 0.0
        self._left.clear()
        for ask in ordered(turns):
            yield ask
            while self._left:
                yield self._left.pop()

    def _turns(self, project: Project, job: Watched, open_runs: Sequence[OpenRun], now: float) -> Iterator[Turn[Ask]]:
        """What may be asked of a job: its runs, open runs that no page shows, and its schedule, once an hour."""
        interval = self._settings.poll_interval
        mine = {run.run_id: run for run in open_runs}
        job.elsewhere = {run_id: asked for run_id, asked in job.elsewhere.items() if run_id in mine}
        for run_id, asked in job.elsewhere.items():
            ask = partial(self._ask_run, project, job, mine[run_id])
            yield Turn(ask=ask, tier=Tier.FAST, late=lateness(asked or 0.0, now, Tier.FAST, interval))
        wanted = tier(job.pulse(now, is_open=len(job.elsewhere) < len(mine)), now, interval)
        yield Turn(
            ask=partial(self._ask_runs, project, job),
            tier=wanted,
            late=lateness(job.asked, now, wanted, interval),
            due=is_due(job.asked, now, wanted, interval),
            begun=job.walk is not None,
            again=job.failed,
        )
        if job.row.cron and job.asked is not None and job.detail_age(now) >= HOUR:
            # One that was never looked at waits about as long as an idle job.
            late = 1.0 if job.note.detailed is None else job.detail_age(now) / HOUR
            yield Turn(ask=partial(self._ask_schedule, project, job), tier=None, late=late)

    def _wanted(self, view: View) -> Iterator[tuple[Project, Watched]]:
        for project in self._projects.values():
            if project.readable:
                for job in project.jobs.values():
                    if view.wanted(job.row.name):
                        yield project, job

    def committed(self, reading: Reading) -> None:
        """Remembers when a list or a job was read, now that it is in the state."""
        told = reading.memory
        if isinstance(told, Listed):
            self._projects[told.project].listed = told.at
        elif isinstance(told, Told):
            job = self._projects[told.project].jobs.get(told.slug)
            if job is not None:
                job.note = told.note
                if told.digest is not None:
                    job.changed = bool(job.digest) and told.digest != job.digest
                    job.digest, job.last_start = told.digest, told.last_start

    # --- lists ---

    def _list(self, endpoint: str, key: str, **parts: str) -> list[msgspec.Raw]:
        """All rows of a list, over its pages."""
        rows: dict[bytes, msgspec.Raw] = {}
        cursor = ""
        for number in range(1, MAX_PAGES + 1):
            page = self._page(endpoint, key, number, cursor, **parts)
            known = len(rows)
            rows.update((bytes(row), row) for row in page.rows)
            if not page.more or len(rows) == known:
                break
            cursor = page.cursor
        return list(rows.values())

    def _page(self, endpoint: str, key: str, number: int, cursor: str, **parts: str) -> Page:
        """One page: the first, the one that a cursor names, or, where there was none, the one of a number."""
        params: dict[str, str | int] = {"per_page": PAGE_SIZE}
        if cursor:
            params["cursor"] = cursor
        elif number > 1:
            params["page"] = number
        return parse_page(self._get(endpoint, params, **parts), key)

    def _get(self, endpoint: str, params: Mapping[str, str | int] | None = None, **parts: str) -> bytes:
        patience = max(self._settings.poll_interval, MINUTE)
        return self._client.get(path(endpoint, **parts), endpoint=endpoint, params=params, patience=patience).body

    def _list_projects(self, view: View) -> None:
        """Takes up the projects; one that is no longer listed is still asked for its jobs, which tells its fate."""
        asked = view.now
        rows = self._list(PROJECTS, "projects")
        names = [name for raw in rows if (name := parse_project(raw))]
        if rows and not names:
            raise SchemaError("no row of the answer is a project")
        self._listing = Listing(asked, frozenset(names))
        wanted = dict.fromkeys([*names, *sorted(view.scopes)])
        self._projects = {name: self._projects.get(name) or Project(name=name) for name in wanted}
        for project in self._projects.values():
            project.known = project.name in names
        self._projects_due = view.now + self._lists_spacing()

    def _list_jobs(self, project: Project, view: View) -> Reading:
        """The jobs of a project. One that is left out once is still asked: that may have been an error."""
        now = view.now
        project.due, project.failed = now + self._lists_spacing(), True
        try:
            raws = self._list(JOBS, "jobs", projectId=project.name)
        except (ForbiddenError, NotFoundError) as error:
            return self._unreadable(project, gone=isinstance(error, NotFoundError) and not project.known)
        rows = {row.slug: row for raw in raws if (row := parse_job(raw, project.name)) is not None}
        if raws and not rows:
            raise SchemaError("no row of the answer is a job")
        missed = {slug: job for slug, job in project.jobs.items() if slug not in rows and not job.missed}
        for job in missed.values():
            job.missed = True
        project.jobs = {slug: self._watched(project, row, view) for slug, row in rows.items()} | missed
        project.readable, project.failed = True, False
        return Reading(
            scope=project.name,
            jobs=[project.jobs[slug].job() for slug in rows],
            catalog=True,
            listing=self._listing,
            invalid=len(raws) - len(rows),
            through=self._through(project, view, listed=now),
            notes=self._forgotten(view),
            memory=Listed(project.name, now),
        )

    def _lists_spacing(self) -> float:
        """Seconds between two lists of projects, or of one's jobs: as for an idle job, unless many make that costly."""
        slow = spacing(Tier.SLOW, self._settings.poll_interval)
        affordable = 60 * (1 + len(self._projects)) / (LISTS_SHARE * self._settings.requests_per_minute)
        return max(slow, min(HOUR, affordable))

    def _watched(self, project: Project, row: JobRow, view: View) -> Watched:
        known = project.jobs.get(row.slug)
        if known is not None:
            known.row, known.missed = row, False
            return known
        text = view.notes.get(note_key(row.job_id))
        note = JobNote() if text is None else msgspec.json.decode(text, type=JobNote)
        return Watched(row=row, note=note, asked=note.read)

    def _unreadable(self, project: Project, *, gone: bool) -> Reading:
        project.readable, project.listed, project.failed = False, None, False
        return Reading(scope=project.name, readable=False, exists=not gone, listing=self._listing)

    def _forgotten(self, view: View) -> dict[str, str]:
        """Notes to be deleted: of jobs that are no longer listed and were last read long ago."""
        listed = {note_key(job.row.job_id) for each in self._projects.values() for job in each.jobs.values()}
        notes = [(key, note) for key, note in view.notes.items() if key not in listed]
        return {
            key: ""
            for key, note in notes
            if (msgspec.json.decode(note, type=JobNote).read or 0.0) < view.now - FORGET_NOTES
        }

    # --- runs ---

    def _ask_runs(self, project: Project, job: Watched, view: View) -> Reading | None:
        """The runs of a job, page by page; None if time or budget end before the last page."""
        job.asked, job.failed = view.now, True
        walk, job.walk = job.walk, None
        if walk is None or walk.began > view.now:  # a wrong clock told when it began
            walk = self._walk(project, job, view)
        try:
            while self._further(job, walk, view):
                if not self._may_ask(view):
                    job.walk, job.failed = walk, False
                    return None
        except NotFoundError:
            # The list of jobs tells whether it is gone; asked at once it might not know yet.
            project.jobs.pop(job.row.slug, None)
            project.due = min(project.due, view.now + spacing(Tier.NORMAL, self._settings.poll_interval))
            return None
        except ForbiddenError:
            job.failed = False
            return self._unreadable(project, gone=False)
        job.failed = False
        return self._reading(project, job, walk, view)

    def _walk(self, project: Project, job: Watched, view: View) -> Walk:
        now, baseline = view.now, view.baseline(project.name)
        floor = now - self._settings.lookback
        deep = awaited(job.note.unreadable)
        if job.note.read is None:
            floor = max(floor, baseline - BASELINE_DEPTH)
        elif deep:
            floor = max(floor, job.note.read - self._settings.overlap)
        return Walk(began=now, floor=floor, baseline=baseline, deep=deep)

    def _further(self, job: Watched, walk: Walk, view: View) -> bool:
        """Asks for one page; returns whether there is more to ask for."""
        params: dict[str, str | int] = {"per_page": PAGE_SIZE}
        if walk.cursor:
            params["cursor"] = walk.cursor
        elif walk.pages:
            params["page"] = walk.pages + 1
        body = self._get(RUNS, params, projectId=job.row.project, jobId=job.row.slug)
        page = parse_page(body, "runs")
        runs = [run for raw in page.rows if (run := to_run(raw, job.row.job_id, self._statuses)) is not None]
        if page.rows and not runs and not walk.pages:
            raise SchemaError("no row of the answer is a run")
        if not walk.pages:
            walk.first = blake2b(body, digest_size=16).digest()
        return walk.take(page, runs, view.known)

    def _reading(self, project: Project, job: Watched, walk: Walk, view: View) -> Reading:
        """What a whole walk has brought."""
        open_runs = {run.run_id: run for run in view.open_runs(project.name) if run.job_id == job.row.job_id}
        for run_id in open_runs.keys() - walk.runs.keys() - job.elsewhere.keys():
            job.elsewhere[run_id] = None
            self._left.append(partial(self._ask_run, project, job, open_runs[run_id]))
        for run_id in walk.runs.keys() & job.elsewhere.keys():
            del job.elsewhere[run_id]
        note = job.note.after(walk)
        unchanged = walk.pages == 1 and walk.first == job.digest
        wanted = [] if unchanged else walk.runs.values()
        runs = [run for run in wanted if run.run_id in open_runs or self._new(run, job, view.now)]
        return Reading(
            scope=project.name,
            jobs=[job.job()],
            runs=runs,
            unchanged=len(walk.runs) - len(runs),
            invalid=walk.invalid,
            through=self._through(project, view, job.row.slug, note.read) if note.read == walk.began else None,
            unobserved=self._lost(job, walk),
            truncated=0 if walk.whole else 1,
            notes={note_key(job.row.job_id): msgspec.json.encode(note).decode()},
            memory=Told(
                project=project.name,
                slug=job.row.slug,
                note=note,
                digest=walk.first,
                last_start=max((run.start for run in walk.runs.values() if run.start is not None), default=None),
            ),
        )

    def _new(self, run: Run, job: Watched, now: float) -> bool:
        """Whether the ledger needs to see a run: one that was there long before the last reading is known to it.

        It may have forgotten such a run by now, and would take it for a new one.
        """
        if job.note.read is None:
            return True
        last = run.start if run.end is None else run.end
        kept = max(self._settings.lookback, self._settings.max_run_age)
        return last is None or last >= min(now - kept, job.note.read)

    def _lost(self, job: Watched, walk: Walk) -> list[Window]:
        """What lies between the last reading and the earliest run of a walk that did not reach it."""
        if walk.reached is None or job.note.read is None or not walk.newest_first:
            return []
        before = job.note.read - self._settings.settle
        return [Window(before, walk.reached)] if before < walk.reached else []

    def _ask_run(self, project: Project, job: Watched, run: OpenRun, view: View) -> Reading | None:
        """An open run that no page shows any more, by its id."""
        now = job.elsewhere[run.run_id] = view.now
        try:
            body = self._get(RUN, projectId=job.row.project, jobId=job.row.slug, runId=run.run_id)
        except NotFoundError:
            # A run that the API should still show is asked for again; an older one is gone for good.
            return Reading(scope=project.name, gone=[run.run_id]) if run.origin < now - REACH else None
        found = parse_run(body, job.row.job_id, self._statuses)
        if found.run_id != run.run_id:
            raise SchemaError(f"GET {RUN}: the answer is another run")
        return Reading(scope=project.name, jobs=[job.job()], runs=[found], through=self._through(project, view))

    def _ask_schedule(self, project: Project, job: Watched, view: View) -> Reading | None:
        """The schedule of a job, which its project's list does not tell."""
        now = view.now
        try:
            schedule = parse_schedule(self._get(JOB, projectId=job.row.project, jobId=job.row.slug))
        except (ForbiddenError, NotFoundError):
            schedule = job.note.schedule
        note = msgspec.structs.replace(job.note, schedule=schedule, detailed=now)
        return Reading(
            scope=project.name,
            jobs=[job.row.job(schedule)],
            notes={note_key(job.row.job_id): msgspec.json.encode(note).decode()},
            memory=Told(project=project.name, slug=job.row.slug, note=note),
        )

    def _through(
        self, project: Project, view: View, slug: str = "", read: float | None = None, listed: float | None = None
    ) -> float | None:
        """Up to where all endings of a project are read: its list, and every job that it shows and that is wanted.

        Of a job that is its pages, and its open runs that no page shows: each as of when it was last asked for.
        """
        wanted = [job for job in project.jobs.values() if view.wanted(job.row.name)]
        marks = [project.listed if listed is None else listed]
        marks += [read if job.row.slug == slug else job.note.read for job in wanted]
        marks += [asked for job in wanted for asked in job.elsewhere.values()]
        known = [mark for mark in marks if mark is not None]
        return min(known) - self._settings.settle if len(known) == len(marks) else None

    # --- what else a source does ---

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:  # noqa: ARG002  # the interface of all sources
        """None: runs have no steps."""
        return ()

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:  # noqa: ARG002  # the interface of all sources
        """Nothing: the API tells neither output nor error text."""
        raise NotFoundError("this API tells no output of runs; it is on the vendor's page", 404)

    def probe(self) -> str:
        """Lists the projects."""
        return f"signed in, {len(self._list(PROJECTS, 'projects'))} projects"

    def round_seconds(self) -> float:
        """Seconds in which every job is asked once, as the budget allows."""
        return self._round

    def close(self) -> None:
        """Ends all connections."""
        self._client.close()


def _access(settings: NorthflankSettings) -> Access:
    host = settings.base_url.rstrip("/") + NorthflankSettings.api_path
    root = host if settings.team_id is None else path(host + "/teams/{team}", team=settings.team_id)
    token = settings.auth.api_token
    return Access(root=root, auth=BearerAuth(token.reveal), credential=f"{host} {hash(token)}")


TYPE = SourceType(
    settings=NorthflankSettings,
    build=NorthflankSource,
    access=_access,
    identity=lambda settings: f"northflank {settings.base_url} team {settings.team_id or ''}".strip(),
    results=(Result.SUCCESS, Result.FAILURE, Result.UNKNOWN),
    attempts=True,
    has_steps=False,
    reopens=False,
    endpoints=(PROJECTS, JOBS, JOB, RUNS, RUN),
    reach=REACH,
)
