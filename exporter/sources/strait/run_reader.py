"""Polls job runs or workflow runs: lists by status, the newest pages, bursts, and single runs by ID."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import islice

import msgspec
import structlog

from exporter.client.client import Client
from exporter.config.source import DAY
from exporter.errors import BlockedError, NotFoundError, RateLimitedError, SourceError
from exporter.model import Batch, Run, Window
from exporter.sources.failing import PATIENCE, FailingParts
from exporter.sources.rest import REFUSALS, OpenRunQueue, is_gone, status_table
from exporter.sources.strait.api import (
    COMPENSATING,
    StraitPage,
    StraitRun,
    cursor_at,
    from_timestamp,
    parse_run,
    parse_single_run,
    run_path,
)
from exporter.sources.strait.bursts import (
    Burst,
    burst_key,
    decode_bursts,
    encode_burst,
    read_export,
    unread_times,
)
from exporter.sources.strait.catalog import JobCatalog
from exporter.sources.strait.kinds import DEAD_LETTER, REACH, RunKind
from exporter.sources.strait.lists import LatestRows, PageReader, StatusLists
from exporter.sources.strait.settings import StraitSettings
from exporter.sources.view import View
from exporter.sources.windows import plan_poll

FIRST_DEPTH = DAY
"""Maximum seconds that the first poll reads back."""

MAX_FAILED_LISTS = 3
"""Consecutive failed lists after which all others wait for the next poll."""

# Maximum number of runs per batch, because a transaction locks the ledger.
BATCH_ROWS = 500


class RunReader:
    """Reads the runs of one kind."""

    def __init__(self, kind: RunKind, settings: StraitSettings, client: Client, failing: FailingParts) -> None:
        self.kind = kind
        self._client = client
        self._settings = settings
        self._failing = failing
        self._statuses = status_table(kind.statuses, settings.status_map)
        self._runs = PageReader(client, kind.runs, partial(parse_run, statuses=self._statuses))
        self._by_status = StatusLists(kind, settings.status_map, self._runs)
        self._catalog = JobCatalog(kind, client, failing)
        self._committed: dict[str, StraitRun] = {}
        self._latest = LatestRows()
        self._open_runs = OpenRunQueue(failing)
        self._may_compensate: dict[str, float] = {}
        self._burst_times: set[datetime] = set()
        self._active_burst_times: set[datetime] = set()
        self._dead_letters: dict[str, datetime | None] = {}
        self._invalid = 0
        self._log = structlog.get_logger().bind(source=settings.name)

    def fetch(self, view: View) -> Iterator[Batch]:
        """Poll once: read active runs by status, the newest runs, then single runs by ID, then dead letters.

        Raises SourceError if the lists cannot be read.
        """
        self._committed = {run_id: row for run_id, row in self._committed.items() if run_id in self._latest}
        self._latest = LatestRows()
        self._burst_times, self._active_burst_times = set(), set()
        self._runs.grow()
        if self._catalog.is_due():
            yield from self._catalog.read(view)
            # The server may have been upgraded.
            self._by_status.retry_refused()
        failure: SourceError | None = None
        try:
            # At the first poll, active runs must be known before the watermark is set.
            self._read_active(view)
            yield from self._read_newest(view)
        except (BlockedError, *REFUSALS):
            raise
        except SourceError as error:
            failure = error
        yield from self._new_batches(view)
        yield from self._follow_open_runs(view)
        if DEAD_LETTER in self.kind.statuses and not view.out_of_time():
            with self._failing.read(self._part(DEAD_LETTER), view):
                yield from self._read_dead_letters(view)
        if failure is not None:
            raise failure

    def _part(self, status: str) -> str:
        return f"{self.kind.runs} of status {status}"

    # --- lists ---

    def _read_active(self, view: View) -> None:
        """Read the lists of active runs. If a list fails, its known runs are read by ID."""
        failures = 0
        for status in self._by_status.active_statuses:
            part = self._part(status)
            with self._failing.read(part, view, raising=REFUSALS):
                for page in self._by_status.pages(status):
                    self._add(page)
                    self._active_burst_times |= {page.burst} if page.burst is not None else set()
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
            self._read_window(window, view, newest=window is windows[-1])
            if window is windows[-1]:
                self._burst_times |= {time for time, burst in self._known_bursts(view).items() if not burst.read}
            yield from self._read_bursts(view)
            yield from self._new_batches(view, through=plan.through_after(window), unobserved=unobserved)

    def _read_window(self, window: Window, view: View, *, newest: bool) -> None:
        """Read the runs of a window. The first poll ends at a page whose runs all ended before it."""
        first = view.watermark(self.kind.scope) is None
        before = None if newest else from_timestamp(window.end)
        for page in self._runs.pages(before=before, since=from_timestamp(window.start)):
            self._add(page)
            ended_before = [row.run.result and (row.run.end or 0.0) <= view.first_poll for row in page.rows]
            if first and ended_before and all(ended_before):
                return

    # --- bursts ---

    def _known_bursts(self, view: View) -> dict[datetime, Burst]:
        return decode_bursts(self.kind.scope, view.checkpoints)

    def _read_bursts(self, view: View) -> Iterator[Batch]:
        """Read the bursts of the pages read since the last call. Polls, later only sweeps, repeat unreadable ones."""
        known = self._known_bursts(view)
        for time in sorted(self._burst_times):
            burst = known.get(time, Burst(since=view.now))
            # The server may never answer: after a while, only sweeps try again.
            is_left_to_sweeps = not burst.read and burst.truncated and not view.sweep_due
            if is_left_to_sweeps or (burst.read and not self._has_grown(time, view)):
                continue
            part = f"runs created at {time.isoformat()}"
            try:
                with self._failing.read(part, view):
                    yield from self._read_burst(time, burst, view)
            except RateLimitedError as error:
                # The export may have a limit of its own. If not, the next request is refused, too.
                self._failing.failed(part, error, began=view.now, now=view.now)
            if part in self._failing.errors:
                if time not in known:
                    with self._failing.read(f"{part} by status", view):
                        self._read_by_status(time)
                yield self._burst_batch(time, burst, missing=int(burst.is_overdue(view.now)))
        self._burst_times = set()

    def _has_grown(self, time: datetime, view: View) -> bool:
        """Return whether a list shows a run of this time that the burst did not have when it was read."""
        # Without an export, only 100 runs of each status are visible at once. Others appear when these change.
        rows = [row for row in self._latest.created_at(time) if row.id not in self._committed]
        jobs = {row.id: self._catalog.get(row.run.job_id) for row in rows}
        wanted = [run_id for run_id, job in jobs.items() if job is None or view.includes(job.name)]
        return len(view.known(wanted)) < len(wanted)

    def _read_burst(self, time: datetime, burst: Burst, view: View) -> Iterator[Batch]:
        """Read the IDs of all runs of a time. Runs that no list shows count as active until they are read by ID."""
        jobs, complete = ({}, None) if self.kind.workflow else read_export(self._client, time)
        usable = complete is not None and all(row.id in jobs for row in self._latest.created_at(time))
        unlisted = self._unlisted(jobs, view)
        missing = 0
        if not usable or unlisted:
            missing = self._read_by_status(time)
            unlisted = self._unlisted(jobs, view)
        if usable:
            missing = 0 if complete else max(1, missing)
        yield from self._catalog.look_up({jobs[run_id] for run_id in unlisted}, view)
        batch = self._burst_batch(time, msgspec.structs.replace(burst, read=True), missing)
        yield msgspec.structs.replace(
            batch,
            jobs=self._catalog.jobs_of({jobs[run_id]: self._catalog.project for run_id in unlisted}, view),
            runs=[Run(run_id=run_id, job_id=jobs[run_id], created=time.timestamp()) for run_id in unlisted],
        )

    def _unlisted(self, run_ids: Iterable[str], view: View) -> list[str]:
        """Return the runs that no list of this poll shows, and that are not in the state."""
        unlisted = [run_id for run_id in run_ids if run_id not in self._latest]
        known = view.known(unlisted)
        return [run_id for run_id in unlisted if run_id not in known]

    def _read_by_status(self, time: datetime) -> int:
        """Read the runs of a time by status. Return how many of these lists do not show all of their runs."""
        truncated = 0
        for page in self._by_status.pages_at(time):
            self._latest.add(page.rows)
            self._invalid += page.invalid
            truncated += page.burst is not None
        return truncated

    def _burst_batch(self, time: datetime, burst: Burst, missing: int) -> Batch:
        """Return the batch of a burst. `missing`: how many of its runs are unknown at least, logged once."""
        newly = bool(missing) and not burst.truncated
        if newly:
            self._log.warning(
                "runs created at one time could not all be listed",
                created=cursor_at(time),
                shown=len(self._latest.created_at(time)),
                missing=f"at least {missing}",
            )
        burst = msgspec.structs.replace(burst, truncated=burst.truncated or newly)
        checkpoints = encode_burst(self.kind.scope, time, burst)
        return Batch(scope=self.kind.scope, truncated=int(newly), checkpoints=checkpoints)

    # --- batches ---

    def _new_batches(
        self, view: View, *, through: float | None = None, unobserved: Sequence[Window] = ()
    ) -> Iterator[Batch]:
        """Yield batches of the rows read since the last call. The last batch has `through` and `unobserved`."""
        rows = self._latest.take_new()
        changed = [row for row in rows if self._committed.get(row.id) != row]
        yield from self._catalog.look_up({row.run.job_id for row in changed}, view)
        known_jobs = self._catalog.known_jobs(view)
        usable = [row for row in changed if row.run.job_id in known_jobs]
        # If the name of a run's job is unknown, the next poll reads the run again.
        if len(usable) < len(changed):
            through = None
        invalid, self._invalid = self._invalid, 0
        bursts = {} if through is None else self._known_bursts(view)
        if through is not None and bursts:
            # A run of which only the ID is known has no state.
            unread = [run.origin for run in view.open_runs(self.kind.scope) if run.state is None]
            through = min([through, *unread_times(bursts, unread, view.now)])
        if not (rows or invalid or through is not None):
            return
        last = Batch(
            scope=self.kind.scope,
            unchanged=len(rows) - len(changed),
            invalid=invalid,
            through=through,
            unobserved=unobserved,
            checkpoints=self._without_old(bursts, view),
        )
        pieces = [usable[start : start + BATCH_ROWS] for start in range(0, len(usable), BATCH_ROWS)] or [[]]
        for piece in pieces:
            yield msgspec.structs.replace(
                last if piece is pieces[-1] else Batch(scope=self.kind.scope),
                jobs=self._catalog.jobs_of({row.run.job_id: row.project for row in piece}, view),
                runs=[row.run for row in piece],
            )
            self._note_committed(piece, view)

    def _without_old(self, bursts: Iterable[datetime], view: View) -> dict[str, str]:
        """Return checkpoints that remove bursts from before the time that polls still read."""
        limit = view.now - self._settings.lookback - DAY
        return {burst_key(self.kind.scope, time): "" for time in bursts if time.timestamp() < limit}

    def _note_committed(self, rows: Sequence[StraitRun], view: View) -> None:
        self._committed.update((row.id, row) for row in rows)
        self._dead_letters.update((row.id, row.created) for row in rows if row.status == DEAD_LETTER)
        # A run that has just failed may start to compensate. If the server cannot list such runs, it is read by ID.
        if self._by_status.refuses(COMPENSATING):
            for row in rows:
                if row.status in ("failed", "timed_out"):
                    self._may_compensate[row.id] = (row.run.end or view.now) + PATIENCE

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
        try:
            body = self._client.get(run_path(self.kind.run, run_id), endpoint=self.kind.run)
        except NotFoundError:
            return None
        return parse_single_run(body, run_id, self._statuses)

    def _read_dead_letters(self, view: View) -> Iterator[Batch]:
        """Read the list of dead letters: the newest ones at each poll, all of them with a sweep.

        A replay keeps a run's ID and creation time, and may end between two polls. Then only its row in this list
        changes or vanishes.
        """
        lookback = view.now - self._settings.lookback
        listed = self._by_status.pages(DEAD_LETTER, from_timestamp(lookback))
        pages = list(islice(listed, None if view.sweep_due else 1))
        rows = [row for page in pages for row in page.rows]
        # The state may have pruned older runs, and would count them again. Runs that ended before the baseline do not
        # count, and may not be their job's last runs.
        oldest_end = max(lookback, view.baseline(self.kind.scope))
        self._latest.add(row for row in rows if (row.run.end or 0.0) >= oldest_end)
        yield from self._new_batches(view)
        for run_id in self._vanished(rows, pages):
            if view.out_of_time():
                break
            with self._failing.read(f"run {run_id}", view):
                row = self._read_run(run_id)
                self._dead_letters.pop(run_id, None)
                self._latest.add([] if row is None else [row])
                yield from self._new_batches(view)
        self._dead_letters |= {row.id: row.created for row in rows}
        for row in self._latest.values():
            if row.status != DEAD_LETTER:
                self._dead_letters.pop(row.id, None)

    def _vanished(self, rows: Sequence[StraitRun], pages: Sequence[StraitPage[StraitRun]]) -> list[str]:
        """Return the IDs of known dead letters that these pages of the list should show, but do not."""
        bursts = {page.burst for page in pages}
        # If there are more pages, these do not show older dead letters.
        more = not pages or pages[-1].more
        oldest = min((row.created for row in rows if row.created is not None), default=None)
        return [
            run_id
            for run_id in self._dead_letters.keys() - self._latest.keys() - {row.id for row in rows}
            # If a list of active runs cannot show all runs of a burst, it may lack a replayed dead letter.
            if (created := self._dead_letters[run_id]) in self._active_burst_times
            or (created not in bursts and (not more or (created and oldest and created > oldest)))
        ]
