"""Reads the past of a source, as far back as its API shows runs, into a temporary ledger."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from exporter.assembly import Assembly, Clocks, NoPublisher
from exporter.commands.backfill.cutoff import Cutoff
from exporter.commands.backfill.replay import Past, without_counters
from exporter.config import Config
from exporter.duration import UNITS, format_duration
from exporter.errors import NotFoundError, SourceError
from exporter.ledger.ledger import Ledger
from exporter.ledger.poll_context import PollContext
from exporter.metrics.requests import RequestMetrics
from exporter.model import Batch, Run, Step
from exporter.sources.source import Source
from exporter.sources.view import View
from exporter.sources.windows import CLOCK_MARGIN
from exporter.state.opening import OpenedState
from exporter.state.sql import LoadedState
from exporter.state.store import Store

SINGLE_POLL_INTERVAL = UNITS["d"]
"""Poll interval in seconds. It is long, so that a source may take the time to read everything in one poll."""

MAX_POLLS, POLL_PAUSE = 30, 60.0
"""Maximum number of polls if one cannot read everything, and the seconds between two polls."""

BATCH = 500
"""Number of runs per commit."""

MAX_STEP_ERRORS = 3
"""Consecutive failed requests for steps after which the steps of all remaining runs are skipped."""

REPORT_INTERVAL = 10.0
"""Minimum seconds between two lines about the progress."""

ReportLine = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class DeepView(View):
    """A view of a ledger that makes a source read everything from the time `start` on."""

    start: float

    def watermark(self, scope: str = "") -> float | None:
        """Return the watermark of a scope, or `start` before its first batch."""
        known = super().watermark(scope)
        return self.start if known is None else known

    def baseline(self, scope: str = "") -> float:  # noqa: ARG002  # all scopes have the same
        """Return `start`."""
        return self.start


class PastReader:
    """Reads the past into a temporary ledger.

    Args:
        config: The config, with a `lookback` of the whole past.
        cutoff: Decides which runs are written.
        report: Receives lines about the progress.
    """

    def __init__(self, config: Config, cutoff: Cutoff, clocks: Clocks, report: ReportLine) -> None:
        self._cutoff, self._clocks, self._report = cutoff, clocks, report
        self._sleep = clocks.sleep or time.sleep
        self._reported = clocks.monotonic()
        self._store = Store("")
        self._store.load()
        loaded = LoadedState(jobs=[without_counters(job) for job in cutoff.jobs])
        self._ledger = Ledger(lambda: OpenedState(store=self._store, loaded=loaded))
        self._ledger.load()
        self.assembly = Assembly(config, self._ledger, RequestMetrics(CollectorRegistry()), NoPublisher(), clocks)
        self._rules = {name: each.rules for name, each in self.assembly.configured.items()}
        cutoff.check(self._rules)
        self.assembly.configure()

    def close(self) -> None:
        """Close the sources and delete the ledger."""
        self.assembly.interrupt()
        self.assembly.close()
        self._ledger.close()

    def read(self, name: str) -> Past:
        """Return the past of a source. Raises SourceError if a part cannot be read."""
        client, source = self.assembly.clients[name], self.assembly.sources[name]
        self._await_settled(name, client.now())
        start = client.now() - self.assembly.configured[name].settings.lookback
        self._ledger.start_poll(name, start)
        includes = self._rules[name].includes
        view = DeepView(ledger=self._ledger, source=name, clock=client.now, includes=includes, start=start)
        steps = self._read_api(name, source, view)
        self._add_stored_runs(name)
        jobs = self._ledger.jobs_of(name)
        past = Past(
            name=name,
            store=self._store,
            jobs=jobs,
            steps=steps,
            cutoffs={job.key: self._cutoff.of_job(name, job.job.job_id, job.job.scope) for job in jobs},
            cutoff=self._cutoff,
            clock_ahead=max(0.0, client.skew),
        )
        self._fetch_steps(past, source, client.now())
        return past

    def _read_api(self, name: str, source: Source, view: DeepView) -> dict[str, Sequence[Step]]:
        """Read all runs that the API shows. Return the steps that came with them."""
        steps: dict[str, Sequence[Step]] = {}
        for number in range(MAX_POLLS):
            if number:
                self._report(f"{name}: not everything is read yet; continuing in {POLL_PAUSE:.0f} s")
                self._sleep(POLL_PAUSE)
            self._read_once(name, source, view, steps)
            scopes = self._ledger.source(name).scopes
            if all(scope.watermark is not None for scope in scopes.values() if scope.readable):
                if refused := [scope or "all" for scope, state in scopes.items() if not state.readable]:
                    self._report(f"{name}: not readable, skipped: {', '.join(sorted(refused))}")
                return steps
        raise SourceError(f"{name}: not everything could be read")

    def _report_sometimes(self, line: str) -> None:
        """Report a line, unless the last one was reported less than REPORT_INTERVAL seconds ago."""
        now = self._clocks.monotonic()
        if now - self._reported >= REPORT_INTERVAL:
            self._reported = now
            self._report(line)

    def _await_settled(self, name: str, now: float) -> None:
        """Wait until the API shows all runs from before the cutoff."""
        # An API may show the newest runs late, and sources do not request them yet (see exporter.sources.windows). The
        # daemon does not count them either, because they are baseline runs.
        end = self._cutoff.latest(name)
        settle = max(self.assembly.configured[name].settings.settle, CLOCK_MARGIN + 1)
        if end is not None and now < end + settle:
            self._report(f"{name}: the daemon has just started to count; waiting {end + settle - now:.0f} s")
            self._sleep(end + settle - now)

    def _read_once(self, name: str, source: Source, view: DeepView, steps: dict[str, Sequence[Step]]) -> None:
        self._reported, runs = self._clocks.monotonic(), 0
        for batch in source.fetch(view):
            now = view.now
            runs += len(batch.runs)
            self._report_sometimes(f"{name}: {runs} runs read")
            self._ledger.commit(name, batch, PollContext(now=now, started=now))
            steps.update(batch.steps)
        self._ledger.apply_waiting_rows(name, view.now)

    def _add_stored_runs(self, name: str) -> None:
        """Add runs that are in the daemon's state, but that the API no longer shows."""
        runs_by_scope: defaultdict[str, list[Run]] = defaultdict(list)
        for row in self._cutoff.baseline_runs(name):
            runs_by_scope[self._ledger.committed.jobs[row.job].job.scope].append(row.run)
        for scope, runs in runs_by_scope.items():
            for start in range(0, len(runs), BATCH):
                part = runs[start : start + BATCH]
                known = self._ledger.rows(name, {run.run_id for run in part})
                missing = [run for run in part if run.run_id not in known]
                now = self._clocks.clock()
                self._ledger.commit(name, Batch(scope=scope, runs=missing), PollContext(now=now, started=now))

    def _fetch_steps(self, past: Past, source: Source, now: float) -> None:
        """Fetch the steps of the runs to write, the latest runs first. Skip steps that cannot be fetched."""
        name = past.name
        waiting = past.runs_to_write(self._ledger.pending_steps(name, now + SINGLE_POLL_INTERVAL, -1))
        pending = [row.run for row in waiting if row.run.run_id not in past.steps]
        total, errors = len(pending), 0
        if pending:
            pace = self.assembly.configured[name].settings.requests_per_minute
            limit = format_duration(max(60, round(total / pace) * 60))
            cure = '(without them: steps: "off" in a copy of the configuration)'
            self._report(f"{name}: fetching the steps of {total} runs, {limit} at most {cure}")
        self._reported = started = self._clocks.monotonic()
        for done, run in enumerate(pending):
            if done:
                left = format_duration(math.ceil((self._clocks.monotonic() - started) / done * (total - done)))
                part = f"steps of {done} of {total} runs ({done * 100 // total} %)"
                self._report_sometimes(f"{name}: {part}, about {left} left")
            try:
                past.steps[run.run_id] = source.steps(run)
                errors = 0
            except NotFoundError:
                continue
            except SourceError as error:
                errors += 1
                if errors == MAX_STEP_ERRORS:
                    self._report(f"{name}: the steps of the other runs are skipped: {error}")
                    return
