"""The ledger: commits each batch of a poll in one transaction, and keeps the committed records in memory."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import msgspec

from exporter.counting.classify import CountState
from exporter.counting.records import JobState, OpenRun, SourceState
from exporter.errors import StateError
from exporter.ledger.batch_writer import BatchStats, BatchWriter
from exporter.ledger.journal import Journal
from exporter.ledger.poll_context import PollContext
from exporter.ledger.scope_writer import MISSING_GRACE
from exporter.ledger.series_room import SeriesRoom
from exporter.ledger.status import PollReport, UnwrittenPolls, is_readable
from exporter.ledger.steps import count_steps, lose_steps, retry_later
from exporter.ledger.transaction import Transaction
from exporter.metrics.families import COLD_STARTS, STEPS_LOST, TRUNCATED, UNOBSERVED
from exporter.model import Batch, Step
from exporter.snapshot.builder import Committed
from exporter.snapshot.snapshot import ExporterView
from exporter.state.schema import StepState, StoredRun

SEEDED = (UNOBSERVED, TRUNCATED, STEPS_LOST)
"""Counters of a source that exist from its first poll on."""

EXPIRY_GRACE = 900.0
"""Seconds for which runs that are due to expire are kept while polls fail, and after the clock jumped."""


ChangePolls = Callable[[UnwrittenPolls], UnwrittenPolls]


class Ledger(Journal):
    """The ledger of all runs. Thread-safe. A process has one."""

    # --- what is committed ---

    def drain(self) -> Committed:
        """Return the committed records, and the keys of the jobs that changed since the last call."""
        with self.lock:
            size = 0
            if self.last_commit is not None:
                with suppress(StateError):
                    size = self.store().size()
            exporter = ExporterView(
                state=self.committed.exporter,
                last_commit=self.last_commit,
                state_size=size,
                state_error=self.error,
                commit_errors=self.commit_errors,
            )
            # Both are taken under the lock, so that a later commit is in the next snapshot.
            changed, everything = self.changed_jobs, self.everything_changed
            self.changed_jobs, self.everything_changed = set(), False
            return Committed(
                jobs=self.committed.jobs,
                sources=self.committed.sources,
                exporter=exporter,
                open_runs={name: self.committed.open_runs.ordered(name) for name in self.rules},
                changed=None if everything else changed,
                starting=self.starting,
                polled=frozenset(name for name, memory in list(self._memory.items()) if memory.polled),
                step_histograms=self.counting.step_histograms,
            )

    def source(self, name: str) -> SourceState:
        """Return the record of a source, including unwritten changes of its poll."""
        committed, draft = self.committed.sources[name], self._memory[name].draft
        return draft.source if draft is not None and draft.base is committed else committed

    def jobs_of(self, source: str) -> list[JobState]:
        """Return the committed records of a source's included jobs, also of those that are gone."""
        with self.lock:
            return [job for job in self.committed.of_source(source).values() if not job.excluded]

    def open_runs(self, source: str, scope: str | None = None) -> list[OpenRun]:
        """Return the active runs of a source or one of its scopes, oldest first."""
        with self.lock:
            return self.committed.open_runs.of(source, scope)

    def rows(self, source: str, run_ids: Collection[str]) -> dict[str, StoredRun]:
        """Return the committed rows of these runs."""
        with self.lock:
            return self._store.runs(source, run_ids) if self._store is not None and run_ids else {}

    # --- polls ---

    def start_poll(self, source: str, now: float) -> int:
        """Start a poll. The first one stores the baseline. Return how often the source's records were loaded."""
        with self.lock:
            self.load()
            self.apply_waiting_rows(source, now)
            if source in self.unread:
                self.unread[source] = min(self.unread[source], now)
            known = self.source(source)
            missing = [family for family in SEEDED if family not in known.counts]
            if known.baseline is None or missing:
                with self._committing(source, PollContext.at(now)) as transaction:
                    for family in missing:
                        transaction.source.count(family, amount=0)
                    transaction.source.baseline = now if known.baseline is None else known.baseline
            return self._memory[source].loads

    def apply_waiting_rows(self, source: str, now: float) -> BatchStats:
        """End a poll's batches: apply the rows that wait for the poll's end, and clear its sightings."""
        with self.lock:
            memory, stats = self._memory[source], BatchStats()
            waiting = [run_id for run_id, sighting in memory.sightings.items() if sighting.waiting]
            if waiting:
                poll_context = PollContext(now=now, started=memory.poll_started or now, load=memory.loads)
                with self._committing(source, poll_context) as transaction:
                    writer = BatchWriter(transaction, memory.sightings)
                    writer.apply_waiting_rows(self.rows(source, waiting))
                    stats = writer.stats
            memory.sightings.clear()
            return stats

    def shift_baseline(self, source: str, seconds: float, now: float, *, again: bool) -> None:
        """Shift the baseline of a source without batches after a clock jump. `again`: even if it was shifted before."""
        with self.lock:
            known = self.source(source)
            if known.baseline is not None and not known.scopes and (again or not known.clock_checked):
                with self._committing(source, PollContext.at(now)) as transaction:
                    transaction.source.baseline = known.baseline + seconds
                    transaction.source.clock_checked = True

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        """Commit a batch in one transaction. If it only moves the watermark, it is committed at the end of the poll."""
        with self.lock:
            if self._memory[source].poll_started != poll_context.started:
                self.apply_waiting_rows(source, poll_context.now)
            transaction = self._transaction(source, poll_context)
            memory = self._memory[source]
            memory.poll_started = poll_context.started
            if transaction.starting and not memory.has_commits:
                _count_if_too_old(transaction)
            writer = BatchWriter(transaction, memory.sightings)
            ids = {run.run_id for run in batch.runs}.union(batch.gone)
            writer.apply_batch(batch, self.rows(source, ids))
            if transaction.can_be_deferred and batch.exists and batch.scope in transaction.base.scopes:
                memory.draft = transaction
            else:
                self._commit(transaction, poll_context.now)
            memory.sightings.update(writer.sightings)
            memory.has_commits = True
            return writer.stats

    def expire_open_runs(self, source: str, poll_context: PollContext, *, grace: float = 0.0) -> BatchStats:
        """Expire the active runs that are older than `max_run_age`. Call it after a poll has read everything.

        Args:
            source: The source's name.
            poll_context: The time of the poll.
            grace: Seconds for which runs are kept after they are due to expire.
        """
        with self.lock:
            stats = self.apply_waiting_rows(source, poll_context.now)
            old = _old_runs(self, source, poll_context.now)
            old = self.committed.open_runs.due_for(grace, source, old, poll_context.now)
            if old:
                with self._committing(source, poll_context) as transaction:
                    writer = BatchWriter(transaction, {})
                    for row in self.rows(source, old).values():
                        writer.expire(row)
                    stats.results.update(writer.stats.results)
            return stats

    def complete_poll(self, source: str, poll_context: PollContext, *, swept: bool) -> None:
        """Record that a poll read everything. From now on the source's counters are served."""
        with self.lock:
            transaction = self._transaction(source, poll_context)
            first = not transaction.source.complete
            transaction.source.complete = True
            scopes = transaction.source.scopes.items()
            fresh = [name for name, scope in scopes if scope.watermark is not None and not scope.complete]
            for name in fresh:
                transaction.scope(name).complete = True
            if swept or transaction.source.last_sweep is None:
                transaction.source.last_sweep = poll_context.now
            if first:
                _request_baseline_steps(self, transaction)
            if first or swept or fresh:
                self._commit(transaction, poll_context.now)
            else:
                self._memory[source].draft = transaction
            self.starting -= {source}
            watermark = transaction.source.watermark() if transaction.source.scopes else poll_context.now
            since = self.unread.get(source, float("inf")) - self.rules[source].settle
            if watermark is not None and watermark >= since:
                del self.unread[source]
            self.everything_changed = self.everything_changed or first

    # --- outcomes of polls ---

    def record_up(self, source: str, now: float, *, read: bool) -> None:
        """Record whether a source is up, before its poll ends: fetching steps may take long."""
        with self.lock:
            self._memory[source].polled = True
            if source in self.rules:
                up = read and is_readable(self.source(source))
                if self._polls_of(source).status.up is not up:
                    self._write_polls(source, lambda polls: polls.with_up(up=up), now, or_keep=True)

    def skip_polls(self, source: str, polls: int, now: float) -> None:
        """Record polls that came due while one was running."""
        with self.lock:
            self._write_polls(source, lambda before: before.with_skipped(polls), now, or_keep=True)

    def finish_poll(self, source: str, report: PollReport) -> None:
        """Commit the report of a poll and all changes that waited for its end. Raises StateError."""
        with self.lock:
            self._write_polls(source, lambda polls: self._after(polls, source, report), report.ended)
            self._memory[source].polled = True

    def keep_poll(self, source: str, report: PollReport) -> None:
        """Keep the report of a poll that cannot be written now. The source's next transaction writes it."""
        with self.lock:
            self._keep_polls(source, lambda polls: self._after(polls, source, report))
            self._memory[source].polled = True

    def _polls_of(self, source: str) -> UnwrittenPolls:
        return self._memory[source].unwritten or UnwrittenPolls(self.committed.sources[source].status)

    def _after(self, polls: UnwrittenPolls, source: str, report: PollReport) -> UnwrittenPolls:
        pending = None if self._store is None else self._store.count_pending_steps(source)
        return polls.after(report, up=is_readable(self.source(source)), pending_steps=pending)

    def _write_polls(self, source: str, change: ChangePolls, now: float, *, or_keep: bool = False) -> None:
        if source not in self.rules:
            return  # a reload has removed it while it was polled
        try:
            with self._committing(source, PollContext.at(now)) as transaction:
                transaction.polls = change(self._polls_of(source))
        except StateError:
            if not or_keep:
                raise
            self._keep_polls(source, change)

    def _keep_polls(self, source: str, change: ChangePolls) -> None:
        # Nothing unwritten is kept for a source whose records must be reloaded: replicas would show different values.
        if source in self.rules.keys() - self._sources_to_reload:
            self._memory[source].unwritten = change(self._polls_of(source))
            self._show_unwritten_status(source)
        else:
            self._memory[source].unwritten = None

    # --- steps ---

    def pending_steps(self, source: str, now: float, limit: int) -> list[StoredRun]:
        """Return the runs whose steps are due to be fetched, the most urgent first."""
        with self.lock:
            return self._store.pending_steps(source, now, limit) if self._store is not None else []

    def commit_steps(self, source: str, row: StoredRun, steps: Sequence[Step], poll_context: PollContext) -> None:
        """Count a run's steps, and mark them as counted, in one transaction."""
        with self._committing(source, poll_context) as transaction:
            count_steps(transaction, SeriesRoom(transaction), row, steps)

    def record_missing_steps(self, source: str, row: StoredRun, poll_context: PollContext) -> None:
        """Commit that the API does not have a run's steps (404)."""
        with self._committing(source, poll_context) as transaction:
            lose_steps(transaction, row)

    def record_steps_error(self, source: str, row: StoredRun, poll_context: PollContext) -> None:
        """Commit that a request for a run's steps failed."""
        with self._committing(source, poll_context) as transaction:
            retry_later(transaction, row)


