"""A transaction before it is written: copies of the records that it changes, and the rows that it writes."""

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from typing import TypeVar

import msgspec

from exporter.counting.classify import CountState
from exporter.counting.counters import CountingRules
from exporter.counting.latest import set_last_runs, set_streak
from exporter.counting.records import Counted, JobState, OpenRun, ScopeState, SourceState, copy
from exporter.counting.rules import SourceRules
from exporter.ledger.ledger_state import LedgerState, as_open
from exporter.ledger.poll_context import PollContext
from exporter.ledger.status import UnwrittenPolls, expose_unobserved
from exporter.model import Job, Run, Step
from exporter.state.schema import StoredRun
from exporter.state.sql import SqlStore

Value = TypeVar("Value")


class Transaction:
    """Changes to the records of one source, written together. A record is copied before its first change.

    Args:
        committed: The records in memory.
        draft: An unwritten transaction of the source. This one continues it, unless the source's record was replaced.

    Attributes:
        starting: Whether the source had no complete poll since its records were loaded.
        base: The source's committed record.
        source: The copy of this record.
        scopes: Names of the changed scopes.
        checkpoints: Names of the changed checkpoints.
        polls: Polls to add to the source's record. None adds those that could not be written earlier.
        jobs_to_recount: Jobs whose streak must be counted from rows.
        jobs_to_correct: Jobs whose last run and last failure must be read from rows.
    """

    def __init__(
        self,
        committed: LedgerState,
        rules: SourceRules,
        counting: CountingRules,
        poll: PollContext,
        draft: "Transaction | None" = None,
    ) -> None:
        self.committed = committed
        self.rules = rules
        self.counting = counting
        self.poll = poll
        self.starting = False
        self.base = committed.sources[rules.name]
        continued = draft if draft is not None and draft.base is self.base else None
        self.source: SourceState = fork(self.base) if continued is None else continued.source
        self.scopes: set[str] = set() if continued is None else continued.scopes
        self.checkpoints: set[str] = set()
        self.jobs: dict[int, JobState] = {}
        self.runs: dict[str, StoredRun] = {}
        self.exporter: Counted | None = None
        self.polls: UnwrittenPolls | None = None
        self.jobs_to_recount: set[int] = set()
        self.jobs_to_correct: set[int] = set()
        self._new_keys: dict[str, int] = {}
        self._next_key = committed.next_key(rules.name)

    @property
    def can_be_deferred(self) -> bool:
        """Return whether the transaction counts nothing. If it is lost, the next poll reads the same data again."""
        return not (self.runs or self.jobs or self.checkpoints or self.exporter)

    def find(self, job_id: str) -> int | None:
        """Return the key of a job; None if the job is unknown."""
        return self._new_keys.get(job_id) or self.committed.by_id.get((self.rules.name, job_id))

    def peek(self, key: int) -> JobState:
        """Return a job's record, which the caller must not change."""
        return self.jobs.get(key) or self.committed.jobs[key]

    def job(self, key: int) -> JobState:
        """Return a copy of a job's record, which the caller may change."""
        if key not in self.jobs:
            self.jobs[key] = copy(self.committed.jobs[key])
        return self.jobs[key]

    def add_job(self, job: Job, project: str, name: str, *, baseline: float, overflow: bool = False) -> JobState:
        """Add the record of a new job."""
        state = JobState(
            key=self._next_key,
            source=self.rules.name,
            job=job,
            project=project,
            name=name,
            discovered=self.poll.now,
            baseline=baseline,
            overflow=overflow,
        )
        self._next_key += 1
        self._new_keys[job.job_id] = state.key
        self.jobs[state.key] = state
        return state

    def is_busy(self, key: int) -> bool:
        """Return whether a job has committed active runs."""
        return self.committed.open_runs.is_busy(key)

    def jobs_of_scope(self, scope: str) -> list[int]:
        """Return the keys of a scope's jobs."""
        added = {key for key, state in self.jobs.items() if state.job.scope == scope and not state.overflow}
        moved = {key for key, state in self.jobs.items() if state.job.scope != scope}
        return sorted((self.committed.of_scope(self.rules.name, scope).keys() | added) - moved)

    def scope(self, name: str) -> ScopeState:
        """Return a copy of a scope's record, which the caller may change."""
        if name not in self.scopes:
            self.put_scope(name, msgspec.structs.replace(self.source.scopes[name]))
        return self.source.scopes[name]

    def put_scope(self, name: str, scope: ScopeState) -> None:
        """Add or replace the record of a scope."""
        self.scopes.add(name)
        self.source.scopes[name] = scope

    def drop_scope(self, name: str) -> None:
        """Remove a scope."""
        self.scopes.add(name)
        self.source.scopes = {each: scope for each, scope in self.source.scopes.items() if each != name}

    def put_checkpoints(self, checkpoints: Mapping[str, str]) -> None:
        """Set checkpoints of the source; "" deletes one."""
        source = self.source
        changed = {name: text for name, text in checkpoints.items() if source.checkpoints.get(name, "") != text}
        self.checkpoints |= changed.keys()
        source.checkpoints.update(changed)
        if "" in changed.values():
            source.checkpoints = {name: text for name, text in source.checkpoints.items() if text}

    def count_for_exporter(self, family: str, label: str) -> None:
        """Add 1 to one of the exporter's own counters."""
        if self.exporter is None:
            self.exporter = copy(self.committed.exporter)
        self.exporter.count(family, label)

    def expose(self) -> None:
        """Expose all changes at once, because zero-first is off."""
        for record in (self.source, *self.jobs.values(), self.exporter):
            if record is not None:
                record.expose()
        expose_unobserved(self.source)

    def write(self, store: SqlStore) -> None:
        """Write all changes to the state."""
        store.put_source(self.source, self.scopes, self.checkpoints)
        store.put_runs(self.source.name, self.runs.values())
        for key in self.jobs_to_recount:
            set_streak(self.job(key), store.streak(key), self.source.pruned_before)
        for key in self.jobs_to_correct:
            set_last_runs(self.job(key), *store.latest(key), self.source.pruned_before)
        store.put_jobs(self.jobs.values())
        if self.exporter is not None:
            store.put_exporter(self.exporter)

    def open_runs(self) -> dict[str, OpenRun | None]:
        """Return the active runs among the changed ones by run ID; None for a run that is no longer active."""
        return {
            run_id: as_open(row, self.peek(row.job)) if row.mark is CountState.OPEN else None
            for run_id, row in self.runs.items()
        }


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one run that a poll has read.

    Attributes:
        before: The run's stored row before the poll; None if the run is new.
        run: The best row that the poll has shown so far.
        counted: Whether this poll has counted the run.
        waiting: Whether the row is not written yet, because it contradicts what is known or lacks an end. It is
            written at the end of the poll, unless the poll shows a better row.
    """

    before: StoredRun | None
    run: Run
    counted: bool = False
    scope: str = ""
    waiting: bool = False
    steps: Sequence[Step] | None = None


class SourceMemory(msgspec.Struct, kw_only=True):
    """Data about a source that the ledger keeps only in memory.

    Attributes:
        loads: How often the records were loaded again.
        poll_started: When the poll of `sightings` started.
        sightings: What this poll has shown of each run, by run ID. Only committed batches add to it.
        draft: Changes that wait for the end of the poll, because they count nothing.
        unwritten: Polls that no transaction has written yet.
        polled: Whether a poll has ended, or takes so long that readiness does not wait for it.
        has_commits: Whether a batch was committed since the records were loaded.
    """

    loads: int = 0
    poll_started: float | None = None
    sightings: dict[str, Sighting] = {}
    draft: Transaction | None = None
    unwritten: UnwrittenPolls | None = None
    polled: bool = False
    has_commits: bool = False


def fork(source: SourceState) -> SourceState:
    """Return a copy of a source's record that a transaction may change."""
    # There may be thousands of scopes and checkpoints, so they are not copied: a ChainMap layer collects the changes.
    counts = {
        family: {labels: msgspec.structs.replace(count) for labels, count in series.items()}
        for family, series in source.counts.items()
    }
    distributions = {
        family: {
            labels: msgspec.structs.replace(each, counts=list(each.counts), exemplars=dict(each.exemplars))
            for labels, each in series.items()
        }
        for family, series in source.distributions.items()
    }
    return msgspec.structs.replace(
        source,
        counts=counts,
        distributions=distributions,
        scopes=ChainMap({}, source.scopes),
        checkpoints=ChainMap({}, source.checkpoints),
        filters=list(source.filters),
        unobserved=list(source.unobserved),
    )


def merge_changes(table: MutableMapping[str, Value]) -> MutableMapping[str, Value]:
    """Merge the changes of a forked table into the committed one. Return it, or a copy if keys were added."""
    # Another thread may iterate over the committed table now. A replaced value does not disturb it. An added or removed
    # key would make its iteration fail, so the table is then copied.
    if not isinstance(table, ChainMap):
        return table
    changes, base = table.maps
    if not changes.keys() <= base.keys():
        return {**base, **changes}
    base.update(changes)
    return base
