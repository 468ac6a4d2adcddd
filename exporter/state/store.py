"""The state on disk, in SQLite. The ledger decides what the store writes."""

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from exporter.errors import StateError
from exporter.state.files import JOURNALS, FileIdentities, make_private
from exporter.state.lock import Lock, RefusedStateError
from exporter.state.schema import COLUMNS, MIGRATIONS, StoredRun, columns, to_row
from exporter.state.sql import SqlStore
from exporter.state.sql_runs import CorruptStateError

Connect = Callable[..., sqlite3.Connection]

MEMORY = ":memory:"
"""The path of a temporary state in memory."""

TEMPORARY = ""
"""The path of a temporary state in memory, or on disk if it is large."""

BUSY_TIMEOUT = 5000
"""Milliseconds to wait for another connection."""

SETTINGS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "cache_size = -16384",
    "wal_autocheckpoint = 4096",
    "journal_size_limit = 33554432",
)
"""Readers do not block writers, and commits survive a power failure.

IDs are in random order, so a large transaction changes pages all over the index by ID. The cache of 16 MB has room for
these pages. The journal is copied into the database after 4096 pages. A page that several transactions changed is then
copied once. A large journal is truncated.
"""


class Store(SqlStore):
    """One open state. Not thread-safe: the ledger holds its lock during every use.

    Args:
        path: The file, MEMORY or TEMPORARY.
        read_only: Do not create, migrate or write. For readers next to a running daemon.
        immutable: With `read_only`: do not read the journal, although it may be newer. For a read-only file system.
        lock: The lock of the state. `close` releases it.

    Raises:
        CorruptStateError: The file is damaged.
        RefusedStateError: A newer version wrote it.
        StateError: The file cannot be opened or created.
    """

    IN_LIST = "IN (SELECT value FROM json_each(?))"
    TRUNCATED = "CAST({} AS INTEGER)"
    IS_ROW_OF = "rowid IN (SELECT rowid FROM {})"
    PUT_JOB = "INSERT OR REPLACE INTO jobs (key, source, job_id, record) VALUES (?, ?, ?, ?)"
    PUT_EXPORTER = "INSERT OR REPLACE INTO exporter (id, record) VALUES (1, ?)"

    _db: sqlite3.Connection

    def __init__(
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
        super().__init__(self.path)
        self._connect = connect
        self._lock = lock
        self._files: FileIdentities | None = None
        self._removal_reported = False
        self.is_new = False
        with self._translate_errors():
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
            self._files = FileIdentities(Path(self.path))

    def _prepare(self, *, read_only: bool) -> None:
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
        if not read_only:
            for setting in SETTINGS:
                self._db.execute(f"PRAGMA {setting}")
        version = self._pragma("user_version")
        if version > len(MIGRATIONS):
            raise RefusedStateError(newer(self.path, version))
        damage = self._pragma("quick_check(1)")
        if damage != "ok":
            raise CorruptStateError(f"{self.path}: {damage}")
        self.is_new = version == 0
        if read_only:
            self._columns, self._version = columns(version), version
        elif version < len(MIGRATIONS):
            with self._transaction():  # a full disk must not leave a partly migrated state
                for statement in chain.from_iterable(MIGRATIONS[version:]):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _pragma(self, pragma: str) -> Any:  # noqa: ANN401  # pragmas have values of many types
        return self._db.execute(f"PRAGMA {pragma}").fetchone()[0]

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StateError(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise CorruptStateError(f"{self.path}: {error}") from error

    def _list(self, values: Collection[Any]) -> str:
        return msgspec.json.encode(list(values)).decode()

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
        """Close the database. If its files were removed, first write them again if possible."""
        with contextlib.suppress(StateError):
            if self._removed():
                self._restore()
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    # --- files that somebody removes ---

    def verify(self) -> None:
        """Raise StateError if files of the state were removed or replaced while it is open.

        The open database still has all data, so the next call writes removed files again. It never overwrites a file
        that replaced the state, because the user may want to keep either.
        """
        removed = self._removed()
        if removed and self._files is not None and self._files.is_replaced():
            raise StateError(
                f"{self.path}: another file replaced it while it was in use; restart to continue with the new file, "
                "or move the new file away to continue with the old data"
            )
        if removed and not self._removal_reported:
            self._removal_reported = True
            raise StateError(f"{self.path}: removed while in use: {', '.join(removed)}; the next poll writes it again")
        if removed:
            self._restore()
        self._removal_reported = False

    def _removed(self) -> list[str]:
        removed = self._files.changed() if self._files is not None else []
        is_unlocked = self._lock is not None and not self._lock.is_in_place()
        return removed or ([Path(self.path).name] if is_unlocked else [])

    def _restore(self) -> None:
        """Write the state's files again from the open database. If it raises StateError, nothing has changed."""
        path = Path(self.path)
        with self._translate_errors():
            try:
                if self._files is not None and self._files.changed():
                    self._copy_to(path)
                elif self._lock is not None:
                    self._lock.renew()
            except OSError as error:
                raise StateError(f"{self.path}: cannot be written again: {error.strerror}") from error

    def _copy_to(self, path: Path) -> None:
        """Write a complete copy to the path, and open the copy."""
        spare = path.with_name(f"{path.name}.new")
        for ending in ("", "-journal", *JOURNALS):
            spare.with_name(spare.name + ending).unlink(missing_ok=True)
        make_private(spare)
        with contextlib.closing(sqlite3.connect(spare)) as copy:
            self._db.backup(copy)
        for ending in JOURNALS:
            path.with_name(path.name + ending).unlink(missing_ok=True)
        if not path.exists():
            path.hardlink_to(spare)  # fails if another process has just created a new state
            spare.unlink()
        else:
            spare.replace(path)
        if self._lock is not None:
            self._lock.renew()  # if another process was faster, it uses the file, and this one counts nothing
        removed, self._db = self._db, self._connect(self.path, check_same_thread=False, isolation_level=None)
        self._prepare(read_only=False)
        self._files = FileIdentities(path)
        removed.close()

    @contextmanager
    def transaction(self, *_sources: str) -> Iterator[None]:
        """Commit all writes together, or none of them."""
        self._converted.clear()
        with self._translate_errors(), self._transaction():
            yield
        self._embedded -= self._converted

    def put_runs(self, source: str, runs: Iterable[StoredRun]) -> None:
        """Write rows of a source. Its record must have been written before."""
        key = self._sources[source]
        marks = ", ".join("?" * (COLUMNS.count(",") + 2))
        self._db.executemany(
            f"INSERT OR REPLACE INTO runs (source, {COLUMNS}) VALUES ({marks})",  # noqa: S608  # constants
            # The index by ID takes most of the time. Rows are sorted by ID, so that each of its pages is used once.
            sorted(((key, *to_row(run)) for run in runs), key=itemgetter(1)),
        )

    def events(self, source: str) -> Iterator[tuple[float, int, str]]:
        """Yield the events of a source's runs in order: time, kind (0 created, 1 started, 2 completed) and run."""
        wanted = "FROM runs WHERE source = :source AND"
        query = (
            f"SELECT created AS at, 0 AS what, run_id {wanted} created < start UNION ALL "  # constants
            f"SELECT start, 1, run_id {wanted} start IS NOT NULL UNION ALL "
            f'SELECT "end", 2, run_id {wanted} "end" IS NOT NULL AND result IS NOT NULL ORDER BY at, what'
        )
        with self._translate_errors():
            yield from self._db.execute(query, {"source": self._sources.get(source)})

    def checkpoint(self) -> None:
        """Copy the journal into the database and truncate it, unless somebody is reading it."""
        with self._translate_errors():
            self._db.execute("PRAGMA busy_timeout = 0")
            try:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")

    def size(self) -> int:
        """Return the size of the database in bytes, without its journal."""
        with self._translate_errors():
            return int(self._pragma("page_count")) * int(self._pragma("page_size"))


def newer(path: Path | str, version: int) -> str:
    """Return the error text for a state that a newer version wrote, with the cure."""
    return (
        f"{path}: a newer version wrote this state (schema {version}; this version knows {len(MIGRATIONS)}). "
        "Run that version, restore the copy from before the upgrade, or move the file away to begin with a new one"
    )


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a state and its journals. Return the new path."""
    kept = path.with_name(f"{path.name}.{suffix}")
    for ending in ("", *JOURNALS):
        part = path.with_name(path.name + ending)
        if part.exists():
            part.rename(kept.with_name(kept.name + ending))
    return kept
