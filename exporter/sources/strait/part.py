"""One poll of one kind of Strait's runs: lists by status, the newest pages, bursts, and what only an ID still shows."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from exporter.client.client import Client
from exporter.config.source import DAY, SourceSettings
from exporter.errors import (
    AuthError,
    ClientStatusError,
    ForbiddenError,
    NotFoundError,
    RateLimitedError,
    SchemaError,
    SourceError,
)
from exporter.model import Batch, Job, Result, Run, State, Window
from exporter.sources.failing import PATIENCE
from exporter.sources.parts import PollParts
from exporter.sources.source import View
from exporter.sources.strait.api import (
    COMPENSATING,
    JOB_ROW,
    JOBS,
    RUN,
    RUN_ROW,
    RUN_STATUSES,
    RUNS,
    WORKFLOW_RUN,
    WORKFLOW_RUNS,
    WORKFLOW_STATUSES,
    WORKFLOWS,
    JobRow,
    Page,
    RunRow,
    parse_run,
    path,
    statuses,
    to_job,
    to_run,
    unlisted_job,
)
from exporter.sources.strait.bursts import Burst, Bursts
from exporter.sources.strait.dead_letters import DeadLetters
from exporter.sources.strait.latest import LatestRows
from exporter.sources.strait.pages import Lists
from exporter.sources.unreadable import Waiting
from exporter.sources.windows import Reach, plan

REACH = 90 * DAY
"""How far back runs are taken to be shown. How long a server keeps them is its operator's choice."""

FIRST_READING = DAY
"""How far back the first reading goes, at most."""

CATALOG_POLLS = 10
"""The lists of jobs and workflows are read every so many polls, and when a run names a job that is in neither."""

DEAD_LETTER = "dead_letter"

BAD_REQUEST = frozenset({400, 422})
"""Answers to a status word that the server does not know."""

MOST_JOB_PAGES = 1000
"""Pages of the list of jobs: 100,000 jobs."""

LISTS_IN_A_ROW = 3
"""Lists that fail in a row before the rest is left to the next poll."""

ROWS = 500
"""Runs of one reading: it is one transaction, for which the ledger is locked."""

FEW_RUNS = 8
"""Runs that are asked for by ID without a try to find them in lists by status: those would cost as many requests."""


class PartKind(msgspec.Struct, frozen=True, kw_only=True):
    """Job runs or workflow runs: two parts of the API that are alike. `scope`: its name among ours."""

    scope: str
    jobs: str
    runs: str
    run: str
    statuses: Mapping[str, Result | State]
    workflow: bool


KINDS = (
    PartKind(scope="", jobs=JOBS, runs=RUNS, run=RUN, statuses=RUN_STATUSES, workflow=False),
    PartKind(
        scope="workflows",
        jobs=WORKFLOWS,
        runs=WORKFLOW_RUNS,
        run=WORKFLOW_RUN,
        statuses=WORKFLOW_STATUSES,
        workflow=True,
    ),
)


