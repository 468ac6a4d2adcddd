"""Run ledger: commits each batch in one transaction and keeps the committed state in memory.

Every change takes the same path: a `Transaction` copies the records it touches, a `BatchWriter` classifies runs and
counts them on the copies, the copies are written, and only then do they become the committed state. If the state
cannot be written, nothing has changed.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import msgspec

from exporter.counting.classify import CountState, Rules, correct, restate
from exporter.counting.records import (
    Count,
    Counted,
    Distribution,
    JobState,
    OpenRun,
    SourceState,
    copy,
    fork,
    joined,
    label_of,
    laid_out,
)
from exporter.counting.rules import SourceRules, included
from exporter.errors import StateError
from exporter.ledger.batch_writer import MISSING_GRACE, BatchStats, BatchWriter, PollContext, Present
from exporter.ledger.books import LedgerState
from exporter.ledger.learner import is_due, learn_job
from exporter.ledger.open_runs import OpenRuns
from exporter.ledger.sightings import Sightings
from exporter.ledger.status import PollReport, carry_over, count_skipped, is_up, record_poll, seed_source
from exporter.ledger.transaction import Transaction
from exporter.metrics.families import (
    COLD_STARTS,
    QUEUE_DURATION,
    RUN_DURATION,
    STEP_DURATION,
    STEPS_LOST,
    TRUNCATED,
    UNOBSERVED,
)
from exporter.metrics.zero_first import Owner, Series
from exporter.model import Batch, Step
from exporter.snapshot.builder import Committed
from exporter.snapshot.snapshot import ExporterView
from exporter.state.opening import OpenedState
from exporter.state.schema import StepState, StoredRun
from exporter.state.storage import LoadedState, Storage

PRUNE_BATCH = 10_000
"""Runs that are forgotten in one transaction, so that polls need not wait for long."""

SEEDED = (UNOBSERVED, TRUNCATED, STEPS_LOST)
"""A source's own counters that are there from the first poll on."""

MANY_STEPS = 2000
"""Steps of all jobs above which `auto` keeps no histograms of them."""


class IdentityError(StateError):
    """The state holds another API under a source's name."""


class Changed(msgspec.Struct, kw_only=True):
    """What has changed since it was last asked."""

    jobs: set[int] = msgspec.field(default_factory=set)
    everything: bool = False


