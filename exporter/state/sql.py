"""Reads and writes records and rows in SQL that SQLite and PostgreSQL share."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import msgspec

from exporter.counting.classify import CountState
from exporter.counting.records import Counted, JobState, SourceState
from exporter.state import scopes as rows_of_scopes
from exporter.state.schema import ENDED, StepState, StoredRun, to_stored
from exporter.state.sql_runs import COMPLETED, OF_SOURCE, CorruptStateError, SqlRuns


class LoadedState(msgspec.Struct, kw_only=True):
    """All records of a state, and its active runs. `behind`: whether the database has lost counts of the exporter."""

    sources: list[SourceState] = []
    jobs: list[JobState] = []
    open_runs: list[tuple[str, StoredRun]] = []
    exporter: Counted = msgspec.field(default_factory=Counted)
    behind: bool = False


class SqlStore(SqlRuns):
    """One open state. Not thread-safe: the ledger holds its lock during every use.

    Every method raises StateError if the state cannot be read or written. Write only inside `transaction`, which sees
    its own writes. An implementation must pass tests/core/test_store_contract.py.
    """

    PUT_JOB: ClassVar[str]
    PUT_EXPORTER: ClassVar[str]
    """Statements that insert a row, or replace the row with the same key."""

    @abstractmethod
    def transaction(self, *sources: str) -> AbstractContextManager[None]:
        """Commit all writes for these sources together. An exception rolls all of them back.

        A shared state must also raise if this process may no longer write for a source, or if the records in memory
        differ from the state. After an exception the sources must be loaded again.
        """

    @abstractmethod
    def size(self) -> int:
        """Return the size of the state in bytes."""

    @abstractmethod
    def close(self) -> None:
        """Close the state."""

    def verify(self) -> None:
        """Raise StateError if files were removed: writes would be lost. The next call restores them if possible."""

    def checkpoint(self) -> None:
        """Free the disk space of large transactions, unless somebody is reading the state."""

    def source_keys(self) -> Mapping[str, int]:
        """Return the key of each source that was loaded or written."""
        return self._sources

    def owns(self, source: str) -> bool:  # noqa: ARG002  # only a shared state needs it
        """Return whether this process may write for a source."""
        return True

    def first_keys(self) -> Mapping[str, int]:
        """Return the first job key of each source; empty if only one process creates keys."""
        return {}

    def load(self, sources: Collection[str] | None = None) -> LoadedState:
        """Return the records and active runs of all sources, or of these."""
        with self._translate_errors(), self._translate_decode_errors():
            self._sources = dict(self._db.execute("SELECT name, key FROM sources"))
            keys = {key: name for name, key in self._sources.items() if sources is None or name in sources}
            records, self._embedded = rows_of_scopes.read(self._db, self._version, *self._among("key", sources, keys))
            wanted, values = self._among("source", sources, [*keys.values()])
            rows = self._db.execute(f"SELECT record FROM jobs WHERE true{wanted} ORDER BY key", values)  # noqa: S608  # constants
            jobs = [msgspec.json.decode(record, type=JobState) for (record,) in rows]
            wanted, values = self._among("source", sources, keys)
            query = f"SELECT source, {self._columns} FROM runs WHERE mark = 0{wanted}"  # noqa: S608  # constants
            open_runs = [(keys[source], to_stored(rest)) for source, *rest in self._db.execute(query, values)]
            rows = self._db.execute("SELECT record FROM exporter")
            exporter = [msgspec.json.decode(record, type=Counted) for (record,) in rows] or [Counted()]
        if set(keys.values()) != {source.name for source in records}:
            raise CorruptStateError(f"{self.name}: a source's record has another name than its row")
        if not {row.job for _, row in open_runs} <= {job.key for job in jobs}:
            raise CorruptStateError(f"{self.name}: a run belongs to no job")
        return LoadedState(sources=records, jobs=jobs, open_runs=open_runs, exporter=exporter[0])

    def _among(self, column: str, wanted: object, values: Collection[Any]) -> tuple[str, tuple[object, ...]]:
        """Return a condition that a column has one of these values, and its parameters; empty if `wanted` is None."""
        return ("", ()) if wanted is None else (f" AND {column} {self.IN_LIST}", (self._list(values),))

    def put_source(
        self, source: SourceState, scopes: Collection[str] | None = None, checkpoints: Collection[str] | None = None
    ) -> None:
        """Write a source's record, and these of its scopes and checkpoints. None: write all."""
        values = (rows_of_scopes.encoded(source), source.name)
        found = list(self._db.execute("UPDATE sources SET record = ? WHERE name = ? RETURNING key", values))
        if not found:
            found = list(self._db.execute("INSERT INTO sources (record, name) VALUES (?, ?) RETURNING key", values))
        ((key,),) = found
        self._sources[source.name] = key
        if source.name in self._embedded:
            scopes = checkpoints = None
            self._converted.add(source.name)
        rows_of_scopes.write(self._db, key, source, scopes, checkpoints)

    def put_jobs(self, jobs: Iterable[JobState]) -> None:
        """Write the records of jobs."""
        self._db.executemany(
            self.PUT_JOB, [(job.key, job.source, job.job.job_id, msgspec.json.encode(job)) for job in jobs]
        )

    @abstractmethod
    def put_runs(self, source: str, runs: Iterable[StoredRun]) -> None:
        """Write rows of a source. Its record must have been written before."""

    def put_exporter(self, exporter: Counted) -> None:
        """Write the exporter's own counters."""
        self._db.execute(self.PUT_EXPORTER, (msgspec.json.encode(exporter),))

    def prune(self, source: str, before: float, limit: int) -> tuple[list[int], int]:
        """Delete at most `limit` runs that completed before a time. Call it in a transaction.

        Return the job key of each deleted run, and the number of counted runs whose steps were pending. Expired runs
        stay: the API may show them as active forever, and they must not count again.
        """
        wanted = (
            f"runs WHERE {OF_SOURCE} AND {COMPLETED} AND {ENDED} < ? "
            "AND result IS NOT NULL AND (start IS NULL OR start < ?) LIMIT ?"
        )
        query = f"DELETE FROM runs WHERE {self.IS_ROW_OF.format(wanted)} RETURNING job, mark, steps"  # noqa: S608  # constants
        rows = self._all(query, source, before, before, limit)
        lost = sum(mark == CountState.COUNTED and steps == StepState.PENDING for _, mark, steps in rows)
        return [job for job, _, _ in rows], lost

    def without_runs(self, jobs: Collection[int]) -> list[int]:
        """Return the keys of these jobs that have no runs."""
        query = (
            f"SELECT key FROM jobs WHERE key {self.IN_LIST} "  # noqa: S608  # constants
            "AND NOT EXISTS (SELECT 1 FROM runs WHERE job = jobs.key AND mark <> 0) "
            "AND NOT EXISTS (SELECT 1 FROM runs WHERE mark = 0 AND job = jobs.key)"
        )
        return [job for (job,) in self._all(query, self._list(jobs))]

    def delete_jobs(self, jobs: Iterable[int]) -> None:
        """Delete the records of jobs."""
        self._db.executemany("DELETE FROM jobs WHERE key = ?", [(job,) for job in jobs])
