"""The state on disk: SQLite in WAL mode, every change one transaction, nothing in memory that is not committed.

The store knows rows and records, not rules: what is to be written is decided by `exporter.ledger.ledger`.
"""

import contextlib
import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from exporter.counting.classify import CountState, Latest, Streak
from exporter.counting.records import Counted, JobState, SourceState
from exporter.errors import StateError
from exporter.model import FAILING, PastRun, Result, Window
from exporter.state import scopes as rows_of_scopes
from exporter.state.files import JOURNALS, Files, make_private
from exporter.state.lock import Lock, RefusedStateError
from exporter.state.schema import (
    COLUMNS,
    FAILED,
    MIGRATIONS,
    StepState,
    StoredRun,
    columns,
    last_failure,
    last_run,
    to_row,
    to_stored,
)
from exporter.state.storage import LoadedState, Pruned

Connect = Callable[..., sqlite3.Connection]

MEMORY = ":memory:"
"""The path of a state that is thrown away."""

TEMPORARY = ""
"""The same, on disk where memory does not suffice."""

Record = TypeVar("Record", SourceState, JobState)

BUSY_TIMEOUT = 5000
"""Milliseconds for which another connection is waited for."""

SETTINGS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "cache_size = -16384",
    "wal_autocheckpoint = 4096",
    "journal_size_limit = 33554432",
)
"""Readers keep nobody waiting, and what is committed outlives a loss of power.

Ids are in random order, so the index by id is written all over: 16 MB hold what a large transaction touches of it, and
pages that several transactions in a row have touched are copied from the journal once. A large transaction must not
leave a large journal behind for good.
"""

OF_SOURCE = "job IN (SELECT key FROM jobs WHERE source = :source)"
"""The rows of a source, by way of its jobs: for what is looked up in the index of jobs and ends."""

ENDED = 'coalesce("end", seen)'
"""When a run ended, as far as that is known; "end" is a word of SQL."""


class NewerSchemaError(RefusedStateError):
    """The state was written by a newer version."""


class CorruptStateError(StateError):
    """The file is no state, or a damaged one."""


