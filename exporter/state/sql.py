"""Reads and writes records and rows in the SQL that all databases of a state share.

`exporter.ledger` decides what is written.
"""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import msgspec

from exporter.counting.classify import CountState
from exporter.counting.records import Counted, JobState, SourceState
from exporter.state import scopes as rows_of_scopes
from exporter.state.schema import StepState, StoredRun, to_stored
from exporter.state.sql_runs import ENDED, OF_SOURCE, CorruptStateError, SqlRuns


class LoadedState(msgspec.Struct, kw_only=True):
    """All records of a state, and its active runs.

    `behind`: whether the state has lost counts of the exporter that this process knows, and that are in `exporter`.
    """

    sources: list[SourceState]
    jobs: list[JobState]
    open_runs: list[tuple[str, StoredRun]]
    exporter: Counted
    behind: bool = False


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """Result of pruning: the job's key of each deleted run, and the number of counted runs with pending steps."""

    jobs: list[int]
    steps_lost: int


class SqlStore(SqlRuns):
    """One open state. Not thread-safe: the ledger holds a lock for each use.

    Every method raises StateError if the state cannot be read or written. Writes happen only inside `transaction`,
    which can read its own writes. An implementation must pass tests/core/test_store_contract.py.
    """

    PUT_JOB: ClassVar[str]
    PUT_EXPORTER: ClassVar[str]
    """Statements that insert a row, or replace the one with the same identity."""

    @abstractmethod
    def transaction(self, *sources: str) -> AbstractContextManager[None]:
        """Commit everything that is written inside for these sources, or, after any exception, nothing.

        A shared state must also fail if this process may no longer write for a source, or if the records in memory are
        not those of the state. After a failure the sources must be loaded again.
        """

    @abstractmethod
    def size(self) -> int:
        """Return the size of the state in bytes."""

    @abstractmethod
    def close(self) -> None:
        """Close the state."""

    def verify(self) -> None:
        """Raise StateError if writes would not last. The next call repairs that if possible."""

    def checkpoint(self) -> None:
        """Free the space that large transactions used, unless the state is being read."""

    def source_keys(self) -> Mapping[str, int]:
        """Return the key of each source that was loaded or put."""
        return self._sources

    def owns(self, source: str) -> bool:  # noqa: ARG002  # a state that nobody shares is whose who has opened it
        """Return whether this process may write for a source."""
        return True

    def first_keys(self) -> Mapping[str, int]:
        """Return the first job key of each source, if several processes create keys."""
        return {}

    def load(self, sources: Collection[str] | None = None) -> LoadedState:
        """Return all records and active runs, or those of some sources."""
        with self._explained(), self._understood():
            self._sources = dict(self._db.execute("SELECT name, key FROM sources"))
            keys = {key: name for name, key in self._sources.items() if sources is None or name in sources}
            records, self._embedded = rows_of_scopes.read(self._db, self._version, *self._among("key", sources, keys))
            wanted, values = self._among("source", sources, [*keys.values()])
            rows = self._db.execute(f"SELECT record FROM jobs WHERE true{wanted} ORDER BY key", values)  # noqa: S608  # constants
            jobs = [msgspec.json.decode(record, type=JobState) for (record,) in rows]
            wanted, values = self._among("source", sources, keys)
            query = f"SELECT source, {self._columns} FROM runs WHERE mark = 0{wanted}"  # noqa: S608  # constants
            open_runs = [(keys[source], to_stored(rest)) for source, *rest in self._db.execute(query, values)]
            row = self._db.execute("SELECT record FROM exporter").fetchone()
            exporter = msgspec.json.decode(row[0], type=Counted) if row else Counted()
        if set(keys.values()) != {source.name for source in records}:
            raise CorruptStateError(f"{self.name}: a source's record has another name than its row")
        if not {row.job for _, row in open_runs} <= {job.key for job in jobs}:
            raise CorruptStateError(f"{self.name}: a run belongs to no job")
        return LoadedState(sources=records, jobs=jobs, open_runs=open_runs, exporter=exporter)

    def _among(self, column: str, wanted: object, values: Collection[Any]) -> tuple[str, tuple[object, ...]]:
        """Return the condition that a column has one of these values, and its parameter; empty if all are wanted."""
        return ("", ()) if wanted is None else (f" AND {column} {self.AMONG}", (self._list(values),))

    def put_source(
        self, source: SourceState, scopes: Collection[str] | None = None, checkpoints: Collection[str] | None = None
    ) -> None:
        """Write a source's record and its changed scopes and checkpoints, by default all."""
        record = rows_of_scopes.encoded(source)
        updated = self._db.execute("UPDATE sources SET record = ? WHERE name = ?", (record, source.name))
        if not updated.rowcount:
            new = "INSERT INTO sources (name, record) VALUES (?, ?) RETURNING key"
            (self._sources[source.name],) = self._db.execute(new, (source.name, record)).fetchone()
        if source.name in self._embedded:
            scopes = checkpoints = None
            self._moved.add(source.name)
        rows_of_scopes.write(self._db, self._sources[source.name], source, (scopes, checkpoints))

    def put_jobs(self, jobs: Iterable[JobState]) -> None:
        """Write jobs' records."""
        self._db.executemany(
            self.PUT_JOB, [(job.key, job.source, job.job.job_id, msgspec.json.encode(job)) for job in jobs]
        )

    @abstractmethod
    def put_runs(self, source: str, runs: Iterable[StoredRun]) -> None:
        """Write rows of a source whose record is written."""

    def put_exporter(self, exporter: Counted) -> None:
        """Write the exporter's own counters."""
        self._db.execute(self.PUT_EXPORTER, (msgspec.json.encode(exporter),))

    def prune(self, source: str, before: float, limit: int) -> Pruned:
        """Delete at most `limit` runs that completed before a time. Must be called in a transaction.

        Expired runs stay: the API may show them as active forever, and they must not count again.
        """
        wanted = (
            f"runs WHERE {OF_SOURCE} AND mark <> 0 AND {ENDED} < ? "
            f"AND mark IN ({CountState.COUNTED}, {CountState.BASELINE}) "
            "AND result IS NOT NULL AND (start IS NULL OR start < ?) LIMIT ?"
        )
        rows = self._db.execute(
            f"DELETE FROM runs WHERE {self.SOME_ROWS.format(wanted)} RETURNING job, mark, steps",  # noqa: S608  # constants
            (source, before, before, limit),
        ).fetchall()
        lost = sum(mark == CountState.COUNTED and steps == StepState.PENDING for _, mark, steps in rows)
        return Pruned(jobs=[job for job, _, _ in rows], steps_lost=lost)

    def without_runs(self, jobs: Collection[int]) -> list[int]:
        """Return those of these jobs that have no run."""
        query = (
            f"SELECT key FROM jobs WHERE key {self.AMONG} "  # noqa: S608  # constants
            "AND NOT EXISTS (SELECT 1 FROM runs WHERE job = jobs.key AND mark <> 0) "
            "AND NOT EXISTS (SELECT 1 FROM runs WHERE mark = 0 AND job = jobs.key)"
        )
        return [job for (job,) in self._all(query, self._list(jobs))]

    def delete_jobs(self, jobs: Iterable[int]) -> None:
        """Delete the records of jobs."""
        self._db.executemany("DELETE FROM jobs WHERE key = ?", [(job,) for job in jobs])
