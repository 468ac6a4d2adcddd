"""Decides which runs `backfill` writes: all that completed before the baselines in the daemon's state."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from exporter.counting.classify import CountState
from exporter.counting.records import JobState, SourceState
from exporter.counting.rules import SourceRules
from exporter.errors import StateError
from exporter.ledger.journal import IdentityError
from exporter.state.location import opened_for_reading
from exporter.state.schema import StoredRun
from exporter.state.sql import SqlStore


class Cutoff:
    """Decides which runs completed before the daemon began to count.

    Args:
        store: The daemon's state, open for reading; None if there is none.
        until: Latest time that a cutoff may have; None to use the baselines alone.
    """

    def __init__(self, store: SqlStore | None, until: float | None) -> None:
        self._store = store
        self._until = until
        loaded = store.load() if store is not None else None
        self._sources: dict[str, SourceState] = {each.name: each for each in loaded.sources} if loaded else {}
        self.jobs: Sequence[JobState] = [job for job in loaded.jobs if not job.overflow] if loaded else []
        self._jobs_by_id = {(job.source, job.job.job_id): job for job in self.jobs}

    def check(self, rules: Mapping[str, SourceRules]) -> None:
        """Raise StateError if the baseline of a source is unknown, or if the state belongs to another API."""
        for name, source_rules in rules.items():
            state = self._sources.get(name)
            if state is not None and state.identity != source_rules.identity:
                raise IdentityError(
                    f"source {name}: the state has the runs of {state.identity}, but the configuration names "
                    f"{source_rules.identity}"
                )
            if self._until is None and (state is None or state.baseline is None):
                raise StateError(
                    f"source {name}: the state has no baseline, because the source was never polled; "
                    "run the daemon first, or give --until"
                )

    def of_job(self, source: str, job_id: str, scope: str) -> float:
        """Return the cutoff of a job. Its runs that completed up to this time are written."""
        return min(timestamp for timestamp in (self._until, self._counted_since(source, job_id, scope)) if timestamp)

    def latest(self, source: str) -> float | None:
        """Return the latest cutoff of a source's jobs; None if unknown."""
        state = self._sources.get(source)
        baselines = [job.baseline for job in self.jobs if job.source == source]
        if state is not None:
            baselines += [scope.baseline for scope in state.scopes.values()]
            baselines += [] if state.baseline is None else [state.baseline]
        return min((time for time in (self._until, max(baselines, default=None)) if time is not None), default=None)

    def _counted_since(self, source: str, job_id: str, scope: str) -> float | None:
        job, state = self._jobs_by_id.get((source, job_id)), self._sources.get(source)
        if job is not None:
            return job.baseline
        if state is None:
            return None
        return state.scopes[scope].baseline if scope in state.scopes else state.baseline

    def counted(self, source: str, run_ids: Collection[str]) -> frozenset[str]:
        """Return which of these runs the daemon counts or will count, even if they completed before the cutoff."""
        rows = self._store.runs(source, run_ids) if self._store is not None else {}
        return frozenset(run_id for run_id, row in rows.items() if row.mark is not CountState.BASELINE)

    def runs(self, source: str) -> list[StoredRun]:
        """Return the source's baseline runs in the state. No counter contains them."""
        return self._store.baseline_runs(source) if self._store is not None else []


@contextmanager
def cutoff_of_state(path: Path, url: str | None, until: float | None) -> Iterator[Cutoff]:
    """Open a state for reading, also while a daemon uses it. With `until`, the state may be missing."""
    with opened_for_reading(path, url) as store:
        if store is None and until is None:
            raise StateError(f"{path}: there is no state; run the daemon first, or give --until")
        yield Cutoff(store, until)
