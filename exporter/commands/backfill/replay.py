"""Replays the runs of a source minute by minute, and records the samples that a daemon would have exposed.

A temporary ledger counts the completed runs in the order of their ends, with the daemon's own code.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import msgspec

from exporter.assembly import counting_rules
from exporter.commands.backfill.cutoff import Cutoff
from exporter.commands.backfill.samples import Samples, SeriesGroup
from exporter.config import Config
from exporter.counting.counters import seed
from exporter.counting.records import JobState
from exporter.exposition.exposition import block_of
from exporter.exposition.textformat import prefix_of
from exporter.ledger.ledger import Ledger
from exporter.ledger.poll_context import PollContext
from exporter.metrics.families import FAMILIES
from exporter.metrics.family import Family, Kind, Level
from exporter.model import Batch, State, Step
from exporter.snapshot.builder import ConfiguredSource, ViewBuilder
from exporter.snapshot.job import active_of
from exporter.state.opening import OpenedState
from exporter.state.schema import StoredRun
from exporter.state.sql import LoadedState
from exporter.state.store import Store

RESOLUTION = 60.0
"""Seconds between two samples."""

OMITTED_FAMILIES = frozenset(
    {
        "jobrun_last_failed_run_info",  # its labels change with each failure, so two series would overlap
        "jobrun_job_enabled",  # only its current value is known
        "jobrun_job_discovered_timestamp_seconds",
        "jobrun_job_next_run_expected_timestamp_seconds",
    }
)
"""Job families that are not written, because their past values are unknown or would overlap."""

WRITTEN_FAMILIES = tuple(
    family for family in FAMILIES if family.level is Level.JOB and family.name not in OMITTED_FAMILIES
)

CREATED, STARTED, ENDED = range(3)


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """The past of a source.

    Attributes:
        store: Its runs.
        steps: Steps of completed runs, by run ID.
        cutoffs: Cutoff of each job, by the job's key. Only runs that completed up to it are written.
        cutoff: Knows which runs the daemon counts. They are not written.
        clock_ahead: Seconds by which the API's clock is ahead of the local clock. No sample may be in the future.
    """

    name: str
    store: Store
    jobs: Sequence[JobState]
    steps: dict[str, Sequence[Step]]
    cutoffs: Mapping[int, float]
    cutoff: Cutoff
    clock_ahead: float = 0.0

    def runs_to_write(self, rows: Sequence[StoredRun]) -> list[StoredRun]:
        """Return the rows of runs to write: they completed up to the cutoff, and the daemon does not count them."""
        early = [row for row in rows if row.run.end is not None and row.run.end <= self.cutoffs[row.job]]
        counted = self.cutoff.counted(self.name, [row.run.run_id for row in early])
        return [row for row in early if row.run.result is not None and row.run.run_id not in counted]


def without_counters(job: JobState) -> JobState:
    """Return a job's record without its counters and runs."""
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
    """Replays one source."""

    def __init__(self, config: Config, configured: ConfiguredSource, past: Past, samples: Samples) -> None:
        self._source_rules, self._past, self._samples = configured.rules, past, samples
        self._views = ViewBuilder(config, {past.name: configured})
        self._families = [family for family in WRITTEN_FAMILIES if family.name not in config.metrics.exclude]
        store = Store("")
        store.load()
        loaded = LoadedState(jobs=[self._at_zero(job) for job in past.jobs])
        self._ledger = Ledger(lambda: OpenedState(store=store, loaded=loaded))
        self._ledger.load()
        rules = msgspec.structs.replace(counting_rules(config), zero_first=False)
        self._ledger.configure({past.name: configured.rules}, rules, config.metrics.step_histograms)
        self._ledger.start_poll(past.name, 0.0)
        self._latest = max(past.cutoffs.values(), default=0.0)
        self._active: dict[int, dict[str, tuple[State, float]]] = {}
        self._recorded: dict[int, Mapping[SeriesGroup, bytes]] = {}

    def _at_zero(self, job: JobState) -> JobState:
        """Return a job's record with its series at 0."""
        record = without_counters(job)
        if not job.folded:
            seed(record, self._source_rules.results, has_attempts=self._source_rules.has_attempts)
            record.expose()
        return record

    def play(self) -> tuple[int, int]:
        """Replay all runs. Return the numbers of jobs and of completed runs to write."""
        completed = 0
        events = self._past.store.events(self._past.name)
        for minute, group in groupby(events, key=lambda event: math.ceil(event[0] / RESOLUTION) * RESOLUTION):
            completed += self._replay_minute(minute, list(group))
        self._ledger.close()
        return len(self._recorded), completed

    def _replay_minute(self, minute: float, events: Sequence[tuple[float, int, str]]) -> int:
        rows = self._past.store.runs(self._past.name, {run_id for _, _, run_id in events})
        shown = [(timestamp, event_kind, rows[run_id]) for timestamp, event_kind, run_id in events]
        due_events = [(kind, row) for timestamp, kind, row in shown if timestamp <= self._past.cutoffs[row.job]]
        for key in {row.job for _, row in due_events} - self._recorded.keys():
            self._record_changes(key, minute - RESOLUTION)
        for event_kind, row in due_events:
            self._update_active(event_kind, row)
        ended = self._count(minute, [row for event_kind, row in due_events if event_kind == ENDED])
        changed = {row.job for _, row in due_events}
        if ended:  # the job `__other__` also counts the runs of jobs without series
            changed |= {key for key, job in self._ledger.committed.jobs.items() if job.overflow}
        for key in changed:
            self._record_changes(key, minute)
        return ended

    def _update_active(self, event_kind: int, row: StoredRun) -> None:
        run, active = row.run, self._active.setdefault(row.job, {})
        if event_kind == ENDED:
            active.pop(run.run_id, None)
        elif event_kind == STARTED and run.start is not None:
            active[run.run_id] = State.EXECUTING, run.start
        elif run.created is not None:
            active[run.run_id] = State.PENDING, run.created

    def _count(self, minute: float, rows: Sequence[StoredRun]) -> int:
        """Count completed runs. Return their number."""
        past = self._past.runs_to_write(rows)
        scopes: dict[str, list[StoredRun]] = {}
        for row in past:
            scopes.setdefault(self._ledger.committed.jobs[row.job].job.scope, []).append(row)
        for scope, group in scopes.items():
            runs = [row.run for row in group]
            steps = {run.run_id: self._past.steps[run.run_id] for run in runs if run.run_id in self._past.steps}
            batch = Batch(scope=scope, runs=runs, steps=steps)
            self._ledger.commit(self._past.name, batch, PollContext(now=minute, started=minute))
        return len(past)

    # --- samples ---

    def _record_changes(self, key: int, timestamp: float) -> None:
        """Record the samples of a job that have changed since the last call."""
        until = self._past.cutoffs.get(key, self._latest) - self._past.clock_ahead
        timestamp = min(timestamp, until)
        before, now = self._recorded.get(key, {}), dict(self._lines(self._ledger.committed.jobs[key]))
        for group in before.keys() - now.keys():
            self._samples.add_absence(group, timestamp)
        for group, lines in now.items():
            if before.get(group) == lines:
                continue
            if key in self._recorded and group not in before and group.starts_at_zero:
                self._samples.add(group, timestamp - RESOLUTION, zero(lines), until)
            self._samples.add(group, timestamp, lines, until)
        self._recorded[key] = now

    def _lines(self, job: JobState) -> Iterator[tuple[SeriesGroup, bytes]]:
        """Yield the lines of each series of a job."""
        view = msgspec.structs.replace(
            self._views.job(job),
            step_histograms=self._ledger.counting.step_histograms,
            active=active_of(self._active.get(job.key, {}).values()),
            # Unknown for the past: links to runs, and when the next run was expected.
            objective=None,
            failed_run_url="",
            next_expected=None,
        )
        prefix = self._samples.prefix(prefix_of(Level.JOB, view.common_labels))
        for family in self._families:
            for lines in _lines_by_series(family, block_of(family, prefix, view).plain):
                yield SeriesGroup.of(family, lines), lines


def _lines_by_series(family: Family, block: bytes) -> Iterator[bytes]:
    """Yield the lines of each series: one line, or several for a histogram."""
    # The last line of a histogram series is its count.
    last = f"{family.name}_count{{".encode() if family.kind is Kind.HISTOGRAM else b""
    lines_of_group: list[bytes] = []
    for line in block.splitlines(keepends=True):
        lines_of_group.append(line)
        if line.startswith(last):
            yield b"".join(lines_of_group)
            lines_of_group = []


def zero(lines: bytes) -> bytes:
    """Return the same series with the value 0."""
    return b"".join(line.rpartition(b" ")[0] + b" 0.0\n" for line in lines.splitlines())
