"""Reads runs from the state beside those who write it: on connections of its own, so that nobody waits for a page."""

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from exporter.counting.records import JobState, SourceState
from exporter.errors import StateError
from exporter.model import Result
from exporter.reports.records import CompletedRun
from exporter.reports.runlist import ENDED, Found, Place, Wanted, part
from exporter.state import scopes
from exporter.state.schema import COLUMNS, MIGRATIONS, StoredRun, to_stored

LONGEST = 5.0
"""Seconds that one question may take."""

BUSY = 2.0
"""Seconds of these that it may wait for a lock."""

OFTEN = 20_000
"""SQLite's steps between two looks at the clock."""


UNREADABLE_JOURNAL = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""SQLite's codes for a journal whose index cannot be made."""


class Reader:
    """Thread-safe: each question has a connection and a view of the state of its own.

    Args:
        path: The state.
        monotonic: A clock that never jumps, in seconds.
        longest: Seconds that one question may take.
    """

    def __init__(
        self, path: Path, *, monotonic: Callable[[], float] = time.monotonic, longest: float = LONGEST
    ) -> None:
        self._path = path.absolute()
        self._monotonic = monotonic
        self._longest = longest
        self.complete = True

    @contextmanager
    def snapshot(self) -> Iterator["Snapshot"]:
        """All of the state as it is at one instant. Raises StateError."""
        with self._reading() as database:
            yield Snapshot(database)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One view of the state. Raises StateError if it cannot be had, or a question takes too long."""
        try:
            database = self._connect()
        except sqlite3.Error as error:
            raise StateError(f"{self._path}: {error}") from error
        until = self._monotonic() + self._longest
        database.set_progress_handler(lambda: self._monotonic() > until, OFTEN)
        try:
            yield database
        except sqlite3.Error as error:
            raise StateError(f"{self._path}: {error}") from error
        finally:
            database.close()

    def _connect(self) -> sqlite3.Connection:
        """Read-only; where not even the journal's index can be made, as on a read-only disk, without the journal.

        That is for a state that nobody writes: where the index could be made, and is only locked or out of reach for
        a moment, the state is in use, and reading it without the journal could show half of a transaction.

        `complete` says then that what was written last may be missing.
        """
        uri = f"{self._path.absolute().as_uri()}?mode=ro"
        for address in (uri, f"{uri}&immutable=1") if os.path.isfile(self._path) else ():  # noqa: PTH113  # raises nothing
            try:
                database = sqlite3.connect(address, uri=True, check_same_thread=False, isolation_level=None)
            except sqlite3.OperationalError:
                break
            try:
                database.execute(f"PRAGMA busy_timeout = {1000 * max(0.0, min(BUSY, self._longest)):.0f}")
                database.execute("BEGIN")
                version = database.execute("PRAGMA user_version").fetchone()[0]
            except sqlite3.OperationalError as error:
                database.close()
                if error.sqlite_errorcode & 0xFF not in UNREADABLE_JOURNAL or os.access(self._path.parent, os.W_OK):
                    raise
                continue
            if version != len(MIGRATIONS):
                database.close()
                wanted = f"{self._path}: schema {version}, this version reads {len(MIGRATIONS)}"
                raise StateError(wanted + ("; the daemon of this version brings it up to date" if version else ""))
            self.complete = address == uri
            return database
        raise StateError(f"{self._path}: there is no state, or it cannot be read")

    def runs(self, wanted: Wanted, limit: int, after: Place | None = None) -> list[Found]:
        """A part of the list of all runs: so many at most, from the first one behind a place."""
        with self._reading() as database:
            return part(database, wanted, limit, after)

    def run(self, source: str, run_id: str) -> Found | None:
        """One run; None if the state does not hold it."""
        found = self.runs(Wanted(sources=[source], run_id=run_id), 1)
        return found[0] if found else None

    def recent(self, jobs: Collection[int], limit: int) -> dict[int, tuple[CompletedRun, ...]]:
        """The latest ended runs of jobs, by the key of the job, oldest first."""
        query = (
            f"SELECT run_id, result, {ENDED}, duration FROM runs "  # noqa: S608  # constants
            f"WHERE job = ? AND mark <> 0 AND result IS NOT NULL ORDER BY {ENDED} DESC LIMIT ?"
        )
        with self._reading() as database:
            return {
                job: tuple(map(_completed, reversed(database.execute(query, (job, limit)).fetchall()))) for job in jobs
            }

    def before(self, job: int, timestamp: float, limit: int) -> list[StoredRun]:
        """A job's ended runs that ended before an instant, newest first."""
        query = (
            f"SELECT {COLUMNS} FROM runs WHERE job = ? AND mark <> 0 AND result IS NOT NULL AND {ENDED} < ? "  # noqa: S608  # constants
            f"ORDER BY {ENDED} DESC LIMIT ?"
        )
        with self._reading() as database:
            return [to_stored(row) for row in database.execute(query, (job, timestamp, limit))]

    def successes(self, job: int, limit: int) -> list[tuple[float | None, str | None]]:
        """Durations and steps (as stored) of a job's latest successful runs."""
        query = (
            "SELECT duration, step_results FROM runs "  # noqa: S608  # constants
            f"WHERE job = ? AND mark <> 0 AND result = '{Result.SUCCESS}' ORDER BY {ENDED} DESC LIMIT ?"
        )
        with self._reading() as database:
            return list(database.execute(query, (job, limit)))


class Snapshot:
    """The state as it was at one instant."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def sources(self) -> list[SourceState]:
        """The records of all sources."""
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        return scopes.read(self._database, version)[0]

    def jobs(self) -> list[JobState]:
        """The records of all jobs."""
        rows = self._database.execute("SELECT record FROM jobs ORDER BY key")
        return [msgspec.json.decode(record, type=JobState) for (record,) in rows]

    def runs_of(self, job: int) -> list[StoredRun]:
        """All runs of a job, newest first."""
        # Said apart, as each is found in an index of its own.
        ended, still_open = "job = ? AND mark <> 0", "source IN (SELECT key FROM sources) AND mark = 0 AND job = ?"
        rows = [
            to_stored(row)
            for wanted in (ended, still_open)
            for row in self._database.execute(f"SELECT {COLUMNS} FROM runs WHERE {wanted}", (job,))  # noqa: S608  # constants
        ]
        return sorted(rows, key=_latest, reverse=True)


def _latest(row: StoredRun) -> tuple[float, str]:
    run = row.known.run
    return row.seen if run.end is None else run.end, run.run_id


def _completed(row: Sequence[Any]) -> CompletedRun:
    run_id, result, end, duration = row
    return CompletedRun(run_id=run_id, result=Result(result), end=end, duration=duration)
