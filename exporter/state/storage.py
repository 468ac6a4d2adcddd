"""What the ledger needs of a state, wherever it is kept; `exporter.state.store.Store` keeps it in a file.

Whatever satisfies this and tests/core/test_store_contract.py can be put in its place.
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
    """What the state holds, save the runs that have ended."""

    sources: list[SourceState]
    jobs: list[JobState]
    open_runs: list[tuple[str, StoredRun]]
    exporter: Counted


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What was forgotten: the key of the job of each run, and how many counted runs had steps to be fetched."""

    jobs: list[int]
    steps_lost: int


class Storage(Protocol):
    """One open state. Need not be thread-safe: the ledger holds a lock round every use.

    Every method raises StateError if the state cannot be read or written. Writing happens inside `transaction` only,
    and what is written there can be read there.
    """

    def load(self, sources: Collection[str] | None = None) -> LoadedState:
        """Return all records and active runs, or those of some sources, as they were at one time."""

    def owns(self, source: str) -> bool:
        """Return whether this process may write for a source."""

    def first_keys(self) -> Mapping[str, int]:
        """Return from where on the keys of each source's jobs count, where several processes make keys."""

    def verify(self) -> None:
        """Raise if what is written would not last; the call after that repairs it where it can."""

    def transaction(self, *sources: str) -> AbstractContextManager[None]:
        """What is put inside for these sources is there for good at its end, or, after any exception, none of it is.

        Where several processes share a state it must also fail if this one may no longer write for a source, or if the
        records in memory are not those of the state. After a failure the sources must be loaded again.
        """

    def put_source(
        self, source: SourceState, scopes: Collection[str] | None = None, notes: Collection[str] | None = None
    ) -> None:
        """Write a source's record, and those of its scopes and notes that have changed: all by default."""

    def put_jobs(self, jobs: Iterable[JobState]) -> None:
        """Writes jobs' records; a job's `key` is its identity."""

    def put_runs(self, source: str, runs: Iterable[StoredRun]) -> None:
        """Writes rows of a source whose record has been put; a run of the same id is replaced."""

    def put_exporter(self, exporter: Counted) -> None:
        """Write the exporter's own counters."""

    def prune(self, source: str, before: float, limit: int) -> Pruned:
        """Prune runs that started and completed before a time, at most `limit`, except active and expired ones."""

    def without_runs(self, jobs: Collection[int]) -> list[int]:
        """Return those of these jobs that have no run."""

    def delete_jobs(self, jobs: Iterable[int]) -> None:
        """Delete the records of jobs."""

    def checkpoint(self) -> None:
        """Give back the room that large transactions took, unless somebody reads just now."""

    def past(self, job: int, limit: int) -> list[PastRun]:
        """The runs of a job that ended last, the latest first."""

    def activity(self, job: int, since: float, grain: float) -> list[float]:
        """The first completion of a job's runs in each stretch of `grain` seconds, in order."""

    def runs(self, source: str, run_ids: Collection[str]) -> dict[str, StoredRun]:
        """The rows of these runs, by id; ids that are not known are left out."""

    def started_between(self, source: str, window: Window) -> frozenset[str]:
        """Ids of the source's runs that started in a window."""

    def streak(self, job: int) -> Streak:
        """A job's standing, counted from its runs."""

    def latest(self, job: int) -> Latest:
        """Return the last completed run of a job, and the last failed one."""

    def pending_steps(self, source: str, due: float, limit: int) -> list[StoredRun]:
        """Return runs whose steps are due: failures first, the baseline last, newest first."""

    def count_pending_steps(self, source: str) -> int:
        """Return the number of runs whose steps are pending."""

    def count_runs(self, source: str) -> dict[int, int]:
        """How many runs of a source are known, by the key of their job."""

    def size(self) -> int:
        """Bytes that the state takes up."""

    def close(self) -> None:
        """Ends the use of the state."""
