"""Applies batches, expired runs and steps of runs to a transaction.

A writer changes its transaction and nothing else. The ledger gives it the rows it needs, and commits the transaction.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from exporter.counting import classify, counters, latest
from exporter.counting.classify import Context, CountState, Decision, RunRecord
from exporter.counting.counters import Rules
from exporter.counting.labels import OTHER, clean, label_of
from exporter.counting.records import JobState, ScopeState
from exporter.ledger.scope_writer import ScopeWriter
from exporter.ledger.sightings import Sighting, Sightings
from exporter.ledger.step_writer import StepWriter
from exporter.ledger.transaction import Transaction
from exporter.metrics.families import (
    DELAY,
    DELAY_BUCKETS,
    FETCHED,
    QUEUE_DURATION,
    RUN_DURATION,
    TRUNCATED,
    UNMAPPED,
    UNOBSERVED,
)
from exporter.model import Batch, Disposition, Result, Run, Step, Window, one_row_per_run
from exporter.state.schema import StepState, StoredRun

MAX_WORDS = 20
"""Unmapped statuses per run, further ones are not counted, and per source, further ones count as `__other__`."""


MAX_RANGES = 1000
"""Unobserved ranges that a source remembers. Ranges that it no longer remembers could be counted again."""


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """Data of the poll in progress that is not in records and rows.

    Attributes:
        sightings: Rows that earlier batches of the poll have shown.
        is_busy: Whether a job has active runs.
    """

    sightings: Sightings
    is_busy: Callable[[int], bool]


class BatchStats(msgspec.Struct, kw_only=True):
    """Statistics of what was written. `delays`: seconds from the end of each counted run to now."""

    dispositions: Counter[Disposition] = msgspec.field(default_factory=Counter)
    results: Counter[Result] = msgspec.field(default_factory=Counter)
    delays: list[float] = []


class BatchWriter:
    """Changes one transaction. `present`: the state of the poll in progress."""

    def __init__(self, transaction: Transaction, present: Present) -> None:
        self._transaction = transaction
        self._rules = transaction.rules
        self._poll = transaction.poll
        self._present = present
        self._steps = StepWriter(transaction)
        self._scopes = ScopeWriter(transaction, present.is_busy)
        self._contexts: dict[int, Context | None] = {}
        self._rules_of: dict[int, Rules] = {}
        self.sightings: dict[str, Sighting] = {}
        self.stats = BatchStats()

    def batch(self, batch: Batch, rows: Mapping[str, StoredRun]) -> None:
        """Apply a batch. `rows`: the committed rows of its runs and of those that are gone."""
        if not batch.exists:
            self._scopes.end(batch)
            return
        scope = self._scopes.open(batch)
        self._transaction.describe(batch.jobs)
        self._transaction.unfold()
        if batch.catalog:
            self._scopes.list_jobs(batch)
        # By the clock that is ahead: an API whose clock is late for once must not make its runs look like future ones.
        present = self._poll.now + self._poll.behind
        runs = one_row_per_run(classify.with_plausible_times(run, present) for run in batch.runs)
        self.stats.dispositions[Disposition.DUPLICATE] += len(batch.runs) - len(runs)
        for run in sorted(runs, key=_order):
            self._run(run, batch.steps.get(run.run_id), batch.scope, rows)
        for run_id in batch.gone:
            if run_id in rows and rows[run_id].mark is CountState.OPEN:
                self.expire_open_runs(rows[run_id])
        self.stats.dispositions[Disposition.DUPLICATE] += batch.unchanged
        self.stats.dispositions[Disposition.INVALID] += batch.invalid
        self._progress(batch, scope)

    def _run(self, run: Run, steps: Sequence[Step] | None, scope: str, rows: Mapping[str, StoredRun]) -> None:
        key = self._transaction.find(run.job_id)
        row = self._transaction.runs.get(run.run_id) or rows.get(run.run_id)
        if key is not None and row is not None and self._is_elsewhere(key, row):
            self.stats.dispositions[Disposition.INVALID] += 1
            return
        context = None if key is None else self._context(key, scope)
        if key is None or context is None:
            self.stats.dispositions[Disposition.IGNORED] += 1
            if key is not None and row is not None and row.job != key:
                self._moved_away(key, run, row)
            return
        seen = self._present.sightings.get(run.run_id)
        if seen is not None and not seen.believes(run):
            self.stats.dispositions[Disposition.DUPLICATE] += 1
            return
        before = seen.before if seen else row
        if before is not None and _ended_while_excluded(before, run, context):
            before = None
        verdict = classify.classify(before, run, context)
        counted = seen is not None and seen.counted
        sighting = Sighting(before=before, run=run, counted=counted or verdict.counts, scope=scope, steps=steps)
        if before is not None and verdict.keep is not None and _contradicts(before, run):
            self.sightings[run.run_id] = msgspec.structs.replace(sighting, counted=False, waiting=True)
            return
        self.sightings[run.run_id] = sighting
        self._believe(key, sighting, verdict, row, counts=verdict.counts and not counted)

    def _believe(self, key: int, sighting: Sighting, verdict: Decision, row: StoredRun | None, *, counts: bool) -> None:
        """Write what a row means. `row`: the row of the run so far, from this poll or an earlier one."""
        first = verdict.disposition in {Disposition.NEW, Disposition.LATE}
        disposition = Disposition.UPDATED if first and row is not None else verdict.disposition
        self.stats.dispositions[disposition] += 1
        keep = verdict.keep
        if keep is None:
            if sighting.before is None or row is None or _says_the_same(row, sighting.before):
                return
            # An earlier batch of this poll recorded a stale row: continue from what was known before the poll.
            keep = sighting.before
        if (counts or keep.mark is CountState.OPEN) and self._transaction.look(key).gone:
            self._transaction.revive(key)
        stored = self._row(key, keep, row, late=disposition is Disposition.LATE)
        self._transaction.runs[sighting.run.run_id] = stored
        if counts:
            self._completed(stored, sighting.steps)
        elif sighting.run.result is not None:
            self._uncounted(stored, row)

    def _is_elsewhere(self, key: int, row: StoredRun) -> bool:
        """Return whether an ID belongs to a run of another scope: it is not unique, and this run cannot be counted."""
        return row.job != key and self._transaction.look(row.job).job.scope != self._transaction.look(key).job.scope

    def settle(self, rows: Mapping[str, StoredRun]) -> None:
        """Apply rows that contradict what was known, if the poll has shown no better ones."""
        for sighting in self._present.sightings.waiting():
            run = sighting.run
            key = self._transaction.find(run.job_id)
            exists = sighting.scope in self._transaction.source.scopes
            context = self._context(key, sighting.scope) if exists and key is not None else None
            if key is None or context is None or sighting.before is None:
                continue
            verdict = classify.classify(sighting.before, run, context)
            self._believe(key, sighting, verdict, rows.get(run.run_id), counts=verdict.counts)

    def tally(self) -> None:
        """Add dispositions and observation delays to the source's counters."""
        source = self._transaction.source
        for disposition, rows in self.stats.dispositions.items():
            source.count(FETCHED, disposition, amount=rows)
        if self.stats.delays:
            delays = source.distribution(DELAY, bounds=DELAY_BUCKETS)
            for seconds in self.stats.delays:
                delays.observe(max(0.0, seconds))

    def _moved_away(self, key: int, run: Run, row: StoredRun) -> None:
        """Move a run to the excluded job that it now belongs to. It counts for no job."""
        if row.mark is CountState.OPEN:
            mark = CountState.OPEN if run.result is None else CountState.BASELINE
            self._transaction.runs[run.run_id] = msgspec.structs.replace(
                row, run=run, mark=mark, job=key, seen=self._poll.now
            )

    def _context(self, key: int, scope: str) -> Context | None:
        """Return the context for classifying a job's runs; None for an excluded job."""
        if key not in self._contexts:
            state = self._transaction.look(key)
            wanted = self._rules.wants(label_of(state.job))
            self._contexts[key] = self._context_of(state, self._transaction.source.scopes[scope]) if wanted else None
        return self._contexts[key]

    def _context_of(self, job: JobState, scope: ScopeState) -> Context:
        ahead = scope.watermark is not None and scope.watermark > self._poll.now
        return Context(
            baseline=job.baseline,
            watermark=None if ahead else scope.watermark,
            settled=scope.complete and self._poll.started > job.baseline,
            included_later=job.baseline > scope.baseline,
            forgotten=self._transaction.source.forgotten,
            reopens=self._rules.reopens and job.job.reopens,
            max_run_age=self._rules.max_run_age,
        )

    def _row(self, key: int, keep: RunRecord, row: StoredRun | None, *, late: bool) -> StoredRun:
        """Return the row to write; an unmapped status is counted once per run."""
        run, words = keep.run, row.words if row else ""
        word, known = clean(run.unmapped)[:60], words.split("\n")
        # A status with the progress of a run differs at each poll.
        if word and word not in known and len(known) < MAX_WORDS:
            words = f"{words}\n{word}".strip("\n")
            self._unmapped(word)
        begun = classify.origin(run)
        return StoredRun(
            run=run,
            mark=keep.mark,
            earlier=keep.earlier,
            job=key,
            seen=self._poll.now,
            origin=begun if begun is not None else row.origin if row else self._poll.now,
            words=words,
            steps=row.steps if row else StepState.NONE,
            tries=row.tries if row else 0,
            asked=row.asked if row else 0,
            due=row.due if row else None,
            step_results=row.step_results if row else None,
            late=late or (row is not None and row.late),
        )

    def _unmapped(self, word: str) -> None:
        family = UNMAPPED
        known = self._transaction.source.counts.get(family, {})
        label = word if word in known or len(known) < MAX_WORDS else OTHER
        self._transaction.source.count(family, label)

    def _completed(self, stored: StoredRun, steps: Sequence[Step] | None) -> None:
        """Count a completed run. Its steps are requested later, unless they came with it."""
        run = stored.run
        state = self._transaction.job(stored.job)
        if state.missing_since is not None:
            self._transaction.stay(state.key)
        target = self._transaction.target(state)
        shown = counters.as_counted(stored, self._transaction.error_type(target, run) if run.error_type else "")
        counters.count_ending(target, shown, attempts=self._rules.attempts)
        self._observe(target, shown)
        if latest.note_ending(state, shown, self._poll.now):
            self._transaction.recount.add(state.key)
        self.stats.results[run.result or Result.UNKNOWN] += 1
        if run.end is not None:
            self.stats.delays.append(self._poll.now - run.end)
        if not (state.job.has_steps and self._rules.wants_steps(run.result)):
            return
        pending = msgspec.structs.replace(stored, steps=StepState.PENDING, tries=0, asked=0, due=self._poll.now)
        self._transaction.runs[run.run_id] = pending
        if steps and not any(step.result is None for step in steps):
            self._steps.count(pending, steps)

    def _observe(self, target: JobState, run: Run) -> None:
        """Observe how long a run took, and how long it waited."""
        result, bounds = run.result or Result.UNKNOWN, self._counting_of(target).run_buckets
        if run.duration is not None:
            job = self._transaction.observer(target, RUN_DURATION, result, bounds=bounds)
            counters.observe_duration(job, run, self._counting_of(job))
        if run.queue_duration is not None:
            job = self._transaction.observer(target, QUEUE_DURATION, bounds=bounds)
            counters.observe_queue(job, run, self._counting_of(job))

    def _counting_of(self, job: JobState) -> Rules:
        """Return how runs of a job are counted. The objective is looked up once per job, not per run."""
        rules = self._rules_of.get(job.key)
        if rules is None:
            rules = msgspec.structs.replace(self._transaction.counting, run_buckets=self._rules.run_buckets(job))
            self._rules_of[job.key] = rules
        return rules

    def _uncounted(self, stored: StoredRun, row: StoredRun | None) -> None:
        """Update the gauges for a completed run of the baseline, or for a change of a recorded one."""
        state, run = self._transaction.job(stored.job), stored.run
        if row is None:
            recount = latest.note_ending(state, run, self._poll.now) or self._transaction.source.forgotten is not None
        else:
            if row.job != state.key:
                self._transaction.recount.add(row.job)
                self._transaction.correct.add(row.job)
            latest.note_change(state, run, self._poll.now)
            before = row
            recount = (before.run.result, before.run.end, before.mark) != (run.result, run.end, stored.mark)
            if recount:
                self._transaction.correct.add(state.key)
        if recount:
            self._transaction.recount.add(state.key)

    def _progress(self, batch: Batch, scope: ScopeState) -> None:
        source, now = self._transaction.source, self._poll.now
        if batch.truncated:
            source.count(TRUNCATED, amount=batch.truncated)
            source.last_truncated = now
        for window in batch.unobserved:
            if window.start < min(window.end, now):
                self._unobserved(Window(window.start, min(window.end, now)))
        self._scopes.put_checkpoints(batch)
        # A batch that claims to reach into the future was requested by a wrong clock.
        if batch.readable and batch.through is not None and batch.through <= now:
            ahead = scope.watermark is None or scope.watermark > now
            scope.watermark = batch.through if ahead else max(scope.watermark or 0.0, batch.through)

    def _unobserved(self, window: Window) -> None:
        """Add the part of a range that is not yet recorded as unobserved."""
        source = self._transaction.source
        before = _covered(source.unobserved)
        source.unobserved = merged([*source.unobserved, (window.start, window.end)])
        seconds = _covered(source.unobserved) - before
        del source.unobserved[:-MAX_RANGES]
        if seconds:
            source.last_unobserved = self._poll.now
        if self._poll.starting and self._transaction.counting.zero_first:
            source.held_unobserved += seconds
        else:
            source.count(UNOBSERVED, amount=seconds)

    def expire_open_runs(self, row: StoredRun) -> None:
        """Expire an active run as `unknown`, without changing durations, last-run gauges and the streak."""
        # A run of an excluded job is no longer followed, and counts nothing.
        state = self._transaction.job(row.job)
        wanted = self._rules.wants(label_of(state.job))
        if wanted:
            run, mark = msgspec.structs.replace(row.run, state=None, result=Result.UNKNOWN), CountState.EXPIRED
        else:
            run, mark = row.run, CountState.BASELINE
        self._transaction.runs[run.run_id] = msgspec.structs.replace(row, run=run, mark=mark, seen=self._poll.now)
        if not wanted or classify.is_cleaning_up(row, reopens=self._rules.reopens and state.job.reopens):
            return  # nothing to count, or its completion is counted
        if state.missing_since is not None:
            self._transaction.stay(state.key)
        counters.count_expired(self._transaction.target(state))
        self.stats.results[Result.UNKNOWN] += 1


def _ended_while_excluded(row: StoredRun, run: Run, context: Context) -> bool:
    """Return whether a run that was active when its job was excluded completed before the job was included again."""
    was_open = row.mark is CountState.OPEN and row.seen < context.baseline and context.included_later
    return was_open and run.end is not None and run.end <= context.baseline


def _says_the_same(row: StoredRun, other: StoredRun) -> bool:
    return (row.run, row.mark, row.earlier) == (other.run, other.mark, other.earlier)


def _contradicts(before: StoredRun, run: Run) -> bool:
    """Return whether a row contradicts a known completion: the row is stale, or the run was reopened."""
    # An expired or active run can change in any way.
    known = before.run
    if before.mark is CountState.OPEN or before.mark is CountState.EXPIRED or known.result is None:
        return False
    return one_row_per_run([known, run])[0] is known


def _order(run: Run) -> float:
    """Return the sort key of a batch's runs: they are counted in the order of their ends."""
    return run.end if run.end is not None else run.start or 0.0


def merged(ranges: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the same ranges, in order and without overlaps."""
    result: list[tuple[float, float]] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def _covered(ranges: Sequence[tuple[float, float]]) -> float:
    return sum(end - start for start, end in ranges)
