"""Copies of one source's records. A transaction changes the copies before they are written."""

from collections import ChainMap
from collections.abc import MutableMapping
from typing import TypeVar

import msgspec

from exporter.counting.counters import CountingRules
from exporter.counting.records import Counted, JobState, ScopeState, SourceState, copy
from exporter.counting.rules import SourceRules
from exporter.ledger.ledger_state import LedgerState
from exporter.ledger.poll_context import PollContext
from exporter.state.schema import StoredRun

Value = TypeVar("Value")


class RecordCopies:
    """Copies of the records that a transaction changes. A record is copied when it is first requested."""

    def __init__(
        self,
        committed: LedgerState,
        rules: SourceRules,
        counting: CountingRules,
        poll: PollContext,
        *,
        step_histograms: bool,
    ) -> None:
        self.rules = rules
        self.counting = counting
        self.poll = poll
        self.step_histograms = step_histograms
        self._committed = committed
        self._steps: dict[int, set[str]] = {}
        self._folded_steps: dict[int, set[str]] = {}
        self._next_key = committed.next_key(rules.name)
        self._new: dict[str, int] = {}
        self._names: dict[tuple[str, str], int] = {}
        self.exporter: Counted | None = None
        self.base = committed.sources[rules.name]
        self.source = fork(self.base)
        self.scopes: set[str] = set()
        self.checkpoints: set[str] = set()
        self.jobs: dict[int, JobState] = {}
        self.runs: dict[str, StoredRun] = {}
        self.jobs_to_recount: set[int] = set()
        self.jobs_to_correct: set[int] = set()
        self.series = committed.series_total

    def continue_from(self, draft: "RecordCopies") -> None:
        """Continue with the changes of an unwritten draft to the source."""
        self.source, self.scopes = draft.source, draft.scopes

    @property
    def can_be_deferred(self) -> bool:
        """Return whether the transaction counts nothing. If it is lost, the next poll reads the same again."""
        return not (self.runs or self.jobs or self.checkpoints or self.exporter)

    def job(self, key: int) -> JobState:
        """Return a copy of a job's record, which the caller may change."""
        if key not in self.jobs:
            self.jobs[key] = copy(self._committed.jobs[key])
        return self.jobs[key]

    def scope(self, name: str) -> ScopeState:
        """Return a copy of a scope's record, which the caller may change."""
        if name not in self.scopes:
            self.put_scope(name, msgspec.structs.replace(self.source.scopes[name]))
        return self.source.scopes[name]

    def put_scope(self, name: str, scope: ScopeState) -> None:
        """Add a record for a new scope."""
        self.scopes.add(name)
        self.source.scopes[name] = scope

    def drop_scope(self, name: str) -> None:
        """Remove a scope."""
        self.scopes.add(name)
        self.source.scopes = {each: scope for each, scope in self.source.scopes.items() if each != name}

    def put_checkpoint(self, name: str, text: str) -> None:
        """Set a checkpoint of the source; "" deletes it."""
        if self.source.checkpoints.get(name, "") == text:
            return
        self.checkpoints.add(name)
        if text:
            self.source.checkpoints[name] = text
        else:
            self.source.checkpoints = {each: kept for each, kept in self.source.checkpoints.items() if each != name}

    def find(self, job_id: str) -> int | None:
        """Return the key of a job; None if it is unknown."""
        return self._new.get(job_id) or self._committed.by_id.get((self.rules.name, job_id))

    def peek(self, key: int) -> JobState:
        """Return a job's record, which the caller must not change."""
        return self.jobs.get(key) or self._committed.jobs[key]

    def keys(self, scope: str) -> list[int]:
        """Return the keys of a scope's jobs."""
        drafted = {key for key, state in self.jobs.items() if state.job.scope == scope and not state.overflow}
        left = {key for key, state in self.jobs.items() if state.job.scope != scope}
        return sorted((self._committed.of_scope(self.rules.name, scope).keys() | drafted) - left)

    def count_for_exporter(self, family: str, label: str) -> None:
        """Add to one of the exporter's own counters."""
        if self.exporter is None:
            self.exporter = copy(self._committed.exporter)
        self.exporter.count(family, label)


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


def joined(table: MutableMapping[str, Value]) -> MutableMapping[str, Value]:
    """Return a table merged with the changes in the layer over it."""
    # A reader may iterate over the table now. If only values change, they are replaced in place, and the reader gets
    # the old or the new value. If keys change, the table is copied, because the reader would fail.
    if not isinstance(table, ChainMap):
        return table
    changes, base = table.maps
    if not changes.keys() <= base.keys():
        return {**base, **changes}
    base.update(changes)
    return base
