"""Polls job runs or workflow runs: lists by status, the newest pages, bursts, and single runs by ID."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import structlog

from exporter.client.client import Client
from exporter.config.source import DAY
from exporter.errors import (
    AuthError,
    ClientStatusError,
    DecodeError,
    NotFoundError,
    RateLimitedError,
    SchemaError,
    SourceError,
)
from exporter.model import Batch, Run, Window
from exporter.sources.failing import PATIENCE, FailingParts
from exporter.sources.rest import REFUSALS, OpenRunQueue, is_gone, status_table
from exporter.sources.strait.api import (
    COMPENSATING,
    EXPORT,
    RUN_ROW,
    StraitPage,
    StraitRun,
    cursor_at,
    parse_export,
    parse_run,
    run_path,
    to_run,
)
from exporter.sources.strait.bursts import Burst, BurstCheckpoints
from exporter.sources.strait.catalog import JobCatalog
from exporter.sources.strait.kinds import DEAD_LETTER, REACH, RunKind
from exporter.sources.strait.lists import PageReader, StatusLists
from exporter.sources.strait.rows import LatestRows, update_dead_letters
from exporter.sources.strait.settings import StraitSettings
from exporter.sources.view import View
from exporter.sources.windows import plan_poll

FIRST_DEPTH = DAY
"""Maximum seconds that the first poll reads back."""

MAX_FAILED_LISTS = 3
"""Consecutive failed lists after which all others wait for the next poll."""

# Maximum number of runs per batch, because a transaction locks the ledger.
BATCH_ROWS = 500

# Up to this many runs of a burst are read by ID at once. Lists by status would take as many requests.
FEW_RUNS = 8


class RunReader:
    """Reads the runs of one kind."""

    def __init__(self, kind: RunKind, settings: StraitSettings, client: Client, failing: FailingParts) -> None:
        self.kind = kind
        self._client = client
        self._settings = settings
        self._failing = failing
        self._statuses = status_table(kind.statuses, settings.status_map)
        self._runs: PageReader[StraitRun] = PageReader(client, kind.runs, RUN_ROW)
        self._by_status = StatusLists(kind, settings.status_map, self._runs)
        self._catalog = JobCatalog(kind, client, failing)
        self._committed: dict[str, StraitRun] = {}
        self._latest = LatestRows(self._to_run)
        self._open_runs = OpenRunQueue(failing)
        self._may_compensate: dict[str, float] = {}
        self._bursts = BurstCheckpoints(kind.scope)
        self._burst_times: set[datetime] = set()
        self._active_burst_times: set[datetime] = set()
        self._dead_letters: dict[str, StraitRun] = {}
        self._invalid = 0
        self._log = structlog.get_logger().bind(source=settings.name)

    def fetch(self, view: View) -> Iterator[Batch]:
        """Poll once: read active runs by status, the newest runs, then single runs by ID, then dead letters.

        Raises SourceError if the lists cannot be read.
        """
        self._committed = {run_id: row for run_id, row in self._committed.items() if run_id in self._latest}
        self._latest = LatestRows(self._to_run)
        self._burst_times, self._active_burst_times = set(), set()
        self._runs.grow()
        if self._catalog.is_due():
            yield from self._read_catalog(view)
        failure: SourceError | None = None
        try:
            # At the first poll, active runs must be known before the watermark is set.
            self._read_active(view)
            yield from self._read_newest(view)
        except (AuthError, RateLimitedError, *REFUSALS):
            raise
        except SourceError as error:
            failure = error
        yield from self._new_batches(view)
        yield from self._follow_open_runs(view)
        if DEAD_LETTER in self.kind.statuses and not view.out_of_time():
            with self._failing.read(self._part(DEAD_LETTER), view):
                yield from self._read_replayed(view)
        if failure is not None:
            raise failure

    def _to_run(self, row: StraitRun) -> Run:
        return to_run(row, self._statuses)

    def _part(self, status: str) -> str:
        return f"{self.kind.runs} of status {status}"

    # --- lists ---

    def _read_catalog(self, view: View) -> Iterator[Batch]:
        batch = self._catalog.read(view)
        if batch is not None:
            self._by_status.retry_refused()
            yield batch

    def _look_up_jobs(self, job_ids: Collection[str], view: View) -> Iterator[Batch]:
        """Read the list of jobs again if it lacks one of these jobs."""
        if self._catalog.lacks(job_ids):
            yield from self._read_catalog(view)
        self._catalog.note_unlisted(job_ids, view)

    def _read_active(self, view: View) -> None:
        """Read the lists of active runs. If a list fails, its known runs are read by ID."""
        failures = 0
        for status in self._by_status.active_statuses:
            part = self._part(status)
            with self._failing.read(part, view, raising=REFUSALS):
                for page in self._by_status.pages(status):
                    self._add(page)
                    self._active_burst_times |= set() if page.burst is None else {page.burst}
            error = self._failing.errors.get(part)
            failures = 0 if error is None else failures + 1
            first = view.watermark(self.kind.scope) is None and not self._failing.is_overdue(part, view.now)
            if error is not None and (first or failures == MAX_FAILED_LISTS):
                raise error

    def _add(self, page: StraitPage[StraitRun]) -> None:
        self._latest.add(page.rows)
        self._invalid += page.invalid
        if page.burst is not None:
            self._burst_times.add(page.burst)

    def _read_newest(self, view: View) -> Iterator[Batch]:
        """Read the newest runs, down to the watermark minus the overlap. After downtime, read windows, oldest first."""
        now = view.now
        watermark = view.watermark(self.kind.scope)
        plan = plan_poll(view, self._settings, self.kind.scope, api=REACH, maximum=DAY)
        windows = [Window(now - FIRST_DEPTH, now)] if watermark is None else plan.windows
        for window in windows:
            unobserved = [plan.unobserved] if plan.unobserved and window is windows[0] else []
            newest = window is windows[-1]
            self._read_window(window, view, newest=newest, first=watermark is None)
            if newest:
                bursts = self._bursts.decode(view.checkpoints)
                self._burst_times |= {time for time, burst in bursts.items() if not burst.read}
            yield from self._read_bursts(view)
            yield from self._new_batches(view, through=plan.through_after(window), unobserved=unobserved)

    def _read_window(self, window: Window, view: View, *, newest: bool, first: bool) -> None:
        """Read the runs of a window. The first poll ends at a page whose runs all ended before it."""
        before = None if newest else _datetime(window.end)
        for page in self._runs.pages(before=before, since=_datetime(window.start)):
            self._add(page)
            if first and page.rows and all(self._ended_before_first_poll(row, view) for row in page.rows):
                return

    def _ended_before_first_poll(self, row: StraitRun, view: View) -> bool:
        run = self._to_run(row)
        return run.result is not None and (run.end or 0.0) <= view.first_poll

    # --- bursts ---

    def _read_bursts(self, view: View) -> Iterator[Batch]:
        known = self._bursts.decode(view.checkpoints)
        for time in sorted(self._burst_times):
            burst = known.get(time, Burst(since=view.now))
            if not burst.read or self._has_grown(time, view):
                part = f"runs created at {time.isoformat()}"
                with self._failing.read(part, view):
                    yield from self._read_burst(time, burst, view)
                if part in self._failing.errors:
                    yield self._unread_burst(time, burst, view)
        self._burst_times = set()

    def _has_grown(self, time: datetime, view: View) -> bool:
        """Return whether a list shows a run of this time that the burst did not have when it was read."""
        rows = [row for row in self._latest.created_at(time) if row.id not in self._committed]
        jobs = {row.id: self._catalog.get(row.job) for row in rows}
        wanted = [run_id for run_id, job in jobs.items() if job is None or view.includes(job.name)]
        return len(view.known(wanted)) < len(wanted)

    def _read_burst(self, time: datetime, burst: Burst, view: View) -> Iterator[Batch]:
        """Read the IDs of all runs of a time. Runs that no list shows count as active until they are read by ID."""
        jobs, complete, usable = self._export(time)
        usable = usable and all(row.id in jobs for row in self._latest.created_at(time))
        by_status = not usable or len(self._unlisted(jobs, view)) > FEW_RUNS
        truncated_lists = self._read_by_status(time) if by_status else 0
        unlisted = {run_id: jobs[run_id] for run_id in self._unlisted(jobs, view)}
        truncated = not complete if usable else truncated_lists > 0
        if truncated and not burst.truncated:
            self._log_truncated(time, truncated_lists)
        yield from self._look_up_jobs(unlisted.values(), view)
        yield Batch(
            scope=self.kind.scope,
            jobs=self._catalog.jobs_of(dict.fromkeys(unlisted.values(), self._catalog.project), view),
            runs=[Run(run_id=run_id, job_id=job, created=time.timestamp()) for run_id, job in unlisted.items()],
            truncated=int(truncated and not burst.truncated),
            checkpoints=self._bursts.encode(
                time, Burst(since=burst.since, read=True, truncated=burst.truncated or truncated)
            ),
        )

    def _export(self, time: datetime) -> tuple[Mapping[str, str], bool, bool]:
        """Return the job IDs of the runs created at a time, whether the export is complete, and whether it is usable.

        Raises SourceError if a retry may help.
        """
        # The server's export has every run of a time, but its states may be stale. So it is requested once, for the
        # IDs, and the runs are read by ID. Each export leaves an audit entry on the server.
        if self.kind.workflow:
            return {}, False, False
        when = cursor_at(time)
        try:
            body = self._client.get(EXPORT, endpoint=EXPORT, params={"format": "csv", "from": when, "to": when})
            return *parse_export(body, time), True
        except (ClientStatusError, DecodeError, SchemaError):
            return {}, False, False

    def _unlisted(self, run_ids: Iterable[str], view: View) -> list[str]:
        """Return the runs that no list of this poll shows, and that are not in the state."""
        unlisted = [run_id for run_id in run_ids if run_id not in self._latest]
        known = view.known(unlisted)
        return [run_id for run_id in unlisted if run_id not in known]

    def _read_by_status(self, time: datetime) -> int:
        """Read the runs of a time by status. Return how many of these lists are too long for one page."""
        truncated = 0
        for page in self._by_status.pages_at(time):
            self._latest.add(page.rows)
            self._invalid += page.invalid
            truncated += page.burst is not None
        return truncated

    def _unread_burst(self, time: datetime, burst: Burst, view: View) -> Batch:
        """Return the batch of an unreadable burst. Each poll tries it again; after PATIENCE it counts as truncated."""
        overdue = not 0 <= view.now - burst.since <= PATIENCE
        if overdue and not burst.truncated:
            self._log_truncated(time, 1)
        return Batch(
            scope=self.kind.scope,
            truncated=int(overdue and not burst.truncated),
            checkpoints=self._bursts.encode(time, Burst(since=burst.since, truncated=burst.truncated or overdue)),
        )

    def _log_truncated(self, time: datetime, lists: int) -> None:
        """Log that runs of a time may be missing. `lists`: number of lists that did not show all runs of that time."""
        self._log.warning(
            "runs created at one time could not all be listed",
            created=cursor_at(time),
            shown=len(self._latest.created_at(time)),
            missing=f"at least {max(1, lists)}",
        )

    # --- batches ---

    def _new_batches(
        self, view: View, *, through: float | None = None, unobserved: Sequence[Window] = ()
    ) -> Iterator[Batch]:
        """Yield batches of the rows read since the last call. The last batch has `through` and `unobserved`."""
        rows = self._latest.take_new()
        changed = [row for row in rows if self._committed.get(row.id) != row]
        yield from self._look_up_jobs({row.job for row in changed}, view)
        known_jobs = self._catalog.known_jobs(view)
        usable = [row for row in changed if row.job in known_jobs]
        # If the name of a run's job is unknown, the next poll reads the run again.
        if len(usable) < len(changed):
            through = None
        invalid, self._invalid = self._invalid, 0
        checkpoints: dict[str, str] = {}
        if through is not None and self._bursts.decode(view.checkpoints):
            unread = {run.origin for run in view.open_runs(self.kind.scope) if run.state is None}
            through = min([through, *self._bursts.unread(view.checkpoints, unread, view.now)])
            checkpoints = self._bursts.expired(view.checkpoints, view.now - self._settings.lookback - DAY)
        if not (rows or invalid or through is not None):
            return
        last = Batch(
            scope=self.kind.scope,
            unchanged=len(rows) - len(changed),
            invalid=invalid,
            through=through,
            unobserved=unobserved,
            checkpoints=checkpoints,
        )
        pieces = [usable[start : start + BATCH_ROWS] for start in range(0, len(usable), BATCH_ROWS)] or [[]]
        for piece in pieces:
            yield msgspec.structs.replace(
                last if piece is pieces[-1] else Batch(scope=self.kind.scope),
                jobs=self._catalog.jobs_of({row.job: row.project_id for row in piece}, view),
                runs=list(map(self._to_run, piece)),
            )
            self._note_committed(piece, view)

    def _note_committed(self, rows: Sequence[StraitRun], view: View) -> None:
        self._committed.update((row.id, row) for row in rows)
        self._dead_letters.update((row.id, row) for row in rows if row.status == DEAD_LETTER)
        # A failed workflow run may start to compensate. If the server has no list of such runs, it is read by ID.
        if self._by_status.refuses(COMPENSATING):
            for row in rows:
                if row.status in ("failed", "timed_out"):
                    self._may_compensate.setdefault(row.id, view.now + PATIENCE)

    # --- single runs ---

    def _follow_open_runs(self, view: View) -> Iterator[Batch]:
        """Read by ID the active runs that no list has shown."""
        missing = {run.run_id: run for run in view.open_runs(self.kind.scope) if run.run_id not in self._latest}
        # Runs of which only the ID is known come last: they are many, and are less likely to have ended.
        last = {run_id for run_id, run in missing.items() if run.state is None}
        self._may_compensate = {run_id: until for run_id, until in self._may_compensate.items() if until > view.now}
        compensating = [run_id for run_id in self._may_compensate if run_id not in self._latest]
        for run_id in self._open_runs.ordered([*missing, *compensating], view, last):
            with self._failing.read(f"run {run_id}", view):
                row = self._read_run(run_id)
                if row is not None:
                    self._latest.add([row])
                    yield from self._new_batches(view)
                elif run_id in missing and is_gone(missing[run_id], view.now, REACH):
                    yield Batch(scope=self.kind.scope, gone=[run_id])

    def _read_run(self, run_id: str) -> StraitRun | None:
        endpoint = self.kind.run
        try:
            body = self._client.get(run_path(endpoint, run_id), endpoint=endpoint)
        except NotFoundError:
            return None
        row = parse_run(body)
        if row.id != run_id:
            raise SchemaError(f"GET {endpoint}: the response is another run")
        return row

    def _read_replayed(self, view: View) -> Iterator[Batch]:
        """Read replayed dead letters that have completed again: the newest at each poll, all of them with a sweep."""
        # Of the listed rows, only runs that died again are recorded. The state may have pruned the others.
        since = _datetime(view.now - self._settings.lookback)
        rows: list[StraitRun] = []
        bursts: set[datetime] = set()
        page: StraitPage[StraitRun] = StraitPage(rows=())
        for page in self._by_status.pages(DEAD_LETTER, since):
            rows += page.rows
            bursts |= set() if page.burst is None else {page.burst}
            if not view.sweep_due:
                break
        died_again, vanished = update_dead_letters(
            self._dead_letters,
            rows,
            complete=not page.more,
            other_states={row.id for row in self._latest.values() if row.status != DEAD_LETTER},
            bursts=bursts,
        )
        self._latest.add(died_again)
        yield from self._new_batches(view)
        # If the list of active runs cannot show all runs of a burst, it may lack a replayed dead letter.
        in_bursts = [run_id for run_id, row in self._dead_letters.items() if row.created in self._active_burst_times]
        for run_id in [*vanished, *(run_id for run_id in in_bursts if run_id not in self._latest)]:
            if view.out_of_time():
                break
            with self._failing.read(f"run {run_id}", view):
                row = self._read_run(run_id)
                self._dead_letters.pop(run_id, None)
                if row is not None:
                    if row.status == DEAD_LETTER:
                        self._dead_letters[run_id] = row
                    self._latest.add([row])
                    yield from self._new_batches(view)


def _datetime(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)
