"""Reads the state on its own connections, so that queries and transactions never wait for each other."""

import math
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from exporter.counting.records import JobState, SourceState
from exporter.errors import StateError
from exporter.model import Result
from exporter.queries.records import CompletedRun
from exporter.queries.run_list import ListedRun, Place, RunSelection, list_runs
from exporter.state import scopes
from exporter.state.database import Database
from exporter.state.location import problem_of_url
from exporter.state.schema import COLUMNS, ENDED, MIGRATIONS, StoredRun, to_stored

TIMEOUT = 5.0
"""Seconds that a query may take."""

LOCK_TIMEOUT = 2.0
"""Seconds of TIMEOUT that a query may wait for a lock."""

STEPS_PER_CHECK = 20_000
"""Number of instructions of SQLite's virtual machine between two checks of the time."""

UNREADABLE_JOURNAL = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""SQLite's error codes for a journal whose index cannot be created."""


class Reader:
    """Reads the state. Thread-safe: each query has its own connection and a consistent view."""

    def __init__(
        self, path: Path, *, monotonic: Callable[[], float] = time.monotonic, timeout: float = TIMEOUT
    ) -> None:
        self._path = path.absolute()
        self._monotonic = monotonic
        self._timeout = timeout
        self.complete = True

    def close(self) -> None:
        """Do nothing, because each query closes its connection."""

    @contextmanager
    def state(self) -> Iterator["StoredState"]:
        """Yield the whole state as it is now. Raises StateError."""
        with self._view() as database:
            yield StoredState(database)

    @contextmanager
    def _view(self) -> Iterator[Database]:
        """Yield one consistent view. Raises StateError if the state cannot be read, or a query takes too long."""
        try:
            database = self._connect()
        except sqlite3.Error as error:
            raise StateError(f"{self._path}: {error}") from error
        until = self._monotonic() + self._timeout
        database.set_progress_handler(lambda: self._monotonic() > until, STEPS_PER_CHECK)
        try:
            yield database
        except sqlite3.Error as error:
            raise StateError(f"{self._path}: {error}") from error
        finally:
            database.close()

    def _connect(self) -> sqlite3.Connection:
        """Return a read-only connection, and set `complete`: whether the connection also reads the journal."""
        # On a read-only disk the journal's index cannot be created, so the state is read without the journal. In a
        # writable folder this is not safe: a process may be writing, and a part of a transaction would be read.
        uri = f"{self._path.absolute().as_uri()}?mode=ro"
        for address in (uri, f"{uri}&immutable=1") if os.path.isfile(self._path) else ():  # noqa: PTH113  # raises nothing
            try:
                database = sqlite3.connect(address, uri=True, check_same_thread=False, isolation_level=None)
            except sqlite3.OperationalError:
                break
            try:
                database.execute(f"PRAGMA busy_timeout = {1000 * max(0.0, min(LOCK_TIMEOUT, self._timeout)):.0f}")
                database.execute("BEGIN")
                version = database.execute("PRAGMA user_version").fetchone()[0]
            except sqlite3.OperationalError as error:
                database.close()
                if error.sqlite_errorcode & 0xFF not in UNREADABLE_JOURNAL or os.access(self._path.parent, os.W_OK):
                    raise
                continue
            if version != len(MIGRATIONS):
                database.close()
                text = f"{self._path}: the state has schema {version}, but this version reads schema {len(MIGRATIONS)}"
                raise StateError(text + ("; run the daemon of this version to migrate it" if version else ""))
            self.complete = address == uri
            return database
        raise StateError(f"{self._path}: there is no state, or it cannot be read")

    def runs(self, selection: RunSelection, limit: int, after: Place | None = None) -> list[ListedRun]:
        """Return at most `limit` runs that come after a place in the list; without `after` the first ones."""
        with self._view() as database:
            return list_runs(database, selection, limit, after)

    def run(self, source: str, run_id: str) -> StoredRun | None:
        """Return a run; None if the state does not have it."""
        query = f"SELECT {COLUMNS} FROM runs WHERE source = (SELECT key FROM sources WHERE name = ?) AND run_id = ?"  # noqa: S608  # constants
        with self._view() as database:
            rows = [to_stored(row) for row in database.execute(query, (source, run_id))]
        return rows[0] if rows else None

    def recent(self, jobs: Collection[int], limit: int) -> dict[int, tuple[CompletedRun, ...]]:
        """Return the latest completed runs of each job, oldest first, by the job's key."""
        query = (
            f"SELECT run_id, result, {ENDED}, duration FROM runs "  # noqa: S608  # constants
            f"WHERE job = ? AND mark <> 0 AND result IS NOT NULL ORDER BY {ENDED} DESC LIMIT ?"
        )
        with self._view() as database:
            return {job: tuple(map(_completed, reversed([*database.execute(query, (job, limit))]))) for job in jobs}

    def before(self, job: int, timestamp: float, limit: int) -> list[StoredRun]:
        """Return the runs of a job that completed before a time, newest first."""
        query = (
            f"SELECT {COLUMNS} FROM runs WHERE job = ? AND mark <> 0 AND result IS NOT NULL AND {ENDED} < ? "  # noqa: S608  # constants
            f"ORDER BY {ENDED} DESC LIMIT ?"
        )
        with self._view() as database:
            return [to_stored(row) for row in database.execute(query, (job, timestamp, limit))]

    def successes(self, job: int, limit: int) -> list[tuple[float | None, str | None]]:
        """Return the duration and the stored steps of a job's latest successful runs."""
        query = (
            "SELECT duration, step_results FROM runs "  # noqa: S608  # constants
            f"WHERE job = ? AND mark <> 0 AND result = '{Result.SUCCESS}' ORDER BY {ENDED} DESC LIMIT ?"
        )
        with self._view() as database:
            return list(database.execute(query, (job, limit)))


def reader_of(path: Path, url: str | None) -> Reader:
    """Return a reader of a database, or, if `url` is None, of a file. Its queries have no time limit."""
    if url is None:
        return Reader(path, timeout=math.inf)
    if reason := problem_of_url(url):
        raise StateError(f"state.url {reason}")
    reader: Reader = import_module("exporter.queries.shared_reader").opened(url)
    return reader


class StoredState:
    """The stored state at one time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sources(self) -> list[SourceState]:
        """Return the records of all sources."""
        return scopes.read(self._database, len(MIGRATIONS))[0]

    def jobs(self) -> list[JobState]:
        """Return the records of all jobs."""
        rows = self._database.execute("SELECT record FROM jobs ORDER BY key")
        return [msgspec.json.decode(record, type=JobState) for (record,) in rows]

    def runs_of(self, job: int) -> list[StoredRun]:
        """Return all runs of a job, newest first."""
        # Completed and active runs have different indexes, so there are two queries.
        completed, active = "job = ? AND mark <> 0", "source IN (SELECT key FROM sources) AND mark = 0 AND job = ?"
        rows = [
            to_stored(row)
            for condition in (completed, active)
            for row in self._database.execute(f"SELECT {COLUMNS} FROM runs WHERE {condition}", (job,))  # noqa: S608  # constants
        ]
        return sorted(rows, key=lambda row: (row.ended_at, row.run.run_id), reverse=True)


def _completed(row: Sequence[Any]) -> CompletedRun:
    run_id, result, end, duration = row
    return CompletedRun(run_id=run_id, result=Result(result), end=end, duration=duration)
