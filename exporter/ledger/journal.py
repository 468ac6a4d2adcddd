"""The open state and its records in memory. Each change is written in one transaction.

A `Transaction` copies the records that it changes. The copies are written, and only then replace the records in memory.
If the state cannot be written, memory does not change either.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from exporter.counting.classify import CountState
from exporter.counting.counters import CountingRules
from exporter.counting.latest import set_last_runs, set_streak
from exporter.counting.records import Counted, JobState, OpenRun, SourceState, copy, with_bounds
from exporter.counting.rules import SourceRules
from exporter.errors import StateError
from exporter.ledger.ledger_state import LedgerState
from exporter.ledger.open_runs import OpenRuns, as_open
from exporter.ledger.poll_context import PollContext
from exporter.ledger.sightings import Sightings
from exporter.ledger.status import UnwrittenPolls, seed_source
from exporter.ledger.transaction import Transaction, fork, joined
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
        self._starting: set[str] = set()  # sources without a complete poll since the start
        self._loads: Counter[str] = Counter()  # how often the records of each source were loaded
        self._unread: dict[str, float] = {}  # sources that a poll has yet to read: start of the first poll since
        self._cold_start = ""  # reason of a cold start that is not counted yet
        self._closed = False
        self._must_reload = False  # memory may differ from the state
        self._sources_to_reload: set[str] = set()
        self._sources_with_commits: set[str] = set()
        self._lost_counts: dict[str, Counted] = {}
        self.committed = LedgerState()
        self._polled: set[str] = set()
        self._unwritten: dict[str, UnwrittenPolls] = {}
        self._drafts: dict[str, Transaction] = {}
        self._counting = CountingRules(step_buckets=())
        self._may_limit_steps = True
        self.last_commit: float | None = None
        self.commit_errors = 0
        """Number of failed attempts to open or write the state."""
        self.error = ""
        """Error of the last attempt to open or write the state; "" if it succeeded."""

    @property
    def step_histograms(self) -> bool:
        """Return whether step durations are counted."""
        return self._counting.step_histograms

    # --- opening and configuring ---

    def load(self) -> None:
        """Open the state if it is not open, and read it.

        Raises StateError if the state cannot be written now. Records that could be read are in memory even then.
        """
        with self._lock:
            if self._closed:
                raise StateError("the state is closed")
            if self._store is None:
                self._open_state()
                return
            self._verify(self._store)
            if self._must_reload:
                self._replace_everything(self._store.load())
                self._must_reload = False
                self._sources_to_reload.clear()
            elif self._sources_to_reload:
                self.reload(self._sources_to_reload)

    def reload(self, sources: Collection[str]) -> None:
        """Replace the records of sources in memory by those of the state. Raises StateError."""
        with self._lock:
            names = frozenset(sources)
            loaded = self.store().load(names)
            self._replace_sources(loaded, names)
            self._sources_to_reload -= names
            if loaded.behind:  # a replica that starts now knows only what is in the state
                self._replace([copy(self.committed.exporter)])

    def _replace_sources(self, loaded: LoadedState, names: frozenset[str]) -> None:
        kept = {job.key for job in loaded.jobs}
        gone = {key for key, job in self.committed.jobs.items() if job.source in names} - kept
        for key in gone:
            self.committed.delete(key)
        self._changed.jobs |= gone.union(kept, *map(self._open.clear, names))
        for name in names:
            self._sightings.pop(name, None)
            self._unwritten.pop(name, None)
            self._starting.add(name)
            self._loads[name] += 1
            self._unread[name] = float("inf")
            self._sources_with_commits.discard(name)
        for source in loaded.sources:
            self._keep_lost_counts(source)
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
            self._apply_rules(name, self._rules[name])

    def _keep_lost_counts(self, loaded: SourceState) -> None:
        """Keep the counters of a source if the state has lost commits of it."""
        known = self.committed.sources.get(loaded.name)
        if known is not None and _poll_count(known) > _poll_count(loaded):
            self._lost_counts.setdefault(loaded.name, Counted()).raise_to(known)

    def _open_state(self) -> None:
        opened = self._opening()
        # Opening moves a corrupt state aside, so a later attempt reports a new state: keep the first reason.
        if not (self._cold_start and opened.cold in {"", "new"}):
            self._cold_start = opened.cold
        try:
            _check_identities(opened.loaded.sources, self._rules)
        except IdentityError as error:
            if opened.store is not None:
                opened.store.close()
            opened = msgspec.structs.replace(opened, store=None, error=str(error))
        else:
            self._replace_everything(opened.loaded)
        self.error = opened.error
        if opened.store is None:
            self.commit_errors += 1
            raise StateError(opened.error)
        self._store = opened.store
        if self._cold_start:
            self.count_cold_start(self._cold_start)
            self._cold_start = ""

    def _verify(self, store: SqlStore) -> None:
        try:
            store.verify()
        except StateError as error:
            self.error = str(error)
            self.commit_errors += 1
            raise

    def _replace_everything(self, loaded: LoadedState) -> None:
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
            self._apply_rules(name, rules)

    def _series(self, job: JobState) -> int:
        rules = self._rules.get(job.source)
        if rules is not None:
            return rules.weight(job, step_histograms=self.step_histograms)
        # The series of a removed source still count, or the page would exceed its limit when the source returns. The
        # source's rules are unknown here; those of another source differ by a few gauges at most.
        another = next(iter(self._rules.values()), None)
        return another.series_of(job, self.step_histograms) if another is not None and job.shown else 0

    def count_cold_start(self, reason: str) -> None:
        """Count a cold start: the state was missing, lost or corrupt. Raises StateError."""
        with self._lock:
            exporter = copy(self.committed.exporter)
            exporter.count(COLD_STARTS, reason)
            self._replace([exporter])

    def configure(self, rules: Mapping[str, SourceRules], counting_rules: CountingRules, step_histograms: str) -> None:
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
            self._counting = msgspec.structs.replace(counting_rules, step_histograms=step_histograms != "off")
            self._may_limit_steps = step_histograms == "auto"
            for name, wanted in rules.items():
                self._apply_rules(name, wanted)
            for job in [job for job in self.committed.jobs.values() if job.source not in rules]:
                self.committed.take(job, self._series(job))
            self._changed.everything = True
            self._limit_step_histograms()

    def check(self, rules: Mapping[str, SourceRules]) -> None:
        """Raise IdentityError if the state contains another API under a source's name."""
        with self._lock:
            _check_identities(self.committed.sources.values(), rules)

    def _apply_rules(self, name: str, rules: SourceRules) -> None:
        """Add an empty record for a new source. It is written with the first batch."""
        state = fork(self.committed.sources.get(name) or SourceState(name=name, identity=rules.identity))
        if state.baseline is None:
            state.identity = rules.identity
        seed_source(state)
        self._put_source(state)
        self._show_unwritten_status(name)
        self._open.add_source(name)
        for job in [job for job in self.committed.jobs.values() if job.source == name]:
            shown = with_bounds(job, _bounds_by_family(rules, self._counting, job))
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
                self._sources_to_reload.update(sources or self._rules)
            raise
        self.error = ""

    def _transaction(self, source: str, poll: PollContext) -> Transaction:
        self.load()
        poll.require_load(self._loads[source])
        poll = msgspec.structs.replace(poll, starting=source in self._starting)
        return Transaction(
            self.committed,
            self._rules[source],
            self._counting,
            poll,
            draft=self._drafts.pop(source, None),
        )

    def _commit(self, transaction: Transaction, now: float) -> None:
        """Write a transaction, then update memory. Everything that can fail is done before the COMMIT."""
        if self._cold_start:
            transaction.count_for_exporter(COLD_STARTS, self._cold_start)
        if (polls := self._unwritten.get(transaction.source.name)) is not None:
            polls.write_to(transaction.source)
        if not self._counting.zero_first:
            _expose_all(transaction)
        with self._writing(transaction.source.name) as store:
            store.put_source(transaction.source, transaction.scopes, transaction.checkpoints)
            store.put_runs(transaction.source.name, transaction.runs.values())
            for key in transaction.jobs_to_recount:
                set_streak(transaction.job(key), store.streak(key), transaction.source.forgotten)
            for key in transaction.jobs_to_correct:
                set_last_runs(transaction.job(key), store.latest(key), transaction.source.forgotten)
            store.put_jobs(transaction.jobs.values())
            if transaction.exporter is not None:
                store.put_exporter(transaction.exporter)
            weighed = [(job, self._series(job)) for job in transaction.jobs.values()]
            followed = {run_id: _open_run_of(transaction, row) for run_id, row in transaction.runs.items()}
        with self._updating_memory():
            self._cold_start = ""
            self.last_commit = now
            self._unwritten.pop(transaction.source.name, None)
            self._put_source(transaction.source)
            self.committed.exporter = transaction.exporter or self.committed.exporter
            for job, weight in weighed:
                self.committed.take(job, weight)
            self._update_open_runs(transaction.source.name, followed)
            self._changed.jobs |= transaction.jobs.keys()
            self._limit_step_histograms()

    @contextmanager
    def _updating_memory(self) -> Iterator[None]:
        """Read the state again later if updating memory after a commit fails."""
        self._must_reload = True
        yield
        self._must_reload = False

    def _update_open_runs(self, source: str, followed: Mapping[str, OpenRun | None]) -> None:
        for run_id, run in followed.items():
            changed = self._open.drop(source, run_id) if run is None else self._open.put(source, run)
            self._changed.jobs |= changed

    def _limit_step_histograms(self) -> None:
        """Switch step histograms off until a reload if there are too many steps."""
        if self._may_limit_steps and self.committed.steps_total > MANY_STEPS:
            self._may_limit_steps = False
            self._counting = msgspec.structs.replace(self._counting, step_histograms=False)
            self._changed.everything = True
            for job in list(self.committed.jobs.values()):
                self.committed.take(job, self._series(job))

    def _replace(self, records: Collection[JobState | SourceState | Counted]) -> None:
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

    def _put_source(self, state: SourceState) -> None:
        state.scopes, state.checkpoints = joined(state.scopes), joined(state.checkpoints)
        self.committed.sources[state.name] = state

    def _show_unwritten_status(self, source: str) -> None:
        """Serve the source's unwritten status: `up` must be 0 while nothing can be written."""
        if source in self._unwritten:
            known = self.committed.sources[source]
            self.committed.sources[source] = msgspec.structs.replace(known, status=self._unwritten[source].status)

    def store(self) -> SqlStore:
        """Return the open state. Read it only under `locked`. Raises StateError if no state is open."""
        if self._store is None:
            raise StateError("the state is not open")
        return self._store

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the ledger's lock."""
        with self._lock:
            yield


