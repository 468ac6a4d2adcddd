"""Snowplow Console: its settings, and how its runs are read by windows, steps and ids."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from exporter.client.client import Client
from exporter.config.source import DAY, HOUR, MINUTE
from exporter.counting.records import OpenRun
from exporter.errors import AuthError, NotFoundError, PartialError, RateLimitedError, SourceError
from exporter.model import Batch, Result, Run, Step, Window
from exporter.sources.failing import FailingParts
from exporter.sources.oddities import NO_RUN, Oddities
from exporter.sources.rest import path
from exporter.sources.snowplow.api import (
    RUN,
    RUNS,
    STEP,
    STEPS,
    RunList,
    RunRow,
    in_milliseconds,
    job_id_of,
    oddities,
    parse_log,
    parse_rows,
    parse_run,
    parse_steps,
    start_of,
    statuses,
    to_job,
    to_run,
)
from exporter.sources.snowplow.settings import ApiKeyPair, PasswordGrant, SnowplowSettings
from exporter.sources.snowplow.signin import ApiKeyAuth, PasswordAuth
from exporter.sources.source import Access, SourceType, StepLog, View
from exporter.sources.unreadable import Waiting
from exporter.sources.windows import Reach, halves, plan

REACH = 7 * DAY
MARGIN = 10 * MINUTE
LONGEST_WINDOW = 96 * HOUR

EVENT_LIMIT = 10_000
"""State-change events to which the API trims an answer."""

FEWEST_HALVINGS = 40
"""Windows that a poll may halve, besides one for each run that it has seen: no answers can make a storm of requests."""

MANY_STEPS = 50
"""Assumed for a job whose steps are not known."""

SLACK = 60
"""Seconds by which a run's last event may be later than the end that its duration gives."""

SURELY_WHOLE, SURELY_DOUBTFUL = 0.5, 0.9
"""Parts of the limit: below the first an answer is whole, above the second it is asked again in halves."""


class Doubted(msgspec.Struct):
    """A list that may have been trimmed. `proven`: a part of its window has shown a run that it lacked."""

    window: Window
    ids: frozenset[str]
    proven: bool = False


