"""The committed records in memory, and indexes to find them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

from exporter.counting.records import Counted, JobState, OpenRun, SourceState
from exporter.state.schema import StoredRun

Runs = dict[str, OpenRun]

Key = TypeVar("Key")


class LedgerState:
    """The committed records. A record is replaced as a whole.

    Attributes:
        by_id: Keys of jobs by source and the vendor's ID.
        names: Keys of jobs by source, project and name, which are the labels of their series.
        folded: Keys of each source's folded jobs, oldest first.
        series: Number of series of each job that count against `max_series`.
        steps: Number of step names that each job has.
        first_keys: First job key of each source if replicas share the state; otherwise empty.
    """

    def __init__(self) -> None:
        self.sources: dict[str, SourceState] = {}
        self.jobs: dict[int, JobState] = {}
        self.by_id: dict[tuple[str, str], int] = {}
        self.names: dict[tuple[str, str, str], int] = {}
        self.series: dict[int, int] = {}
        self.series_total = 0
        self.steps: dict[int, int] = {}
        self.steps_total = 0
        self.exporter = Counted()
        self.open_runs = OpenRuns()
        self.first_keys: Mapping[str, int] = {}
        self._next_key = 1
        self._next_keys: dict[str, int] = {}
        self.folded: defaultdict[str, dict[int, None]] = defaultdict(dict)
        self._by_source: defaultdict[str, dict[int, JobState]] = defaultdict(dict)
        self._by_scope: defaultdict[tuple[str, str], dict[int, JobState]] = defaultdict(dict)

    def put_job(self, job: JobState, series: int) -> None:
        """Add or replace a job's record. `series`: how many of its series count against `max_series`."""
        self._unlink(job.key)
        self.jobs[job.key] = job
        self.by_id[job.source, job.job.job_id] = job.key
        if not job.overflow:
            self._by_source[job.source][job.key] = job
            self._by_scope[job.source, job.job.scope][job.key] = job
        if job.folded:
            self.folded[job.source][job.key] = None
        if job.shown:
            self.names[job.source, job.project, job.name] = job.key
        self._update_totals(job.key, series, len(job.step_names()) + len(job.folded_steps) if job.shown else 0)
        self._next_key = max(self._next_key, job.key + 1)
        self._next_keys[job.source] = max(self._next_keys.get(job.source, 0), job.key + 1)

    def next_key(self, source: str) -> int:
        """Return the key of the source's next new job."""
        if not self.first_keys:
            return self._next_key
        return max(self.first_keys[source], self._next_keys.get(source, 0))

    def delete(self, key: int) -> None:
        """Remove a job."""
        job = self.jobs[key]
        self._unlink(key)
        self._by_source[job.source].pop(key, None)
        self._update_totals(key, 0, 0)
        del self.jobs[key], self.by_id[job.source, job.job.job_id], self.series[key], self.steps[key]

    def of_source(self, name: str) -> dict[int, JobState]:
        """Return the source's jobs without the overflow job."""
        return self._by_source.get(name, {})

    def of_scope(self, source: str, scope: str) -> dict[int, JobState]:
        """Return the jobs of one scope."""
        return self._by_scope.get((source, scope), {})

    def _update_totals(self, key: int, series: int, steps: int) -> None:
        self.series_total += series - self.series.get(key, 0)
        self.series[key] = series
        self.steps_total += steps - self.steps.get(key, 0)
        self.steps[key] = steps

    def _unlink(self, key: int) -> None:
        """Remove a job from the indexes whose keys can change."""
        job = self.jobs.get(key)
        if job is None:
            return
        if self.names.get((job.source, job.project, job.name)) == key:
            del self.names[job.source, job.project, job.name]
        self.folded[job.source].pop(key, None)
        self._by_scope[job.source, job.job.scope].pop(key, None)
        if not self._by_scope[job.source, job.job.scope]:
            del self._by_scope[job.source, job.job.scope]


class OpenRuns:
    """The active runs of all sources, by source, scope and job. A run may move to another job."""

    def __init__(self) -> None:
        self._by_source: defaultdict[str, Runs] = defaultdict(dict)
        self._by_scope: defaultdict[tuple[str, str], Runs] = defaultdict(dict)
        self._by_job: defaultdict[int, Runs] = defaultdict(dict)
        self._ordered: dict[str, tuple[OpenRun, ...]] = {}
        self._due_since: dict[str, dict[str, float]] = {}

    def put(self, source: str, run: OpenRun) -> set[int]:
        """Add or replace an active run. Return the keys of the jobs whose active runs changed."""
        changed = self.drop(source, run.run_id) | {run.job}
        self._by_source[source][run.run_id] = run
        self._ordered.pop(source, None)
        self._by_scope[source, run.scope][run.run_id] = run
        self._by_job[run.job][run.run_id] = run
        return changed

    def drop(self, source: str, run_id: str) -> set[int]:
        """Remove a run that is no longer active. Return the key of its job; an empty set if the run was unknown."""
        run = self._by_source.get(source, {}).pop(run_id, None)
        if run is None:
            return set()
        self._ordered.pop(source, None)
        _remove(self._by_scope, (source, run.scope), run_id)
        _remove(self._by_job, run.job, run_id)
        return {run.job}

    def update(self, source: str, runs: Mapping[str, OpenRun | None]) -> set[int]:
        """Put runs, and drop those that are None. Return the keys of the jobs whose active runs changed."""
        changes = [self.drop(source, each) if run is None else self.put(source, run) for each, run in runs.items()]
        return set().union(*changes)

    def clear(self, source: str) -> set[int]:
        """Remove all runs of a source. Return the keys of their jobs."""
        runs = list(self._by_source.get(source, ()))
        return {job for run_id in runs for job in self.drop(source, run_id)}

    def of(self, source: str, scope: str | None = None) -> list[OpenRun]:
        """Return the active runs of a source or of one of its scopes, oldest first."""
        runs = self._by_source.get(source, {}) if scope is None else self._by_scope.get((source, scope), {})
        return sorted(runs.values(), key=lambda run: run.origin)

    def ordered(self, source: str) -> tuple[OpenRun, ...]:
        """Return the active runs of a source, oldest first. The tuple is the same object while nothing changes."""
        # Snapshots compare the tuple by identity to see whether anything changed.
        if source not in self._ordered:
            self._ordered[source] = tuple(self.of(source))
        return self._ordered[source]

    def due_for(self, seconds: float, source: str, due: Iterable[str], now: float) -> list[str]:
        """Return the IDs of runs that have been due to expire for this long. `due`: IDs due now."""
        before = self._due_since.get(source, {})
        # If the clock is set back, the grace period starts again.
        self._due_since[source] = {run_id: min(before.get(run_id, now), now) for run_id in due}
        return [run_id for run_id, since in self._due_since[source].items() if now - since >= seconds]

    def is_busy(self, job: int) -> bool:
        """Return whether a job has active runs."""
        return job in self._by_job


def as_open(row: StoredRun, job: JobState) -> OpenRun:
    """Return the active run of a row."""
    run = row.run
    return OpenRun(
        run_id=run.run_id,
        job=row.job,
        job_id=run.job_id,
        scope=job.job.scope,
        state=run.state,
        origin=row.origin,
        start=run.start,
        scheduled=run.scheduled,
    )


def _remove(index: defaultdict[Key, Runs], key: Key, run_id: str) -> None:
    runs = index[key]
    del runs[run_id]
    if not runs:
        del index[key]