class Part:
    """Reads one kind of runs.

    Args:
        kind: Which.
        settings: The source's configuration.
        status_map: What words mean by the configuration.
        client: Its API.
    """

    def __init__(
        self, kind: PartKind, settings: SourceSettings, status_map: Mapping[str, Result | State], client: Client
    ) -> None:
        self.kind = kind
        self._client = client
        self._settings = settings
        self._statuses = statuses(kind.statuses, status_map)
        self._open_words = [word for word, meaning in self._statuses.items() if isinstance(meaning, State)]
        self._ended_words = [word for word, meaning in self._statuses.items() if isinstance(meaning, Result)]
        self._runs: Lists[RunRow] = Lists(client, kind.runs, RUN_ROW)
        self._jobs: Lists[JobRow] = Lists(client, kind.jobs, JOB_ROW, most_pages=MOST_JOB_PAGES)
        self._reach = Reach(
            api=REACH,
            margin=0.0,
            maximum=DAY,
            lookback=settings.lookback,
            overlap=settings.overlap,
            settle=settings.settle,
        )
        self._catalog: dict[str, Job] = {}
        self._unlisted: set[str] = set()
        self._catalog_age = CATALOG_POLLS
        self._accepted_words: set[str] = set()
        self._refused_words: set[str] = set()
        self._known: dict[str, RunRow] = {}
        self._latest = LatestRows(lambda row: to_run(row, self._statuses))
        self._asked: dict[str, int] = {}
        self._compensated: dict[str, float] = {}
        self._waiting = Waiting()
        self._bursts = Bursts(settings.name, kind.scope, client, exports=not kind.workflow)
        self._burst_times: set[datetime] = set()
        self._open_bursts: set[datetime] = set()
        self._invalid = 0
        self._dead = DeadLetters() if DEAD_LETTER in kind.statuses else None
        self._failing = PollParts()

    def fetch(self, view: View, failing: PollParts) -> Iterator[Batch]:
        """One poll. Open runs come first: at the first poll they must be known before the watermark is set.

        A list for each open status shows open runs of any age, and ended ones that have come back; then come the newest
        runs, whatever their status; then, by ID, open runs that neither has shown, and dead letters that are no more.
        Of several rows of one run the latest counts, in whatever order they come.

        Raises SourceError if the lists could not be read. What concerns a single run or status is noted in `failing`.
        """
        self._failing = failing
        self._known = {run_id: row for run_id, row in self._known.items() if run_id in self._latest.ids}
        self._latest.begin()
        self._burst_times, self._open_bursts = set(), set()
        self._runs.grow()
        if self._catalog_age >= CATALOG_POLLS:
            yield from self._read_catalog(view)
        self._catalog_age += 1
        failure: SourceError | None = None
        try:
            self._read_open(view)
            yield from self._newest(view)
        except (AuthError, RateLimitedError, ForbiddenError, NotFoundError):
            raise
        except SourceError as error:
            failure = error
        yield from self._drain(view)
        yield from self._follow(view)
        if self._dead is not None and not view.out_of_time():
            with failing.batch(f"{self.kind.runs} of status {DEAD_LETTER}", view):
                yield from self._revived(self._dead, view)
        if failure is not None:
            raise failure

    def committed(self, rows: Mapping[str, RunRow]) -> None:
        """Remember rows that are in the state."""
        self._known.update(rows)

    # --- jobs ---

    def _read_catalog(self, view: View) -> Iterator[Batch]:
        """The jobs. If they cannot be read, those of the last list are still right."""
        try:
            rows = [row for page in self._jobs.pages() for row in page.rows]
        except (AuthError, RateLimitedError, ForbiddenError, NotFoundError):
            raise
        except SourceError as error:
            self._failing.failed(self.kind.jobs, error, view)
            return
        self._failing.answered(self.kind.jobs)
        jobs = [to_job(row, scope=self.kind.scope, workflow=self.kind.workflow) for row in rows]
        self._catalog = {job.job_id: job for job in jobs}
        self._unlisted, self._refused_words, self._catalog_age = set(), set(), 0
        yield Batch(scope=self.kind.scope, jobs=list(self._catalog.values()), catalog=True)

    def _name_jobs(self, identities: Collection[str], view: View) -> Iterator[Batch]:
        """Reads the list of jobs again if one is named that is in none."""
        unknown = {each for each in identities if each not in self._catalog and each not in self._unlisted}
        if unknown and self.kind.jobs not in self._failing.errors:
            yield from self._read_catalog(view)
        if self.kind.jobs not in self._failing.errors or self._failing.lasts(self.kind.jobs, view.now):
            self._unlisted |= {each for each in identities if each not in self._catalog}

    def _is_named(self, identity: str, view: View) -> bool:
        return identity in self._catalog or identity in self._unlisted or identity in view.step_counts()

    def _jobs_of(self, owners: Mapping[str, object], view: View) -> Iterator[Job]:
        """The jobs of runs, by identity with their project. A deleted one keeps the name under which it was known."""
        for identity, project in owners.items():
            if identity in self._catalog:
                yield self._catalog[identity]
            elif identity not in view.step_counts():
                yield unlisted_job(identity, project, scope=self.kind.scope, workflow=self.kind.workflow)

    # --- lists ---

    def _read_open(self, view: View) -> None:
        """Reads the lists of open runs. One that fails hides no run that is known: that is followed by its ID."""
        in_a_row = 0
        for word in self._open_words:
            name = f"{self.kind.runs} of status {word}"
            try:
                for page in self._of_status(word):
                    self._take(page)
                    self._open_bursts |= set() if page.burst is None else {page.burst}
            except (AuthError, RateLimitedError, ForbiddenError, NotFoundError):
                raise
            except SourceError as error:
                self._failing.failed(name, error, view)
                in_a_row += 1
                first = view.watermark(self.kind.scope) is None and not self._failing.lasts(name, view.now)
                if first or in_a_row == LISTS_IN_A_ROW:
                    raise
            else:
                in_a_row = 0
                self._failing.answered(name)

    def _of_status(self, word: str, since: datetime | None = None) -> Iterator[Page[RunRow]]:
        """The runs of a status. A server that refuses a word at once is too old to have it; it is asked again later."""
        if word in self._refused_words:
            return
        try:
            for page in self._runs.pages(status=word, since=since):
                self._accepted_words.add(word)
                rows = _of_word(page.rows, word)
                yield msgspec.structs.replace(page, rows=rows)
                if page.rows and not rows:
                    break  # the server takes no notice of the filter
        except ClientStatusError as error:
            if error.status not in BAD_REQUEST or word in self._accepted_words:
                raise
            self._refused_words.add(word)

    def _take(self, page: Page[RunRow]) -> None:
        self._latest.add(page.rows)
        self._invalid += page.invalid
        if page.burst is not None:
            self._burst_times.add(page.burst)

    def _newest(self, view: View) -> Iterator[Batch]:
        """The newest runs, down to the watermark less the overlap; after downtime in windows, oldest first."""
        now = view.now
        watermark = view.watermark(self.kind.scope)
        sweep = self._settings.sweep.window if view.sweep_due and self._settings.sweep else None
        todo = plan(now, watermark, self._reach, sweep=sweep)
        windows = [Window(now - FIRST_READING, now)] if watermark is None else todo.windows
        self._waiting.begin()
        for window in windows:
            lost = [todo.unobserved] if todo.unobserved and window is windows[0] else []
            newest = window is windows[-1]
            self._read_window(window, view, newest=newest, first=watermark is None)
            if newest:
                self._burst_times |= {time for time, burst in self._bursts.known(view.notes).items() if not burst.read}
            yield from self._read_bursts(view)
            yield from self._drain(view, through=self._waiting.through(todo.proves(window)), unobserved=lost)
        self._waiting.end()

    def _read_window(self, window: Window, view: View, *, newest: bool, first: bool) -> None:
        before = None if newest else _moment(window.end)
        pages = self._runs.pages(before=before, since=_moment(window.start))
        for page in self._until_old(pages, view) if first else pages:
            self._take(page)
            self._waiting.note(window, page.invalid)

    def _until_old(self, pages: Iterable[Page[RunRow]], view: View) -> Iterator[Page[RunRow]]:
        """Pages up to one on which all runs had ended before the first poll: what is deeper had, too."""
        for page in pages:
            yield page
            if page.rows and all(self._long_ended(row, view) for row in page.rows):
                return

    def _long_ended(self, row: RunRow, view: View) -> bool:
        """Whether a run had ended before the source's first poll."""
        run = to_run(row, self._statuses)
        return run.result is not None and (run.end or 0.0) <= view.first_poll

    # --- bursts ---

    def _read_bursts(self, view: View) -> Iterator[Batch]:
        """Finds the runs of times that have more of them than a list shows, once for each time."""
        known = self._bursts.known(view.notes)
        for time in sorted(self._burst_times):
            burst = known.get(time, Burst(since=view.now))
            if not burst.read or self._has_grown(time, view):
                with self._failing.batch(f"runs created at {time.isoformat()}", view):
                    yield from self._read_burst(time, burst, view)
                if f"runs created at {time.isoformat()}" in self._failing.errors:
                    yield self._still_unread(time, burst, view)
        self._burst_times = set()

    def _has_grown(self, time: datetime, view: View) -> bool:
        """Whether a list shows a run of a time that was not there when all of them were read."""
        rows = [row for row in self._latest.of_time(time) if row.id not in self._known]
        wanted = [row.id for row in rows if row.job not in self._catalog or view.wanted(self._catalog[row.job].name)]
        return len(view.known(wanted)) < len(wanted)

    def _read_burst(self, time: datetime, burst: Burst, view: View) -> Iterator[Batch]:
        """Reads the IDs of all runs of a time. Those that no list shows are open with us until they are asked by ID."""
        exported = self._bursts.ask(time)
        jobs = {} if exported is None else exported.jobs
        missing = self._missing(jobs, view)
        cut_lists = self._narrow(time) if exported is None or len(missing) > FEW_RUNS else 0
        hidden = {run_id: jobs[run_id] for run_id in self._missing(jobs, view)}
        cut = cut_lists > 0 if exported is None else not exported.whole
        if cut and not burst.cut:
            self._bursts.cut(time, len(self._latest.of_time(time)), cut_lists)
        yield from self._name_jobs(hidden.values(), view)
        runs = [Run(run_id=run_id, job_id=job, created=time.timestamp()) for run_id, job in hidden.items()]
        yield Batch(
            scope=self.kind.scope,
            jobs=list(self._jobs_of(dict.fromkeys(hidden.values(), self._project()), view)),
            runs=runs,
            truncated=int(cut and not burst.cut),
            notes=self._bursts.note(time, Burst(since=burst.since, read=True, cut=burst.cut or cut)),
        )

    def _missing(self, jobs: Mapping[str, str], view: View) -> list[str]:
        unseen = [run_id for run_id in jobs if self._latest.row(run_id) is None]
        known = view.known(unseen)
        return [run_id for run_id in unseen if run_id not in known]

    def _narrow(self, time: datetime) -> int:
        """Reads the runs of a time status by status; returns how many of these lists are still too long."""
        cut = 0
        for word in [*self._ended_words, *self._open_words]:
            if word in self._refused_words:
                continue
            try:
                page = self._runs.page_at(time, word)
            except ClientStatusError as error:
                if error.status not in BAD_REQUEST:
                    raise
                continue
            self._latest.add(_of_word(page.rows, word))
            self._invalid += page.invalid
            cut += page.burst is not None
        return cut

    def _still_unread(self, time: datetime, burst: Burst, view: View) -> Batch:
        """A time that could not be read yet: it is tried again at each poll, and counted once that lasts."""
        lasts = not 0 <= view.now - burst.since <= PATIENCE
        if lasts and not burst.cut:
            self._bursts.cut(time, len(self._latest.of_time(time)), 1)
        return Batch(
            scope=self.kind.scope,
            truncated=int(lasts and not burst.cut),
            notes=self._bursts.note(time, Burst(since=burst.since, cut=burst.cut or lasts)),
        )

    def _project(self) -> object:
        """The project of the key."""
        return next((job.project for job in self._catalog.values()), "")

    # --- readings ---

    def _drain(self, view: View, *, through: float | None = None, unobserved: Sequence[Window] = ()) -> Iterator[Batch]:
        """What has been read since the last time. All is read up to `through` with the last of these readings."""
        rows = self._latest.take()
        changed = [row for row in rows if self._known.get(row.id) != row]
        yield from self._name_jobs({row.job for row in changed}, view)
        named = [row for row in changed if self._is_named(row.job, view)]
        if len(named) < len(changed):
            through = None  # of a job that nobody can name now; they come again
        invalid, self._invalid = self._invalid, 0
        notes: dict[str, str] = {}
        if through is not None and self._bursts.known(view.notes):
            unread = {run.origin for run in view.open_runs(self.kind.scope) if run.state is None}
            through = min([through, *self._bursts.holding(view.notes, unread, view.now)])
            notes = self._bursts.forgotten(view.notes, view.now - self._settings.lookback - DAY)
        pieces = [named[start : start + ROWS] for start in range(0, len(named), ROWS)] or [[]]
        for number, piece in enumerate(pieces, start=1):
            last = number == len(pieces)
            if not (piece or rows or invalid or through is not None):
                return
            yield Batch(
                scope=self.kind.scope,
                jobs=list(self._jobs_of({row.job: row.project_id for row in piece}, view)),
                runs=[to_run(row, self._statuses) for row in piece],
                unchanged=len(rows) - len(changed) if last else 0,
                invalid=invalid if last else 0,
                through=through if last else None,
                unobserved=unobserved if last else (),
                notes=notes if last else {},
                memory={row.id: row for row in piece},
            )
            self._watch(piece, view)
            if self._dead is not None:
                self._dead.add(row for row in piece if row.status == DEAD_LETTER)

    def _watch(self, rows: Iterable[RunRow], view: View) -> None:
        """Workflow runs that failed may go on to compensate: where no list shows those, they are asked for by ID."""
        if COMPENSATING in self._refused_words:
            for row in rows:
                if row.status in ("failed", "timed_out"):
                    self._compensated.setdefault(row.id, view.now + PATIENCE)

    # --- what only an ID shows ---

    def _follow(self, view: View) -> Iterator[Batch]:
        """Asks by ID for open runs that no list has shown, those asked least often first.

        Those that are known by their ID alone come last: they are many, and the others may have ended a moment ago.
        """
        missing = [run for run in view.open_runs(self.kind.scope) if self._latest.row(run.run_id) is None]
        self._asked = {run.run_id: self._asked.get(run.run_id, 0) for run in missing}
        old = {run.run_id for run in missing if run.origin < view.now - REACH}
        ids = [run.run_id for run in sorted(missing, key=lambda run: (run.state is None, self._asked[run.run_id]))]
        self._compensated = {run_id: until for run_id, until in self._compensated.items() if until > view.now}
        ids += [each for each in self._compensated if self._latest.row(each) is None and each not in self._asked]
        for run_id in ids:
            if view.out_of_time():
                break
            self._asked[run_id] = self._asked.get(run_id, 0) + 1
            if self._failing.rests(f"run {run_id}", view):
                continue
            with self._failing.batch(f"run {run_id}", view):
                row = self._ask(run_id)
                if row is not None:
                    self._latest.add([row])
                    yield from self._drain(view)
                elif run_id in old:
                    yield Batch(scope=self.kind.scope, gone=[run_id])

    def _ask(self, run_id: str) -> RunRow | None:
        """A run by its ID; None if the server does not have it."""
        try:
            answer = self._client.get(path(self.kind.run, run_id), endpoint=self.kind.run)
        except NotFoundError:
            return None
        row = parse_run(answer.body)
        if row.id != run_id:
            raise SchemaError(f"GET {self.kind.run}: the answer is another run")
        return row

    def _revived(self, dead: DeadLetters, view: View) -> Iterator[Batch]:
        """Dead letters that were replayed and have ended since: the newest at each poll, all with a sweep.

        Of the list itself only rows that died again are entered: the state may have forgotten older ones, which were
        counted long ago.
        """
        since = _moment(view.now - self._settings.lookback)
        rows: list[RunRow] = []
        bursts: set[datetime] = set()
        page: Page[RunRow] = Page(rows=())
        for page in self._of_status(DEAD_LETTER, since):
            rows += page.rows
            bursts |= set() if page.burst is None else {page.burst}
            if not view.sweep_due:
                break
        elsewhere = {row.id for row in self._latest.rows if row.status != DEAD_LETTER}
        compared = dead.compare(rows, whole=not page.more, elsewhere=elsewhere, hidden=bursts)
        self._latest.add(compared.again)
        yield from self._drain(view)
        # A list of open runs that is too long to show all of a time may hide some of these.
        hidden = [each for each in dead.created_at(self._open_bursts) if self._latest.row(each) is None]
        for run_id in [*compared.vanished, *hidden]:
            if view.out_of_time():
                break
            with self._failing.batch(f"run {run_id}", view):
                row = self._ask(run_id)
                dead.forget(run_id)
                if row is not None:
                    dead.add([row] if row.status == DEAD_LETTER else [])
                    self._latest.add([row])
                    yield from self._drain(view)


def _of_word(rows: Iterable[RunRow], word: str) -> list[RunRow]:
    """Return the rows of a status: some servers take no notice of the filter."""
    return [row for row in rows if isinstance(row.status, str) and row.status.casefold() == word]


def _moment(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)