def _count_if_too_old(transaction: Transaction) -> None:
    """Count a cold start if the state is older than the API's reach: some runs can no longer be read."""
    watermark = transaction.source.watermark()
    if watermark is not None and transaction.poll.now - watermark > transaction.rules.reach:
        transaction.count_for_exporter(COLD_STARTS, "lost")


def _request_baseline_steps(ledger: Ledger, transaction: Transaction) -> None:
    """Request the steps of each job's last completed and last failed run, if these are baseline runs."""
    source, steps = transaction.rules.name, transaction.rules.steps
    jobs = [job for job in ledger.committed.of_source(source).values() if job.job.has_steps]
    last_runs = [job.last_run for job in jobs if steps == "all"]
    last_failures = [job.last_failure for job in jobs if steps != "off"]
    ids = {last.run_id for last in (*last_runs, *last_failures) if last is not None}
    for run_id, row in ledger.rows(source, ids).items():
        if row.mark is CountState.BASELINE and row.steps is StepState.NONE:
            due = transaction.poll.now
            transaction.runs[run_id] = msgspec.structs.replace(row, steps=StepState.BASELINE, due=due)


def _old_runs(ledger: Ledger, source: str, now: float) -> list[str]:
    """Return the IDs of the active runs that are older than `max_run_age`."""
    # The age is measured at the watermark: a run may have completed after it, and a clock that is ahead must not expire
    # all runs.
    limit, state = ledger.rules[source].max_run_age, ledger.source(source)
    return [run.run_id for run in ledger.open_runs(source) if _read_until(state, run.scope, now) - run.origin > limit]


def _read_until(source: SourceState, scope: str, now: float) -> float:
    """Return the time up to which a scope was read: its watermark, or `now` if the scope was removed."""
    state = source.scopes.get(scope)
    if state is None or (state.missing_since is not None and now - state.missing_since > MISSING_GRACE):
        return now
    return min(now, state.baseline if state.watermark is None else state.watermark)
