"""Reads Snowplow Console: runs by time windows, then active runs by ID; steps per run."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from exporter.client.client import Client
from exporter.config.source import DAY, HOUR, MINUTE
from exporter.counting.records import OpenRun
from exporter.errors import NotFoundError
from exporter.model import Batch, Result, Run, Step, Window
from exporter.sources.rest import OpenRunQueue, ProblemLog, is_gone, path, root_of, status_table
from exporter.sources.snowplow.api import (
    RUN,
    RUNS,
    STATUSES,
    STEP,
    STEPS,
    SnowplowRun,
    SnowplowRuns,
    in_milliseconds,
    job_id_of,
    parse_rows,
    problems_of,
    start_of,
    to_job,
    to_run,
)
from exporter.sources.snowplow.details import parse_failure_reason, parse_log, parse_run, parse_steps
from exporter.sources.snowplow.settings import ApiKeyPair, PasswordGrant, SnowplowSettings
from exporter.sources.snowplow.signin import api_key_auth, password_auth
from exporter.sources.source import Access, Source, SourceType, StepLog
from exporter.sources.view import View
from exporter.sources.windows import halves, plan_poll
from exporter.times import is_number

REACH = 7 * DAY
# The oldest time must still be within reach when the request arrives, even if it waits for a sign-in and the budget.
MARGIN = 10 * MINUTE
MARGIN_REQUESTS = 3
MAX_WINDOW = 96 * HOUR

# The API returns only the runs of the latest state-change events. This is the maximum number of events.
EVENT_LIMIT = 10_000

# A poll may halve this many windows, plus one per run that it has seen. This bounds the number of its requests.
MIN_HALVINGS = 40

ASSUMED_STEPS = 50
"""Number of steps assumed for a job whose steps are unknown."""

# A run's end is computed from its duration. Its last event may be this many seconds later.
END_TOLERANCE = 60

# Fractions of the event limit. A response with fewer events than the first is complete. If it has more than the second,
# its window is read again in halves.
SURELY_COMPLETE, PROBABLY_TRUNCATED = 0.5, 0.9

WRONG_TIMES = 0.1
"""Fraction of a response's runs that may have wrong times."""


