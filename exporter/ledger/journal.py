"""The open state and its records in memory. Each change is written in one transaction.

A `Transaction` copies the records that it changes. The copies are written, and only then replace the records in memory.
If the state cannot be written, memory does not change either.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from exporter.counting.classify import CountState
from exporter.counting.counters import Rules
from exporter.counting.latest import correct, restate
from exporter.counting.records import Counted, JobState, OpenRun, SourceState, copy, laid_out
from exporter.counting.rules import SourceRules
from exporter.errors import StateError
from exporter.ledger.ledger_state import LedgerState
from exporter.ledger.open_runs import OpenRuns, as_open
from exporter.ledger.poll_context import PollContext
from exporter.ledger.record_copies import fork, joined
from exporter.ledger.sightings import Sightings
from exporter.ledger.status import UnwrittenPolls, seed_source
from exporter.ledger.transaction import Transaction
from exporter.metrics.families import COLD_STARTS, POLLS, QUEUE_DURATION, RUN_DURATION, STEP_DURATION, UNOBSERVED
from exporter.state.opening import OpenedState
from exporter.state.schema import StoredRun
from exporter.state.sql import LoadedState, SqlStore

MANY_STEPS = 2000
"""Number of steps of all jobs above which `step_histograms: auto` switches step histograms off."""


class IdentityError(StateError):
    """The state contains another API under a source's name."""


class Changed(msgspec.Struct, kw_only=True):
    """Changes since the last call of `drain`."""

    jobs: set[int] = msgspec.field(default_factory=set)
    everything: bool = False


