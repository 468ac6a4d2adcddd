"""Replays the runs of a source minute by minute, and records the samples that its series would have had.

A temporary ledger counts the completed runs, in the order of their ends, with the same code as the daemon.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import msgspec

from exporter.assembly import counting_rules
from exporter.commands.backfill.samples import Samples, Unit
from exporter.config import Config
from exporter.counting.counters import seed
from exporter.counting.records import Counted, JobState, oldest
from exporter.exposition.exposition import block_of
from exporter.exposition.textformat import prefix_of
from exporter.ledger.ledger import Ledger
from exporter.ledger.poll_context import PollContext
from exporter.metrics.families import FAMILIES
from exporter.metrics.family import Family, Kind, Level
from exporter.model import Batch, State, Step
from exporter.snapshot.builder import ConfiguredSource, ViewBuilder
from exporter.snapshot.job import JobView
from exporter.state.opening import OpenedState
from exporter.state.schema import StoredRun
from exporter.state.sql import LoadedState
from exporter.state.store import Store

GRID = 60.0
"""Seconds between two times at which a value may change."""

NOT_THEN = frozenset(
    {
        "jobrun_last_failed_run_info",  # its labels change with each failure: two series would overlap
        "jobrun_job_enabled",  # only its current value is known
        "jobrun_job_discovered_timestamp_seconds",
        "jobrun_job_next_run_expected_timestamp_seconds",
    }
)
"""Families of jobs that are not written for the past."""

WRITTEN = tuple(family for family in FAMILIES if family.level is Level.JOB and family.name not in NOT_THEN)

CREATED, STARTED, ENDED = range(3)


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of a source and how they count.

    Attributes:
        name: Name of the source.
        store: The source's runs.
        jobs: The source's jobs, with their labels.
        steps: Steps of completed runs, by run ID.
        until: Baseline of each job by its key. Only runs that completed before it are written.
        counted: Returns the runs that the daemon counts, although they may have completed before the baseline.
        ahead: Seconds by which the API's clock is ahead of the local clock. No sample may be in the future.
    """

    name: str
    store: Store
    jobs: Sequence[JobState]
    steps: dict[str, Sequence[Step]]
    until: Mapping[int, float]
    counted: Callable[[Collection[str]], frozenset[str]]
    ahead: float = 0.0

    def endings(self, rows: Sequence[StoredRun]) -> list[StoredRun]:
        """Return the rows whose runs completed before the baseline and are not counted by the daemon."""
        ended = [row for row in rows if row.run.end is not None and row.run.end <= self.until[row.job]]
        counted = self.counted([row.run.run_id for row in ended])
        return [row for row in ended if row.run.result is not None and row.run.run_id not in counted]


def bare(job: JobState) -> JobState:
    """Return a job's record with its labels, without counters and runs."""
    return JobState(
        key=job.key,
        source=job.source,
        job=job.job,
        project=job.project,
        name=job.name,
        discovered=job.discovered,
        baseline=0.0,
        folded=job.folded,
        gone=job.gone,
    )


