"""Strait: its settings, and how the runs of a project are read by pages, by status and by id."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Literal

import msgspec

from exporter.client.client import Client
from exporter.client.signin import BearerAuth
from exporter.config.secret import Secret
from exporter.config.section import Section
from exporter.config.source import DAY, MINUTE, SourceSettings, Sweep
from exporter.config.values import BaseUrl, Positive
from exporter.counting.records import OpenRun
from exporter.errors import (
    AuthError,
    ClientStatusError,
    ForbiddenError,
    NotFoundError,
    RateLimitedError,
    SchemaError,
    SourceError,
)
from exporter.model import Job, Reading, Result, Run, State, Step, Window
from exporter.sources.source import Access, SourceType, StepLog, View
from exporter.sources.strait_api import (
    JOB_ROW,
    JOBS,
    RUN,
    RUN_ROW,
    RUN_STATUSES,
    RUNS,
    STEP_STATUSES,
    STEPS,
    TIMELINE,
    WORKFLOW,
    WORKFLOW_RUN,
    WORKFLOW_RUNS,
    WORKFLOW_STATUSES,
    WORKFLOWS,
    JobRow,
    Page,
    RunRow,
    parse_error,
    parse_run,
    parse_steps,
    path,
    statuses,
    to_job,
    to_run,
    unlisted_job,
)
from exporter.sources.strait_dead import DeadLetters
from exporter.sources.strait_pages import Lists
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

MOST_STEPS = 100
"""Steps that a list of them holds; all were created at one instant, so that there is no second page."""


class ApiKey(Section):
    """Sign-in by API key; the key also names the project."""

    api_key: Secret
    """The API key, with the scopes jobs:read, runs:read and workflows:read."""


class StraitSettings(SourceSettings):
    """A Strait source: one project."""

    api_path: ClassVar[str] = "/v1"

    type: Literal["strait"]
    """The vendor."""
    base_url: BaseUrl = "https://api.strait.dev"
    """Scheme, host, optional port and prefix of the server, without the API's own path."""
    auth: ApiKey
    """How to sign in."""
    sweep: Sweep | None = Sweep()
    """Now and then this much is read again, for what arrives late."""
    requests_per_minute: Positive = 50.0
    """Budget of requests. Sources with one credential share the smallest."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """Job runs or workflow runs: two parts of the API that are alike. `scope`: its name among ours."""

    scope: str
    jobs: str
    runs: str
    run: str
    statuses: Mapping[str, Result | State]
    workflow: bool


KINDS = (
    Kind(scope="", jobs=JOBS, runs=RUNS, run=RUN, statuses=RUN_STATUSES, workflow=False),
    Kind(
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
        client: Its API.
    """

    def __init__(self, kind: Kind, settings: StraitSettings, client: Client) -> None:
        self.kind = kind
        self._client = client
        self._settings = settings
        self._statuses = statuses(kind.statuses, settings.status_map)
        self._open_words = [word for word, meaning in self._statuses.items() if isinstance(meaning, State)]
        ended = [word for word, meaning in self._statuses.items() if isinstance(meaning, Result)]
        self._runs: Lists[RunRow] = Lists(client, kind.runs, RUN_ROW, ended=ended)
        self._jobs: Lists[JobRow] = Lists(client, kind.jobs, JOB_ROW)
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
        self._seen: set[str] = set()
        self._asked: dict[str, int] = {}
        self._waiting = Waiting()
        self._dead = DeadLetters() if DEAD_LETTER in kind.statuses else None

    def readings(self, view: View) -> Iterator[Reading]:
        """One poll. Open runs come first: at the first poll they must be known before the watermark is set.

        A list for each open status shows open runs of any age, and ended ones that have come back; then come the newest
        runs, whatever their status; then, by id, open runs that neither has shown, and dead letters that are no more.
        """
        self._known = {run_id: row for run_id, row in self._known.items() if run_id in self._seen}
        self._seen = set()
        self._runs.grow()
        if self._catalog_age >= CATALOG_POLLS:
            yield self._read_catalog()
        self._catalog_age += 1
        for word in self._open_words:
            for page in self._of_status(word):
                yield from self._page(page, view)
        yield from self._newest(view)
        yield from self._follow(view)
        if self._dead is not None and not view.out_of_time():
            yield from self._revived(self._dead, view)

    def committed(self, rows: Mapping[str, RunRow]) -> None:
        """Remembers rows that are in the state."""
        self._known.update(rows)

    def _read_catalog(self) -> Reading:
        rows = [row for page in self._jobs.pages() for row in page.rows]
        jobs = [to_job(row, scope=self.kind.scope, workflow=self.kind.workflow) for row in rows]
        self._catalog = {job.job_id: job for job in jobs}
        self._unlisted, self._refused_words, self._catalog_age = set(), set(), 0
        return Reading(scope=self.kind.scope, jobs=jobs, catalog=True)

    def _of_status(self, word: str, since: datetime | None = None) -> Iterator[Page[RunRow]]:
        """The runs of a status. A server that refuses a word at once is too old to have it; it is asked again later."""
        if word in self._refused_words:
            return
        try:
            for page in self._runs.pages(status=word, since=since):
                self._accepted_words.add(word)
                rows = [row for row in page.rows if isinstance(row.status, str) and row.status.casefold() == word]
                yield msgspec.structs.replace(page, rows=rows)
                if page.rows and not rows:
                    break  # the server takes no notice of the filter
        except ClientStatusError as error:
            if error.status not in BAD_REQUEST or word in self._accepted_words:
                raise
            self._refused_words.add(word)

    def _newest(self, view: View) -> Iterator[Reading]:
        """The newest runs, down to the watermark less the overlap; after downtime in windows, oldest first."""
        now = view.now
        watermark = view.watermark(self.kind.scope)
        sweep = self._settings.sweep.window if view.sweep_due and self._settings.sweep else None
        todo = plan(now, watermark, self._reach, sweep=sweep)
        windows = [Window(now - FIRST_READING, now)] if watermark is None else todo.windows
        self._waiting.begin()
        for window in windows:
            lost = [todo.unobserved] if todo.unobserved and window is windows[0] else []
            yield from self._window(
                window, view, newest=window is windows[-1], through=todo.proves(window), unobserved=lost
            )
        self._waiting.end()

    def _window(
        self, window: Window, view: View, *, newest: bool, through: float, unobserved: Sequence[Window] = ()
    ) -> Iterator[Reading]:
        """The runs created in a window; all is read up to `through` with its last page, but for rows to wait for."""
        first = view.watermark(self.kind.scope) is None
        before = None if newest else _moment(window.end)
        pages = self._runs.pages(before=before, since=_moment(window.start))
        held: Page[RunRow] = Page(rows=())
        for page in self._until_old(pages, view) if first else pages:
            yield from self._page(held, view)
            held = page
            self._waiting.note(window, page.invalid)
        yield from self._page(held, view, through=self._waiting.through(through), unobserved=unobserved)

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

    def _page(
        self,
        page: Page[RunRow],
        view: View,
        *,
        through: float | None = None,
        unobserved: Sequence[Window] = (),
    ) -> Iterator[Reading]:
        """What a page brought; the list of jobs is read first if the page names one that is not known."""
        self._seen.update(row.id for row in page.rows)
        changed = [row for row in page.rows if self._known.get(row.id) != row]
        if any(row.job not in self._catalog and row.job not in self._unlisted for row in changed):
            yield self._read_catalog()
        if page.rows or page.invalid or page.truncated or through is not None:
            yield Reading(
                scope=self.kind.scope,
                jobs=list(self._jobs_of(changed, view)),
                runs=[to_run(row, self._statuses) for row in changed],
                unchanged=len(page.rows) - len(changed),
                invalid=page.invalid,
                through=through,
                unobserved=unobserved,
                truncated=page.truncated,
                memory={row.id: row for row in page.rows},
            )

    def _jobs_of(self, rows: Iterable[RunRow], view: View) -> Iterator[Job]:
        """The jobs of runs. One that was deleted keeps the name under which it was known."""
        for identity, row in {row.job: row for row in rows}.items():
            if identity in self._catalog:
                yield self._catalog[identity]
                continue
            self._unlisted.add(identity)
            if identity not in view.step_counts():
                yield unlisted_job(row, scope=self.kind.scope, workflow=self.kind.workflow)

    def _follow(self, view: View) -> Iterator[Reading]:
        """Asks by id for open runs that no list has shown, those asked least often first."""
        fault: SourceError | None = None
        missing = [run for run in view.open_runs(self.kind.scope) if run.run_id not in self._seen]
        self._asked = {run.run_id: self._asked.get(run.run_id, 0) for run in missing}
        for run in sorted(missing, key=lambda run: self._asked[run.run_id]):
            if view.out_of_time():
                break
            self._asked[run.run_id] += 1
            try:
                yield from self._one(run, view)
            except (AuthError, RateLimitedError, ForbiddenError):
                raise
            except SourceError as error:
                fault = error
        if fault is not None:
            raise fault

    def _one(self, run: OpenRun, view: View) -> Iterator[Reading]:
        row = self._ask(run.run_id)
        if row is not None:
            yield from self._page(Page(rows=(row,)), view)
        elif run.origin < view.now - REACH:
            yield Reading(scope=self.kind.scope, gone=[run.run_id])

    def _ask(self, run_id: str) -> RunRow | None:
        """A run by its id; None if the server does not have it."""
        try:
            answer = self._client.get(path(self.kind.run, run_id), endpoint=self.kind.run)
        except NotFoundError:
            return None
        row = parse_run(answer.body)
        if row.id != run_id:
            raise SchemaError(f"GET {self.kind.run}: the answer is another run")
        return row

    def _revived(self, dead: DeadLetters, view: View) -> Iterator[Reading]:
        """Dead letters that were replayed and have ended since: the newest at each poll, all with a sweep.

        Of the list itself only rows that died again are entered: the state may have forgotten older ones, which were
        counted long ago.
        """
        since = _moment(view.now - self._settings.lookback)
        rows: list[RunRow] = []
        page: Page[RunRow] = Page(rows=())
        for page in self._of_status(DEAD_LETTER, since):
            rows += page.rows
            if not view.sweep_due:
                break
        compared = dead.compare(rows, whole=not page.more, elsewhere=self._seen)
        yield from self._page(Page(rows=compared.again), view)
        for run_id in compared.vanished:
            if view.out_of_time():
                break
            row = self._ask(run_id)
            dead.forget(run_id)
            if row is not None:
                yield from self._page(Page(rows=(row,)), view)


