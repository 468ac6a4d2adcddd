"""Applies the scope of a batch, and the list of the scope's jobs, to a transaction."""

from collections.abc import Callable

from exporter.counting.records import JobState, ScopeState
from exporter.ledger.job_writer import JobWriter
from exporter.ledger.transaction import Transaction
from exporter.model import Batch

MISSING_GRACE = 900.0
"""Seconds for which a job must be missing in the vendor's lists before its series end: one list may be wrong."""


class ScopeWriter:
    """Changes the scopes of one transaction. `is_busy`: returns whether a job has active runs."""

    def __init__(self, transaction: Transaction, jobs: JobWriter, is_busy: Callable[[int], bool]) -> None:
        self._transaction = transaction
        self._jobs = jobs
        self._is_busy = is_busy

    def open_scope(self, batch: Batch) -> ScopeState:
        """Return a copy of the scope's record. A scope that is readable for the first time gets its own baseline."""
        source = self._transaction.source
        known = source.scopes.get(batch.scope)
        if known is None:
            self._transaction.put_scope(batch.scope, ScopeState(baseline=self._first_baseline(batch)))
        elif known.watermark is None and not known.read and not known.readable and batch.readable:
            self._transaction.put_scope(batch.scope, ScopeState(baseline=self._transaction.poll.started))
        known = self._transaction.scope(batch.scope)
        known.readable, known.missing_since = batch.readable, None
        known.read = known.read or batch.readable
        listing = batch.listing
        if listing is not None and listing.at != source.listed and listing.scopes <= source.scopes.keys():
            source.listed = listing.at
        return known

    def _first_baseline(self, batch: Batch) -> float:
        """Return a new scope's baseline: when the API last listed scopes without it, or else the source's baseline."""
        source = self._transaction.source
        if batch.listing is not None and source.listed is not None:
            return source.listed
        return self._transaction.poll.started if source.baseline is None else source.baseline

    def end_scope(self, batch: Batch) -> None:
        """End the series of a deleted scope's jobs, and drop the scope, once it has been missing for MISSING_GRACE."""
        now = self._transaction.poll.now
        if batch.scope in self._transaction.source.scopes:
            scope = self._transaction.scope(batch.scope)
            scope.readable = scope.readable and batch.readable
            scope.missing_since = now if scope.missing_since is None else scope.missing_since
            self.list_jobs(batch)
            busy = any(self._is_busy(key) for key in self._transaction.jobs_of_scope(batch.scope))
            if now - scope.missing_since > MISSING_GRACE and not busy:
                self._transaction.drop_scope(batch.scope)
        self.put_checkpoints(batch)

    def put_checkpoints(self, batch: Batch) -> None:
        """Store the positions at which the source continues to read."""
        for name, text in batch.checkpoints.items():
            self._transaction.put_checkpoint(name, text)

    def list_jobs(self, batch: Batch) -> None:
        """Record which jobs the vendor lists, and end the series of jobs that have been missing for MISSING_GRACE."""
        listed, now = {job.job_id for job in batch.jobs}, self._transaction.poll.now
        for key in self._transaction.jobs_of_scope(batch.scope):
            state = self._transaction.peek(key)
            if state.job.job_id in listed:
                if not state.listed or state.missing_since is not None:
                    state = self._transaction.job(key)
                    state.listed, state.missing_since = True, None
            elif state.listed and state.missing_since is None:
                self._transaction.job(key).missing_since = now
            elif state.listed and not state.gone and now - (state.missing_since or 0) > MISSING_GRACE:
                self._end_job(state)

    def _end_job(self, state: JobState) -> None:
        """End a job's series, unless the job has an active run: the run's completion must still be counted."""
        if not (self._transaction.rules.has_objective(state) or self._is_busy(state.key)):
            self._jobs.retire(state.key)