class SnowplowSource:
    """Reads the runs of one organization.

    Args:
        settings: Its configuration.
        client: Its API.
        event_limit: The number of events to which the API trims an answer.
    """

    def __init__(self, settings: SnowplowSettings, client: Client, *, event_limit: int = EVENT_LIMIT) -> None:
        self._settings = settings
        self._client = client
        self._event_limit = event_limit
        self._statuses = statuses(settings.status_map)
        self._reach = Reach(
            api=REACH,
            margin=MARGIN,
            maximum=LONGEST_WINDOW,
            lookback=settings.lookback,
            overlap=settings.overlap,
            settle=settings.settle,
        )
        self._last: RunList | None = None
        self._uncertain: set[Window] = set()
        self._asked: dict[str, int] = {}
        self._waiting = Waiting()
        self._oddities = Oddities(settings.name)
        self._milliseconds = False
        self._failing = FailingParts()

    def fetch(self, view: View) -> Iterator[Batch]:
        """The windows of this poll, oldest first, then the open runs that no window has shown."""
        sweep = self._settings.sweep.window if view.sweep_due and self._settings.sweep else None
        todo = plan(view.now, view.watermark(), self._reach, sweep=sweep)
        shown: list[RunList] = []
        self._waiting.begin()
        for window, answered, truncated, uncertain in self._whole(todo.windows, view):
            shown.append(answered)
            lost = [uncertain] if uncertain else []
            if todo.unobserved and window.start <= todo.windows[0].start:
                lost.append(todo.unobserved)
            self._waiting.note(window, answered.invalid)
            through = self._waiting.through(todo.proves(window))
            yield self._reading(answered, view.now, through=through, truncated=truncated, unobserved=lost)
        self._waiting.end()
        yield from self._follow(view, shown)

    def _whole(self, windows: Sequence[Window], view: View) -> Iterator[tuple[Window, RunList, int, Window | None]]:
        """Answers that are whole, oldest first: a window whose answer may be trimmed is asked again in halves.

        Gives with each answer its window, how many trimmed answers it has proven, and the window once more if it is
        too short to be halved and may still be trimmed. An API that does not heed `from` and `to` is not asked again.
        """
        waiting, doubted = list(reversed(windows)), list[Doubted]()
        shown: set[str] = set()
        heeded = True
        while waiting:
            window = waiting.pop()
            answered = self._ask(window)
            doubtful = heeded and may_be_trimmed(answered.texts.values(), window, view, self._event_limit)
            runs = [to_run(row, self._statuses) for row in answered.by_id.values()] if doubtful else []
            heeded = heeded and not _strays(runs, window)
            doubtful = doubtful and heeded and not self._shows_all(answered, runs, window, view)
            parts = halves(window)
            if doubtful and parts and len(doubted) < FEWEST_HALVINGS + len(shown):
                doubted.append(Doubted(window, frozenset(answered.by_id)))
                shown |= answered.by_id.keys()
                waiting += reversed(parts)
                continue
            truncated = _proven(doubted, answered.texts.values())
            uncertain = window if doubtful and window not in self._uncertain else None
            if uncertain:
                self._uncertain.add(window)
            yield window, answered, truncated + (uncertain is not None), uncertain

    def _shows_all(self, answered: RunList, runs: Sequence[Run], window: Window, view: View) -> bool:
        """Whether one further question clears a doubt: what ended before the first ending that an answer shows.

        A trimmed answer lacks the runs of which all events are older than the oldest event that was kept, and so older
        than the end of any run that it shows. If that early part of the window is whole and holds no other runs, there
        are none.
        """
        ends = [run.end for run in runs if run.end is not None]
        if not ends:
            return False
        early = Window(window.start, math.ceil(max(min(ends), window.start)) + SLACK)
        if early.length > window.length / 2:
            return False
        part = self._ask(early)
        whole = not may_be_trimmed(part.texts.values(), early, view, self._event_limit)
        return whole and part.by_id.keys() < answered.by_id.keys()

    def _ask(self, window: Window) -> RunList:
        bounds = {"from": timestamp(window.start), "to": timestamp(window.end)}
        answer = self._client.get(path(RUNS, org=self._settings.organization_id), endpoint=RUNS, params=bounds)
        if self._last is not None and answer.body == self._last.body:
            return self._last
        return parse_rows(answer.body, self._last.texts if self._last else {}, self._statuses)

    def _reading(
        self, answered: RunList, now: float, *, through: float, truncated: int, unobserved: Sequence[Window]
    ) -> Batch:
        """What an answer brought that the one committed before did not: most of its rows are usually the same."""
        changed = () if self._last is answered else answered.fresh
        if answered.invalid:
            self._oddities.note([(NO_RUN, answered.invalid)])
        return Batch(
            jobs=[to_job(row) for row in {job_id_of(row): row for row in changed}.values()],
            runs=self._runs(changed, now, among=list(answered.texts.values())),
            unchanged=len(answered.texts) - len(changed) + answered.repeated,
            invalid=answered.invalid,
            through=through,
            truncated=truncated,
            unobserved=unobserved,
            memory=answered,
        )

    def _runs(self, rows: Sequence[RunRow], now: float, *, among: Sequence[RunRow]) -> list[Run]:
        """The runs of rows; all rows of the answer tell what durations without a unit are, for good."""
        if rows and not self._milliseconds:
            self._milliseconds = in_milliseconds(among, now, self._statuses)
        runs = [to_run(row, self._statuses, now, milliseconds=self._milliseconds) for row in rows]
        for row, run in zip(rows, runs, strict=True):
            self._oddities.note(oddities(row, run, now))
        return runs

    def committed(self, batch: Batch) -> None:
        """Remembers an answer whose rows are in the state."""
        if isinstance(batch.memory, RunList):
            self._last = batch.memory

    def _follow(self, view: View, shown: Collection[RunList]) -> Iterator[Batch]:
        """Asks for open runs by id, those asked least often first.

        One that cannot be had does not keep the others from being asked for.
        """
        parts: dict[str, SourceError] = {}
        missing = [run for run in view.open_runs() if not any(run.run_id in answered.by_id for answered in shown)]
        self._asked = {run.run_id: self._asked.get(run.run_id, 0) for run in missing}
        for run in sorted(missing, key=lambda run: self._asked[run.run_id]):
            if view.out_of_time():
                break
            part, began = f"run {run.run_id}", view.now
            failure = self._failing.get(part)
            if failure is not None and self._failing.is_resting(part, began):
                parts[part] = failure.error
                continue
            self._asked[run.run_id] += 1
            try:
                found = self._one(run, began)
            except (AuthError, RateLimitedError):
                raise
            except SourceError as error:
                self._failing.failed(part, error, began=began, now=view.now)
                parts[part] = error
                continue
            self._failing.answered(part)
            if found is not None:
                yield found
        if parts:
            raise PartialError(parts)

    def _one(self, run: OpenRun, now: float) -> Batch | None:
        endpoint = path(RUN, org=self._settings.organization_id, runId=run.run_id)
        try:
            answer = self._client.get(endpoint, endpoint=RUN)
        except NotFoundError:
            # A run that the API should still show is asked for again; an older one is gone for good.
            return Batch(gone=[run.run_id]) if run.origin < now - REACH else None
        row, steps = parse_run(answer.body, self._statuses, run.run_id)
        return Batch(
            jobs=[to_job(row)],
            runs=self._runs([row], now, among=[]),
            steps={run.run_id: steps} if steps else {},
        )

    def steps(self, run: Run, *, patience: float | None = None) -> Sequence[Step]:
        """The steps of a run that has ended."""
        endpoint = path(STEPS, org=self._settings.organization_id, runId=run.run_id)
        return parse_steps(self._client.get(endpoint, endpoint=STEPS, patience=patience).body, self._statuses)

    def log(self, run: Run, step_name: str, *, patience: float | None = None) -> StepLog:
        """The tail of a step's output, for a person who asked for it. A run has no text of its own."""
        if not step_name:
            raise NotFoundError("only steps have output here", 404)
        endpoint = path(STEP, org=self._settings.organization_id, runId=run.run_id, stepName=step_name)
        return parse_log(self._client.get(endpoint, endpoint=STEP, patience=patience).body)

    def probe(self) -> str:
        """Signs in and lists the last hour's runs."""
        now = self._client.now()
        rows = self._ask(Window(now - 3600, now)).texts
        return f"signed in, {len(rows)} runs in the last hour"

    def round_seconds(self) -> float:
        """Every poll reads everything."""
        return 0.0

    def close(self) -> None:
        """Ends all connections."""
        self._client.close()