class SnowplowSource(Source):
    """Reads the runs of one organization.

    Args:
        event_limit: Number of events to which the API trims a response.
    """

    def __init__(self, settings: SnowplowSettings, client: Client, *, event_limit: int = EVENT_LIMIT) -> None:
        super().__init__(client)
        self._settings = settings
        self._event_limit = event_limit
        self._statuses = status_table(STATUSES, settings.status_map)
        self._open_runs = OpenRunQueue(self._failing)
        self._committed: SnowplowRuns | None = None
        self._problems = ProblemLog(settings.name)
        self._milliseconds = False

    def fetch(self, view: View) -> Iterator[Batch]:
        """Read this poll's windows, oldest first, then the active runs that no window has shown."""
        margin = min(max(MARGIN, MARGIN_REQUESTS * MINUTE / self._settings.requests_per_minute), REACH / 2)
        plan = plan_poll(view, self._settings, api=REACH - margin, maximum=MAX_WINDOW)
        shown: set[str] = set()
        self._failing.start_poll()
        for window, response, truncated, uncertain in self._read_responses(plan.windows, view):
            shown |= response.by_id.keys()
            unobserved = [uncertain] if uncertain else []
            if plan.unobserved and window.start <= plan.windows[0].start:
                unobserved.append(plan.unobserved)
            through = plan.through_after(window)
            yield self._to_batch(response, view.now, through=through, truncated=truncated, unobserved=unobserved)
            self._committed = response
        yield from self._follow_open_runs(view, shown)
        self._failing.raise_errors()

    def _read_responses(
        self, windows: Sequence[Window], view: View
    ) -> Iterator[tuple[Window, SnowplowRuns, int, Window | None]]:
        """Yield responses, oldest first. A window whose response may be truncated is read again in halves.

        The values are: the window; its response; how many earlier responses it proves to be truncated; and the window
        again if its response may be truncated but the window cannot be halved, or too many were. If the API ignores
        `from` and `to`, no window is read again.
        """
        waiting: list[tuple[Window, frozenset[str]]] = [(window, frozenset()) for window in reversed(windows)]
        halvings = 0
        doubted: dict[Window, frozenset[str]] = {}  # IDs of the runs that a response had, by its window
        shown: set[str] = set()
        filters = True  # whether the API respects `from` and `to`
        while waiting:
            window, ids_of_whole = waiting.pop()
            response, parts = self._read_window(window), halves(window)
            # A half with all runs of the whole is truncated if the whole was.
            like_whole = parts is not None and bool(ids_of_whole) and ids_of_whole <= response.by_id.keys()
            doubtful = filters and (
                like_whole or may_be_truncated(response.by_text.values(), window, view, self._event_limit)
            )
            runs = [to_run(row, self._statuses) for row in response.by_id.values()] if doubtful else []
            filters = filters and not _ignores_bounds(runs, window)
            doubtful = doubtful and filters and not self._is_proven_complete(response, runs, window, view)
            if doubtful and parts and halvings < MIN_HALVINGS + len(shown):
                halvings += 1
                doubted[window] = frozenset(response.by_id)
                shown |= response.by_id.keys()
                waiting += [(part, doubted[window]) for part in reversed(parts)]
                continue
            truncated = _pop_truncated(doubted, response.by_text.values())
            yield window, response, truncated + doubtful, window if doubtful else None

    def _is_proven_complete(self, response: SnowplowRuns, runs: Sequence[Run], window: Window, view: View) -> bool:
        """Read the window up to the end of the earliest tenth of its runs. Return whether that proves it complete."""
        # A truncated response lacks runs whose events are all older than the oldest event that was kept. These runs
        # ended before any run in the response. So if the part of the window before the first end is complete and has no
        # other runs, the response lacks nothing. A longer part proves the same, and no wrong time cuts it short.
        ends = sorted(run.end for run in runs if run.end is not None)
        if not ends:
            return False
        first = ends[int(WRONG_TIMES * len(ends))]
        early = Window(window.start, math.ceil(max(first, window.start)) + END_TOLERANCE)
        if early.length > window.length / 2:
            return False
        part = self._read_window(early)
        complete = not may_be_truncated(part.by_text.values(), early, view, self._event_limit)
        return complete and part.by_id.keys() < response.by_id.keys()

    def _read_window(self, window: Window) -> SnowplowRuns:
        bounds = {"from": timestamp(window.start), "to": timestamp(window.end)}
        body = self._get(RUNS, bounds)
        if self._committed is not None and body == self._committed.body:
            return self._committed
        return parse_rows(body, self._committed.by_text if self._committed else {}, self._statuses)

    def _get(
        self, endpoint: str, params: dict[str, str] | None = None, patience: float | None = None, **parts: str
    ) -> bytes:
        address = path(endpoint, org=self._settings.organization_id, **parts)
        return self._client.get(address, endpoint=endpoint, params=params, patience=patience)

    def _to_batch(
        self, response: SnowplowRuns, now: float, *, through: float, truncated: int, unobserved: Sequence[Window]
    ) -> Batch:
        """Return the batch of a response: the rows that the last committed response did not have."""
        changed = () if self._committed is response else response.fresh
        return Batch(
            jobs=[to_job(row) for row in {job_id_of(row): row for row in changed}.values()],
            runs=self._to_runs(changed, now, all_rows=response.by_text.values()),
            unchanged=len(response.by_text) - len(changed) + response.repeated,
            invalid=response.invalid,
            through=through,
            truncated=truncated,
            unobserved=unobserved,
        )

    def _to_runs(self, rows: Sequence[SnowplowRun], now: float, *, all_rows: Collection[SnowplowRun]) -> list[Run]:
        """Return the runs of rows. `all_rows` of the response decide whether durations are in milliseconds."""
        if not self._milliseconds and any(is_number(row.duration) for row in rows):
            self._milliseconds = in_milliseconds(all_rows, now, self._statuses)
        runs = [to_run(row, self._statuses, now, milliseconds=self._milliseconds) for row in rows]
        for row, run in zip(rows, runs, strict=True):
            self._problems.add(problems_of(row, run, now))
        return runs

    def _follow_open_runs(self, view: View, shown: Collection[str]) -> Iterator[Batch]:
        """Read by ID the active runs that no window has shown. A run that cannot be read does not delay the others."""
        missing = {run.run_id: run for run in view.open_runs() if run.run_id not in shown}
        for run_id in self._open_runs.ordered(missing, view):
            with self._failing.read(f"run {run_id}", view):
                batch = self._read_run(missing[run_id], view.now)
                if batch is not None:
                    yield batch
                elif is_gone(missing[run_id], view.now, REACH):
                    yield Batch(gone=[run_id])

    def _read_run(self, known: OpenRun, now: float) -> Batch | None:
        """Return the batch of an active run; None if the API does not have the run."""
        try:
            body = self._get(RUN, runId=known.run_id)
        except NotFoundError:
            return None
        row, steps = parse_run(body, self._statuses, known.run_id)
        (run,) = self._to_runs([row], now, all_rows=[])
        jobs = [to_job(row)]
        if not (row.job_name and row.environment):  # this response may lack what the list shows
            jobs, run = [], msgspec.structs.replace(run, job_id=known.job_id)
        return Batch(jobs=jobs, runs=[run], steps={run.run_id: steps} if steps else {})

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:
        """Return the steps of a completed run."""
        return parse_steps(self._get(STEPS, patience=patience, runId=run.run_id), self._statuses)

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:
        """Return the tail of a step's output, or the reason of a run's failure."""
        if not step_name:
            return parse_failure_reason(self._get(RUN, patience=patience, runId=run.run_id))
        return parse_log(self._get(STEP, patience=patience, runId=run.run_id, stepName=step_name))

    def probe(self) -> str:
        """Sign in and list the last hour's runs."""
        # Times relative to the API's clock work even if the local clock is wrong.
        rows = parse_rows(self._get(RUNS, {"from": "PT-1H", "to": "PT0S"}), {}, self._statuses).by_id
        return f"signed in, {len(rows)} runs in the last hour"