def _open_run_of(transaction: Transaction, row: StoredRun) -> OpenRun | None:
    return as_open(row, transaction.peek(row.job)) if row.mark is CountState.OPEN else None


def _poll_count(source: SourceState) -> float:
    return sum(count.value for count in source.counts.get(POLLS, {}).values())


def _bounds_by_family(rules: SourceRules, counting: CountingRules, job: JobState) -> dict[str, tuple[float, ...]]:
    run_buckets = rules.run_buckets(job)
    return {RUN_DURATION: run_buckets, QUEUE_DURATION: run_buckets, STEP_DURATION: counting.step_buckets}


def _check_identities(sources: Iterable[SourceState], rules: Mapping[str, SourceRules]) -> None:
    for known in sources:
        wanted = rules.get(known.name)
        # A source without a baseline was never polled and is not in the state yet.
        if wanted is not None and known.baseline is not None and known.identity != wanted.identity:
            raise IdentityError(
                f"source {known.name}: the state has the runs of {known.identity}, but the configuration names "
                f"{wanted.identity}; give the source a new name, or the exporter a new state.path"
            )


def _expose_all(transaction: Transaction) -> None:
    """Expose all changes of a transaction at once, because zero-first is off."""
    for record in (transaction.source, *transaction.jobs.values(), transaction.exporter):
        if record is not None:
            record.expose()
    expose_unobserved(transaction.source)


def expose_unobserved(state: JobState | SourceState | Counted) -> None:
    """Add the pending unobserved seconds to their counter, after its restored value was scraped."""
    if isinstance(state, SourceState) and state.pending_unobserved:
        state.count(UNOBSERVED, amount=state.pending_unobserved)
        state.pending_unobserved = 0.0
