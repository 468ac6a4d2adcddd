"""The active runs of all sources in memory, found by source, scope and job."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from exporter.counting.records import JobState, OpenRun
from exporter.state.schema import StoredRun

Runs = dict[str, OpenRun]

Key = TypeVar("Key")


class OpenRuns:
    """The active runs of all sources. A run may move to another job while it is active."""

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

    def overdue(self, source: str, due: Iterable[str], now: float, grace: float) -> list[str]:
        """Return the runs that are `due` to expire now and were already due `grace` seconds ago in this process."""
        before = self._due_since.get(source, {})
        # After the clock was set back, the grace period starts again.
        self._due_since[source] = {run_id: min(before.get(run_id, now), now) for run_id in due}
        return [run_id for run_id, since in self._due_since[source].items() if now - since >= grace]

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
