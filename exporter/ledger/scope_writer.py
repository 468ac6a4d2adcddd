"""Applies the scopes of batches, and the jobs in these scopes, to a transaction."""

from collections.abc import Callable

from exporter.counting.records import ScopeState
from exporter.ledger.transaction import Transaction
from exporter.model import Batch

MISSING_GRACE = 900.0
"""Seconds for which a job must be missing in lists before its series end, so that one wrong list ends no series."""


class ScopeWriter:
    """Changes one transaction. `is_busy`: whether a job has active runs."""

    def __init__(self, transaction: Transaction, is_busy: Callable[[int], bool]) -> None:
        self._transaction = transaction
        self._is_busy = is_busy

    def open(self, batch: Batch) -> ScopeState:
        """Return the scope's record. A scope that becomes readable for the first time gets its own baseline."""
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
        """Return the baseline of a new scope: the source's baseline, or the time of the last list without the scope."""
        source = self._transaction.source
        if batch.listing is not None and source.listed is not None:
            return source.listed
        return self._transaction.poll.started if source.baseline is None else source.baseline

    def end(self, batch: Batch) -> None:
        """End the jobs of a deleted scope, and drop the scope after it has been missing for a while."""
        now = self._transaction.poll.now
        if batch.scope in self._transaction.source.scopes:
            scope = self._transaction.scope(batch.scope)
            scope.readable = scope.readable and batch.readable
            scope.missing_since = now if scope.missing_since is None else scope.missing_since
            self.list_jobs(batch)
            busy = any(self._is_busy(key) for key in self._transaction.keys(batch.scope))
            if now - scope.missing_since > MISSING_GRACE and not busy:
                self._transaction.drop_scope(batch.scope)
        self.put_checkpoints(batch)

    def put_checkpoints(self, batch: Batch) -> None:
        """Store the positions at which the source continues to read."""
        for name, text in batch.checkpoints.items():
            self._transaction.put_checkpoint(name, text)

    def list_jobs(self, batch: Batch) -> None:
        """Record which jobs are listed, and end jobs that have not been listed for a while."""
        shown = {job.job_id for job in batch.jobs}
        for key in self._transaction.keys(batch.scope):
            state = self._transaction.peek(key)
            if state.job.job_id in shown:
                if not state.listed or state.missing_since is not None:
                    state = self._transaction.job(key)
                    state.listed, state.missing_since = True, None
            elif state.listed and state.missing_since is None:
                self._transaction.job(key).missing_since = self._transaction.poll.now
            elif (
                state.listed
                and not state.gone
                and self._transaction.poll.now - (state.missing_since or 0) > MISSING_GRACE
            ):
                self._end_job(key)

    def _end_job(self, key: int) -> None:
        """End a job's series, unless it has an active run: the run's completion must still be counted."""
        if not (self._transaction.rules.never_expires(self._transaction.peek(key)) or self._is_busy(key)):
            self._transaction.retire(key)