class Replay:
    """Replays one source.

    Args:
        config: The configuration.
        shown: The source's settings and rules.
        past: The source's past.
        samples: Collects the samples.
    """

    def __init__(self, config: Config, shown: ConfiguredSource, past: Past, samples: Samples) -> None:
        self._shown, self._past, self._samples = shown, past, samples
        rules = counting_rules(config)
        self._rules = msgspec.structs.replace(rules, zero_first=False)
        self._views = ViewBuilder(config, {past.name: shown})
        self._written = [family for family in WRITTEN if family.name not in config.metrics.exclude]
        store = Store("")
        store.load()
        loaded = LoadedState(sources=[], jobs=[self._begun(job) for job in past.jobs], open_runs=[], exporter=Counted())
        self._ledger = Ledger(lambda: OpenedState(store=store, loaded=loaded))
        self._ledger.load()
        self._ledger.configure({past.name: shown.rules}, self._rules, config.metrics.step_histograms)
        self._ledger.start_poll(past.name, 0.0)
        self._latest = max(past.until.values(), default=0.0)
        self._active: dict[int, dict[str, tuple[State, float]]] = {}
        self._seen: dict[int, Mapping[Unit, bytes]] = {}

    def _begun(self, job: JobState) -> JobState:
        """Return a job's record with its series at 0."""
        fresh = bare(job)
        if not job.folded:
            seed(fresh, self._shown.rules.results, attempts=self._shown.rules.attempts)
            fresh.expose()
        return fresh

    @property
    def jobs(self) -> int:
        """Return the number of jobs with runs to write."""
        return len(self._seen)

    def play(self) -> int:
        """Replay all runs. Return the number of completed runs."""
        endings = 0
        moments = self._past.store.moments(self._past.name)
        for minute, group in groupby(moments, key=lambda moment: math.ceil(moment[0] / GRID) * GRID):
            endings += self._minute(minute, list(group))
        self._ledger.close()
        return endings

    def _minute(self, minute: float, moments: Sequence[tuple[float, int, str]]) -> int:
        rows = self._past.store.runs(self._past.name, {run_id for _, _, run_id in moments})
        happened = [
            (what, rows[run_id])
            for timestamp, what, run_id in moments
            if timestamp <= self._past.until[rows[run_id].job]
        ]
        for key in {row.job for _, row in happened} - self._seen.keys():
            self._note(key, minute - GRID)
        for what, row in happened:
            self._follow(what, row)
        ended = self._entered(minute, [row for what, row in happened if what == ENDED])
        for key in {row.job for _, row in happened} | self._overflowing(ended):
            self._note(key, minute)
        return ended

    def _overflowing(self, ended: int) -> set[int]:
        """Return the key of the `__other__` job if runs completed; otherwise nothing."""
        jobs = self._ledger.committed.jobs.values()
        return {job.key for job in jobs if job.overflow and job.source == self._past.name} if ended else set()

    def _follow(self, what: int, row: StoredRun) -> None:
        """Update the active runs."""
        run, active = row.run, self._active.setdefault(row.job, {})
        if what == ENDED:
            active.pop(run.run_id, None)
        elif what == STARTED and run.start is not None:
            active[run.run_id] = State.EXECUTING, run.start
        elif run.created is not None:
            active[run.run_id] = State.PENDING, run.created

    def _entered(self, minute: float, rows: Sequence[StoredRun]) -> int:
        """Count completed runs. Return their number."""
        past = self._past.endings(rows)
        scopes: dict[str, list[StoredRun]] = {}
        for row in past:
            scopes.setdefault(self._ledger.committed.jobs[row.job].job.scope, []).append(row)
        for scope, group in scopes.items():
            runs = [row.run for row in group]
            steps = {run.run_id: self._past.steps[run.run_id] for run in runs if run.run_id in self._past.steps}
            batch = Batch(scope=scope, runs=runs, steps=steps)
            self._ledger.commit(self._past.name, batch, PollContext(now=minute, started=minute))
        return len(past)

    # --- what is seen ---

    def _note(self, key: int, timestamp: float) -> None:
        """Record the samples of a job that have changed at a time."""
        until = self._past.until.get(key, self._latest) - self._past.ahead
        timestamp = min(timestamp, until)
        before, now = self._seen.get(key, {}), dict(self._lines(self._ledger.committed.jobs[key]))
        for unit in before.keys() - now.keys():
            self._samples.gone(unit, timestamp)
        for unit, lines in now.items():
            if before.get(unit) == lines:
                continue
            if key in self._seen and unit not in before and unit.counts:
                self._samples.note(unit, timestamp - GRID, zero(lines), until)
            self._samples.note(unit, timestamp, lines, until)
        self._seen[key] = now

    def _lines(self, job: JobState) -> Iterator[tuple[Unit, bytes]]:
        view = self._view(job)
        prefix = prefix_of(Level.JOB, (job.source, job.project, job.name))
        for family in self._written:
            for lines in _units(family, block_of(family, self._samples.prefix(prefix), view).plain):
                yield Unit.of(family, lines), lines

    def _view(self, job: JobState) -> JobView:
        view = self._views.job(job, step_histograms=self._ledger.step_histograms)
        active = _counted(self._active.get(job.key, {}).values())
        # The past has neither links to single runs nor due times.
        return msgspec.structs.replace(view, active=active, objective=None, failed_run_url="", next_expected=None)


def _counted(active: Iterable[tuple[State, float]]) -> dict[State, tuple[int, float | None]]:
    """Return the number of runs and the earliest start per state."""
    runs = list(active)
    starts = {state: [since for each, since in runs if each is state] for state in State}
    return {state: (len(found), oldest(found)) for state, found in starts.items() if found}


def _units(family: Family, block: bytes) -> Iterator[bytes]:
    """Yield groups of lines: all lines of a histogram series, which ends with its count, or any other single line."""
    last = f"{family.name}_count{{".encode() if family.kind is Kind.HISTOGRAM else b""
    held: list[bytes] = []
    for line in block.splitlines(keepends=True):
        held.append(line)
        if line.startswith(last):
            yield b"".join(held)
            held = []


def zero(lines: bytes) -> bytes:
    """Return the same series with the value 0."""
    return b"".join(line.rpartition(b" ")[0] + b" 0.0\n" for line in lines.splitlines())
