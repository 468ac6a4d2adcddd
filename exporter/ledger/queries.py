"""Read access to the ledger: committed records and rows."""

from collections.abc import Collection
from contextlib import suppress

from exporter.counting.records import JobState, OpenRun, SourceState
from exporter.counting.rules import SourceRules
from exporter.errors import StateError
from exporter.ledger.journal import Changed, Journal
from exporter.snapshot.builder import Committed
from exporter.snapshot.snapshot import ExporterView
from exporter.state.schema import StoredRun


class LedgerQueries(Journal):
    """Returns committed records and rows."""

    def drain(self) -> Committed:
        """Return the committed records, and the keys of the jobs that changed since the last call."""
        with self._lock:
            # Both are taken under the lock, so that a later commit is in the next snapshot.
            changed, self._changed = self._changed, Changed()
            return Committed(
                jobs=self.committed.jobs,
                sources=self.committed.sources,
                exporter=self._exporter_view(),
                open_runs={name: self._open.ordered(name) for name in self._rules},
                changed=None if changed.everything else changed.jobs,
                starting=frozenset(self._starting),
                polled=frozenset(self._polled),
                step_histograms=self.step_histograms,
            )

    def _exporter_view(self) -> ExporterView:
        return ExporterView(
            state=self.committed.exporter,
            last_commit=self.last_commit,
            state_size=self.size() if self.last_commit is not None else 0,
            state_error=self.error,
            commit_errors=self.commit_errors,
        )

    def changed(self) -> list[JobState]:
        """Return the committed records of the jobs that the next `drain` will report."""
        with self._lock:
            jobs = self.committed.jobs
            return (
                list(jobs.values())
                if self._changed.everything
                else [jobs[key] for key in self._changed.jobs if key in jobs]
            )

    def starting(self) -> frozenset[str]:
        """Return the sources that have had no complete poll since this process started."""
        with self._lock:
            return frozenset(self._starting)

    def unread(self) -> frozenset[str]:
        """Return the sources of which not everything was read since their records were loaded again."""
        with self._lock:
            return frozenset(self._unread)

    def source(self, name: str) -> SourceState:
        """Return the record of a source, with the unwritten changes of its poll."""
        committed, draft = self.committed.sources[name], self._drafts.get(name)
        return draft.source if draft is not None and draft.base is committed else committed

    def owned(self) -> dict[str, SourceRules]:
        """Return the rules of the configured sources that this process may write."""
        return {name: rules for name, rules in self._rules.items() if self.owns(name)}

    def owns(self, source: str) -> bool:
        """Return whether this process may poll a source and write its records. With replicas, only one may."""
        return self._store is None or self._store.owns(source)

    def size(self) -> int:
        """Return the size of the state on disk, in bytes; 0 while it is not open or cannot be read."""
        with self._lock, suppress(StateError):
            return self._store.size() if self._store is not None else 0
        return 0

    def jobs_of(self, source: str) -> list[JobState]:
        """Return the committed records of a source's included jobs, including those that are gone."""
        with self._lock:
            return [job for job in self.committed.of_source(source).values() if not job.excluded]

    def open_runs(self, source: str, scope: str | None = None) -> list[OpenRun]:
        """Return the active runs of a source or one of its scopes, oldest first."""
        with self._lock:
            return self._open.of(source, scope)

    def rows(self, source: str, run_ids: Collection[str]) -> dict[str, StoredRun]:
        """Return the committed rows of these runs."""
        with self._lock:
            return self._store.runs(source, run_ids) if self._store is not None and run_ids else {}

    def pending_steps(self, source: str, now: float, limit: int) -> list[StoredRun]:
        """Return the runs whose steps are due to be fetched, the most urgent first."""
        with self._lock:
            return self._store.pending_steps(source, now, limit) if self._store is not None else []

    def count_pending_steps(self, source: str, ended: float | None = None) -> int:
        """Return how many runs wait for their steps. `ended`: only runs that ended until then."""
        with self._lock:
            return self._store.count_pending_steps(source, ended) if self._store is not None else 0
