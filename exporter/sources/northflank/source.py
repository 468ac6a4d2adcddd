"""Northflank: its settings, and how the runs of its jobs are read one job at a time within its budget."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from exporter.client.client import Client
from exporter.client.signin import BearerAuth
from exporter.config.source import DAY, HOUR, MINUTE
from exporter.counting.records import OpenRun
from exporter.errors import ForbiddenError, NotFoundError, RateLimitedError, SchemaError
from exporter.model import Batch, Listing, Result, Run, Step, Window
from exporter.sources.northflank.api import (
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
from exporter.sources.northflank.job_tracker import (
    MAX_PAGES,
    Elsewhere,
    JobCheckpoint,
    JobRow,
    Listed,
    Page,
    PageCursor,
    Project,
    Told,
    Watched,
    looking_back,
    note_key,
)
from exporter.sources.northflank.request_queue import (
    PollTier,
    ScheduledRequest,
    is_due,
    ordered,
    overdue_ratio,
    round_seconds,
    should_ask,
    spacing,
    tier,
)
from exporter.sources.northflank.settings import NorthflankSettings
from exporter.sources.paging import PageGuard
from exporter.sources.parts import PollParts
from exporter.sources.source import Access, SourceType, StepLog, View
from exporter.sources.unreadable import awaited

REACH = 365 * DAY
"""The vendor names no age at which runs are forgotten."""

PAGE_SIZE = 100
BASELINE_DEPTH = DAY
FAILURES_IN_A_ROW = 3
"""Parts that fail before anything is read, after which the list of projects tells whether the API answers at all."""

MOST_FAILURES = 10
"""Parts that fail in a row, after which the rest waits for the next poll."""

LOST_AFTER = 900.0
"""Seconds for which no list has to show a job until its open runs are asked for one by one, and may be gone."""

LISTS_SHARE = 0.05
"""The part of the budget that the lists of projects and jobs may cost."""

PATIENCE_SHARE = 0.2
"""A request that would wait for longer than this part of the interval is left to the next poll."""

FORGET_NOTES = 90 * DAY
"""After so long the reading of a job that is no longer listed is forgotten."""


class Ask(NamedTuple):
    """One thing to ask for: its name in errors, and a function that asks and returns what that brought."""

    part: str
    of: Callable[[View], Batch | None]


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
        self._failing = PollParts()
        self._round = 0.0

    # --- one poll ---

    def fetch(self, view: View) -> Iterator[Batch]:
        """What there is time and budget for: lists that are due, then jobs, the most urgent first.

        A part that cannot be had does not keep the others from being asked for. Raises PartialError for those parts,
        or the error of the list of projects where that does not answer either.
        """
        if (wait := self._client.wait()) > spacing(PollTier.SLOW, self._settings.poll_interval):
            raise RateLimitedError(f"no request may be sent for {wait:.0f} s: the budget is used up")
        self._failing.begin()
        answered, tried, in_a_row = False, False, 0
        for ask in self._asks(view):
            if not self._may_ask(view):
                break
            if self._failing.rests(ask.part, view):
                continue
            batch, tried = None, True
            with self._failing.batch(ask.part, view):
                batch = ask.of(view)
            if ask.part not in self._failing.errors:
                answered, in_a_row = True, 0
            else:
                in_a_row += 1
            if batch is not None:
                yield batch
            if in_a_row == FAILURES_IN_A_ROW and not answered:
                self._list_projects(view)
                answered = True
            if in_a_row == MOST_FAILURES:
                break
        if self._failing.errors and tried and not answered:
            self._list_projects(view)
        yield from self._unreadable_projects(view)
        self._failing.raise_errors()

    def _may_ask(self, view: View) -> bool:
        return not view.out_of_time() and self._client.wait() <= PATIENCE_SHARE * self._settings.poll_interval

    def _asks(self, view: View) -> Iterator[Ask]:
        """What is to be asked in this poll; each is done when the next is looked for. What failed lately comes last."""
        self._left.clear()
        longest = self._lists_spacing()
        failed = [each for each in self._projects.values() if each.failed and not is_due(each.due, view.now, longest)]
        if is_due(self._projects_due, view.now, longest):
            yield Ask("the list of projects", self._list_projects)
        for project in sorted(self._projects.values(), key=lambda project: project.due):
            if is_due(project.due, view.now, longest):
                yield Ask(project.part, partial(self._list_jobs, project))
                yield from self._leftovers()
        yield from self._run_asks(view)
        yield from (Ask(project.part, partial(self._list_jobs, project)) for project in failed)

    def _run_asks(self, view: View) -> Iterator[Ask]:
        """Walks that were cut short, then what is open, mixed with the others, the latest first.

        Open runs that a page shows no more are asked for right after it: they may have ended since the page before.
        """
        open_runs: dict[str, list[OpenRun]] = {}
        for run in view.open_runs():
            open_runs.setdefault(run.job_id, []).append(run)
        turns: list[ScheduledRequest[Ask]] = []
        for project, job in self._wanted(view):
            turns += self._turns(project, job, open_runs.get(job.row.job_id, ()), view.now)
        tiers = [turn.tier for turn in turns if turn.tier is not None]
        interval, rate = self._settings.poll_interval, self._settings.requests_per_minute
        self._round = max(self._lists_spacing(), round_seconds(tiers, interval, rate)) if tiers else 0.0
        for ask in ordered(turns):
            yield ask
            yield from self._leftovers()

    def _leftovers(self) -> Iterator[Ask]:
        """What an answer has shown to be worth asking for at once."""
        while self._left:
            yield self._left.pop()

    def _turns(
        self, project: Project, job: Watched, open_runs: Sequence[OpenRun], now: float
    ) -> Iterator[ScheduledRequest[Ask]]:
        """What may be asked of a job: its runs, open runs that no page shows, and its schedule, once an hour."""
        interval = self._settings.poll_interval
        mine = {run.run_id: run for run in open_runs}
        job.elsewhere = {run_id: state for run_id, state in job.elsewhere.items() if run_id in mine}
        for run_id, state in job.elsewhere.items():
            ask = self._ask_of_run(project, job, mine[run_id])
            yield ScheduledRequest(
                ask=ask, tier=PollTier.FAST, late=overdue_ratio(state.tried or 0.0, now, PollTier.FAST, interval)
            )
        wanted = tier(job.activity(now, is_open=len(job.elsewhere) < len(mine)), now, interval)
        yield ScheduledRequest(
            ask=Ask(job.part, partial(self._ask_runs, project, job)),
            tier=wanted,
            late=overdue_ratio(job.asked, now, wanted, interval),
            due=should_ask(job.asked, now, wanted, interval),
            begun=job.walk is not None,
            again=job.failed,
        )
        if job.row.cron and job.asked is not None and job.detail_age(now) >= HOUR:
            # One that was never looked at waits about as long as an idle job.
            late = 1.0 if job.note.detailed is None else job.detail_age(now) / HOUR
            asking = Ask(f"schedule of job {job.row.job_id}", partial(self._ask_schedule, project, job))
            yield ScheduledRequest(ask=asking, tier=None, late=late)
        if job.note.read is not None and not job.note.whole:
            looking = Ask(f"older runs of job {job.row.job_id}", partial(self._look_back, project, job))
            yield ScheduledRequest(ask=looking, tier=None, late=max(0.0, now - job.note.read) / HOUR)

    def _wanted(self, view: View) -> Iterator[tuple[Project, Watched]]:
        for project in self._projects.values():
            if project.readable:
                for job in project.jobs.values():
                    if view.wanted(job.row.name):
                        yield project, job

    def committed(self, batch: Batch) -> None:
        """Remembers when a list or a job was read, now that it is in the state."""
        told = batch.memory
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
        cursor, guard = "", PageGuard(f"GET {endpoint}", MAX_PAGES)
        for number in itertools.count(1):
            page = self._page(endpoint, key, number, cursor, **parts)
            rows.update((bytes(row), row) for row in page.rows)
            if not page.more:
                break
            if not page.rows:
                raise SchemaError(f"GET {endpoint}: the list does not end: an empty page is not the last")
            guard.check([bytes(row) for row in page.rows], page.cursor or None)
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

    def _list_jobs(self, project: Project, view: View) -> Batch:
        """The jobs of a project. One that the list leaves out is a job for as long as its runs answer."""
        now = view.now
        project.due, project.failed = now + self._lists_spacing(), True
        try:
            raws = self._list(JOBS, "jobs", projectId=project.name)
        except (ForbiddenError, NotFoundError) as error:
            return self._unreadable(project, gone=isinstance(error, NotFoundError) and not project.known)
        rows = {row.slug: row for raw in raws if (row := parse_job(raw, project.name)) is not None}
        if raws and not rows:
            raise SchemaError("no row of the answer is a job")
        missed = {slug: job for slug, job in project.jobs.items() if slug not in rows}
        for job in missed.values():
            job.missed = now if job.missed is None else job.missed
        project.jobs = {slug: self._watched(project, row, view) for slug, row in rows.items()} | missed
        project.readable, project.failed = True, False
        self._left += self._lost_runs(project, view)
        return Batch(
            scope=project.name,
            jobs=[job.job() for job in project.jobs.values() if job.is_shown],
            catalog=True,
            listing=self._listing,
            invalid=len(raws) - len(rows),
            through=self._through(project, view, listed=now),
            notes=self._forgotten(view),
            memory=Listed(project.name, now),
        )

    def _lists_spacing(self) -> float:
        """Seconds between two lists of projects, or of one's jobs: as for an idle job, unless many make that costly."""
        slow = spacing(PollTier.SLOW, self._settings.poll_interval)
        affordable = 60 * (1 + len(self._projects)) / (LISTS_SHARE * self._settings.requests_per_minute)
        return max(slow, min(HOUR, affordable))

    def _watched(self, project: Project, row: JobRow, view: View) -> Watched:
        known = project.jobs.get(row.slug)
        if known is not None:
            known.row, known.missed = row, None
            return known
        text = view.notes.get(note_key(row.job_id))
        note = JobCheckpoint(whole=False) if text is None else msgspec.json.decode(text, type=JobCheckpoint)
        return Watched(row=row, note=note, asked=note.read)

    def _unreadable(self, project: Project, *, gone: bool) -> Batch:
        project.readable, project.listed, project.failed = False, None, False
        return Batch(scope=project.name, readable=False, exists=not gone, listing=self._listing)

    def _forgotten(self, view: View) -> dict[str, str]:
        """Notes to be deleted: of jobs that are no longer listed and were last read long ago."""
        listed = {note_key(job.row.job_id) for each in self._projects.values() for job in each.jobs.values()}
        notes = [(key, note) for key, note in view.notes.items() if key not in listed]
        return {
            key: ""
            for key, note in notes
            if (msgspec.json.decode(note, type=JobCheckpoint).read or 0.0) < view.now - FORGET_NOTES
        }

    # --- runs ---

    def _ask_runs(self, project: Project, job: Watched, view: View) -> Batch | None:
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
        except (ForbiddenError, NotFoundError) as error:
            # The list of jobs tells what is gone or forbidden; asked at once it might not know yet.
            project.due = min(project.due, view.now + spacing(PollTier.NORMAL, self._settings.poll_interval))
            if isinstance(error, ForbiddenError):
                raise
            project.jobs.pop(job.row.slug, None)
            return None
        job.failed = False
        return self._reading(project, job, walk, view)

    def _walk(self, project: Project, job: Watched, view: View) -> PageCursor:
        now, baseline = view.now, view.baseline(project.name)
        floor = now - self._settings.lookback
        deep = awaited(job.note.unreadable)
        if job.note.read is None:
            floor = max(floor, baseline - BASELINE_DEPTH)
        elif deep:
            floor = max(floor, job.note.read - self._settings.overlap)
        return PageCursor(began=now, floor=floor, baseline=baseline, deep=deep)

    def _further(self, job: Watched, walk: PageCursor, view: View) -> bool:
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

    def _reading(self, project: Project, job: Watched, walk: PageCursor, view: View) -> Batch:
        """What a whole walk has brought."""
        open_runs = {run.run_id: run for run in view.open_runs(project.name) if run.job_id == job.row.job_id}
        for run_id in open_runs.keys() - walk.runs.keys() - job.elsewhere.keys():
            job.elsewhere[run_id] = Elsewhere()
            self._left.append(self._ask_of_run(project, job, open_runs[run_id]))
        for run_id in walk.runs.keys() & job.elsewhere.keys():
            del job.elsewhere[run_id]
        note = job.note.after(walk)
        if not note.whole and job.note.read is None:
            job.older = looking_back(walk.began, walk.floor, behind=walk)
        unchanged = walk.pages == 1 and walk.first == job.digest
        wanted = [] if unchanged else walk.runs.values()
        runs = [run for run in wanted if run.run_id in open_runs or self._new(run, job, view.now)]
        return Batch(
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

    def _lost(self, job: Watched, walk: PageCursor) -> list[Window]:
        """What lies between the last reading and the earliest run of a walk that did not reach it."""
        if walk.reached is None or job.note.read is None or not walk.newest_first:
            return []
        before = job.note.read - self._settings.settle
        return [Window(before, walk.reached)] if before < walk.reached else []

    def _ask_run(self, project: Project, job: Watched, run: OpenRun, view: View) -> Batch | None:
        """An open run that no page shows any more, by its id."""
        now, state = view.now, job.elsewhere.get(run.run_id, Elsewhere())
        job.elsewhere[run.run_id] = Elsewhere(state.read, now)
        try:
            body = self._get(RUN, projectId=job.row.project, jobId=job.row.slug, runId=run.run_id)
        except NotFoundError:
            # A run that the API should still show is asked for again; an older one is gone for good.
            job.elsewhere[run.run_id] = Elsewhere(now, now)
            return Batch(scope=project.name, gone=[run.run_id]) if run.origin < now - REACH else None
        found = parse_run(body, job.row.job_id, self._statuses)
        if found.run_id != run.run_id:
            raise SchemaError(f"GET {RUN}: the answer is another run")
        job.elsewhere[run.run_id] = Elsewhere(now, now)
        return Batch(scope=project.name, jobs=[job.job()], runs=[found], through=self._through(project, view))

    def _ask_of_run(self, project: Project, job: Watched, run: OpenRun) -> Ask:
        return Ask(f"run {run.run_id}", partial(self._ask_run, project, job, run))

    def _look_back(self, project: Project, job: Watched, view: View) -> Batch | None:
        """Open runs behind the page at which a job's first reading ended, down to as far back as that goes."""
        baseline = view.baseline(project.name)
        walk = job.older or looking_back(view.now, baseline - BASELINE_DEPTH)
        job.older = walk
        while self._further(job, walk, view):
            if not self._may_ask(view):
                return None
        job.older, note = None, msgspec.structs.replace(job.note, whole=True)
        return Batch(
            scope=project.name,
            jobs=[job.job()],
            runs=[run for run in walk.runs.values() if run.result is None or (run.end or 0.0) > baseline],
            notes={note_key(job.row.job_id): msgspec.json.encode(note).decode()},
            memory=Told(project=project.name, slug=job.row.slug, note=note),
        )

    def _lost_runs(self, project: Project, view: View) -> list[Ask]:
        """Open runs of jobs that no list has shown for a while: they end as gone, unless the API still has them."""
        lost = [run for run in view.open_runs(project.name) if self._slug(project, run) not in project.jobs]
        project.absent = {run.job_id: project.absent.get(run.job_id, view.now) for run in lost}
        return [
            Ask(f"run {run.run_id}", partial(self._ask_lost_run, project, run))
            for run in lost
            if not 0 <= view.now - project.absent[run.job_id] <= LOST_AFTER
        ]

    def _ask_lost_run(self, project: Project, run: OpenRun, view: View) -> Batch:  # noqa: ARG002  # the shape of all asks
        try:
            body = self._get(RUN, projectId=project.name, jobId=self._slug(project, run), runId=run.run_id)
        except NotFoundError:
            return Batch(scope=project.name, gone=[run.run_id])
        return Batch(scope=project.name, runs=[parse_run(body, run.job_id, self._statuses)])

    @staticmethod
    def _slug(project: Project, run: OpenRun) -> str:
        return run.job_id.removeprefix(f"{project.name}/")

    def _ask_schedule(self, project: Project, job: Watched, view: View) -> Batch | None:
        """The schedule of a job, which its project's list does not tell."""
        now = view.now
        try:
            schedule = parse_schedule(self._get(JOB, projectId=job.row.project, jobId=job.row.slug))
        except (ForbiddenError, NotFoundError):
            schedule = job.note.schedule
        note = msgspec.structs.replace(job.note, schedule=schedule, detailed=now)
        return Batch(
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
        now = view.now
        wanted = self._patient(project, view)
        if not wanted and self._wanted_of(project, view):
            return None
        lasts = listed is None and self._failing.lasts(project.part, now)
        marks = [] if lasts else [project.listed if listed is None else listed]
        marks += [read if job.row.slug == slug else job.note.read for job in wanted]
        marks += [
            state.read
            for job in wanted
            for run_id, state in job.elsewhere.items()
            if not self._failing.lasts(f"run {run_id}", now)
        ]
        known = [mark for mark in marks if mark is not None]
        return min(known) - self._settings.settle if known and len(known) == len(marks) else None

    def _wanted_of(self, project: Project, view: View) -> list[Watched]:
        return [job for job in project.jobs.values() if view.wanted(job.row.name)]

    def _patient(self, project: Project, view: View) -> list[Watched]:
        """The jobs that the watermark waits for. One that fails for long is read from where it stands, once it answers.

        Where that is, its note tells: it holds when its runs were last read.
        """
        return [job for job in self._wanted_of(project, view) if not self._failing.lasts(job.part, view.now)]

    def _unreadable_projects(self, view: View) -> Iterator[Batch]:
        """Projects of which nothing could be read for a while, not even one job."""
        for project in self._projects.values():
            jobs = self._wanted_of(project, view)
            lasts = self._failing.lasts(project.part, view.now) if not jobs else not self._patient(project, view)
            if lasts and project.readable:
                yield Batch(scope=project.name, readable=False, listing=self._listing)

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
