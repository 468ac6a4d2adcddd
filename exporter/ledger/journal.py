"""The open state and its records in memory. Each change is written in one transaction.

A `Transaction` copies the records that it changes. The copies replace the records in memory after they are written. If
the state cannot be written, memory does not change either.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from exporter.counting.counters import CountingRules
from exporter.counting.names import QUEUE_DURATION, RUN_DURATION, STEP_DURATION
from exporter.counting.records import Counted, JobState, SourceState, copy, with_bounds
from exporter.counting.rules import SourceRules
from exporter.errors import StateError
from exporter.ledger.ledger_state import LedgerState, as_open
from exporter.ledger.poll_context import PollContext
from exporter.ledger.status import seed_source
from exporter.ledger.transaction import Sighting, SourceMemory, Transaction, fork, merge_changes
from exporter.metrics.families import COLD_STARTS, POLLS
from exporter.state.opening import OpenedState
from exporter.state.sql import LoadedState, SqlStore

MANY_STEPS = 2000
"""Number of steps of all jobs above which `step_histograms: auto` switches step histograms off."""

Record = JobState | SourceState | Counted
"""The record of a job, of a source or of the exporter."""


class IdentityError(StateError):
    """The state contains another API under a source's name."""


class Journal:
    """Opens the state, and writes transactions. Thread-safe.

    Attributes:
        lock: Held for one transaction at a time. Read `store` only under it.
        changed_jobs: Keys of the jobs that changed since the last snapshot.
        everything_changed: Whether all jobs may have changed since then.
        starting: Sources without a complete poll since this process loaded their records.
        unread: Sources that were not read completely since they were reloaded, with the start of the first poll since.
        lost_counts: For sources whose commits the database has lost: the counters that this process knew before.
        commit_errors: Number of failed attempts to open or write the state.
        error: Error of the last attempt to open or write the state; "" if it succeeded.
    """

    def __init__(self, opening: Callable[[], OpenedState]) -> None:
        self.lock = threading.RLock()
        self.rules: dict[str, SourceRules] = {}
        self.counting = CountingRules(step_buckets=())
        self.committed = LedgerState()
        self.changed_jobs: set[int] = set()
        self.everything_changed = False
        self.starting: frozenset[str] = frozenset()
        self.unread: dict[str, float] = {}
        self.lost_counts: dict[str, Counted] = {}
        self.last_commit: float | None = None
        self.commit_errors = 0
        self.error = ""
        self._opening = opening
        self._store: SqlStore | None = None
        self._closed = False
        self._may_limit_steps = True
        self._cold_start = ""  # reason of a cold start that is not counted yet
        self._memory: defaultdict[str, SourceMemory] = defaultdict(SourceMemory)
        self._sources_to_reload: set[str] = set()  # their records in memory may differ from the state

    # --- opening and configuring ---

    def load(self) -> None:
        """Open the state if it is not open. Load the records in memory again that may differ from it.

        Raises StateError if the state cannot be written now. Even then, memory has the records that could be read.
        """
        with self.lock:
            if self._closed:
                raise StateError("the state is closed")
            if self._store is None:
                self._open_state()
                return
            try:
                self._store.verify()
            except StateError as error:
                self._count_error(error)
                raise
            if self._sources_to_reload:
                self.reload(self._sources_to_reload)

    def _open_state(self) -> None:
        opened = self._opening()
        # Opening moves a corrupt state aside. The next attempt then reports a new state, so keep the first reason.
        if not (self._cold_start and opened.cold_start in {"", "new"}):
            self._cold_start = opened.cold_start
        try:
            _check_identities(opened.loaded.sources, self.rules)
        except IdentityError as error:
            if opened.store is not None:
                opened.store.close()
            self._count_error(error)
            raise
        self._replace_everything(opened.loaded)
        if opened.store is None:
            self._count_error(unwritable := StateError(opened.error))
            raise unwritable
        self._store, self.error = opened.store, ""
        if self._cold_start:
            self.count_cold_start(self._cold_start)
            self._cold_start = ""

    def _count_error(self, error: StateError) -> None:
        self.error = str(error)
        self.commit_errors += 1

    def store(self) -> SqlStore:
        """Return the open state. Raises StateError if no state is open."""
        if self._store is None:
            raise StateError("the state is not open")
        return self._store

    def owns(self, source: str) -> bool:
        """Return whether this process may poll a source and write its records. With replicas, only one may."""
        return self._store is None or self._store.owns(source)

    def close(self) -> None:
        """Close the state. A poll that is still in progress cannot open it again."""
        with self.lock:
            self._closed = True
            if self._store is not None:
                self._store.close()
                self._store = None

    def _replace_everything(self, loaded: LoadedState) -> None:
        self.committed = LedgerState()
        for memory in self._memory.values():
            memory.sightings.clear()
        self._put_loaded(loaded)
        self.everything_changed = True
        for name, rules in self.rules.items():
            self._apply_rules(name, rules)

    def reload(self, sources: Collection[str]) -> None:
        """Load the records of sources from the state again. Raises StateError."""
        with self.lock:
            names = frozenset(sources)
            self._sources_to_reload |= names  # if anything below raises, the next `load` tries again
            loaded = self.store().load(names)
            self._replace_sources(loaded, names)
            self._sources_to_reload -= names
            if loaded.behind:  # write lost counts again, so that a new replica loads them too
                self.replace([copy(self.committed.exporter)])

    def _replace_sources(self, loaded: LoadedState, names: frozenset[str]) -> None:
        kept = {job.key for job in loaded.jobs}
        gone = {key for key, job in self.committed.jobs.items() if job.source in names} - kept
        for key in gone:
            self.committed.delete(key)
        self.changed_jobs |= gone.union(kept, *map(self.committed.open_runs.clear, names))
        self.starting |= names
        for name in names:
            memory = self._memory[name]
            waiting = _unwritten_rows(self.store(), name, memory)
            self._memory[name] = SourceMemory(loads=memory.loads + 1, polled=memory.polled, sightings=waiting)
            self.unread[name] = float("inf")
        for source in loaded.sources:
            known = self.committed.sources.get(source.name)
            # The database may have lost commits. Keep their counts, because they were served.
            if known is not None and _count_polls(known) > _count_polls(source):
                self.lost_counts.setdefault(source.name, Counted()).raise_to(known)
            self._memory[source.name].polled |= source.status.last_poll is not None
        self._put_loaded(loaded)
        self.committed.first_keys = self.store().first_keys()
        for name in names & self.rules.keys():
            self._apply_rules(name, self.rules[name])
        self._switch_step_histograms()

    def _put_loaded(self, loaded: LoadedState) -> None:
        for source in loaded.sources:
            self.committed.sources[source.name] = source
        for job in loaded.jobs:
            self.committed.put_job(job, self._series(job))
        for name, row in loaded.open_runs:
            self.committed.open_runs.put(name, as_open(row, self.committed.jobs[row.job]))
        self.committed.exporter = loaded.exporter

    def configure(self, rules: Mapping[str, SourceRules], counting_rules: CountingRules, step_histograms: str) -> None:
        """Apply a configuration. If it raises IdentityError, nothing has changed.

        `step_histograms`: `on`, `off`, or `auto`: on until more than MANY_STEPS steps are known. With replicas, step
        histograms are on again as soon as fewer are known.
        """
        with self.lock:
            self.check(rules)
            self.starting |= rules.keys() - self.rules.keys()
            self.rules = dict(rules)
            self.counting = msgspec.structs.replace(counting_rules, step_histograms=step_histograms != "off")
            self._may_limit_steps = step_histograms == "auto"
            for name, wanted in rules.items():
                self._apply_rules(name, wanted)
            for job in [job for job in self.committed.jobs.values() if job.source not in rules]:
                self.committed.put_job(job, self._series(job))
            self.everything_changed = True
            self._switch_step_histograms()

    def check(self, rules: Mapping[str, SourceRules] | None = None) -> None:
        """Raise IdentityError if a source of the state names another API. `rules`: None for the active ones."""
        with self.lock:
            _check_identities(self.committed.sources.values(), self.rules if rules is None else rules)

    def _apply_rules(self, name: str, rules: SourceRules) -> None:
        """Apply the rules of a source. A new source gets an empty record. Its first batch writes the record."""
        state = fork(self.committed.sources.get(name) or SourceState(name=name, identity=rules.identity))
        if state.baseline is None:
            state.identity = rules.identity
        seed_source(state)
        self.put_source(state)
        self._show_unwritten_status(name)
        steps = self.counting.step_buckets
        for job in [job for job in self.committed.jobs.values() if job.source == name]:
            runs = rules.run_buckets(job)
            shown = with_bounds(job, {RUN_DURATION: runs, QUEUE_DURATION: runs, STEP_DURATION: steps})
            self.committed.put_job(shown, self._series(shown))

    def _series(self, job: JobState) -> int:
        """Return how many series of a job count against `max_series`."""
        rules, step_histograms = self.rules.get(job.source), self.counting.step_histograms
        if rules is not None:
            return rules.series_needed(job, step_histograms=step_histograms)
        # The series of a removed source still count: otherwise the page would exceed its limit when the source returns.
        # The source's rules are unknown, but those of any other source give about the same number.
        another = next(iter(self.rules.values()), None)
        return another.series_of(job, step_histograms) if another is not None and job.shown else 0

    def _switch_step_histograms(self) -> None:
        wanted = self.committed.steps_total <= MANY_STEPS
        if self._may_limit_steps and self.counting.step_histograms is not wanted:
            # Once off, they stay off. But replicas must show the same page, no matter when each of them started.
            self._may_limit_steps = self._store is not None and bool(self._store.first_keys())
            self.counting = msgspec.structs.replace(self.counting, step_histograms=wanted)
            self.everything_changed = True
            for job in list(self.committed.jobs.values()):
                self.committed.put_job(job, self._series(job))

    # --- writing ---

    @contextmanager
    def writing(self, *sources: str) -> Iterator[SqlStore]:
        """Open a transaction of the state for these sources. Raises StateError."""
        store = self.store()
        # Copies of records that may differ from the state must not replace newer records on disk.
        if stale := self._sources_to_reload.intersection(sources):
            raise StateError(f"records must be loaded again first: {', '.join(sorted(stale))}")
        try:
            with store.transaction(*sources):
                yield store
        except StateError as error:
            self._count_error(error)
            if self.committed.first_keys:  # other replicas write too, and this transaction may have been committed
                self._sources_to_reload.update(sources or self.rules)
            raise
        self.error = ""

    def _transaction(self, source: str, poll: PollContext) -> Transaction:
        self.load()
        # A replica with another config may have polled another API meanwhile.
        _check_identities([self.committed.sources[source]], self.rules)
        memory = self._memory[source]
        poll.require_load(memory.loads)
        transaction = Transaction(self.committed, self.rules[source], self.counting, poll, memory.draft)
        transaction.starting = source in self.starting
        memory.draft = None
        return transaction

    @contextmanager
    def _committing(self, source: str, poll: PollContext) -> Iterator[Transaction]:
        """Yield a transaction of a source, and commit it at the end. Raises StateError."""
        with self.lock:
            transaction = self._transaction(source, poll)
            yield transaction
            self._commit(transaction, poll.now)

    def _commit(self, transaction: Transaction, now: float) -> None:
        """Write a transaction, then update memory. All that can fail happens before the COMMIT."""
        name, memory = transaction.source.name, self._memory[transaction.source.name]
        if self._cold_start:
            transaction.count_for_exporter(COLD_STARTS, self._cold_start)
        polls = transaction.polls or memory.unwritten
        if polls is not None:
            polls.write_to(transaction.source)
        if not self.counting.zero_first:
            transaction.expose()
        with self.writing(name) as store:
            transaction.write(store)
            jobs_with_series = [(job, self._series(job)) for job in transaction.jobs.values()]
            followed = transaction.open_runs()
        with self.updating_memory(name):
            self._cold_start = ""
            self.last_commit = now
            memory.unwritten = None
            self.put_source(transaction.source)
            self.committed.exporter = transaction.exporter or self.committed.exporter
            for job, series in jobs_with_series:
                self.committed.put_job(job, series)
            self.changed_jobs |= transaction.jobs.keys() | self.committed.open_runs.update(name, followed)

    @contextmanager
    def updating_memory(self, *sources: str) -> Iterator[None]:
        """Update memory after a commit. If that fails, these sources are loaded from the state again."""
        self._sources_to_reload.update(sources)
        yield
        self._switch_step_histograms()
        self._sources_to_reload.difference_update(sources)  # `writing` has raised if one was in it before

    def replace(self, records: Collection[Record]) -> None:
        """Write changed copies of records, and then replace the records in memory. Raises StateError."""
        jobs = [record for record in records if isinstance(record, JobState)]
        sources = [record for record in records if isinstance(record, SourceState)]
        exporters = [record for record in records if not isinstance(record, JobState | SourceState)]
        names = {*(source.name for source in sources), *(job.source for job in jobs)}
        with self.writing(*names) as store:
            store.put_jobs(jobs)
            for source in sources:
                store.put_source(source, (), ())
            for exporter in exporters:
                store.put_exporter(exporter)
        with self.updating_memory(*names):
            for job in jobs:
                self.committed.put_job(job, 0 if job.gone else self.committed.series[job.key])
                self.changed_jobs.add(job.key)
            for source in sources:
                self.put_source(source)
            self.committed.exporter = exporters[0] if exporters else self.committed.exporter

    def count_cold_start(self, reason: str) -> None:
        """Count a cold start: the state was missing, lost or corrupt. Raises StateError."""
        with self.lock:
            exporter = copy(self.committed.exporter)
            exporter.count(COLD_STARTS, reason)
            self.replace([exporter])

    def put_source(self, state: SourceState) -> None:
        """Replace a source's record in memory by a changed copy. The copy must be written before."""
        state.scopes, state.checkpoints = merge_changes(state.scopes), merge_changes(state.checkpoints)
        self.committed.sources[state.name] = state

    def _show_unwritten_status(self, source: str) -> None:
        """Serve the source's unwritten status: `up` must be 0 while nothing can be written."""
        unwritten, known = self._memory[source].unwritten, self.committed.sources[source]
        if unwritten is not None:
            self.committed.sources[source] = msgspec.structs.replace(known, status=unwritten.status)


def _count_polls(source: SourceState) -> float:
    return sum(count.value for count in source.counts.get(POLLS, {}).values())


def _check_identities(sources: Iterable[SourceState], rules: Mapping[str, SourceRules]) -> None:
    for known in sources:
        wanted = rules.get(known.name)
        # A source without a baseline was never polled and is not in the state yet.
        if wanted is not None and known.baseline is not None and known.identity != wanted.identity:
            raise IdentityError(
                f"source {known.name}: the state has the runs of {known.identity}, but the configuration names "
                f"{wanted.identity}; give the source a new name, or the exporter a new state"
            )


def _unwritten_rows(store: SqlStore, source: str, memory: SourceMemory) -> dict[str, Sighting]:
    """Return the rows that wait for the end of a poll and are not in the state."""
    # The source does not yield an unchanged row again.
    waiting = {run_id: sighting for run_id, sighting in memory.sightings.items() if sighting.waiting}
    rows = store.runs(source, waiting) if waiting else {}
    return {run_id: sighting for run_id, sighting in waiting.items() if rows.get(run_id) == sighting.before}
