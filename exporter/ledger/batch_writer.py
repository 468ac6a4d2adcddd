"""Applies batches and expired runs to a transaction, which the ledger then commits."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from exporter.counting import classify, counters, latest
from exporter.counting.classify import Context, CountState, Decision, RunRecord
from exporter.counting.labels import OTHER, clean, label_of
from exporter.counting.names import QUEUE_DURATION, RUN_DURATION
from exporter.counting.records import JobState, ScopeState
from exporter.ledger.scope_writer import ScopeWriter
from exporter.ledger.series_room import SeriesRoom
from exporter.ledger.steps import count_steps
from exporter.ledger.transaction import Sighting, Transaction
from exporter.metrics.families import DELAY, DELAY_BUCKETS, FETCHED, UNMAPPED
from exporter.model import Batch, Disposition, Result, Run, Step, one_row_per_run
from exporter.state.schema import StepState, StoredRun

MAX_UNMAPPED = 20
"""Maximum number of unmapped statuses per run and per source. A source counts the others as `__other__`."""


class BatchStats(msgspec.Struct, kw_only=True):
    """Numbers of rows and of counted runs. `delays`: seconds from the end of each counted run to its commit."""

    dispositions: Counter[Disposition] = msgspec.field(default_factory=Counter)
    results: Counter[Result] = msgspec.field(default_factory=Counter)
    delays: list[float] = []


class BatchWriter:
    """Applies one batch to a transaction, or expires runs.

    Args:
        earlier: The sightings of the poll's earlier batches, by run ID.

    Attributes:
        sightings: The sightings of this batch, by run ID.
        stats: Numbers of the rows and runs of this batch.
    """

    def __init__(self, transaction: Transaction, earlier: Mapping[str, Sighting]) -> None:
        self._transaction = transaction
        self._rules = transaction.rules
        self._poll = transaction.poll
        self._earlier = earlier
        self._room = SeriesRoom(transaction)
        self._scopes = ScopeWriter(transaction, self._room)
        self._contexts: dict[int, Context | None] = {}
        self._bounds: dict[int, tuple[float, ...]] = {}
        self.sightings: dict[str, Sighting] = {}
        self.stats = BatchStats()

    def apply_batch(self, batch: Batch, rows: Mapping[str, StoredRun]) -> None:
        """Apply a batch. `rows`: the committed rows of its runs and of `batch.gone`, by run ID."""
        self._scopes.apply_filter()
        self._transaction.put_checkpoints(batch.checkpoints)
        if not batch.exists:
            self._scopes.record_missing_scope(batch)
            return
        scope = self._scopes.open_scope(batch)
        self._scopes.update_jobs(batch.jobs)
        self._room.unfold()
        if batch.catalog:
            self._scopes.record_listed_jobs(batch)
        # The later of both clocks: if a response has an old `Date`, its runs must not appear to be in the future.
        present = self._poll.now + self._poll.behind
        runs = one_row_per_run(classify.with_plausible_times(run, present) for run in batch.runs)
        self.stats.dispositions[Disposition.DUPLICATE] += len(batch.runs) - len(runs)
        for run in sorted(runs, key=lambda run: run.end if run.end is not None else run.start or 0.0):
            self._apply_run(run, batch.steps.get(run.run_id), batch.scope, rows)
        for run_id in batch.gone:
            if run_id in rows and rows[run_id].mark is CountState.OPEN:
                self.expire(rows[run_id])
        self.stats.dispositions[Disposition.DUPLICATE] += batch.unchanged
        self.stats.dispositions[Disposition.INVALID] += batch.invalid
        self._scopes.move_watermark(batch, scope)
        self._count_stats()

    def _apply_run(self, run: Run, steps: Sequence[Step] | None, scope: str, rows: Mapping[str, StoredRun]) -> None:
        key = self._transaction.find(run.job_id)
        row = self._transaction.runs.get(run.run_id) or rows.get(run.run_id)
        if key is not None and row is not None and row.job != key and self._scope_of(row.job) != self._scope_of(key):
            self.stats.dispositions[Disposition.INVALID] += 1  # IDs are unique in a source
            return
        context = None if key is None else self._context(key, scope)
        if key is None or context is None:
            self.stats.dispositions[Disposition.IGNORED] += 1
            if key is not None and row is not None and row.job != key:
                self._move_to_excluded_job(key, run, row)
            return
        seen = self._earlier.get(run.run_id)
        if seen is not None and not _is_better(run, seen.run):
            self.stats.dispositions[Disposition.DUPLICATE] += 1
            return
        before = seen.before if seen else row
        if before is not None and _completed_while_excluded(before, run, context):
            before = None
        decision = classify.classify(before, run, context)
        counted = seen is not None and seen.counted
        sighting = Sighting(before=before, run=run, counted=counted or decision.counts, scope=scope, steps=steps)
        # Without an end the run counts, but another batch of this poll may show that it ended before the baseline.
        is_uncertain = decision.counts and not counted and run.end is None
        if before is not None and decision.record is not None and (is_uncertain or _contradicts(before, run)):
            self.sightings[run.run_id] = msgspec.structs.replace(sighting, counted=False, waiting=True)
            return
        self.sightings[run.run_id] = sighting
        self._apply_decision(key, sighting, decision, row, counts=decision.counts and not counted)

    def _apply_decision(
        self, key: int, sighting: Sighting, decision: Decision, row: StoredRun | None, *, counts: bool
    ) -> None:
        """Apply a decision about a run. `row`: the run's newest row, which this poll may have written."""
        first = decision.disposition in {Disposition.NEW, Disposition.LATE}
        disposition = Disposition.UPDATED if first and row is not None else decision.disposition
        self.stats.dispositions[disposition] += 1
        record = decision.record
        if record is None:
            if sighting.before is None or row is None or _is_same_record(row, sighting.before):
                return
            # An earlier batch of this poll wrote a stale row: restore the row from before the poll.
            record = sighting.before
        if (counts or record.mark is CountState.OPEN) and self._transaction.peek(key).gone:
            self._scopes.restore(key)
        stored = self._row(key, record, row, late=disposition is Disposition.LATE)
        self._transaction.runs[sighting.run.run_id] = stored
        if counts:
            self._count_completion(stored, sighting.steps)
        elif sighting.run.result is not None:
            self._update_gauges(stored, row)

    def _scope_of(self, key: int) -> str:
        return self._transaction.peek(key).job.scope

    def apply_waiting_rows(self, rows: Mapping[str, StoredRun]) -> None:
        """Apply the rows that contradict stored ones, unless the poll has shown a better row of the same run."""
        for sighting in [each for each in self._earlier.values() if each.waiting]:
            run = sighting.run
            key = self._transaction.find(run.job_id)
            exists = sighting.scope in self._transaction.source.scopes
            context = self._context(key, sighting.scope) if exists and key is not None else None
            if key is None or context is None or sighting.before is None:
                continue
            decision = classify.classify(sighting.before, run, context)
            self._apply_decision(key, sighting, decision, rows.get(run.run_id), counts=decision.counts)
        self._count_stats()

    def _count_stats(self) -> None:
        """Add dispositions and observation delays to the source's counters."""
        source = self._transaction.source
        for disposition, rows in self.stats.dispositions.items():
            source.count(FETCHED, disposition, amount=rows)
        if self.stats.delays:
            delays = source.distribution(DELAY, bounds=DELAY_BUCKETS)
            for seconds in self.stats.delays:
                delays.observe(max(0.0, seconds))

    def _move_to_excluded_job(self, key: int, run: Run, row: StoredRun) -> None:
        """Record that an active run now belongs to an excluded job, so that it is not counted."""
        if row.mark is CountState.OPEN:
            mark = CountState.OPEN if run.result is None else CountState.BASELINE
            self._transaction.runs[run.run_id] = msgspec.structs.replace(
                row, run=run, mark=mark, job=key, seen=self._poll.now
            )

    def _context(self, key: int, scope: str) -> Context | None:
        """Return the context for classifying a job's runs; None for an excluded job."""
        if key not in self._contexts:
            state = self._transaction.peek(key)
            wanted = self._rules.includes(label_of(state.job))
            self._contexts[key] = self._context_of(state, self._transaction.source.scopes[scope]) if wanted else None
        return self._contexts[key]

    def _context_of(self, job: JobState, scope: ScopeState) -> Context:
        return Context(
            baseline=job.baseline,
            watermark=self._scopes.past_watermark(scope),
            settled=scope.complete and self._poll.started > job.baseline,
            included_later=job.baseline > scope.baseline,
            pruned_before=self._transaction.source.pruned_before,
            reopens=self._rules.reopens and job.job.reopens,
            max_run_age=self._rules.max_run_age,
        )

    def _row(self, key: int, record: RunRecord, row: StoredRun | None, *, late: bool) -> StoredRun:
        """Return the row to write. Count a new unmapped status of the run."""
        run, statuses = record.run, row.statuses if row else ""
        if run.unmapped:
            status, known = clean(run.unmapped)[:60], statuses.split("\n")
            # Limited, because a status that contains the run's progress is different in each poll.
            if status and status not in known and len(known) < MAX_UNMAPPED:
                statuses = f"{statuses}\n{status}".strip("\n")
                self._count_unmapped(status)
        return StoredRun(
            run=run,
            mark=record.mark,
            earlier=record.earlier,
            job=key,
            seen=self._poll.now,
            origin=self._origin(record, row),
            statuses=statuses,
            steps=row.steps if row else StepState.NONE,
            tries=row.tries if row else 0,
            incomplete=row.incomplete if row else 0,
            due=row.due if row else None,
            step_results=row.step_results if row else None,
            late=late or (row is not None and row.late),
        )

    def _origin(self, record: RunRecord, row: StoredRun | None) -> float:
        """Return the time from which the run's age counts."""
        begun = classify.origin(record.run)
        if begun is None:
            return row.origin if row else self._poll.now
        if record.mark is CountState.OPEN and record.earlier and record.run.start is None:
            # A reopened run keeps its creation time, but it waits only since it was reopened.
            return max(begun, row.origin if row is not None and row.mark is CountState.OPEN else self._poll.now)
        return begun

    def _count_unmapped(self, status: str) -> None:
        known = self._transaction.source.counts.get(UNMAPPED, {})
        label = status if status in known or len(known) < MAX_UNMAPPED else OTHER
        self._transaction.source.count(UNMAPPED, label)

    def _count_completion(self, stored: StoredRun, steps: Sequence[Step] | None) -> None:
        """Count a completed run. If its steps did not come with it, they are requested later."""
        run = stored.run
        state = self._transaction.job(stored.job)
        self._scopes.restart_grace(state)
        target = self._room.target(state)
        counted = counters.as_counted(stored, self._room.error_type(target, run) if run.error_type else "")
        counters.count_completion(target, counted, has_attempts=self._rules.has_attempts)
        self._observe(target, counted)
        if latest.add_completion(state, counted, self._poll.now):
            self._transaction.jobs_to_recount.add(state.key)
        self.stats.results[run.result or Result.UNKNOWN] += 1
        if run.end is not None:
            self.stats.delays.append(self._poll.now - run.end)
        if not (state.job.has_steps and self._rules.wants_steps(run.result)):
            return
        pending = msgspec.structs.replace(stored, steps=StepState.PENDING, tries=0, incomplete=0, due=self._poll.now)
        self._transaction.runs[run.run_id] = pending
        if steps and not any(step.result is None for step in steps):
            count_steps(self._transaction, self._room, pending, steps)

    def _observe(self, target: JobState, run: Run) -> None:
        result, bounds = run.result or Result.UNKNOWN, self._bounds_of(target)
        if run.duration is not None:
            job = self._room.observer(target, RUN_DURATION, result, bounds=bounds)
            counters.observe_duration(job, run, self._bounds_of(job))
        if run.queue_duration is not None:
            job = self._room.observer(target, QUEUE_DURATION, bounds=bounds)
            counters.observe_queue(job, run, self._bounds_of(job))

    def _bounds_of(self, job: JobState) -> tuple[float, ...]:
        """Return the bounds of a job's run durations. They are computed once per job, not per run."""
        bounds = self._bounds.get(job.key)
        if bounds is None:
            bounds = self._bounds[job.key] = self._rules.run_buckets(job)
        return bounds

    def _update_gauges(self, stored: StoredRun, row: StoredRun | None) -> None:
        """Update the data of gauges for a completed run that does not count now: a baseline run, or a changed one.

        `row`: the run's previous row; None if the run is new.
        """
        state, run = self._transaction.job(stored.job), stored.run
        if row is None:
            recount = (
                latest.add_completion(state, run, self._poll.now) or self._transaction.source.pruned_before is not None
            )
        else:
            if row.job != state.key:
                self._transaction.jobs_to_recount.add(row.job)
                self._transaction.jobs_to_correct.add(row.job)
            latest.update_last_runs(state, run, self._poll.now)
            recount = (row.run.result, row.run.end, row.mark) != (run.result, run.end, stored.mark)
            if recount:
                self._transaction.jobs_to_correct.add(state.key)
        if recount:
            self._transaction.jobs_to_recount.add(state.key)

    def expire(self, row: StoredRun) -> None:
        """Expire an active run as `unknown`. A run of an excluded job is not counted."""
        state = self._transaction.job(row.job)
        wanted = self._rules.includes(label_of(state.job))
        if wanted:
            run, mark = msgspec.structs.replace(row.run, state=None, result=Result.UNKNOWN), CountState.EXPIRED
        else:
            run, mark = row.run, CountState.BASELINE
        self._transaction.runs[run.run_id] = msgspec.structs.replace(row, run=run, mark=mark, seen=self._poll.now)
        if not wanted or classify.is_cleaning_up(row, reopens=self._rules.reopens and state.job.reopens):
            return  # the run's completion is already counted, or must not count
        # Durations, last-run gauges and the streak do not change.
        self._scopes.restart_grace(state)
        counters.count_expired(self._room.target(state))
        self.stats.results[Result.UNKNOWN] += 1


def _completed_while_excluded(row: StoredRun, run: Run, context: Context) -> bool:
    """Return whether a run was active when its job was excluded, and completed before the job was included again."""
    was_open = row.mark is CountState.OPEN and row.seen < context.baseline and context.included_later
    return was_open and run.end is not None and run.end <= context.baseline


def _is_same_record(row: StoredRun, other: StoredRun) -> bool:
    return (row.run, row.mark, row.earlier) == (other.run, other.mark, other.earlier)


def _contradicts(before: StoredRun, run: Run) -> bool:
    """Return whether a row contradicts a stored completion: the row is stale, or the run was reopened."""
    # An active or expired run may change in any way.
    if before.mark is CountState.OPEN or before.mark is CountState.EXPIRED or before.run.result is None:
        return False
    return not _is_better(run, before.run)


def _is_better(run: Run, known: Run) -> bool:
    return one_row_per_run([known, run])[0] is not known