class Journal:
    """The open state and its records in memory. Thread-safe; the process has one.

    Args:
        opening: Opens the state; called by `load`.
    """

    def __init__(self, opening: Callable[[], OpenedState]) -> None:
        self._opening = opening
        self._lock = threading.RLock()
        self._rules: dict[str, SourceRules] = {}
        self._open = OpenRuns()
        self._sightings: defaultdict[str, Sightings] = defaultdict(Sightings)
        self._store: SqlStore | None = None
        self._changed = Changed()
        self._starting: set[str] = set()
        self._cold = ""
        self._closed = False
        self._stale = False
        self._suspect: set[str] = set()
        self._begun: set[str] = set()
        self._forgotten: dict[str, Counted] = {}
        self.committed = LedgerState()
        self._polled: set[str] = set()
        self._unwritten: dict[str, UnwrittenPolls] = {}
        self._drafts: dict[str, Transaction] = {}
        self._counting = Rules(run_buckets=(), step_buckets=())
        self._step_mode = "auto"
        self.step_histograms = True
        self.last_commit: float | None = None
        self.commit_errors = 0
        """Number of failed attempts to open or write the state."""
        self.error = ""
        """Error of the last attempt to open or write the state; "" if it succeeded."""

    # --- opening and configuring ---

    def load(self) -> None:
        """Open the state if it is not open, and read it.

        Raises StateError if it cannot be written now. What could be read is in memory nevertheless.
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
                self._suspect.clear()
            elif self._suspect:
                self.reload(self._suspect)

    def reload(self, sources: Collection[str]) -> None:
        """Replace the records of sources in memory by those of the state. Raises StateError."""
        with self._lock:
            names = frozenset(sources)
            loaded = self.store().load(names)
            self._adopt(loaded, names)
            self._suspect -= names
            if loaded.behind:  # a replica that starts now knows no more than the state
                self._replace([copy(self.committed.exporter)])

    def _adopt(self, loaded: LoadedState, names: frozenset[str]) -> None:
        kept = {job.key for job in loaded.jobs}
        gone = {key for key, job in self.committed.jobs.items() if job.source in names} - kept
        for key in gone:
            self.committed.delete(key)
        self._changed.jobs |= gone.union(kept, *map(self._open.clear, names))
        for name in names:
            self._sightings.pop(name, None)
            self._unwritten.pop(name, None)
            self._starting.add(name)
            self._begun.discard(name)
        for source in loaded.sources:
            self._remember(source)
            self.committed.sources[source.name] = source
            self._open.add_source(source.name)
            if source.status.last_poll is not None:
                self._polled.add(source.name)
        for job in loaded.jobs:
            self.committed.take(job, self._series(job))
        for name, row in loaded.open_runs:
            self._open.put(name, as_open(row, self.committed.jobs[row.job]))
        self.committed.exporter = loaded.exporter
        self.committed.first_keys = self.store().first_keys()
        for name in names & self._rules.keys():
            self._admit(name, self._rules[name])

    def _remember(self, loaded: SourceState) -> None:
        """Remember what a source had counted, if the state has forgotten commits of it."""
        known = self.committed.sources.get(loaded.name)
        if known is not None and _polls(known) > _polls(loaded):
            self._forgotten.setdefault(loaded.name, Counted()).lift(known)

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
        # A cold start that could not be counted before is counted with the first write.
        if self._cold:
            self.count_cold_start(self._cold)
            self._cold = ""

    def _verify(self, store: SqlStore) -> None:
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
        for name in committed.sources:
            self._open.add_source(name)
        for job in loaded.jobs:
            committed.take(job, self._series(job))
        for name, row in loaded.open_runs:
            self._open.put(name, as_open(row, committed.jobs[row.job]))
        self.committed = committed
        self._changed = Changed(everything=True)
        for name, rules in self._rules.items():
            self._admit(name, rules)

    def _series(self, job: JobState) -> int:
        rules = self._rules.get(job.source)
        if rules is not None:
            return rules.weight(job, step_histograms=self.step_histograms)
        # A removed source keeps its room. Otherwise the page would exceed its limit when the source returns. Its rules
        # are unknown here; those of another source differ by a few gauges at most.
        another = next(iter(self._rules.values()), None)
        return another.series_of(job, self.step_histograms) if another is not None and job.shown else 0

    def count_cold_start(self, reason: str) -> None:
        """Count a cold start: the state was missing, lost or corrupt. Raises StateError."""
        with self._lock:
            exporter = copy(self.committed.exporter)
            exporter.count(COLD_STARTS, reason)
            self._replace([exporter])

    def configure(self, rules: Mapping[str, SourceRules], counting_rules: Rules, step_histograms: str) -> None:
        """Apply a configuration. If it raises IdentityError, nothing has changed.

        Args:
            rules: The rules of each source.
            counting_rules: How runs are counted.
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
                self.committed.take(job, self._series(job))
            self._changed.everything = True
            self._watch_steps()

    def check(self, rules: Mapping[str, SourceRules]) -> None:
        """Raise IdentityError if the state contains another API under a source's name."""
        with self._lock:
            _check(self.committed.sources.values(), rules)

    def _admit(self, name: str, rules: SourceRules) -> None:
        """Add an empty record for a new source. It is written with the first batch."""
        state = fork(self.committed.sources.get(name) or SourceState(name=name, identity=rules.identity))
        if state.baseline is None:
            state.identity = rules.identity
        seed_source(state)
        self._take_source(state)
        self._show_unwritten(name)
        self._open.add_source(name)
        for job in [job for job in self.committed.jobs.values() if job.source == name]:
            shown = laid_out(job, _layouts(rules, self._counting, job))
            self.committed.take(shown, self._series(shown))

    def close(self) -> None:
        """Close the state. A poll that is still in progress cannot open it again."""
        with self._lock:
            self._closed = True
            if self._store is not None:
                self._store.close()
                self._store = None

    # --- transactions ---

    @contextmanager
    def _writing(self, *sources: str) -> Iterator[SqlStore]:
        store = self.store()
        try:
            with store.transaction(*sources):
                yield store
        except StateError as error:
            self.error = str(error)
            self.commit_errors += 1
            if self.committed.first_keys:  # other replicas write too, and this transaction may or may not be committed
                self._suspect.update(sources or self._rules)
            raise
        self.error = ""

    def _transaction(self, source: str, poll: PollContext) -> Transaction:
        self.load()
        poll = msgspec.structs.replace(poll, starting=source in self._starting)
        transaction = Transaction(
            self.committed, self._rules[source], self._counting, poll, step_histograms=self.step_histograms
        )
        draft = self._drafts.pop(source, None)
        if draft is not None and draft.base is transaction.base:
            transaction.go_on_from(draft)
        return transaction

    def _commit(self, transaction: Transaction, now: float) -> None:
        """Write a transaction, then update memory. Everything that can fail is done before the COMMIT."""
        if self._cold:
            transaction.count_for_exporter(COLD_STARTS, self._cold)
        if (polls := self._unwritten.get(transaction.source.name)) is not None:
            polls.write_to(transaction.source)
        if not self._counting.zero_first:
            _expose_all(transaction)
        with self._writing(transaction.source.name) as store:
            store.put_source(transaction.source, transaction.scopes, transaction.checkpoints)
            store.put_runs(transaction.source.name, transaction.runs.values())
            for key in transaction.recount:
                restate(transaction.job(key), store.streak(key), transaction.source.forgotten)
            for key in transaction.correct:
                correct(transaction.job(key), store.latest(key), transaction.source.forgotten)
            store.put_jobs(transaction.jobs.values())
            if transaction.exporter is not None:
                store.put_exporter(transaction.exporter)
            weighed = [(job, self._series(job)) for job in transaction.jobs.values()]
            followed = {run_id: _followed(transaction, row) for run_id, row in transaction.runs.items()}
        with self._taking():
            self._cold = ""
            self.last_commit = now
            self._unwritten.pop(transaction.source.name, None)
            self._take_source(transaction.source)
            self.committed.exporter = transaction.exporter or self.committed.exporter
            for job, weight in weighed:
                self.committed.take(job, weight)
            self._follow(transaction.source.name, followed)
            self._changed.jobs |= transaction.jobs.keys()
            self._watch_steps()

    @contextmanager
    def _taking(self) -> Iterator[None]:
        """Read the state again later if updating memory after a commit fails."""
        self._stale = True
        yield
        self._stale = False

    def _follow(self, source: str, followed: Mapping[str, OpenRun | None]) -> None:
        """Add runs to the index of active runs, or remove them."""
        for run_id, run in followed.items():
            changed = self._open.drop(source, run_id) if run is None else self._open.put(source, run)
            self._changed.jobs |= changed

    def _watch_steps(self) -> None:
        """Switch step histograms off until a reload if there are too many steps."""
        if self.step_histograms and self._step_mode == "auto" and self.committed.steps_total > MANY_STEPS:
            self.step_histograms = False
            self._changed.everything = True
            for job in list(self.committed.jobs.values()):
                self.committed.take(job, self._series(job))

    def _replace(self, records: Collection[JobState | SourceState | Counted]) -> None:
        """Write records outside of a poll, and update memory."""
        jobs = {record.key: record for record in records if isinstance(record, JobState)}
        sources = {record.name: record for record in records if isinstance(record, SourceState)}
        exporters = [record for record in records if not isinstance(record, JobState | SourceState)]
        concerned = {*sources, *(job.source for job in jobs.values())}
        with self._writing(*concerned) as store:
            store.put_jobs(jobs.values())
            for source in sources.values():
                store.put_source(source, (), ())
            for exporter in exporters:
                store.put_exporter(exporter)
        for job in jobs.values():
            self.committed.take(job, 0 if job.gone else self.committed.series[job.key])
        self.committed.sources.update(sources)
        self.committed.exporter = exporters[0] if exporters else self.committed.exporter
        self._changed.jobs |= jobs.keys()

    def _take_source(self, state: SourceState) -> None:
        state.scopes, state.checkpoints = joined(state.scopes), joined(state.checkpoints)
        self.committed.sources[state.name] = state

    def _show_unwritten(self, source: str) -> None:
        """Serve how a source stands although it is not written yet: `up` must be 0 while nothing can be written."""
        if source in self._unwritten:
            known = self.committed.sources[source]
            self.committed.sources[source] = msgspec.structs.replace(known, status=self._unwritten[source].status)

    def store(self) -> SqlStore:
        """Return the open state, to be read under `locked`. Raises StateError if there is none."""
        if self._store is None:
            raise StateError("the state is not open")
        return self._store

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the ledger's lock."""
        with self._lock:
            yield


def _followed(transaction: Transaction, row: StoredRun) -> OpenRun | None:
    return as_open(row, transaction.look(row.job)) if row.mark is CountState.OPEN else None


def _polls(source: SourceState) -> float:
    return sum(count.value for count in source.counts.get(POLLS, {}).values())


def _layouts(rules: SourceRules, counting: Rules, job: JobState) -> dict[str, tuple[float, ...]]:
    run_buckets = rules.run_buckets(job)
    return {RUN_DURATION: run_buckets, QUEUE_DURATION: run_buckets, STEP_DURATION: counting.step_buckets}


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
    """Expose all changes of a transaction at once, because zero-first is off."""
    for record in (transaction.source, *transaction.jobs.values(), transaction.exporter):
        if record is not None:
            record.expose()
    expose_unobserved(transaction.source)


def expose_unobserved(state: JobState | SourceState | Counted) -> None:
    """Add the seconds found unobserved at the start to their counter, after its restored value was scraped."""
    if isinstance(state, SourceState) and state.held_unobserved:
        state.count(UNOBSERVED, amount=state.held_unobserved)
        state.held_unobserved = 0.0
