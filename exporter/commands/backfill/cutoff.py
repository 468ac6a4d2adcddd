"""Decides which runs `backfill` writes: all that completed before the baselines in the daemon's state."""

from collections.abc import Collection, Mapping

from exporter.counting.classify import CountState
from exporter.counting.rules import SourceRules
from exporter.errors import StateError
from exporter.ledger.journal import IdentityError
from exporter.state.schema import StoredRun
from exporter.state.sql import LoadedState, SqlStore


class Cutoff:
    """Decides which runs completed before the daemon began to count.

    Args:
        store: The daemon's state, open for reading; None if there is none.
        until: Latest time that a cutoff may have; None to use the baselines alone.
    """

    def __init__(self, store: SqlStore | None, until: float | None) -> None:
        self._store = store
        self._until = until
        loaded = LoadedState() if store is None else store.load()
        self._sources = {each.name: each for each in loaded.sources}
        self.jobs = [job for job in loaded.jobs if not job.overflow]
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
        job, state = self._jobs_by_id.get((source, job_id)), self._sources.get(source)
        baseline = None if job is None else job.baseline
        if job is None and state is not None:
            baseline = state.scopes[scope].baseline if scope in state.scopes else state.baseline
        return min(time for time in (self._until, baseline) if time is not None)

    def latest(self, source: str) -> float | None:
        """Return the latest cutoff of a source's jobs; None if unknown."""
        baselines = [job.baseline for job in self.jobs if job.source == source]
        if (state := self._sources.get(source)) is not None:
            baselines += [scope.baseline for scope in state.scopes.values()]
            baselines += [] if state.baseline is None else [state.baseline]
        return min((time for time in (self._until, max(baselines, default=None)) if time is not None), default=None)

    def counted(self, source: str, run_ids: Collection[str]) -> frozenset[str]:
        """Return which of these runs the daemon counts or will count, even if they completed before the cutoff."""
        rows = self._store.runs(source, run_ids) if self._store is not None else {}
        return frozenset(run_id for run_id, row in rows.items() if row.mark is not CountState.BASELINE)

    def baseline_runs(self, source: str) -> list[StoredRun]:
        """Return the source's baseline runs in the state. No counter contains them."""
        return self._store.baseline_runs(source) if self._store is not None else []