def may_be_truncated(rows: Collection[SnowplowRun], window: Window, view: View, limit: int = EVENT_LIMIT) -> bool:
    """Return whether the API may have truncated a response. The response itself does not say so."""
    # A run has about 3 state-change events, and two more per step. Each row has at least one event, so if rows exceed
    # the limit, the API does not truncate.
    counts = view.step_counts()
    most = 3 + 2 * max((ASSUMED_STEPS, *counts.values()))
    if len(rows) > limit or len(rows) * most < SURELY_COMPLETE * limit:
        return False
    per_job = Counter(map(job_id_of, rows))
    events = sum(number * (3 + 2 * (counts.get(job_id) or ASSUMED_STEPS)) for job_id, number in per_job.items())
    if events < SURELY_COMPLETE * limit:
        return False
    if events >= PROBABLY_TRUNCATED * limit:
        return True
    starts = [start for row in rows if (start := start_of(row)) is not None]
    empty_early_part = bool(starts) and min(starts) > window.start + window.length / 2
    known = view.started_between(window.start + 1, window.end - 1)
    return empty_early_part or bool(known - {row.run_id for row in rows})


def _ignores_bounds(runs: Collection[Run], window: Window) -> bool:
    """Return whether the API ignores `from` and `to`: many runs started after the window or ended before it."""
    outside = sum((run.start or 0.0) > window.end + 1 or (run.end or window.end) < window.start - 1 for run in runs)
    return outside > WRONG_TIMES * len(runs)


def _pop_truncated(doubted: dict[Window, frozenset[str]], rows: Collection[SnowplowRun]) -> int:
    """Remove the doubted responses that lack one of these rows although it is in their window. Return their number."""
    starts = [(row.run_id, start_of(row) or 0.0) for row in rows]
    truncated = [
        window
        for window, ids in doubted.items()
        if any(window.start <= start < window.end and run_id not in ids for run_id, start in starts)
    ]
    for window in truncated:
        del doubted[window]
    return len(truncated)


def timestamp(time: float) -> str:
    """Return a time in the API's format: whole seconds in UTC, like `2026-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _access(settings: SnowplowSettings) -> Access:
    root = root_of(settings)
    auth, organization = settings.auth, settings.organization_id
    if isinstance(auth, PasswordGrant):
        return Access(root=root, auth=password_auth(auth), credential=f"{root} {auth.username} {auth.client_id}")
    key_id = auth.api_key_id if isinstance(auth, ApiKeyPair) else None
    return Access(
        root=root,
        auth=api_key_auth(root, organization, api_key=auth.api_key.reveal, api_key_id=key_id),
        credential=f"{root} {organization} {key_id or hash(auth.api_key)}",
    )


TYPE = SourceType(
    settings=SnowplowSettings,
    build=SnowplowSource,
    access=_access,
    identity=lambda settings: f"snowplow {settings.base_url} organization {settings.organization_id}",
    results=(Result.SUCCESS, Result.FAILURE, Result.SKIP, Result.UNKNOWN),
    has_steps=True,
    endpoints=(RUNS, RUN, STEPS),
    reach=REACH,
)
