"""What all databases have in common that can hold the state: records, rows, and the questions that are asked of them.

It knows rows and records, not rules: what is to be written is decided by `exporter.ledger.ledger`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import msgspec

from exporter.counting.classify import CountState, Latest, Streak
from exporter.counting.records import Counted, JobState, SourceState
from exporter.errors import StateError
from exporter.model import FAILING, PastRun, Result, Window
from exporter.state import scopes as rows_of_scopes
from exporter.state.database import Database
from exporter.state.schema import (
    COLUMNS,
    FAILED,
    MIGRATIONS,
    StepState,
    StoredRun,
    last_failure,
    last_run,
    to_stored,
)
from exporter.state.storage import LoadedState, Pruned

OF_SOURCE = "job IN (SELECT key FROM jobs WHERE source = ?)"
"""The rows of a source, by way of its jobs: for what is looked up in the index of jobs and ends."""

ENDED = 'coalesce("end", seen)'
"""When a run ended, as far as that is known; "end" is a word of SQL."""


class CorruptStateError(StateError):
    """The state is damaged, or none."""


class SqlStore(ABC):
    """Records and rows in a database. Not thread-safe: the ledger holds a lock round every use."""

    AMONG: ClassVar[str]
    """The condition that a value is one of a list, which is one value for the database: see `_list`."""

    WHOLE: ClassVar[str]
    """How a number loses its fraction."""

    SOME_ROWS: ClassVar[str]
    """The condition that a row is one of those that a table and its conditions give."""

    PUT_JOB: ClassVar[str]
    PUT_EXPORTER: ClassVar[str]
    """Statements that write a row in place of the one with the same identity."""

    _db: Database

    def __init__(self, name: str) -> None:
        self.name = name
        self._sources: dict[str, int] = {}
        self._embedded: set[str] = set()
        self._moved: set[str] = set()
        self._columns = COLUMNS
        self._version = len(MIGRATIONS)

    @abstractmethod
    def close(self) -> None:
        """End the use of the state."""

    @abstractmethod
    def _explained(self) -> AbstractContextManager[None]:
        """Turn errors of the database into ours."""

    @abstractmethod
    def _list(self, values: Collection[Any]) -> object:
        """Return a list as one value for the database."""

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Explain what an edited or damaged record raises; a database checks no more than its own structure."""
        try:
            yield
        except (ValueError, TypeError, KeyError, RecursionError) as error:  # DecodeErrors are ValueErrors
            raise CorruptStateError(f"{self.name}: a record cannot be understood ({type(error).__name__})") from error

    def owns(self, source: str) -> bool:  # noqa: ARG002  # a state that nobody shares is whose who has opened it
        """Return whether this process may write for a source."""
        return True

    def first_keys(self) -> Mapping[str, int]:
        """Return from where on the keys of each source's jobs count, where several processes make keys."""
        return {}

    def load(self, sources: Collection[str] | None = None) -> LoadedState:
        """Return all records and open runs, or those of some sources."""
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
        """Return the condition that a column is one of some values, and its value; nothing where all are wanted."""
        return ("", ()) if wanted is None else (f" AND {column} {self.AMONG}", (self._list(values),))

    def put_source(
        self, source: SourceState, scopes: Collection[str] | None = None, notes: Collection[str] | None = None
    ) -> None:
        """Write a source's record, and those of its scopes and notes that have changed: all by default."""
        record = rows_of_scopes.encoded(source)
        updated = self._db.execute("UPDATE sources SET record = ? WHERE name = ?", (record, source.name))
        if not updated.rowcount:
            new = "INSERT INTO sources (name, record) VALUES (?, ?) RETURNING key"
            (self._sources[source.name],) = self._db.execute(new, (source.name, record)).fetchone()
        if source.name in self._embedded:
            scopes = notes = None
            self._moved.add(source.name)
        key = self._sources[source.name]
        rows_of_scopes.write(self._db, key, source, scopes)
        rows_of_scopes.write_notes(self._db, key, source, notes)

    def put_jobs(self, jobs: Iterable[JobState]) -> None:
        """Writes jobs' records."""
        self._db.executemany(
            self.PUT_JOB,
            [(job.key, job.source, job.job.job_id, msgspec.json.encode(job)) for job in jobs],
        )

    @abstractmethod
    def put_runs(self, source: str, runs: Iterable[StoredRun]) -> None:
        """Write rows of a source whose record has been put."""

    def put_exporter(self, exporter: Counted) -> None:
        """Writes the exporter's own counters."""
        self._db.execute(self.PUT_EXPORTER, (msgspec.json.encode(exporter),))

    def runs(self, source: str, run_ids: Collection[str]) -> dict[str, StoredRun]:
        """The rows of these runs, by id; ids that are not known are left out."""
        rows = self._select(f"WHERE source = ? AND run_id {self.AMONG}", self._sources.get(source), self._list(run_ids))
        return {row.run.run_id: row for row in rows}

    def _select(self, where: str, *arguments: object) -> list[StoredRun]:
        with self._explained():
            rows = self._db.execute(f"SELECT {self._columns} FROM runs {where}", arguments).fetchall()  # noqa: S608  # constants
        with self._understood():
            return [to_stored(row) for row in rows]

    def _all(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        with self._explained():
            return self._db.execute(query, arguments).fetchall()

    def started_between(self, source: str, window: Window) -> frozenset[str]:
        """Ids of the source's runs that started in a window."""
        # What started in it ended after its start, or is open.
        rows = [
            row
            for candidates, values in (
                (f"{OF_SOURCE} AND mark <> 0 AND {ENDED} >= ?", (source, window.start)),
                ("source = ? AND mark = 0", (self._sources.get(source),)),
            )
            for row in self._all(
                f"SELECT run_id FROM runs WHERE {candidates} AND start >= ? AND start < ?",  # noqa: S608  # constants
                *values,
                window.start,
                window.end,
            )
        ]
        return frozenset(run_id for (run_id,) in rows)

    def streak(self, job: int) -> Streak:
        """A job's standing, counted from its runs."""
        ended = f"mark <> 0 AND mark IN ({CountState.COUNTED}, {CountState.BASELINE})"
        words = ", ".join(f"'{result}'" for result in sorted(FAILING))
        success = self._all(
            f"SELECT max({ENDED}) FROM runs WHERE job = ? AND {ended} AND result = '{Result.SUCCESS}'",  # noqa: S608  # constants
            job,
        )[0][0]
        failures, since = self._all(
            f"SELECT count(*), min({ENDED}) FROM runs "  # noqa: S608  # constants
            f"WHERE job = ? AND {ended} AND result IN ({words}) AND {ENDED} > ?",
            job,
            -math.inf if success is None else success,
        )[0]
        return Streak(last_success=success, failures=failures, since=since)

    def latest(self, job: int) -> Latest:
        """Return the run of a job that ended last, and the failing one that did."""
        ended = f"mark <> 0 AND mark IN ({CountState.COUNTED}, {CountState.BASELINE}) AND result IS NOT NULL"
        last, failure = self._last(job, ended), self._last(job, f"{ended} AND {FAILED}")
        return Latest(
            last_run=None if last is None else last_run(last),
            last_failure=None if failure is None else last_failure(failure),
        )

    def _last(self, job: int, wanted: str) -> StoredRun | None:
        """Return the run of a job that ended last, of those that are wanted."""
        rows = self._select(f"WHERE job = ? AND {wanted} ORDER BY {ENDED} DESC, rowid DESC LIMIT 1", job)
        return rows[0] if rows else None

    def pending_steps(self, source: str, due: float, limit: int) -> list[StoredRun]:
        """Return runs whose steps are due: failures first, the baseline last, newest first.

        Those that were asked for in vain come last, or some that never answer would keep all others waiting.
        """
        found: list[StoredRun] = []
        for tried, first in (("tries = 0", ""), ("tries > 0", "tries, ")):
            for mark in (StepState.PENDING, StepState.BASELINE):
                # In the order of the index, so that only those are read that are wanted.
                found += self._select(
                    f"WHERE source = ? AND steps = {mark} AND steps IN (1, 2) AND mark <> 0 AND due <= ? AND {tried} "
                    f'ORDER BY {first}{FAILED} DESC NULLS LAST, "end" DESC NULLS LAST LIMIT ?',
                    self._sources.get(source),
                    due,
                    limit - len(found),
                )
        return found

    def count_pending_steps(self, source: str) -> int:
        """How many runs wait for their steps."""
        query = f"SELECT count(*) FROM runs WHERE source = ? AND steps IN ({StepState.PENDING}, {StepState.BASELINE})"  # noqa: S608  # constants
        return int(self._all(query, self._sources.get(source))[0][0])

    def count_runs(self, source: str) -> dict[int, int]:
        """How many runs of a source are known, by the key of their job."""
        query = "SELECT job, count(*) FROM runs WHERE source = ? GROUP BY job"
        return dict(self._all(query, self._sources.get(source)))

    def past(self, job: int, limit: int) -> list[PastRun]:
        """The runs of a job that ended last, the latest first."""
        columns, wanted = 'start, "end", duration, result', "WHERE job = ? AND mark <> 0"
        rows = self._all(f"SELECT {columns} FROM runs {wanted} ORDER BY {ENDED} DESC LIMIT ?", job, limit)  # noqa: S608  # constants
        return [PastRun(start, end, seconds, Result(word or Result.UNKNOWN)) for start, end, seconds, word in rows]

    def activity(self, job: int, since: float, grain: float) -> list[float]:
        """The first ending of a job's runs in each stretch of `grain` seconds."""
        ended = f"mark <> 0 AND mark <> {CountState.EXPIRED} AND result IS NOT NULL"
        stretches = f"GROUP BY {self.WHOLE.format(f'{ENDED} / ?')} ORDER BY 1"
        query = f"SELECT min({ENDED}) FROM runs WHERE job = ? AND {ended} AND {ENDED} >= ? {stretches}"  # noqa: S608  # constants
        return [end for (end,) in self._all(query, job, since, grain)]

    def baseline_runs(self, source: str) -> list[StoredRun]:
        """The runs of a source that had ended before they could count."""
        return self._select(f"WHERE source = ? AND mark = {CountState.BASELINE}", self._sources.get(source))

    def prune(self, source: str, before: float, limit: int) -> Pruned:
        """Forget runs that ended before a time, at most so many. To be called in a transaction.

        Runs that were given up stay: the API may show them as open for ever, and they must not count again.
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
        """Return those of these jobs of which there is no run."""
        query = (
            f"SELECT key FROM jobs WHERE key {self.AMONG} "  # noqa: S608  # constants
            "AND NOT EXISTS (SELECT 1 FROM runs WHERE job = jobs.key AND mark <> 0) "
            "AND NOT EXISTS (SELECT 1 FROM runs WHERE mark = 0 AND job = jobs.key)"
        )
        return [job for (job,) in self._all(query, self._list(jobs))]

    def delete_jobs(self, jobs: Iterable[int]) -> None:
        """Delete the records of jobs."""
        self._db.executemany("DELETE FROM jobs WHERE key = ?", [(job,) for job in jobs])