class StraitSource:
    """Reads the runs and the workflow runs of the project to which an API key belongs.

    Args:
        settings: Its configuration.
        client: Its API.
    """

    def __init__(self, settings: StraitSettings, client: Client) -> None:
        self._client = client
        self._parts = {kind.scope: Part(kind, settings, client) for kind in KINDS}
        self._step_statuses = statuses(STEP_STATUSES, settings.status_map)

    def readings(self, view: View) -> Iterator[Reading]:
        """One poll of both parts. One that the key may not read is left out, unless it may read neither."""
        refused: list[ClientStatusError] = []
        for scope, part in self._parts.items():
            try:
                yield from part.readings(view)
            except (ForbiddenError, NotFoundError) as error:
                refused.append(error)
                yield Reading(scope=scope, readable=False)
        if len(refused) == len(self._parts):
            raise refused[0]

    def committed(self, reading: Reading) -> None:
        """Remembers rows that are in the state."""
        if isinstance(reading.memory, dict):
            self._parts[reading.scope].committed(reading.memory)

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:
        """The steps of a workflow run that has ended; more than a list can hold come from its timeline."""
        if not run.job_id.startswith(WORKFLOW):
            return []
        limit = {"limit": MOST_STEPS}
        answer = self._client.get(path(STEPS, run.run_id), endpoint=STEPS, params=limit, patience=patience)
        steps, more = parse_steps(answer.body, self._step_statuses)
        if not more and len(steps) < MOST_STEPS:
            return steps
        answer = self._client.get(path(TIMELINE, run.run_id), endpoint=TIMELINE, patience=patience)
        return parse_steps(answer.body, self._step_statuses)[0]

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:
        """The error text of a run, or of a workflow run's step, for a person who asked for it."""
        is_workflow = run.job_id.startswith(WORKFLOW)
        if step_name and not is_workflow:
            raise NotFoundError("runs of jobs have no steps here", 404)
        if step_name:
            limit = {"limit": MOST_STEPS}
            answer = self._client.get(path(STEPS, run.run_id), endpoint=STEPS, params=limit, patience=patience)
        else:
            endpoint = WORKFLOW_RUN if is_workflow else RUN
            answer = self._client.get(path(endpoint, run.run_id), endpoint=endpoint, patience=patience)
        return parse_error(answer.body, step_name)

    def probe(self) -> str:
        """Asks once for each list, and says which of them the key may not read."""
        refused = []
        for endpoint in (RUNS, JOBS, WORKFLOWS, WORKFLOW_RUNS):
            try:
                self._client.get(endpoint, endpoint=endpoint, params={"limit": 1})
            except ForbiddenError:
                refused.append(endpoint)
        if RUNS in refused:
            raise ForbiddenError("the key may not read runs: it lacks the scope runs:read", 403)
        return "the key may not read " + ", ".join(refused) if refused else "the key may read all that is needed"

    def round_seconds(self) -> float:
        """Every poll reads everything."""
        return 0.0

    def close(self) -> None:
        """Ends all connections."""
        self._client.close()


def _moment(instant: float) -> datetime:
    return datetime.fromtimestamp(instant, UTC)


def _access(settings: StraitSettings) -> Access:
    root = settings.base_url.rstrip("/") + StraitSettings.api_path
    secret = settings.auth.api_key
    return Access(root=root, auth=BearerAuth(secret.reveal), credential=f"{root} {hash(secret)}")


TYPE = SourceType(
    settings=StraitSettings,
    build=StraitSource,
    access=_access,
    identity=lambda settings: f"strait {settings.base_url}",
    results=tuple(Result),
    attempts=True,
    has_steps=True,
    reopens=True,
    endpoints=(JOBS, RUNS, RUN, WORKFLOWS, WORKFLOW_RUNS, WORKFLOW_RUN, STEPS, TIMELINE),
    reach=REACH,
    poll_requests=14,
    auth_backoff=5 * MINUTE,
)