def may_be_trimmed(rows: Collection[RunRow], window: Window, view: View, limit: int = EVENT_LIMIT) -> bool:
    """Whether an answer could be the end of a longer one, which nothing in it says.

    The API keeps the latest 10,000 state-change events; a run makes about 3 and two for each of its steps.
    """
    if len(rows) > limit:
        return False  # each has one of the events at least: this API does not trim
    if len(rows) * (3 + 2 * MANY_STEPS) < SURELY_WHOLE * limit:
        return False
    counts = view.step_counts()
    per_job = Counter(map(job_id_of, rows))
    events = sum(number * (3 + 2 * (counts.get(job_id) or MANY_STEPS)) for job_id, number in per_job.items())
    if events < SURELY_WHOLE * limit:
        return False
    if events >= SURELY_DOUBTFUL * limit:
        return True
    starts = [start for row in rows if (start := start_of(row)) is not None]
    empty_early_part = bool(starts) and min(starts) > window.start + window.length / 2
    known = view.started_between(window.start + 1, window.end - 1)
    return empty_early_part or bool(known - {row.run_id for row in rows})


def _strays(runs: Iterable[Run], window: Window) -> bool:
    """Whether an answer holds runs that began after its window or ended before it: the API does not heed it."""
    return any((run.start or 0.0) > window.end + 1 or (run.end or window.end) < window.start - 1 for run in runs)


def _proven(doubted: Iterable[Doubted], rows: Collection[RunRow]) -> int:
    """How many doubted answers are now known to have been trimmed: their window holds a run that they lacked."""
    proven = 0
    for each in doubted:
        lacked = (row for row in rows if not each.proven and row.run_id not in each.ids)
        if any(each.window.start <= (start_of(row) or 0) < each.window.end for row in lacked):
            each.proven = True
            proven += 1
    return proven


def timestamp(timestamp: float) -> str:
    """An instant as the API wants it: whole seconds, UTC, `Z`."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _access(settings: SnowplowSettings) -> Access:
    root = settings.base_url.rstrip("/") + SnowplowSettings.api_path
    auth, organization = settings.auth, settings.organization_id
    if isinstance(auth, PasswordGrant):
        return Access(
            root=root,
            auth=PasswordAuth(
                username=auth.username,
                password=auth.password.reveal,
                client_id=auth.client_id,
                client_secret=auth.client_secret.reveal,
                token_url=auth.token_url,
                audience=auth.audience,
            ),
            credential=f"{root} {auth.username} {auth.client_id}",
        )
    key_id = auth.api_key_id if isinstance(auth, ApiKeyPair) else None
    return Access(
        root=root,
        auth=ApiKeyAuth(
            root, organization, api_key=auth.api_key.reveal, api_key_id=None if key_id is None else lambda: key_id
        ),
        credential=f"{root} {organization} {key_id or hash(auth.api_key)}",
    )


TYPE = SourceType(
    settings=SnowplowSettings,
    build=SnowplowSource,
    access=_access,
    identity=lambda settings: f"snowplow {settings.base_url} organization {settings.organization_id}",
    results=(Result.SUCCESS, Result.FAILURE, Result.SKIP, Result.UNKNOWN),
    attempts=False,
    has_steps=True,
    reopens=False,
    endpoints=(RUNS, RUN, STEPS),
    reach=REACH,
)
