"""The command `backfill`: what happened before the daemon counted, as OpenMetrics with timestamps.

The sources read as far back as their APIs reach into a ledger that is thrown away, and what they brought is played back
in its order: see `exporter.history.replay`. The daemon's state, if there is one, is only looked at: it says up to which
instant each job's endings are the past, and how its duplicates are named.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from exporter.assembly import Assembly, Clocks, counting_rules
from exporter.client.client import Client
from exporter.config.config import Config
from exporter.config.source import SourceSettings
from exporter.counting.records import Counted
from exporter.counting.rules import SourceRules
from exporter.duration import UNITS, format_duration
from exporter.errors import JobrunError, NotFoundError, SourceError
from exporter.history.cutoff import Before, before_of_state
from exporter.history.options import Wanted
from exporter.history.progress import Progress
from exporter.history.replay import Past, Replay, bare
from exporter.history.samples import Samples
from exporter.ledger.batch_writer import PollContext
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.model import Batch, Step
from exporter.once import NoPages
from exporter.polling.view import LedgerView
from exporter.sources import SOURCES
from exporter.sources.source import Source
from exporter.state.opening import OpenedState
from exporter.state.storage import LoadedState
from exporter.state.store import Store

SHARE = 0.5
"""The part of the request budget that is used: a daemon may be using the same credential."""

UNHURRIED = UNITS["d"]
"""Taken for the poll interval, so that the sources wait for the budget and leave nothing to a later poll."""

ROUNDS, PAUSE = 30, 60.0
"""How often a source is asked that needs several rounds, and the seconds between them."""

BATCH = 500
"""Runs of the state, or runs that wait for their steps, that are handled at once."""

FAULTS = 3
"""Failed step fetches in a row after which the others are left out."""

Tell = Callable[[str], object]


class BackfillError(JobrunError):
    """There is no past to be written, or nowhere to write it."""

    reason = "state"


class Written(msgspec.Struct, kw_only=True):
    """What was written. `size`: in bytes."""

    jobs: int = 0
    runs: int = 0
    samples: int = 0
    size: int = 0


def backfill(config: Config, wanted: Wanted, outside: Clocks, tell: Tell) -> Written:
    """Writes the reachable past of all sources.

    Raises:
        BackfillError, StateError: The state does not say up to when, or the output cannot be written.
        SourceError: A source could not be read to its end; then nothing is written.
    """
    if wanted.until is not None and wanted.until > outside.clock():
        raise BackfillError("--until lies in the future")
    if wanted.output.exists():
        raise BackfillError(f"{wanted.output} exists; give another name, or remove it")
    with closing(Samples(wanted.labels)) as samples:
        with (
            before_of_state(Path(config.state.path), wanted.until) as before,
            closing(_Book(_unhurried(config), before, outside, tell)) as book,
        ):
            written = Written()
            for name in book.assembly.sources:
                past = book.read(name)
                replay = Replay(book.config, book.assembly.shown[name], past, samples)
                written.runs += replay.play()
                written.jobs += replay.jobs
        tell(f"writing {written.runs} endings of {written.jobs} jobs")
        try:
            written.samples, written.size = samples.write(wanted.output)
        except OSError as error:
            raise BackfillError(f"{wanted.output} cannot be written: {error.strerror}") from error
    return written


def _unhurried(config: Config) -> Config:
    """The same sources, reading as deep as they can and asking at half their pace."""
    return config.model_copy(
        update={"sources": tuple(_deep(settings, config.state.retention) for settings in config.sources)}
    )


def _deep(settings: SourceSettings, retention: float) -> SourceSettings:
    depth = max(settings.lookback, min(SOURCES[settings.type].reach, retention))
    share = SHARE * settings.requests_per_minute
    return settings.model_copy(
        update={"lookback": depth, "poll_interval": UNHURRIED, "requests_per_minute": share, "sweep": None}
    )


class DeepView(LedgerView):
    """A view on a ledger in which everything that a source can reach counts."""

    def __init__(self, ledger: Ledger, source: str, client: Client, floor: float, rules: SourceRules) -> None:
        super().__init__(
            ledger, source, clock=client.now, sweep_due=False, wants=rules.wants, out_of_time=lambda: False
        )
        self._floor = floor

    def watermark(self, scope: str = "") -> float | None:
        """As if all had been read up to the floor."""
        known = super().watermark(scope)
        return self._floor if known is None else known

    def baseline(self, scope: str = "") -> float:  # noqa: ARG002  # the same for all
        """Everything after the floor is wanted."""
        return self._floor


class _Book:
    """The ledger into which the past is read."""

    def __init__(self, config: Config, before: Before, outside: Clocks, tell: Tell) -> None:
        self.config = config
        self._before = before
        self._outside = outside
        self._tell = tell
        self._progress = Progress(tell, outside.monotonic)
        self._store = Store("")
        self._store.load()
        jobs = [bare(job) for job in before.jobs]
        loaded = LoadedState(sources=[], jobs=jobs, open_runs=[], exporter=Counted())
        self._ledger = Ledger(lambda: OpenedState(store=self._store, loaded=loaded))
        self._ledger.load()
        self.assembly = Assembly(config, self._ledger, RequestMetrics(CollectorRegistry()), NoPages(), outside)
        self._rules = {name: shown.rules for name, shown in self.assembly.shown.items()}
        before.check(self._rules)
        self._ledger.configure(self._rules, counting_rules(config), config.metrics.step_histograms)

    def close(self) -> None:
        """Forgets everything."""
        self.assembly.interrupt()
        self.assembly.close()
        self._ledger.close()

    def read(self, name: str) -> Past:
        """The reachable past of a source."""
        steps: dict[str, Sequence[Step]] = {}
        client, source = self.assembly.clients[name], self.assembly.sources[name]
        floor = client.now() - self.assembly.shown[name].settings.lookback
        self._ledger.start_poll(name, floor)
        view = DeepView(self._ledger, name, client, floor, self._rules[name])
        for number in range(ROUNDS):
            if number:
                self._tell(f"{name}: more is to be read; going on in {PAUSE:.0f} s")
                self.assembly.sleep(PAUSE)
            self._read_once(name, source, view, steps)
            if self._is_whole(name):
                break
        else:
            raise SourceError(f"{name}: not everything could be read")
        self._warn_of_unreadable(name)
        self._add_known(name)
        jobs = self._ledger.jobs_of(name)
        past = Past(
            name=name,
            store=self._store,
            jobs=jobs,
            steps=steps,
            until={job.key: self._before.timestamp(name, job.job.job_id, job.job.scope) for job in jobs},
            counted=lambda run_ids: self._before.counted(name, run_ids),
            ahead=max(0.0, client.skew),
        )
        self._fetch_steps(past, source, client.now())
        return past

    def _read_once(self, name: str, source: Source, view: DeepView, steps: dict[str, Sequence[Step]]) -> None:
        self._progress.begin()
        runs = 0
        for batch in source.fetch(view):
            now = view.now
            runs += len(batch.runs)
            self._progress(f"{name}: {runs} runs read")
            self._ledger.commit(name, batch, PollContext(now=now, started=now))
            source.committed(batch)
            steps.update(batch.steps)

    def _is_whole(self, name: str) -> bool:
        scopes = self._ledger.source(name).scopes.values()
        return all(scope.watermark is not None for scope in scopes if scope.readable)

    def _warn_of_unreadable(self, name: str) -> None:
        refused = [scope or "all" for scope, state in self._ledger.source(name).scopes.items() if not state.readable]
        if refused:
            self._tell(f"{name}: not readable, and left out: {', '.join(sorted(refused))}")

    def _add_known(self, name: str) -> None:
        """Runs that the state still holds and the API no longer shows."""
        rows = self._before.runs(name)
        for start in range(0, len(rows), BATCH):
            batch = {row.run.run_id: row for row in rows[start : start + BATCH]}
            shown = self._ledger.rows(name, batch)
            by_scope: dict[str, list[Batch]] = {}
            for row in (row for run_id, row in batch.items() if run_id not in shown):
                scope = self._ledger.committed.jobs[row.job].job.scope
                by_scope.setdefault(scope, []).append(Batch(scope=scope, runs=[row.run]))
            for batches in by_scope.values():
                whole = msgspec.structs.replace(batches[0], runs=[run for each in batches for run in each.runs])
                self._ledger.commit(name, whole, PollContext(now=self._outside.clock(), started=self._outside.clock()))

    def _fetch_steps(self, past: Past, source: Source, now: float) -> None:
        """The steps of runs that are to be written, those of the latest first; what cannot be had is left out."""
        waiting = past.endings(self._ledger.pending_steps(past.name, now + UNHURRIED, -1))
        pending = [row for row in waiting if row.run.run_id not in past.steps]
        errors = 0
        if pending:
            pace = self.assembly.shown[past.name].settings.requests_per_minute
            self._tell(
                f"{past.name}: asking for the steps of {len(pending)} runs, "
                f"{format_duration(max(60, round(len(pending) / pace) * 60))} at the most "
                '(without them: steps: "off" in a copy of the configuration)'
            )
        self._progress.begin()
        for number, row in enumerate(pending):
            if number:
                self._tell_steps(past.name, number, len(pending))
            try:
                past.steps[row.run.run_id] = source.steps(row.run)
                errors = 0
            except NotFoundError:
                continue
            except SourceError as error:
                errors += 1
                if errors == FAULTS:
                    self._tell(f"{past.name}: the steps of the other runs are left out: {error}")
                    return

    def _tell_steps(self, name: str, done: int, total: int) -> None:
        rest = format_duration(math.ceil(self._progress.seconds_left(done, total)))
        self._progress(f"{name}: steps of {done} of {total} runs ({done * 100 // total} %), about {rest} left")