class Ledger:
    """Thread-safe; one for the whole process.

    Args:
        opening: Opens the state; called by `load`.
    """

    def __init__(self, opening: Callable[[], OpenedState]) -> None:
        self._opening = opening
        self._lock = threading.RLock()
        self._rules: dict[str, SourceRules] = {}
        self._open = OpenRuns()
        self._sightings: defaultdict[str, Sightings] = defaultdict(Sightings)
        self._store: Storage | None = None
        self._changed = Changed()
        self._starting: set[str] = set()
        self._cold = ""
        self._closed = False
        self._stale = False
        self._begun: set[str] = set()
        self.committed = LedgerState()
        self._polled: set[str] = set()
        self._counting = Rules(run_buckets=(), step_buckets=())
        self._step_mode = "auto"
        self.step_histograms = True
        self.last_commit: float | None = None
        self.commit_errors = 0
        """How often the state could not be opened or written."""
        self.error = ""
        """Why the state could not be opened or written when that was last tried."""

    # --- opening and configuring ---

    def load(self) -> None:
        """Opens the state if it is not open, and reads it.

        Raises StateError if it cannot be written now; what could be read of it is in the books all the same.
        """
        with self._lock:
            if self._closed:
                raise StateError("the state is closed")
            if self._store is None:
                self._open_state()
                return
            self._verify(self._store)
            if self._stale:
                self._fill(self._store.load())
                self._stale = False

    def _open_state(self) -> None:
        opened = self._opening()
        # A state that was set aside is not found again by a later attempt.
        self._cold = self._cold if self._cold and opened.cold in {"", "new"} else opened.cold
        try:
            _check(opened.loaded.sources, self._rules)
        except IdentityError as error:
            if opened.store is not None:
                opened.store.close()
            opened = msgspec.structs.replace(opened, store=None, error=str(error))
        else:
            self._fill(opened.loaded)
        self.error = opened.error
        if opened.store is None:
            self.commit_errors += 1
            raise StateError(opened.error)
        self._store = opened.store
        if self._cold:
            self._count_cold_start()

    def _verify(self, store: Storage) -> None:
        try:
            store.verify()
        except StateError as error:
            self.error = str(error)
            self.commit_errors += 1
            raise

    def _fill(self, loaded: LoadedState) -> None:
        committed = LedgerState()
        committed.exporter = loaded.exporter
        committed.sources = {source.name: source for source in loaded.sources}
        self._open, self._sightings = OpenRuns(), defaultdict(Sightings)
        for name, source in committed.sources.items():
            self._open.add_source(name)
            if name in self.committed.sources:
                carry_over(self.committed.sources[name], source)
        for job in loaded.jobs:
            committed.take(job, self._series(job))
        for name, row in loaded.open_runs:
            self._open.put(name, _as_open(row, committed.jobs[row.job]))
        self.committed = committed
        self._changed = Changed(everything=True)
        for name, rules in self._rules.items():
            self._admit(name, rules)

    def _series(self, job: JobState) -> int:
        rules = self._rules.get(job.source)
        return rules.weight(job, step_histograms=self.step_histograms) if rules else 0

    def _count_cold_start(self) -> None:
        """Count a start without a state. What cannot be written now is counted with the next thing that can."""
        exporter = copy(self.committed.exporter)
        exporter.count(COLD_STARTS, self._cold)
        self._replace([exporter])
        self._cold = ""

    def configure(self, rules: Mapping[str, SourceRules], counting_rules: Rules, step_histograms: str) -> None:
        """Takes up a configuration. Raises IdentityError before anything has changed.

        Args:
            rules: The rules of each source.
            counting_rules: How endings are added up.
            step_histograms: `on`, `off`, or `auto`: on until more than MANY_STEPS steps are known.
        """
        with self._lock:
            self.check(rules)
            self._starting |= rules.keys() - self._rules.keys()
            self._rules = dict(rules)
            self._counting, self._step_mode = counting_rules, step_histograms
            self.step_histograms = step_histograms != "off"
            for name, wanted in rules.items():
                self._admit(name, wanted)
            for job in [job for job in self.committed.jobs.values() if job.source not in rules]:
                self.committed.take(job, 0)
            self._changed.everything = True
            self._watch_steps()

    def check(self, rules: Mapping[str, SourceRules]) -> None:
        """Raises IdentityError if the state holds another API under a source's name."""
        with self._lock:
            _check(self.committed.sources.values(), rules)

    def _admit(self, name: str, rules: SourceRules) -> None:
        """A source that the state does not know gets an empty record, to be written with its first reading."""
        known = self.committed.sources.get(name)
        if known is None or known.baseline is None:
            fresh = SourceState(name=name, identity=rules.identity)
            if known is not None:
                carry_over(known, fresh)
            known = fresh
        self._keep_in_memory(known, seed_source)
        self._open.add_source(name)
        for job in [job for job in self.committed.jobs.values() if job.source == name]:
            shown = laid_out(job, self._layouts(rules, job))
            self.committed.take(shown, self._series(shown))

    def _layouts(self, rules: SourceRules, job: JobState) -> dict[str, tuple[float, ...]]:
        run_buckets = rules.run_buckets(job)
        return {RUN_DURATION: run_buckets, QUEUE_DURATION: run_buckets, STEP_DURATION: self._counting.step_buckets}

    def close(self) -> None:
        """Close the state for good: it is not opened again by a poll that is still in progress."""
        with self._lock:
            self._closed = True
            if self._store is not None:
                self._store.close()
                self._store = None

    # --- transactions ---

    @contextmanager
    def _writing(self) -> Iterator[Storage]:
        store = self.store()
        try:
            with store.transaction():
                yield store
        except StateError as error:
            self.error = str(error)
            self.commit_errors += 1
            raise
        self.error = ""

    def _transaction(self, source: str, now: float, started: float | None = None) -> Transaction:
        self.load()
        poll_context = now, now if started is None else started
        return Transaction(
            self.committed, self._rules[source], self._counting, *poll_context, step_histograms=self.step_histograms
        )

    def _entry(self, transaction: Transaction, poll_context: PollContext) -> BatchWriter:
        name = transaction.source.name
        self._sightings[name].start(poll_context.started)
        present = Present(sightings=self._sightings[name], is_busy=self._open.is_busy)
        rules, histograms = self._rules[name], self.step_histograms
        return BatchWriter(transaction, rules, self._counting, poll_context, present, step_histograms=histograms)

    def _commit(self, transaction: Transaction, now: float) -> None:
        """Write a draft, then take it into the books. What can fail is done before the COMMIT."""
        if self._cold:
            transaction.count_for_exporter(COLD_STARTS, self._cold)
        if not self._counting.zero_first:
            _expose_all(transaction)
        with self._writing() as store:
            store.put_source(transaction.source, transaction.scopes, transaction.notes)
            store.put_runs(transaction.source.name, transaction.runs.values())
            for key in transaction.recount:
                restate(transaction.job(key), store.streak(key), transaction.source.forgotten)
            for key in transaction.correct:
                correct(transaction.job(key), store.latest(key), transaction.source.forgotten)
            store.put_jobs(transaction.jobs.values())
            if transaction.exporter is not None:
                store.put_exporter(transaction.exporter)
            weighed = [(job, self._series(job)) for job in transaction.jobs.values()]
            followed = {run_id: self._followed(transaction, row) for run_id, row in transaction.runs.items()}
        with self._taking():
            self._cold = ""
            self.last_commit = now
            transaction.source.scopes, transaction.source.notes = (
                joined(transaction.source.scopes),
                joined(transaction.source.notes),
            )
            self.committed.sources[transaction.source.name] = transaction.source
            self.committed.exporter = transaction.exporter or self.committed.exporter
            for job, weight in weighed:
                self.committed.take(job, weight)
            self._follow(transaction.source.name, followed)
            self._changed.jobs |= transaction.jobs.keys()
            self._watch_steps()

    @contextmanager
    def _taking(self) -> Iterator[None]:
        """Have the state read again if memory could not follow what is committed."""
        self._stale = True
        yield
        self._stale = False

    def _followed(self, transaction: Transaction, row: StoredRun) -> OpenRun | None:
        return _as_open(row, transaction.look(row.job)) if row.mark is CountState.OPEN else None

    def _follow(self, source: str, followed: Mapping[str, OpenRun | None]) -> None:
        """Take runs into the index of open runs, or out of it."""
        for run_id, run in followed.items():
            changed = self._open.drop(source, run_id) if run is None else self._open.put(source, run)
            self._changed.jobs |= changed

    def _watch_steps(self) -> None:
        """Step histograms that have been switched off by their number stay off until a reload."""
        if self.step_histograms and self._step_mode == "auto" and self.committed.steps_total > MANY_STEPS:
            self.step_histograms = False
            self._changed.everything = True
            for job in list(self.committed.jobs.values()):
                self.committed.take(job, self._series(job))

    # --- a poll's doings ---

    def begin(self, source: str, now: float) -> None:
        """Start a poll: store the baseline of the first one."""
        with self._lock:
            self._settle(source, now)
            transaction = self._transaction(source, now)
            state = transaction.source
            unknown = [family for family in SEEDED if family not in state.counts]
            for family in unknown:
                state.count(family, amount=0)
            if state.baseline is None or unknown:
                state.baseline = now if state.baseline is None else state.baseline
                self._commit(transaction, now)

    def _settle(self, source: str, now: float) -> BatchStats:
        """Believe what waits for the end of a poll, and forget what the poll has shown."""
        sightings = self._sightings[source]
        waiting = [sighting.run.run_id for sighting in sightings.waiting()]
        stats = BatchStats()
        if waiting:
            poll_context = PollContext(now=now, started=now if sightings.started is None else sightings.started)
            transaction = self._transaction(source, now, poll_context.started)
            writer = self._entry(transaction, poll_context)
            writer.settle(self.rows(source, waiting))
            writer.tally()
            self._commit(transaction, now)
            stats = writer.stats
        sightings.clear()
        return stats

    def _look_back(self, transaction: Transaction, now: float) -> None:
        """Counts that a state was left alone for longer than its API shows anything: not all can be caught up."""
        watermark = transaction.source.watermark()
        if watermark is not None and now - watermark > self._rules[transaction.source.name].reach:
            transaction.count_for_exporter(COLD_STARTS, "lost")

    def _refilter(self, transaction: Transaction, now: float) -> None:
        """Apply changed filters: jobs that were excluded until now get a baseline of their own."""
        rules, filters = self._rules[transaction.source.name], transaction.source.filters
        if filters and filters[-1] == rules.filter_since(filters[-1].since):
            return
        if filters:
            for key, job in self.committed.of_source(transaction.source.name).items():
                was_excluded = job.excluded or not included(filters[-1], label_of(job.job))
                if was_excluded is rules.wants(label_of(job.job)):
                    transaction.refilter(key)
        filters.append(rules.filter_since(now if filters else transaction.source.baseline or now))

    def shift_baseline(self, source: str, seconds: float, now: float) -> None:
        """Corrects, once, the baseline instant of a source that has no reading by what its API's clock has shown."""
        with self._lock:
            transaction = self._transaction(source, now)
            if (
                transaction.source.baseline is not None
                and not transaction.source.scopes
                and not transaction.source.clock_checked
            ):
                transaction.source.baseline += seconds
                transaction.source.clock_checked = True
                self._commit(transaction, now)

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        """Enters a reading in one transaction.

        What depends on the present is looked at only now: the API's answers have told it, whatever our clock says.
        """
        with self._lock:
            if self._sightings[source].started != poll_context.started:
                self._settle(source, poll_context.now)
            transaction = self._transaction(source, poll_context.now, poll_context.started)
            if source in self._starting - self._begun:
                self._look_back(transaction, poll_context.now)
            self._refilter(transaction, poll_context.started)
            poll_context = msgspec.structs.replace(poll_context, starting=source in self._starting)
            writer = self._entry(transaction, poll_context)
            ids = {run.run_id for run in batch.runs}.union(batch.gone)
            writer.batch(batch, self.rows(source, ids))
            writer.tally()
            self._commit(transaction, poll_context.now)
            self._sightings[source].add(writer.sightings)
            self._begun.add(source)
            return writer.stats

    def rows(self, source: str, run_ids: Collection[str]) -> dict[str, StoredRun]:
        """The committed rows of these runs."""
        with self._lock:
            return self._store.runs(source, run_ids) if self._store is not None and run_ids else {}

    def expire_open_runs(self, source: str, poll_context: PollContext) -> BatchStats:
        """End a poll's reading: expire the open runs that have been followed for long enough.

        Their age is counted to the watermark: one that has not been asked for since it grew too old may have ended, and
        a clock that is ahead must not end all. Rows that contradict what was known are believed only now.
        """
        with self._lock:
            stats = self._settle(source, poll_context.now)
            limit = self._rules[source].max_run_age
            old = [
                run.run_id
                for run in self._open.of(source)
                if self._read_until(source, run.scope, poll_context.now) - run.origin > limit
            ]
            if old:
                transaction = self._transaction(source, poll_context.now, poll_context.started)
                writer = self._entry(transaction, poll_context)
                for row in self.rows(source, old).values():
                    writer.expire_open_runs(row)
                self._commit(transaction, poll_context.now)
                stats.results.update(writer.stats.results)
            return stats

    def _read_until(self, source: str, scope: str, now: float) -> float:
        """Return until when a scope is read: its watermark, readable or not; now, if the scope is forgotten."""
        state = self.committed.sources[source].scopes.get(scope)
        if state is None or (state.missing_since is not None and now - state.missing_since > MISSING_GRACE):
            return now
        return min(now, state.baseline if state.watermark is None else state.watermark)

    def finish(self, source: str, poll_context: PollContext, *, swept: bool) -> None:
        """Ends a complete poll: from now on the source's counters are served."""
        with self._lock:
            self._settle(source, poll_context.now)
            transaction = self._transaction(source, poll_context.now)
            first = not transaction.source.complete
            transaction.source.complete = True
            scopes = transaction.source.scopes.items()
            fresh = [name for name, scope in scopes if scope.watermark is not None and not scope.complete]
            for name in fresh:
                transaction.scope(name).complete = True
            if swept or transaction.source.last_sweep is None:
                transaction.source.last_sweep = poll_context.now
            if first:
                self._want_baseline_steps(transaction, poll_context.now)
            if first or swept or fresh:
                self._commit(transaction, poll_context.now)
            self._starting.discard(source)
            self._changed.everything = self._changed.everything or first

    def _want_baseline_steps(self, transaction: Transaction, now: float) -> None:
        """Of the baseline, each job's last ended and last failed run are asked for their steps."""
        rules = self._rules[transaction.source.name]
        ids = set()
        for job in self.committed.of_source(transaction.source.name).values():
            if not job.job.has_steps:
                continue
            if rules.steps == "all" and job.last_run is not None:
                ids.add(job.last_run.run_id)
            if rules.steps != "off" and job.last_failure is not None:
                ids.add(job.last_failure.run_id)
        for run_id, row in self.rows(transaction.source.name, ids).items():
            if row.mark is CountState.BASELINE and row.steps is StepState.NONE:
                transaction.runs[run_id] = msgspec.structs.replace(row, steps=StepState.BASELINE, due=now)

    def mark(self, source: str, now: float, *, read: bool) -> None:
        """Record whether a source is up before its poll has ended: what comes after the reading may take long."""
        with self._lock:
            self._polled.add(source)
            known = self.committed.sources.get(source)
            up = known is not None and is_up(known, read=read)
            if known is not None and known.status.up is not up:
                self._record_status(source, now, lambda state: _set_up(state, up=up))

    def skip_polls(self, source: str, polls: int, now: float) -> None:
        """Record polls that came due while one was running."""
        self._record_status(source, now, lambda state: count_skipped(state, polls))

    def finish_poll(self, source: str, report: PollReport) -> None:
        """Record how a poll went."""
        with self._lock:
            self._polled.add(source)
            pending = None
            with suppress(StateError):
                pending = self.count_pending_steps(source)
            self._record_status(source, report.ended, lambda state: record_poll(state, report, pending))

    def _record_status(self, source: str, now: float, change: Callable[[SourceState], None]) -> None:
        """Change how a source stands; in memory alone while the state cannot be written, until it can."""
        with self._lock:
            if source not in self._rules:
                return  # a reload has removed it while it was polled
            try:
                transaction = self._transaction(source, now)
                change(transaction.source)
                self._commit(transaction, now)
            except StateError:
                self._keep_in_memory(self.committed.sources[source], change)

    def _keep_in_memory(self, source: SourceState, change: Callable[[SourceState], None]) -> None:
        """Change a copy of a source's record, and put it in its place."""
        state = fork(source)
        change(state)
        state.scopes, state.notes = joined(state.scopes), joined(state.notes)
        self.committed.sources[state.name] = state

    # --- steps ---

    def pending_steps(self, source: str, now: float, limit: int) -> list[StoredRun]:
        """Runs whose steps shall be fetched now, the most urgent first."""
        with self._lock:
            return self._store.pending_steps(source, now, limit) if self._store is not None else []

    def count_pending_steps(self, source: str) -> int:
        """How many runs wait for their steps."""
        with self._lock:
            return self._store.count_pending_steps(source) if self._store is not None else 0

    def commit_steps(self, source: str, row: StoredRun, steps: Sequence[Step], poll_context: PollContext) -> None:
        """Enters the steps of a run, and that they are entered, in one transaction."""
        self._with_entry(source, poll_context, lambda writer: writer.steps(row, steps))

    def steps_missing(self, source: str, row: StoredRun, poll_context: PollContext) -> None:
        """Enters that the API answered 404 for a run's steps."""
        self._with_entry(source, poll_context, lambda writer: writer.steps_missing(row))

    def steps_failed(self, source: str, row: StoredRun, poll_context: PollContext) -> None:
        """Enters that asking for a run's steps failed."""
        self._with_entry(source, poll_context, lambda writer: writer.steps_failed(row))

    def _with_entry(self, source: str, poll_context: PollContext, change: Callable[[BatchWriter], None]) -> None:
        with self._lock:
            transaction = self._transaction(source, poll_context.now)
            change(self._entry(transaction, poll_context))
            self._commit(transaction, poll_context.now)

    # --- zero-first ---

    def release(self, series: Iterable[Series]) -> None:
        """Commits that these series have been shown at 0; from now on they are served at their value."""
        with self._lock:
            changed: dict[Owner, JobState | SourceState | Counted] = {}
            for held, family, labels in series:
                owner: Owner = ("source", str(held[-1])) if held[0] == "unobserved" else held
                record = changed.get(owner) or self._record(owner)
                if record is not None:
                    changed[owner] = record if owner in changed else copy(record)
                    if owner is held:
                        _release(changed[owner], family, labels)
                    else:
                        _expose_unobserved(changed[owner])
            self._replace(changed.values())

    def _record(self, owner: Owner) -> JobState | SourceState | Counted | None:
        match owner:
            case ("job", int(key)):
                return self.committed.jobs.get(key)
            case ("source", str(name)):
                return self.committed.sources.get(name)
            case _:
                return self.committed.exporter

    def _replace(self, records: Collection[JobState | SourceState | Counted]) -> None:
        """Writes records of which only the counters have changed, and takes them into the books."""
        jobs = {record.key: record for record in records if isinstance(record, JobState)}
        sources = {record.name: record for record in records if isinstance(record, SourceState)}
        exporters = [record for record in records if not isinstance(record, JobState | SourceState)]
        with self._writing() as store:
            store.put_jobs(jobs.values())
            for source in sources.values():
                store.put_source(source, (), ())
            for exporter in exporters:
                store.put_exporter(exporter)
        for job in jobs.values():
            self.committed.take(job, self.committed.series[job.key])
        self.committed.sources.update(sources)
        self.committed.exporter = exporters[0] if exporters else self.committed.exporter
        self._changed.jobs |= jobs.keys()

    # --- housekeeping ---

    def expire(self, now: float, job_expiry: float) -> None:
        """Ends the series of jobs that had no run for long, where no discovery tells whether they exist.

        A clock that is ahead must not end all, so the age is counted to the watermark.
        """
        with self._lock:
            for name, rules in self._rules.items():
                read = min(now, self.committed.sources[name].watermark() or float("-inf"))
                old = [
                    key
                    for key, job in self.committed.of_source(name).items()
                    if not (job.gone or job.listed or self._open.is_busy(key) or rules.never_expires(job))
                    and read - (job.last_run.order if job.last_run else job.discovered) > job_expiry
                ]
                if old:
                    transaction = self._transaction(name, now)
                    for key in old:
                        transaction.retire(key)
                    self._commit(transaction, now)

    def prune(self, now: float, retention: float) -> int:
        """Forget runs that ended longer ago than the retention, and then the jobs that are gone; return how many runs.

        A clock that is ahead must not prune all, so the age is counted to the watermark. A source that is not
        configured anymore has none that moves: the newest of the others stands for it.
        """
        pruned = 0
        marks = {name: self.committed.sources[name].watermark() for name in list(self._rules)}
        newest = max((mark for mark in marks.values() if mark is not None), default=None)
        for name in list(self.committed.sources):
            mark = marks.get(name, newest)
            while mark is not None:
                some = self._prune(name, min(now, mark) - retention, now)
                pruned += some
                if some < PRUNE_BATCH:
                    break
            if mark is not None:
                self._delete_jobs(name, min(now, mark) - retention)
        with self._lock:
            if pruned and self._store is not None:
                self._store.checkpoint()
        return pruned

    def _prune(self, name: str, before: float, now: float) -> int:
        """In one transaction with the time: what is pruned and shown again must not count again."""
        with self._lock:
            if self._store is None:
                return 0
            source = fork(self.committed.sources[name])
            source.forgotten = max(before, source.forgotten or before)
            with self._writing() as store:
                pruned = store.prune(name, source.forgotten, PRUNE_BATCH)
                if not pruned.jobs:
                    return 0
                if pruned.steps_lost:
                    source.count(STEPS_LOST, amount=pruned.steps_lost)
                store.put_source(source, (), ())
            with self._taking():
                self.last_commit = now
                source.scopes, source.notes = joined(source.scopes), joined(source.notes)
                self.committed.sources[name] = source
                # What was learned of them may be forgotten too.
                self._changed.jobs |= set(pruned.jobs) & self.committed.jobs.keys()
            return len(pruned.jobs)

    def _delete_jobs(self, name: str, before: float) -> None:
        """Forget jobs that have been gone for longer than runs are kept, and of which no run is left."""
        with self._lock:
            if self._store is None:
                return
            gone = [
                key
                for key, job in self.committed.of_source(name).items()
                if job.gone and (0.0 if job.gone_since is None else job.gone_since) < before
            ]
            if not gone:
                return
            with self._writing() as store:
                empty = store.without_runs(gone)
                store.delete_jobs(empty)
            with self._taking():
                for key in empty:
                    self.committed.delete(key)
                self._changed.jobs |= set(empty)

    def due_to_learn(self) -> list[int]:
        """Return the keys of the jobs that the next `drain` will report, and whose past is worth reading again."""
        with self._lock:
            return [job.key for job in self.changed() if job.source in self._rules and is_due(job, self.last_commit)]

    def learn(self, jobs: Iterable[int]) -> None:
        """Read the past of jobs, and record what it teaches."""
        with self._lock:
            now, store = self.last_commit or 0.0, self.store()
            known = [self.committed.jobs[key] for key in jobs if key in self.committed.jobs]
            learned = [copy(job) for job in known]
            for job in learned:
                job.learned = learn_job(store, job, now)
            self._replace(learned)

    # --- looking ---

    def drain(self) -> Committed:
        """Return what is committed, and which jobs have changed since the last call."""
        with self._lock:
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
            record=self.committed.exporter,
            last_commit=self.last_commit,
            state_size=self.size() if self.last_commit is not None else 0,
            state_error=self.error,
            commit_errors=self.commit_errors,
        )

    def changed(self) -> list[JobState]:
        """The committed records of the jobs that the next `drain` will tell of."""
        with self._lock:
            jobs = self.committed.jobs
            return (
                list(jobs.values())
                if self._changed.everything
                else [jobs[key] for key in self._changed.jobs if key in jobs]
            )

    def starting(self) -> frozenset[str]:
        """Sources of which no poll has been complete since this process started."""
        with self._lock:
            return frozenset(self._starting)

    def open_runs(self, source: str, scope: str | None = None) -> list[OpenRun]:
        """The open runs of a source or one of its scopes, oldest first."""
        with self._lock:
            return self._open.of(source, scope)

    def jobs_of(self, source: str) -> list[JobState]:
        """Return the committed records of the jobs that the configuration includes, those that are gone as well."""
        with self._lock:
            return [job for job in self.committed.of_source(source).values() if not job.excluded]

    def snapshot(self) -> tuple[list[JobState], dict[str, list[OpenRun]]]:
        """Return the committed records of all jobs, and all open runs by source, without waiting for a transaction."""
        return list(self.committed.jobs.values()), self._open.snapshot()

    def source(self, name: str) -> SourceState:
        """The committed record of a source."""
        return self.committed.sources[name]

    def size(self) -> int:
        """Bytes of the state on disk; 0 while it is not open, or cannot be read."""
        with self._lock, suppress(StateError):
            return self._store.size() if self._store is not None else 0
        return 0

    def store(self) -> Storage:
        """The open state, to be read under `locked`. Raises StateError if there is none."""
        if self._store is None:
            raise StateError("the state is not open")
        return self._store

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps everybody else out."""
        with self._lock:
            yield


def _check(sources: Iterable[SourceState], rules: Mapping[str, SourceRules]) -> None:
    for known in sources:
        wanted = rules.get(known.name)
        # One without a baseline was never polled, and is not in the state yet.
        if wanted is not None and known.baseline is not None and known.identity != wanted.identity:
            raise IdentityError(
                f"source {known.name}: the state holds the runs of {known.identity}, the configuration names "
                f"{wanted.identity}; give the source a new name, or the exporter a new state.path"
            )


def _expose_all(transaction: Transaction) -> None:
    """Expose all that a transaction changes at once: zero-first is off."""
    for record in (transaction.source, *transaction.jobs.values(), transaction.exporter):
        if record is not None:
            record.expose()
    _expose_unobserved(transaction.source)


def _expose_unobserved(state: JobState | SourceState | Counted) -> None:
    """Add the seconds that were found unobserved at the start, now that the restored value has been served."""
    if isinstance(state, SourceState) and state.held_unobserved:
        state.count(UNOBSERVED, amount=state.held_unobserved)
        state.held_unobserved = 0.0


def _set_up(state: SourceState, *, up: bool) -> None:
    state.status = msgspec.structs.replace(state.status, up=up)


def _release(counted: Counted, family: str, labels: str) -> None:
    for series in (counted.counts, getattr(counted, "distributions", {})):
        held: Count | Distribution | None = series.get(family, {}).get(labels)
        if held is not None:
            held.released = True


def _as_open(row: StoredRun, job: JobState) -> OpenRun:
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
