"""The interface of a state. `exporter.state.store.Store` implements it with a file.

An implementation must pass tests/core/test_store_contract.py.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from exporter.counting.classify import Latest, Streak
from exporter.counting.records import Counted, JobState, SourceState
from exporter.model import PastRun, Window
from exporter.state.schema import StoredRun


class LoadedState(msgspec.Struct, kw_only=True):
    """All records of a state, and its active runs."""

    sources: list[SourceState]
    jobs: list[JobState]
    open_runs: list[tuple[str, StoredRun]]
    exporter: Counted


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """Result of pruning: the job's key of each deleted run, and the number of counted runs with pending steps."""

    jobs: list[int]
    steps_lost: int


class Storage(Protocol):
    """One open state. It need not be thread-safe: the ledger holds a lock for each use.

    Every method raises StateError if the state cannot be read or written. Writes happen only inside `transaction`,
    which can read its own writes.
    """

    def load(self, sources: Collection[str] | None = None) -> LoadedState:
        """Return all records and active runs, or those of some sources, from one point in time."""

    def owns(self, source: str) -> bool:
        """Return whether this process may write for a source."""

    def first_keys(self) -> Mapping[str, int]:
        """Return the first job key of each source, if several processes create keys."""

    def verify(self) -> None:
        """Raise StateError if writes would not last. The next call repairs that if possible."""

    def transaction(self, *sources: str) -> AbstractContextManager[None]:
        """Commit everything that is written inside for these sources, or, after any exception, nothing.

        A shared state must also fail if this process may no longer write for a source, or if the records in memory are
        not those of the state. After a failure the sources must be loaded again.
        """

    def put_source(
        self, source: SourceState, scopes: Collection[str] | None = None, checkpoints: Collection[str] | None = None
    ) -> None:
        """Write a source's record and its changed scopes and checkpoints, by default all."""

    def put_jobs(self, jobs: Iterable[JobState]) -> None:
        """Write jobs' records. A job's `key` is its identity."""

    def put_runs(self, source: str, runs: Iterable[StoredRun]) -> None:
        """Write rows of a source whose record is written. A run with the same ID is replaced."""

    def put_exporter(self, exporter: Counted) -> None:
        """Write the exporter's own counters."""

    def prune(self, source: str, before: float, limit: int) -> Pruned:
        """Prune runs that started and completed before a time, at most `limit`, except active and expired ones."""

    def without_runs(self, jobs: Collection[int]) -> list[int]:
        """Return those of these jobs that have no run."""

    def delete_jobs(self, jobs: Iterable[int]) -> None:
        """Delete the records of jobs."""

    def checkpoint(self) -> None:
        """Free the space of large transactions, unless a reader is active."""

    def past(self, job: int, limit: int) -> list[PastRun]:
        """Return the last completed runs of a job, newest first."""

    def activity(self, job: int, since: float, grain: float) -> list[float]:
        """Return the first completion of a job's runs in each interval of `grain` seconds, sorted."""

    def runs(self, source: str, run_ids: Collection[str]) -> dict[str, StoredRun]:
        """Return the rows of these runs by ID. Unknown IDs are missing."""

    def started_between(self, source: str, window: Window) -> frozenset[str]:
        """Return the IDs of the source's runs that started in a window."""

    def streak(self, job: int) -> Streak:
        """Return a job's streak, counted from its runs."""

    def latest(self, job: int) -> Latest:
        """Return the last completed run of a job, and the last failed one."""

    def pending_steps(self, source: str, due: float, limit: int) -> list[StoredRun]:
        """Return runs whose steps are due: failures first, the baseline last, newest first."""

    def count_pending_steps(self, source: str) -> int:
        """Return the number of runs whose steps are pending."""

    def count_runs(self, source: str) -> dict[int, int]:
        """Return the number of a source's runs by the key of their job."""

    def size(self) -> int:
        """Return the size of the state in bytes."""

    def close(self) -> None:
        """Close the state."""