class Store:
    """One open state. Not thread-safe: the ledger holds a lock round every use.

    Args:
        path: The file; `:memory:` for a state that is thrown away.
        connect: Opens the database; the seam for tests that end the process inside a transaction.
        read_only: Look, but neither create nor migrate nor write: for what reads beside a running daemon.
        immutable: With `read_only`, for a read-only file system: the journal, which may be newer, is not looked at.
        lock: The right to write it, which `close` gives back.

    Raises:
        CorruptStateError, NewerSchemaError: The file cannot be used as it is.
        StateError: It cannot be opened or made.
    """

    def __init__(  # everything outside is an argument
        self,
        path: Path | str,
        *,
        connect: Connect = sqlite3.connect,
        read_only: bool = False,
        immutable: bool = False,
        lock: Lock | None = None,
    ) -> None:
        named = str(path) not in {MEMORY, TEMPORARY}
        self.path = str(Path(path).absolute()) if named else str(path)
        self._connect = connect
        self._lock = lock
        self._sources: dict[str, int] = {}
        self._embedded: set[str] = set()
        self._moved: set[str] = set()
        self._files: Files | None = None
        self._noticed = False
        self.is_new = False
        """Whether nothing was ever written to it."""
        with self._explained():
            if read_only:
                uri = f"{Path(self.path).as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
                self._db = connect(uri, uri=True, check_same_thread=False, isolation_level=None)
            else:
                self._db = connect(self.path, check_same_thread=False, isolation_level=None)
            try:
                self._prepare(read_only=read_only)
            except BaseException:
                self._db.close()
                raise
        if named and not read_only:
            self._files = Files(Path(self.path))

    def _prepare(self, *, read_only: bool) -> None:
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
        if not read_only:
            for setting in SETTINGS:
                self._db.execute(f"PRAGMA {setting}")
        version = self._pragma("user_version")
        if version > len(MIGRATIONS):
            raise NewerSchemaError(newer(self.path, version))
        damage = self._pragma("quick_check(1)")
        if damage != "ok":
            raise CorruptStateError(f"{self.path}: {damage}")
        self.is_new = version == 0
        if not read_only:
            self._migrate(version)
            version = len(MIGRATIONS)
        self._columns = columns(version)
        self._version = version

    def _pragma(self, words: str) -> Any:  # noqa: ANN401  # what SQLite says of itself has many types
        return self._db.execute(f"PRAGMA {words}").fetchone()[0]

    def _migrate(self, version: int) -> None:
        """Bring the tables up to date, in one transaction: a full disk must not leave a state that is half new."""
        if version == len(MIGRATIONS):
            return
        with self._transaction():
            for statement in (each for script in MIGRATIONS[version:] for each in script):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns SQLite's errors into ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StateError(f"{self.path}: {error}") from error
        except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
            raise CorruptStateError(f"{self.path}: {error}") from error

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """What a record or a row raises that was edited or damaged; SQLite checks the structure of the file alone."""
        try:
            yield
        except (ValueError, TypeError, KeyError, RecursionError) as error:  # DecodeErrors are ValueErrors
            raise CorruptStateError(f"{self.path}: a record cannot be understood ({type(error).__name__})") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A failed COMMIT (disk full) leaves the transaction open; some errors have already rolled it back.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Closes the database. Where its files were removed, they are written once more, as far as that is possible."""
        with contextlib.suppress(StateError):
            if self._removed():
                self._restore()
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    # --- files that somebody removes ---

    def verify(self) -> None:
        """Raise StateError if files of the state were removed or replaced while it is open.

        What is open has all data still, so the call after that writes them again. A file that somebody has put in their
        place is never written to: nobody can tell which of the two is wanted.
        """
        removed = self._removed()
        if not removed:
            self._noticed = False
        elif self._files is not None and self._files.is_replaced():
            raise StateError(
                f"{self.path}: another file was put in its place while it was in use: restart to go on with that one, "
                "or move it away to go on with what was counted"
            )
        elif not self._noticed:
            self._noticed = True
            raise StateError(f"{self.path}: removed while in use: {', '.join(removed)}; the next poll writes it again")
        else:
            self._restore()

    def _removed(self) -> list[str]:
        """Names of the files that are not where they were."""
        removed = self._files.missing() if self._files is not None else []
        return removed + ([self._lock.file.name] if self._lock is not None and not self._lock.is_in_place() else [])

    def _restore(self) -> None:
        """Write the state's files again from what is open. Raises StateError; then all is as before."""
        path = Path(self.path)
        with self._explained():
            try:
                if self._files is not None and self._files.missing():
                    self._copy_to(path)
                if self._lock is not None:
                    self._lock.renew()
            except OSError as error:
                raise StateError(f"{self.path}: cannot be written again: {error.strerror}") from error
        self._noticed = False

    def _copy_to(self, path: Path) -> None:
        """Put a whole copy in place, then go on with it."""
        spare = path.with_name(f"{path.name}.new")
        for ending in ("", "-journal", *JOURNALS):
            spare.with_name(spare.name + ending).unlink(missing_ok=True)
        make_private(spare)
        with contextlib.closing(sqlite3.connect(spare)) as copy:
            self._db.backup(copy)
        for ending in JOURNALS:
            path.with_name(path.name + ending).unlink(missing_ok=True)
        if not path.exists():
            path.hardlink_to(spare)  # fails if another process has just begun a new one
            spare.unlink()
        else:
            spare.replace(path)
        removed, self._db = self._db, self._connect(self.path, check_same_thread=False, isolation_level=None)
        self._prepare(read_only=False)
        self._files = Files(path)
        removed.close()

    def load(self) -> LoadedState:
        """All records and open runs."""
        with self._explained(), self._understood():
            self._sources = dict(self._db.execute("SELECT name, key FROM sources"))
            sources, self._embedded = rows_of_scopes.read(self._db, self._version)
            jobs = self._records("jobs", JobState)
            names = {key: name for name, key in self._sources.items()}
            rows = self._db.execute(f"SELECT source, {self._columns} FROM runs WHERE mark = 0").fetchall()  # noqa: S608  # constants
            row = self._db.execute("SELECT record FROM exporter").fetchone()
            exporter = msgspec.json.decode(row[0], type=Counted) if row else Counted()
            open_runs = [(names[source], to_stored(rest)) for source, *rest in rows]
        if self._sources.keys() != {source.name for source in sources}:
            raise CorruptStateError(f"{self.path}: a source's record has another name than its row")
        if not {row.job for _, row in open_runs} <= {job.key for job in jobs}:
            raise CorruptStateError(f"{self.path}: a run belongs to no job")
        return LoadedState(sources=sources, jobs=jobs, open_runs=open_runs, exporter=exporter)

    def _records(self, table: str, kind: type[Record]) -> list[Record]:
        rows = self._db.execute(f"SELECT record FROM {table} ORDER BY key")  # noqa: S608  # constants
        return [msgspec.json.decode(record, type=kind) for (record,) in rows]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is put inside is committed whole at its end, or not at all."""
        self._moved.clear()
        with self._explained(), self._transaction():
            yield
        self._embedded -= self._moved

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
            "INSERT OR REPLACE INTO jobs (key, source, job_id, record) VALUES (?, ?, ?, ?)",
            [(job.key, job.source, job.job.job_id, msgspec.json.encode(job)) for job in jobs],
        )

    def put_runs(self, source: str, runs: Iterable[StoredRun]) -> None:
        """Writes rows of a source whose record has been put."""
        key = self._sources[source]
        marks = ", ".join("?" * (COLUMNS.count(",") + 2))
        self._db.executemany(
            f"INSERT OR REPLACE INTO runs (source, {COLUMNS}) VALUES ({marks})",  # noqa: S608  # constants
            # In the order of the index by id, which is the dearest part: each of its pages is then looked for once.
            sorted(((key, *to_row(run)) for run in runs), key=itemgetter(1)),
        )

    def put_exporter(self, exporter: Counted) -> None:
        """Writes the exporter's own counters."""
        record = msgspec.json.encode(exporter)
        self._db.execute("INSERT OR REPLACE INTO exporter (id, record) VALUES (1, ?)", (record,))

    def runs(self, source: str, run_ids: Collection[str]) -> dict[str, StoredRun]:
        """The rows of these runs, by id; ids that are not known are left out."""
        rows = self._select(
            "WHERE source = ? AND run_id IN (SELECT value FROM json_each(?))",
            self._sources.get(source),
            msgspec.json.encode(list(run_ids)).decode(),
        )
        return {row.run.run_id: row for row in rows}

    def _select(self, where: str, *arguments: object) -> list[StoredRun]:
        with self._explained():
            rows = self._db.execute(f"SELECT {self._columns} FROM runs {where}", arguments).fetchall()  # noqa: S608  # constants
        with self._understood():
            return [to_stored(row) for row in rows]

    def _all(self, query: str, *arguments: object, **named: object) -> list[tuple[Any, ...]]:
        with self._explained():
            return self._db.execute(query, named or arguments).fetchall()

    def started_between(self, source: str, window: Window) -> frozenset[str]:
        """Ids of the source's runs that started in a window."""
        # What started in it ended after its start, or is open.
        rows = [
            row
            for candidates in (f"{OF_SOURCE} AND mark <> 0 AND {ENDED} >= :start", "source = :key AND mark = 0")
            for row in self._all(
                f"SELECT run_id FROM runs WHERE {candidates} AND start >= :start AND start < :end",  # noqa: S608  # constants
                source=source,
                key=self._sources.get(source),
                start=window.start,
                end=window.end,
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
                    f'ORDER BY {first}{FAILED} DESC, "end" DESC LIMIT ?',
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
        stretches = f"GROUP BY CAST({ENDED} / ? AS INTEGER) ORDER BY 1"
        query = f"SELECT min({ENDED}) FROM runs WHERE job = ? AND {ended} AND {ENDED} >= ? {stretches}"  # noqa: S608  # constants
        return [end for (end,) in self._all(query, job, since, grain)]

    def moments(self, source: str) -> Iterator[tuple[float, int, str]]:
        """All that happened to a source's runs, in order: the instant, 0 created, 1 started or 2 ended, and the run."""
        wanted = "FROM runs WHERE source = :source AND"
        query = (
            f"SELECT created AS instant, 0 AS what, run_id {wanted} created < start UNION ALL "  # constants
            f"SELECT start, 1, run_id {wanted} start IS NOT NULL UNION ALL "
            f'SELECT "end", 2, run_id {wanted} "end" IS NOT NULL AND result IS NOT NULL ORDER BY instant, what'
        )
        with self._explained():
            yield from self._db.execute(query, {"source": self._sources.get(source)})

    def baseline_runs(self, source: str) -> list[StoredRun]:
        """The runs of a source that had ended before they could count."""
        return self._select(f"WHERE source = ? AND mark = {CountState.BASELINE}", self._sources.get(source))

    def prune(self, source: str, before: float, limit: int) -> Pruned:
        """Forget runs that ended before a time, at most so many. To be called in a transaction.

        Runs that were given up stay: the API may show them as open for ever, and they must not count again.
        """
        rows = self._db.execute(
            "DELETE FROM runs WHERE rowid IN (SELECT rowid FROM runs "  # noqa: S608  # constants
            f"WHERE {OF_SOURCE} AND mark <> 0 AND {ENDED} < :before "
            f"AND mark IN ({CountState.COUNTED}, {CountState.BASELINE}) "
            "AND result IS NOT NULL "
            "AND (start IS NULL OR start < :before) LIMIT :limit) RETURNING job, mark, steps",
            {"source": source, "before": before, "limit": limit},
        ).fetchall()
        lost = sum(mark == CountState.COUNTED and steps == StepState.PENDING for _, mark, steps in rows)
        return Pruned(jobs=[job for job, _, _ in rows], steps_lost=lost)

    def without_runs(self, jobs: Collection[int]) -> list[int]:
        """Return those of these jobs of which there is no run."""
        query = (
            "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM runs WHERE job = value AND mark <> 0) "
            "AND NOT EXISTS (SELECT 1 FROM runs WHERE mark = 0 AND job = value)"
        )
        return [job for (job,) in self._all(query, msgspec.json.encode(list(jobs)).decode())]

    def delete_jobs(self, jobs: Iterable[int]) -> None:
        """Delete the records of jobs."""
        self._db.executemany("DELETE FROM jobs WHERE key = ?", [(job,) for job in jobs])

    def checkpoint(self) -> None:
        """Copy the journal into the database and empty it, unless somebody reads it just now."""
        with self._explained():
            self._db.execute("PRAGMA busy_timeout = 0")
            try:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")

    def size(self) -> int:
        """Bytes of the database, without its journal."""
        with self._explained():
            return int(self._pragma("page_count")) * int(self._pragma("page_size"))


def newer(path: Path | str, version: int) -> str:
    """Say that a newer version has written a state, and what to do."""
    return (
        f"{path}: schema {version}, this version knows {len(MIGRATIONS)}: a newer version has written this state. "
        "Run that version, put back the copy from before the upgrade, or move the file away to begin with a new one"
    )


def set_aside(path: Path, suffix: str) -> Path:
    """Renames a state and its journals, which are never deleted; returns the new path."""
    kept = path.with_name(f"{path.name}.{suffix}")
    for ending in ("", *JOURNALS):
        part = path.with_name(path.name + ending)
        if part.exists():
            part.rename(kept.with_name(kept.name + ending))
    return kept
